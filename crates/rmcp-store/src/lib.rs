//! Sessions of [rmcp] servers that survive restarts, rollouts and replicas.
//!
//! A server on rmcp keeps its sessions in memory. When its process ends, every client gets `404 Session not found` at
//! its next call, and most of them never recover: their tools are gone until somebody reconnects them by hand. rmcp has
//! a hook against that, [`SessionStore`], and leaves what is behind it to you. This crate is what is behind it, on the
//! store that the [Throughline] gateway uses: a file, or a Redis that many replicas share.
//!
//! [Throughline]: https://github.com/throughline/throughline
//! [`SessionStore`]: rmcp::transport::streamable_http_server::session::SessionStore
//!
//! # Quick start
//!
//! Where a server has `StreamableHttpService::new(...)`, it gets [`Sessions::service`]:
//!
//! ```no_run
//! use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
//! use rmcp::{tool, tool_router};
//! use throughline_rmcp::Sessions;
//!
//! struct Greeter;
//!
//! #[tool_router(server_handler)]
//! impl Greeter {
//!     #[tool(description = "Says hello")]
//!     async fn hello(&self) -> String {
//!         "hello".to_owned()
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sessions = Sessions::open("embedded:/var/lib/greeter").await?;
//!     let service = sessions.service(|| Ok(Greeter), StreamableHttpServerConfig::default());
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//!     Ok(axum::serve(listener, axum::Router::new().route_service("/mcp", service)).await?)
//! }
//! ```
//!
//! Kill it with `kill -9` and start it again: clients go on. `examples/survives.rs` is this in full, and the tests kill
//! it under the official Rust and Python clients.
//!
//! # Stores
//!
//! | URL | Survives a restart | Several processes | For |
//! |---|---|---|---|
//! | `memory:` | no | no | tests |
//! | `embedded:DIR` | yes | no: the directory belongs to one process at a time | one machine |
//! | `redis://HOST`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, `HOST:PORT,password=...,ssl=True` | as Redis is set up | yes | replicas |
//!
//! The forms for Redis are those of the gateway. Give each deployment a prefix, `redis://HOST?prefix=NAME`, above all
//! where a gateway uses the same Redis. Servers of different names ([`Options::with_server`]) may share one prefix.
//!
//! All backends are always there: the crate has no cargo features.
//!
//! # What is kept
//!
//! The client's `initialize` parameters as rmcp has them, when the session began, when it was last used. With the
//! parameters of a usual client that took 600 bytes in Redis. **No session id is stored**, only a SHA-256 digest of it:
//! who reads the store cannot take over a session. Parameters longer than 64 KiB are not kept; such a session lives in
//! memory only.
//!
//! What rmcp's model has no place for is lost before this crate sees it: members of the parameters, of `clientInfo` and
//! of `capabilities` that rmcp does not know, and the `_meta` of `initialize`.
//!
//! # What is restored
//!
//! At the first request of a session that the process does not have, rmcp makes a new server object with your factory,
//! and repeats `initialize` and `notifications/initialized` to it, with the headers of that request. The client notices
//! nothing. What your server object held is gone: load it again from where you keep it, when you see a
//! [`SessionRestoreMarker`] in the extensions of `initialize`, which has the session's id. The log level and resource
//! subscriptions are not repeated. Requests that were under way when the process died get no answer.
//!
//! [`SessionRestoreMarker`]: rmcp::transport::streamable_http_server::session::SessionRestoreMarker
//!
//! # Expiry
//!
//! | | Default | Begins again | |
//! |---|---|---|---|
//! | [`Options::with_idle`] | a day | with each request | also where the session never leaves rmcp's memory |
//! | [`Options::with_absolute`] | a week | never | also while the session is in use |
//!
//! Requests of an expired session get 404, as the protocol has it. rmcp calls its store when a session begins and when
//! it restores one, and no more: a time to live that is set there would run out under a session in use. Therefore the
//! [`Manager`] notes each request. Once a minute (or each quarter of a shorter idle time) it looks at the record of a
//! session in use, and has the store told that it was used, together with the others of that second: two commands a
//! minute for a session, whatever its load. At that look it also sees that another replica has ended the session; so a
//! session can be used elsewhere for a minute after its DELETE.
//!
//! rmcp itself drops sessions from memory after five minutes without a message (`SessionConfig::keep_alive`). That only
//! frees memory now: the next request restores the session.
//!
//! Expired records leave the store by themselves. A record stays until its absolute expiry, ended and idle ones too.
//!
//! # While the store is away
//!
//! | | What the client sees | Afterwards |
//! |---|---|---|
//! | a session that rmcp has in memory | nothing | uses are noted again |
//! | one that this process saw lately (of the last 4,096 at least) | nothing | |
//! | a new session | nothing | written when the store is back, if the process lives |
//! | DELETE | nothing | the same; until then another process may still serve the session |
//! | one that only the store knows | waits [`Options::with_patience`], 5 seconds, then 500 | found again |
//!
//! With the [`Manager`] no session is 404 because the store is away. Up to 10,000 beginnings and ends wait for the
//! store, and up to 1,024 sessions at a time for an answer of it; beyond that, new sessions are in memory only, and
//! requests get their 500 at once. All requests of one session wait for the same look-up. A Redis that has lost its
//! records is given those of the sessions in use again, within a minute.
//!
//! The log says once that the store is away and once that it is back. Clients are not told where it is or why.
//!
//! # Streams that are resumed
//!
//! With [`Options::with_events`] the events of all streams go to the store before they go to the client, which can come back
//! for what it missed with `Last-Event-ID`: after the process was killed, and at another replica. A stream whose call still
//! runs goes on live. What its server object was doing when the process died is lost; then nothing more comes on the stream,
//! and a client that follows it is let go after 30 seconds.
//!
//! Of a stream 1,000 events and 4 MiB are kept, of all together 256 MiB, for as long as the option says after the last one. An
//! event id is good in the session that it was given in. What is kept is what tools said, as it is: whoever reads the store
//! reads it. Each event costs a write; rmcp makes one event for a short answer, and one before it if `sse_retry` is set.
//! While the store is away events still reach the client that is there. Messages go through rmcp's model, which may drop
//! members that it does not know.
//!
//! With a manager of your own ([`Sessions::manager`]) give it [`Sessions::events`].
//!
//! # What rmcp 3.8 does by itself
//!
//! [`Sessions`] can also be set as `session_store` of a configuration without the [`Manager`]. Then idle expiry is put
//! off only by restores, and rmcp does the following, which tests of this crate show:
//!
//! - If the store fails, the request that asked gets 500, and those that waited with it get 404: their clients throw
//!   live sessions away. With the manager each gets 500, since it asks the store before rmcp does.
//! - If the request that was restoring a session is dropped, because its client hung up, the session stays in memory as
//!   far as it had come: the next request gets 500. The manager has requests wait until a session is restored, and
//!   closes one that was abandoned, so that the next request restores it.
//!
//! # What it does not do
//!
//! - It keeps no events unless [`Options::with_events`] says so.
//! - It does not keep the state of your server object.
//! - It does not make replicas one: each that serves a session has a server object of its own for it, and what that
//!   sends to the client unasked reaches those streams that the client has to the same replica.
//! - It does not limit how many sessions clients begin. Put a limit on requests in front of a public server.
//! - It does not tell callers apart: who knows a session's id may use it, as with rmcp alone.
//! - Requests of revision 2026-07-28 have no session, and it has nothing to do with them.
//!
//! The gateway does several of these, for servers in any language and without a change to them.

mod error;
mod events;
mod load;
mod manager;
mod memory;
mod naming;
mod options;
mod place;
mod scoped;
mod sessions;
mod settle;

pub use error::{Away, NotKept};
pub use events::{Events, NoEvent};
pub use manager::{Manager, ManagerError};
pub use options::{Clock, Options};
pub use place::OpenError;
pub use sessions::Sessions;
pub use throughline_store::{Millis, PlaceError, Store, StoreError};
