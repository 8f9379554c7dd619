//! A small stateful MCP server: every session has a counter of its own, kept nowhere but in memory.
//!
//! Losing a session therefore shows at once, in a number that starts again. What a test needs to tell the
//! ways of losing one apart is here too: `total` counts the increments that were really executed, whatever
//! session they came from, so that a request executed twice is seen; `session` tells which process answers
//! and how many handshakes it has had.

mod session;

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use throughline_status::Fact;
use tokio::net::TcpListener;

use session::Session;

use crate::status::{Figures, LOOPBACK, Page, count};

/// How many events of each stream are kept for a client that comes back: the last 25 s of a call that tells of its
/// progress.
const REPLAYED_EVENTS: usize = 256;

/// What the counter server can be told. The default is the server that the demonstration uses.
#[derive(Clone, Debug)]
pub struct CounterConfig {
    /// A session without a request for this long expires; `None` keeps sessions until the process ends.
    pub session_idle: Option<Duration>,
    /// Which protocol revisions the server speaks.
    pub era: Era,
    /// A file that each `mark` is written to before it is answered, so that it is known after the process was killed.
    pub journal: Option<PathBuf>,
}

impl Default for CounterConfig {
    fn default() -> Self {
        Self { session_idle: Some(Duration::from_secs(3600)), era: Era::Legacy, journal: None }
    }
}

/// The protocol revisions that a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25: a handshake and a session. A modern request is refused with -32022.
    #[default]
    Legacy,
    /// The legacy revisions and 2026-07-28, whose requests have no session and so a counter that starts at
    /// nought each time.
    Dual,
}

/// Serves the counter at `/mcp` until `shutdown` completes; open streams are ended then.
///
/// Beside it answer the status page at `/`, `GET /healthz`, and `POST /drop-sessions`, which forgets every session as
/// an expiry would, in a process that lives on. Only requests whose `Host` is a loopback name (any port) are taken.
///
/// # Errors
///
/// Whatever the listener reports, and a journal that cannot be opened.
pub async fn serve(
    listener: TcpListener,
    config: CounterConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let transport = StreamableHttpServerConfig::default();
    let end_streams = transport.cancellation_token.clone();
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = config.session_idle;
    sessions.session_config.channel_capacity = REPLAYED_EVENTS;
    let sessions = Arc::new(sessions);

    let process = Arc::new(Process::start(config.journal.as_deref())?);
    let page = page(&process, config.era);
    let figures = process.figures.clone();
    let new_session = move || Ok(Session::new(process.clone(), config.era));
    let mcp = StreamableHttpService::new(new_session, sessions.clone(), transport);

    let router = Router::new()
        .route_service("/mcp", mcp)
        .route_layer(from_fn_with_state(figures.clone(), count))
        .merge(page.router())
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/drop-sessions", post(move || drop_sessions(sessions.clone())));
    // An answer goes out in two pieces; without this the second waits 40 ms for the first to be acknowledged.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "answers may be slow");
        }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        end_streams.cancel();
    });
    tokio::select! {
        ended = served.into_future() => ended,
        never = figures.sample() => match never {},
    }
}

fn page(process: &Arc<Process>, era: Era) -> Page {
    let of = process.clone();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Page {
        service: "Throughline counter server",
        instance: process.name(),
        era: match era {
            Era::Legacy => "legacy",
            Era::Dual => "dual",
        },
        more: Box::new(move || {
            vec![
                Fact::new("Sessions opened", count(&of.initializes)),
                Fact::new("Increments", count(&of.total)),
            ]
        }),
        hosts: Some(LOOPBACK.map(str::to_owned).into()),
        figures: process.figures.clone(),
    }
}

async fn drop_sessions(sessions: Arc<LocalSessionManager>) -> StatusCode {
    let ids: Vec<_> = sessions.sessions.read().await.keys().cloned().collect();
    for id in ids {
        // One that ended by itself meanwhile is as gone as it should be.
        let _ = sessions.close_session(&id).await;
    }
    StatusCode::NO_CONTENT
}

/// What all sessions of this process share, and lose with it.
#[derive(Debug)]
struct Process {
    /// Tells this process from its predecessor, whose process id it may have inherited.
    instance: u64,
    /// `initialize` requests answered.
    initializes: AtomicU64,
    /// `notifications/initialized` received.
    initialized: AtomicU64,
    /// `increment` calls executed.
    total: AtomicU64,
    /// `mark` calls executed, of all processes.
    journal: Option<File>,
    /// What the status page shows.
    figures: Arc<Figures>,
}

impl Process {
    fn start(journal: Option<&Path>) -> io::Result<Self> {
        let open = |path| File::options().create(true).append(true).open(path);
        Ok(Self {
            // The hasher's random keys are the only randomness needed here: no dependency for one number.
            instance: RandomState::new().hash_one(std::process::id()),
            initializes: AtomicU64::new(0),
            initialized: AtomicU64::new(0),
            total: AtomicU64::new(0),
            journal: journal.map(open).transpose()?,
            figures: Arc::new(Figures::new(session::tools())),
        })
    }

    /// The instance, as it is shown.
    fn name(&self) -> String {
        format!("{:016x}", self.instance)
    }

    /// Writes a line to the journal, if there is one: in one piece, and there once this process is killed.
    fn write_down(&self, line: &str) -> io::Result<()> {
        self.journal.as_ref().map_or(Ok(()), |mut file| file.write_all(format!("{line}\n").as_bytes()))
    }

    fn count(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }
}
