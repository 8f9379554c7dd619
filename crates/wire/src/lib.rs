//! The Model Context Protocol as a gateway needs it: raw bytes in, raw bytes out.
//!
//! This crate is pure. It has no async runtime, no HTTP, no clock and no randomness: nonces and times are
//! passed in, so that everything here can be tested without a socket.
//!
//! - **What a message is**: [`envelope`] finds a message's parts without taking it apart, [`splice`] changes
//!   some of them and leaves every other byte alone, [`jsonrpc`] makes the few messages that are a gateway's
//!   own, [`sse`] frames events and keeps their bytes.
//! - **What is spoken**: [`version`] and [`era`] (the revisions, and how to tell the era of a request or of a
//!   server), [`method`] (names, and what may be sent twice), [`capability`] (a client's capabilities as
//!   bits), [`headers`] (names and value encoding).
//! - **Whether the session lives**: [`loss`], the one table of how a lost upstream session looks.
//! - **Another era**: [`bridge`], messages of a client of one era as a server of the other reads them.
//! - **What a client can take**: [`profile`], rewrites of tool lists and results for clients that read less.
//! - **What only we can have made**: [`keyring`] (secrets and rotation), [`seal`] (session ids, stored
//!   secrets, digests), [`tag`] (values of an upstream, bound to the session and its generation).
//!
//! `unsafe` is forbidden and nothing here panics on any input; what is read from the network is read within
//! bounds.

pub mod bridge;
pub mod capability;
pub mod envelope;
pub mod era;
pub mod headers;
pub mod jsonrpc;
pub mod keyring;
pub mod loss;
pub mod method;
mod peek;
pub mod profile;
pub mod seal;
pub mod splice;
pub mod sse;
pub mod tag;
pub mod version;
