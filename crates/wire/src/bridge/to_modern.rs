//! A client with a handshake (2024-11-05 to 2025-11-25) and a server of 2026-07-28.
//!
//! | Of the client | Becomes |
//! |---|---|
//! | `initialize` | what `server/discover` says ([`hello`]) |
//! | a request | the same with `_meta`, and with what its headers repeat of it ([`request`], [`mirror`]) |
//! | `resources/subscribe`, and a stream to listen to | `subscriptions/listen` ([`listen`]) |
//!
//! | Of the server | Becomes |
//! |---|---|
//! | a result or an error | the same as revisions with a handshake have it ([`answer`]) |
//! | `input_required` | requests to the client, and their answers the next round of the call ([`input`]) |

pub mod answer;
pub mod hello;
pub mod input;
pub mod listen;
pub mod mirror;
pub mod request;
