//! What whoever watches the process sees from another machine: counts and health, and nothing else.
//!
//! The main listener shows its counts on loopback only, and the administrator's door is never open to other machines.
//! Here they are for Prometheus, at an address of their own, served by a thread of its own. They say how much the
//! gateway does and for which routes, not for whom.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::app::App;
use crate::error::Fault;
use crate::metrics::export;
use crate::reply::{self, Never, ReplyBody};
use crate::serve::StartError;
use crate::{listener, origin};

/// Connections at a time: a few scrapers, and the probes of whatever runs the process.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(30);

/// The listener for those who watch.
pub struct Lookout {
    /// The address, with the port that was taken.
    pub address: SocketAddr,
    socket: StdListener,
}

impl Lookout {
    /// Binds the address.
    ///
    /// # Errors
    /// [`StartError::Metrics`].
    pub fn open(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Metrics { address, source };
        let (address, mut sockets) = listener::bind(address, 1).map_err(failed)?;
        let socket = sockets.pop().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Lookout { address, socket })
    }

    /// Serves until the gateway stops.
    pub fn serve(self, app: Arc<App>, runtime: &Runtime) {
        tracing::info!(metrics = %self.address, "counts and health may be watched");
        LocalSet::new().block_on(runtime, async move {
            match TcpListener::from_std(self.socket) {
                Ok(listener) => accept(app, &listener).await,
                Err(error) => tracing::error!(%error, "the socket for metrics cannot be used"),
            }
        });
    }
}

async fn accept(app: Arc<App>, listener: &TcpListener) {
    let mut stop = app.stop_signal();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let app = Arc::clone(&app);
                tokio::task::spawn_local(async move {
                    connection(&app, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(app: &Arc<App>, stream: TcpStream) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_headers(64).max_buf_size(16 * 1024);
    let service = service_fn(|request| {
        let answer = answer(app, &request);
        async move { Ok::<_, Never>(answer) }
    });
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for metrics ended");
    }
}

fn answer(app: &Arc<App>, request: &Request<Incoming>) -> Response<ReplyBody> {
    let path = request.uri().path();
    if let Some(health) = listener::health(app, path) {
        return health;
    }
    if let Err(fault) = origin::check_watcher(&app.config, request.headers()) {
        return reply::fault(app, &fault, None);
    }
    match (path, request.method()) {
        ("/metrics", &Method::GET) => {
            reply::whole(app, StatusCode::OK, export::CONTENT_TYPE, export::text(app))
        }
        ("/metrics", _) => reply::fault(app, &Fault::Method("GET"), None),
        _ => reply::fault(app, &Fault::NoRoute, None),
    }
}
