//! The administrator's door: a listener of its own, on a thread of its own, for `throughline sessions`,
//! `throughline keys` and whoever scrapes.
//!
//! | | |
//! |---|---|
//! | `GET /healthz`, `GET /readyz` | as on the main listener; the only ones without the token |
//! | `GET /`, `GET /status.json` | the status page, and what is on it |
//! | `GET /metrics` | the counts |
//! | `GET /sessions?after=CURSOR&limit=N` | a page of sessions |
//! | `GET /sessions/ID`, `DELETE /sessions/ID` | one of them, by its digest |
//! | `GET /keys`, `POST /keys/rotate` | the key ring: ids, never secrets |
//!
//! Plain hyper rather than axum: there are a few paths, and everything that they answer with is here already.

pub mod sessions;

use std::fs;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::app::{App, Core};
use crate::config::{AdminAddress, AdminToken, Config};
use crate::effects::Effects;
use crate::metrics::export;
use crate::origin;
use crate::reply::{self, Never, ReplyBody};
use crate::serve::{LAST_WORDS, StartError, state_dir, tidy_pools};
use crate::upstream::JSON;
use crate::{keys, listener, status};

/// Name of the token's file in the state directory.
pub const TOKEN_FILE: &str = "admin-token";

/// Connections at a time: the administrator is one, and a scraper another.
const MAX_CONNECTIONS: usize = 32;
/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(30);

/// Where the administrator connects, and the token to be shown there.
pub struct Door {
    /// The address, with the port that was taken.
    pub address: AdminAddress,
    socket: Socket,
    token: AdminToken,
}

enum Socket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

impl Door {
    /// Binds the address. The token is made if there is none.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(address: &AdminAddress, config: &Config, effects: Effects) -> Result<Self, StartError> {
        let token = match &config.admin_token {
            Some(token) => token.clone(),
            None => own_token(&state_dir(config)?.join(TOKEN_FILE), effects)?,
        };
        let failed = |source| StartError::Admin { address: address.clone(), source };
        let (address, socket) = match address {
            AdminAddress::Tcp(at) => {
                let (at, mut sockets) = listener::bind(*at, 1).map_err(failed)?;
                let socket = sockets.pop().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
                (AdminAddress::Tcp(at), Socket::Tcp(socket))
            }
            AdminAddress::Unix(path) => (address.clone(), Socket::Unix(bind_unix(path).map_err(failed)?)),
        };
        Ok(Door { address, socket, token })
    }

    /// Serves until the gateway stops.
    pub fn serve(self, app: Arc<App>, runtime: &Runtime) {
        let local = LocalSet::new();
        let Door { address, socket, token } = self;
        tracing::info!(admin = %address, "the administrator may connect");
        local.block_on(runtime, async move {
            let core = Core::new(app);
            tokio::task::spawn_local(tidy_pools(Rc::clone(&core)));
            let clerk = Rc::new(Clerk { core, token });
            let served = match socket {
                Socket::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
                Socket::Unix(socket) => UnixListener::from_std(socket).map(Listener::Unix),
            };
            match served {
                Ok(listener) => clerk.serve(&listener).await,
                Err(error) => tracing::error!(%error, "the administrator's socket cannot be used"),
            }
        });
        // Upstream sessions that are being ended.
        let _ = runtime.block_on(async { tokio::time::timeout(LAST_WORDS, local).await });
        if let AdminAddress::Unix(path) = &address {
            let _ = fs::remove_file(path);
        }
    }
}

/// The token in the state directory, made at the first start.
fn own_token(path: &Path, effects: Effects) -> Result<AdminToken, StartError> {
    let failed = |source| StartError::State { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = data_encoding::HEXLOWER.encode(&effects.bytes::<32>()) + "\n";
            keys::write_new(path, &text).map_err(failed)?;
            text
        }
        Err(error) => return Err(failed(error)),
    };
    AdminToken::parse(&text).map_err(|error| StartError::AdminToken {
        path: path.to_owned(),
        reason: format!("{error}; or remove the file, and a new one is made"),
    })
}

/// A socket file that only its owner can use. One that a dead process left is replaced; one that answers is not.
fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    // A file that is no socket refuses connections too; it is somebody's, and stays.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && StdUnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    let socket = StdUnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Who answers the administrator.
struct Clerk {
    core: Rc<Core>,
    token: AdminToken,
}

impl Clerk {
    async fn serve(self: Rc<Self>, listener: &Listener) {
        let mut stop = self.core.app.stop_signal();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let clerk = Rc::clone(&self);
            let accepted = tokio::select! {
                accepted = accept(listener) => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok(stream) => {
                    tokio::task::spawn_local(async move {
                        clerk.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the administrator's connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Rc<Self>, stream: Box<dyn Stream>) {
        let mut stop = self.core.app.stop_signal();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_headers(64).max_buf_size(16 * 1024);
        let service = service_fn(|request| {
            let clerk = Rc::clone(&self);
            async move { Ok::<_, Never>(clerk.answer(request).await) }
        });
        let served = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(served);
        let outcome = tokio::select! {
            outcome = served.as_mut() => outcome,
            _ = stop.wait_for(|stop| *stop) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "the administrator's connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let app = &self.core.app;
        let path = request.uri().path();
        if let Some(health) = listener::health(app, path) {
            return health;
        }
        if let Err(fault) = origin::check_local(request.headers()) {
            return self.said(fault.status(), &fault.to_string());
        }
        if !self.is_known(request.headers()) {
            let text = "the administrator's token is needed: Authorization: Bearer TOKEN";
            let mut response = self.said(StatusCode::UNAUTHORIZED, text);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let path: Vec<_> = path.trim_matches('/').split('/').collect();
        match (request.method().clone(), path.as_slice()) {
            (Method::GET, ["metrics"]) => {
                reply::whole(app, StatusCode::OK, export::CONTENT_TYPE, export::text(app))
            }
            (Method::GET, [""] | ["status.json" | "status.css" | "status.js"]) => {
                status::answer(app, request.uri().path())
                    .unwrap_or_else(|| reply::empty(app, StatusCode::NOT_FOUND))
            }
            (Method::GET, ["sessions"]) => self.list(request.uri().query().unwrap_or_default()).await,
            (Method::GET, ["sessions", id]) => match sessions::show(&self.core, id).await {
                Ok(view) => self.json(StatusCode::OK, &view),
                Err(error) => self.refused(&error),
            },
            (Method::DELETE, ["sessions", id]) => match sessions::remove(&self.core, id).await {
                Ok(removed) => self.json(StatusCode::OK, &json!({ "id": id, "removed": removed.as_str() })),
                Err(error) => self.refused(&error),
            },
            (Method::GET, ["keys"]) => self.json(StatusCode::OK, &ring(&app.keys.status())),
            (Method::POST, ["keys", "rotate"]) => self.rotate(),
            _ => self.said(
                StatusCode::NOT_FOUND,
                "there is nothing here; docs/administration.md says what there is",
            ),
        }
    }

    async fn list(&self, query: &str) -> Response<ReplyBody> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let limit = value("limit").map_or(Ok(sessions::PAGE), str::parse);
        let Some(limit) = limit.ok().filter(|limit| (1..=sessions::PAGE).contains(limit)) else {
            let text = format!("limit must be a number from 1 to {}", sessions::PAGE);
            return self.said(StatusCode::BAD_REQUEST, &text);
        };
        match sessions::list(&self.core, value("after"), limit).await {
            Ok(page) => self.json(StatusCode::OK, &page),
            Err(error) => self.refused(&error),
        }
    }

    fn rotate(&self) -> Response<ReplyBody> {
        match self.core.app.keys.rotate() {
            Ok(status) => {
                tracing::info!(keys = ?status.ids, "the key ring was rotated");
                self.json(StatusCode::OK, &ring(&status))
            }
            Err(error) => {
                tracing::error!(%error, "the key ring was not rotated");
                self.said(StatusCode::CONFLICT, &error.to_string())
            }
        }
    }

    /// Whether the token is shown. The comparison takes as long whatever is wrong with it.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = shown.and_then(|value| value.split_at_checked(7));
        shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"bearer ")
                && verify_slices_are_equal(token.trim_ascii(), self.token.expose().as_bytes()).is_ok()
        })
    }

    fn json(&self, status: StatusCode, value: &impl serde::Serialize) -> Response<ReplyBody> {
        reply::whole(&self.core.app, status, JSON, serde_json::to_vec(value).unwrap_or_default())
    }

    fn said(&self, status: StatusCode, text: &str) -> Response<ReplyBody> {
        self.json(status, &json!({ "error": text }))
    }

    fn refused(&self, error: &sessions::SessionError) -> Response<ReplyBody> {
        self.said(error.status(), &error.to_string())
    }
}

/// What may be told of the key ring.
fn ring(status: &keys::Status) -> serde_json::Value {
    json!({ "active": status.ids.first(), "ids": status.ids, "not_before": status.not_before,
        "seals_from": status.seals_from })
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
        Listener::Unix(listener) => Box::new(listener.accept().await?.0),
    })
}

/// Where the token is, for those who administrate from this machine.
///
/// # Errors
/// [`StartError::NoStateDir`].
pub fn token_file(config_dir: Option<&Path>) -> Result<PathBuf, StartError> {
    let env = |name: &str| std::env::var(name).ok();
    let dir = config_dir.map(Path::to_owned).or_else(|| crate::config::default_state_dir(&env));
    Ok(dir.ok_or(StartError::NoStateDir)?.join(TOKEN_FILE))
}
