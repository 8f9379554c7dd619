//! What the tests stand on: a gateway in this process, an upstream that does what a test tells it to, a client
//! that sends exactly these bytes, and a record of everything that was logged.
//!
//! Nothing here sleeps: a test waits for a condition, and fails when [`PATIENCE`] is over.

mod client;
mod front;
mod gateway;
pub(crate) mod h2;
pub(crate) mod http;
mod logs;
mod mcp;
mod redis;
mod server;
pub(crate) mod tls;
mod upstream;

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

pub(crate) use client::{Client, Event, Incoming, Response};
pub(crate) use front::{Certificates, Fate, Front};
pub(crate) use gateway::{Clock, Gw};
pub(crate) use logs::{capacity as log_capacity, holds as logged, lines};
pub(crate) use mcp::{Session, call, initialize_body, request};
pub(crate) use redis::Redis;
pub(crate) use server::Answers;
pub(crate) use upstream::{Answer, Events, Request, Upstream, json, refused, rpc_error, sse};

/// Nothing that a test waits for takes longer than this; what does is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Something that one thread waits for and another says.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.open.lock().unwrap()
    }

    pub(crate) fn wait(&self) {
        let open = self.open.lock().unwrap();
        let (open, _) = self.changed.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(*open, "the gate was never opened");
    }
}

/// Waits for what nobody tells of: a number in a scrape, a line in a log.
pub(crate) fn until(what: &str, ready: impl Fn() -> bool) {
    let began = tokio::time::Instant::now();
    while !ready() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// JSON, for looking into it.
pub(crate) fn parse(text: impl AsRef<[u8]>) -> Value {
    let text = text.as_ref();
    serde_json::from_slice(text)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(text)))
}
