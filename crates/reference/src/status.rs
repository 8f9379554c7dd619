//! The status page of both servers: what this instance is doing, for whoever opens its address in a browser.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use throughline_status::{Fact, History, POLICY, STEP, Status, Table, asset};
use tokio::time::Instant;

/// This machine, as URLs name it.
pub(crate) const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What a server counts of itself, from its start on.
#[derive(Debug)]
pub(crate) struct Figures {
    started: Instant,
    requests: AtomicU64,
    /// Calls of each tool, in the order in which they are shown. What is not a tool is not counted.
    calls: Vec<(String, AtomicU64)>,
    history: Mutex<History>,
}

impl Figures {
    /// Begins to count, for these tools.
    pub(crate) fn new(tools: impl IntoIterator<Item = String>) -> Self {
        Self {
            started: Instant::now(),
            requests: AtomicU64::new(0),
            calls: tools.into_iter().map(|tool| (tool, AtomicU64::new(0))).collect(),
            history: Mutex::default(),
        }
    }

    /// For how long it has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// A tool is called, whatever comes of it.
    pub(crate) fn called(&self, tool: &str) {
        if let Some((_, calls)) = self.calls.iter().find(|(name, _)| name == tool) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many calls of each tool.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&str, u64)> {
        self.calls.iter().map(|(tool, calls)| (tool.as_str(), calls.load(Ordering::Relaxed)))
    }

    /// Notes how many requests there are, step by step, as long as it is polled.
    pub(crate) async fn sample(&self) -> Infallible {
        let mut tick = tokio::time::interval(STEP);
        // The first is at once: the count begins there.
        tick.tick().await;
        loop {
            tick.tick().await;
            self.history().note(self.requests());
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request: what `from_fn_with_state` is given, around the MCP endpoint.
pub(crate) async fn count(State(figures): State<Arc<Figures>>, request: Request, next: Next) -> Response {
    figures.requests.fetch_add(1, Ordering::Relaxed);
    next.run(request).await
}

/// What the page shows, and to whom.
pub(crate) struct Page {
    /// What it is.
    pub(crate) service: &'static str,
    /// Which instance.
    pub(crate) instance: String,
    /// The protocol revisions that it speaks.
    pub(crate) era: &'static str,
    /// What else there is to say, at that moment.
    pub(crate) more: Box<dyn Fn() -> Vec<Fact> + Send + Sync>,
    /// The names under which it is shown, as `HOST` or `HOST:PORT`; `None` is any. Pages from elsewhere could
    /// otherwise read it under a name of theirs.
    pub(crate) hosts: Option<Vec<String>>,
    /// The figures.
    pub(crate) figures: Arc<Figures>,
}

impl Page {
    /// The page and what belongs to it, at `/`.
    pub(crate) fn router(self) -> Router {
        let paths = ["/", "/status.json", "/status.css", "/status.js"];
        let router = paths.into_iter().fold(Router::new(), |router, path| router.route(path, get(answer)));
        router.with_state(Arc::new(self))
    }

    fn is_for(&self, headers: &HeaderMap) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let asked = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        asked.is_some_and(|asked| {
            let name = asked.host().trim_matches(['[', ']']);
            hosts
                .iter()
                .any(|host| host.eq_ignore_ascii_case(name) || host.eq_ignore_ascii_case(asked.as_str()))
        })
    }

    fn status(&self) -> Status {
        let figures = &self.figures;
        let requests = figures.requests.load(Ordering::Relaxed);
        let mut facts = vec![Fact::new("Requests", requests), Fact::new("Era", self.era)];
        facts.extend((self.more)());
        let calls = figures
            .calls
            .iter()
            .map(|(tool, calls)| vec![tool.clone(), calls.load(Ordering::Relaxed).to_string()]);
        Status {
            service: self.service,
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: figures.uptime().as_secs(),
            facts,
            tables: vec![Table { name: "Tools", columns: &["tool", "calls"], rows: calls.collect() }],
            requests: figures.history().counts(),
        }
    }
}

async fn answer(State(page): State<Arc<Page>>, uri: Uri, headers: HeaderMap) -> Response {
    if !page.is_for(&headers) {
        return (StatusCode::FORBIDDEN, "this is not the host that the request is for\n").into_response();
    }
    let (kind, body) = match uri.path() {
        "/" => ("text/html; charset=utf-8", page.status().html()),
        "/status.json" => ("application/json", page.status().json()),
        path => match asset(path) {
            Some((kind, body)) => (kind, body.to_owned()),
            None => return StatusCode::NOT_FOUND.into_response(),
        },
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}
