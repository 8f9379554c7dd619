//! Between the eras: messages of a client of one era as a server of the other reads them, and back. Pure; who asks whom,
//! and when, is the gateway's.
//!
//! - [`to_legacy`]: a client of 2026-07-28 and a server with a handshake.
//! - [`to_modern`]: a client with a handshake and a server of 2026-07-28.

pub mod meta;
pub mod to_legacy;
pub mod to_modern;
