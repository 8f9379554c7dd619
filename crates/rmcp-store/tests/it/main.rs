//! Sessions of real rmcp services: kept in every store, through restarts, outages and crowds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is test code; clippy only sees that of functions marked #[test]"
)]

mod events;
mod expiry;
mod kept;
mod outage;
mod redis_away;
mod replica;
mod restores;
mod survives;

// Processes and clients are the end-to-end tests'.
#[path = "../../../cli/tests/e2e/harness/client.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod client;
#[path = "../../../cli/tests/e2e/harness/http.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod http;
#[path = "../../../cli/tests/e2e/harness/node.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod node;
#[path = "../../../cli/tests/e2e/harness/process.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod process;
#[path = "../../../cli/tests/e2e/harness/python.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod python;
#[path = "../../../cli/tests/e2e/harness/setup.rs"]
mod setup;
// Redis servers are the store's.
#[path = "../../../store/tests/it/servers.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use servers::Server;
use tempfile::TempDir;
use throughline_rmcp::{Clock, Millis, Options, Store};
use tokio::time::Instant;

/// What a test waits for takes no longer; what does is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store, and what has to outlive it.
struct Backend {
    store: Store,
    dir: Option<TempDir>,
    _redis: Option<Server>,
}

impl Backend {
    fn memory() -> Backend {
        Backend { store: Store::memory(), dir: None, _redis: None }
    }

    async fn embedded() -> Backend {
        let dir = tempfile::tempdir().unwrap();
        Backend { store: Store::embedded(dir.path()).await.unwrap(), dir: Some(dir), _redis: None }
    }

    async fn redis() -> Backend {
        let redis = Server::start(&[]);
        Backend { store: redis.store().await, dir: None, _redis: Some(redis) }
    }

    /// All that there are.
    async fn all() -> Vec<Backend> {
        vec![Backend::memory(), Backend::embedded().await, Backend::redis().await]
    }

    fn name(&self) -> String {
        self.store.describe()
    }
}

/// A clock that a test sets.
#[derive(Clone)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn new() -> Time {
        Time(Arc::new(AtomicU64::new(1_790_000_000_000)))
    }

    fn pass(&self, minutes: u64) {
        self.0.fetch_add(minutes * 60_000, Ordering::Relaxed);
    }

    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }

    fn clock(&self) -> Clock {
        let time = self.clone();
        Arc::new(move || time.now())
    }

    /// An hour of idleness, a day in all.
    fn options(&self) -> Options {
        let hour = Duration::from_secs(3600);
        Options::default().with_clock(self.clock()).with_idle(hour).with_absolute(24 * hour)
    }
}

/// Waits until `ready` has something to give.
async fn until<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tick.tick().await;
    }
}
