//! How long sessions are kept, and for whom.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use throughline_store::Millis;

/// Where [`Sessions`](crate::Sessions) read the time: the wall clock, unless a test has another.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// How long sessions are kept, and for whom. The default is a day without use, a week in all.
#[derive(Clone)]
pub struct Options {
    pub(crate) server: String,
    pub(crate) idle: Duration,
    pub(crate) absolute: Duration,
    pub(crate) patience: Duration,
    pub(crate) events: Option<Duration>,
    pub(crate) clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            server: "mcp".to_owned(),
            idle: Duration::from_secs(24 * 60 * 60),
            absolute: Duration::from_secs(7 * 24 * 60 * 60),
            patience: Duration::from_secs(5),
            events: None,
            clock: Arc::new(wall_clock),
        }
    }
}

impl Options {
    /// The server's name, `mcp` unless set: servers of different names share one store without sharing sessions.
    /// Another name for the same server loses all of its sessions.
    #[must_use]
    pub fn with_server(mut self, name: impl Into<String>) -> Options {
        self.server = name.into();
        self
    }

    /// After so long without a request a session is gone; a day unless set. Each request begins it again.
    #[must_use]
    pub fn with_idle(mut self, idle: Duration) -> Options {
        self.idle = idle;
        self
    }

    /// After so long a session is gone, used or not; a week unless set. Counts from `initialize`.
    #[must_use]
    pub fn with_absolute(mut self, absolute: Duration) -> Options {
        self.absolute = absolute;
        self
    }

    /// For so long a request whose session only the store knows waits for a store that is away; 5 seconds unless
    /// set. Requests of sessions that this process has in memory never wait.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Options {
        self.patience = patience;
        self
    }

    /// Keeps the events of streams for so long, so that clients can resume them; unless set, they are not kept.
    #[must_use]
    pub fn with_events(mut self, keep: Duration) -> Options {
        self.events = Some(keep);
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Options {
        self.clock = clock;
        self
    }

    /// When a session that began at `created` ends, used or not.
    pub(crate) fn end(&self, created: Millis) -> Millis {
        later(created, self.absolute)
    }

    /// Whether a session that was last used at `used` is gone.
    pub(crate) fn is_idle(&self, used: Millis, now: Millis) -> bool {
        later(used, self.idle) <= now
    }

    /// How often at most a session's record is looked at and touched while the session is in use.
    pub(crate) fn look_every(&self) -> Duration {
        Duration::from_secs(60).min(self.idle / 4)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("server", &self.server)
            .field("idle", &self.idle)
            .field("absolute", &self.absolute)
            .field("patience", &self.patience)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// `at`, and so long after it.
pub(crate) fn later(at: Millis, by: Duration) -> Millis {
    Millis(at.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn wall_clock() -> Millis {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
