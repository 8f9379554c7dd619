//! The Throughline session gateway for the Model Context Protocol, as a library.
//!
//! A request's life, in the order of the modules that it passes:
//!
//! ```text
//! listener -> classify (principal) -> exchange -> session (initialize, recover) -> call -> upstream
//!                                                                                    |
//!                                            client  <-  reply (translate)  <--------+
//! ```
//!
//! - [`serve`] starts it: store, keys, one single-threaded runtime for each core.
//! - [`classify`](mod@classify) says what came; nothing behind it asks for the era again.
//! - [`session`] is what the client holds, [`recover`] what it is bound to upstream.
//! - [`call`] sends at most once; [`listen`] keeps the standing stream; an [`outlet`] outlives its connections.
//! - [`error`] is the one table of failures.
//!
//! Everything is local to a core's thread but [`app::App`], which is shared and never locked over an await.

pub mod account;
pub mod admin;
pub mod app;
pub mod background;
pub mod binding;
pub mod bridge;
pub mod call;
pub mod classify;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod deadlines;
pub mod effects;
pub mod error;
pub mod exchange;
pub mod front;
pub mod grants;
pub mod inbox;
pub mod initialize;
pub mod keys;
pub mod lease;
pub mod listen;
pub mod listener;
pub mod lists;
pub mod lookout;
pub mod metadata;
pub mod metrics;
pub mod names;
pub mod origin;
pub mod outlet;
pub mod peer;
pub mod pipes;
pub mod principal;
pub mod probe;
pub mod recover;
pub mod reload;
pub mod reply;
pub mod restore;
pub mod room;
pub mod sealed_log;
pub mod serve;
pub mod session;
pub mod shape;
pub mod sockets;
pub mod spans;
pub mod status;
pub mod tally;
pub mod texts;
pub mod tls;
pub mod tokens;
pub mod translate;
pub mod upstream;
pub mod urls;

pub use config::Config;
pub use effects::Effects;
pub use serve::{Gateway, StartError};
