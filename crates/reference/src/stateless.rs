//! A stateless MCP server: any instance answers any request, so there may be any number of them behind any load
//! balancer.
//!
//! It speaks revision 2026-07-28, which has no sessions, and the revisions before it without giving out session ids.
//! What a tool keeps from call to call its caller carries, signed (`tally.rs`); what every request has to pass before
//! rmcp sees it is in `intake.rs`; `server.rs` is what rmcp asks, `tools.rs` what it calls.

mod caller;
mod facts;
mod intake;
mod keys;
mod primes;
mod schemas;
mod server;
mod spans;
mod standard_headers;
mod tally;
mod tools;
mod trace;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderName;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use throughline_status::Fact;
use throughline_telemetry::{Meter, Tracer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::instance::Instance;
use crate::status::{LOOPBACK, Page, count};
use intake::{Intake, LARGEST_BODY, take_in};
pub use keys::{BadKeys, Keys};
use server::Server;
pub use standard_headers::StandardHeaders;
pub use tally::TallyStore;

/// Says which instance has answered, for those who look at headers only.
const INSTANCE: HeaderName = HeaderName::from_static("throughline-instance");
/// Whom a server on this machine may be reached from by browsers.
const LOOPBACK_ORIGINS: [&str; 3] = ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"];
/// A quiet stream gets a comment this often: load balancers close theirs after 30 s or more.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the server can be told. The default is an instance of its own, with keys of its own.
#[derive(Clone, Debug)]
pub struct StatelessConfig {
    /// What this instance is called.
    pub instance: Instance,
    /// The machine that it runs on.
    pub host: String,
    /// Which protocol revisions it speaks.
    pub era: Era,
    /// What becomes of requests without the headers of 2026-07-28.
    pub standard_headers: StandardHeaders,
    /// What signs handles and questions. Instances that are to go on from each other's handles share it.
    pub keys: Keys,
    /// Whom handles are for: servers with the same keys and another audience refuse them.
    pub audience: String,
    /// Where totals are kept; None for in their handles.
    pub tally_store: Option<TallyStore>,
    /// How long a handle is good.
    pub handle_lifetime: Duration,
    /// The header in which a proxy that all requests come through names the caller; handles are then good for that
    /// caller only.
    pub principal_header: Option<HeaderName>,
    /// The names that requests may be for, as `HOST` or `HOST:PORT`, beside those of this machine.
    pub hosts: Hosts,
    /// From where browsers may send requests, as `SCHEME://HOST[:PORT]`, beside this machine.
    pub origins: Vec<String>,
    /// How many requests are answered at a time, streams included.
    pub requests: usize,
    /// How long the body of a request may take to arrive.
    pub body_patience: Duration,
    /// How many computations run at a time.
    pub computations: usize,
    /// How often the clock tells its subscribers that it has changed.
    pub clock_tick: Duration,
    /// What begins the spans of requests; None where traces are not exported.
    pub tracer: Option<Tracer>,
    /// What is told the figures of the status page; None where metrics are not exported.
    pub meter: Option<Meter>,
    /// How long requests may still take after the server has been told to stop.
    pub grace: Duration,
}

impl Default for StatelessConfig {
    fn default() -> Self {
        Self {
            instance: Instance::random(),
            host: "unknown".to_owned(),
            era: Era::default(),
            standard_headers: StandardHeaders::default(),
            keys: Keys::random(),
            audience: "throughline-reference".to_owned(),
            tally_store: None,
            handle_lifetime: Duration::from_secs(24 * 3600),
            principal_header: None,
            hosts: Hosts::Named(Vec::new()),
            origins: Vec::new(),
            requests: 512,
            body_patience: Duration::from_secs(30),
            computations: std::thread::available_parallelism().map_or(1, usize::from),
            clock_tick: Duration::from_secs(10),
            tracer: None,
            meter: None,
            grace: Duration::from_secs(10),
        }
    }
}

/// The protocol revisions that the server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// All of them.
    #[default]
    Dual,
    /// 2026-07-28 only.
    Modern,
}

/// Which `Host` a request may have. Pages from elsewhere could otherwise reach the server under a name of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Those of this machine, and these.
    Named(Vec<String>),
    /// Any: for servers that only a proxy can reach.
    Any,
}

impl Hosts {
    /// All of them, or `None` for any.
    fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::Named(hosts) => {
                Some(LOOPBACK.map(str::to_owned).into_iter().chain(hosts.iter().cloned()).collect())
            }
            Self::Any => None,
        }
    }
}

/// Serves MCP at `/mcp` until `shutdown` completes, then ends subscriptions, lets other requests end for
/// [`StatelessConfig::grace`], and returns.
///
/// Beside it answer the status page at `/`, `GET /healthz` and `GET /readyz`. Connections are taken until the server
/// is to stop.
///
/// # Errors
///
/// Whatever the listener reports.
pub async fn serve(
    listener: TcpListener,
    config: StatelessConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let streams_end = CancellationToken::new();
    let server = Arc::new(Server::new(&config, stopping.clone())?);
    let figures = server.figures.clone();
    if let Some(meter) = &config.meter {
        spans::push(&figures, meter);
    }
    let router = router(&config, server, streams_end.clone());
    // An answer may go out in two pieces; without this the second waits 40 ms for the first to be acknowledged.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "answers may be slow");
        }
    });
    let stop = stopping.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        stop.cancel();
    });
    let patience = async {
        stopping.cancelled().await;
        tokio::time::sleep(config.grace).await;
        tracing::warn!("requests that did not end are cut off");
        streams_end.cancel();
    };
    tokio::select! {
        ended = served.into_future() => ended,
        () = patience => Ok(()),
        never = figures.sample() => match never {},
    }
}

fn router(config: &StatelessConfig, server: Arc<Server>, streams_end: CancellationToken) -> Router {
    let page = page(config, &server);
    let figures = server.figures.clone();
    let mut transport = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_sse_keep_alive(Some(HEARTBEAT))
        .with_sse_retry(None)
        .with_cancellation_token(streams_end)
        .with_max_request_body_bytes(LARGEST_BODY)
        .with_stateless_protocol_metadata_required(config.era == Era::Modern)
        .enforce_origin_validation();
    transport.allowed_origins = LOOPBACK_ORIGINS.map(str::to_owned).into();
    transport.allowed_origins.extend(config.origins.iter().cloned());
    // To rmcp, none is any.
    transport.allowed_hosts = config.hosts.names().unwrap_or_default();
    let mcp = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(NeverSessionManager::default()),
        transport,
    );
    let instance = config.instance.header();
    let sign = move |mut response: Response| {
        response.headers_mut().insert(INSTANCE, instance.clone());
        std::future::ready(response)
    };
    let intake = Arc::new(Intake::new(config));
    Router::new()
        .route_service("/mcp", mcp.clone())
        .route_service("/mcp/", mcp)
        .layer(from_fn_with_state(intake, take_in))
        .route_layer(from_fn_with_state(figures, count))
        .merge(page.router())
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .layer(map_response(sign))
}

fn page(config: &StatelessConfig, server: &Arc<Server>) -> Page {
    let host = config.host.clone();
    Page {
        service: "Throughline reference server",
        instance: config.instance.as_str().to_owned(),
        era: match config.era {
            Era::Legacy => "legacy",
            Era::Dual => "dual",
            Era::Modern => "modern",
        },
        more: Box::new(move || vec![Fact::new("Host", &host)]),
        hosts: config.hosts.names(),
        figures: server.figures.clone(),
    }
}
