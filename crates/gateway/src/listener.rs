//! Sockets and connections of the clients' side.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use crate::app::{App, Core};
use crate::error::Fault;
use crate::exchange::exchange;
use crate::metrics::export;
use crate::origin;
use crate::principal;
use crate::reply::{self, Never, ReplyBody};
use crate::sockets;
use crate::tally;
use crate::upstream::JSON;

/// Connections that wait to be accepted, per core.
const BACKLOG: i32 = 1024;

/// One listening socket for each core, all on one address; the kernel spreads connections over them.
///
/// # Errors
/// When the address cannot be had, also because another process listens there.
pub fn bind(address: SocketAddr, cores: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    // Sharing a port would also share it with a second gateway, started by mistake, without a word. A socket that
    // does not share finds that out first.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    let sockets = (0..cores.max(1)).map(|_| socket(address, true)).collect::<io::Result<Vec<_>>>()?;
    Ok((address, sockets))
}

fn socket(address: SocketAddr, share: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts and serves connections until the gateway stops, and returns when the last of them is done.
pub async fn serve(core: Rc<Core>, listener: TcpListener, room: Arc<Semaphore>) {
    let mut stop = core.app.stop_signal();
    let (alive, mut all_done) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (core, alive) = (Rc::clone(&core), alive.clone());
                tokio::task::spawn_local(async move {
                    connection(core, stream).await;
                    drop((permit, alive));
                });
            }
            Err(error) => {
                // Out of file descriptors, or a client that is gone already: the next one may fare better.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    drop((listener, alive));
    let _ = all_done.recv().await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    sockets::notice_death(&stream)?;
    Ok((stream, permit))
}

async fn connection(core: Rc<Core>, stream: TcpStream) {
    let _open = tally::connected(&core);
    let mut stop = core.app.stop_signal();
    let config = &core.app.config;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.request_read)
        .max_headers(config.limits.headers)
        .max_buf_size(config.limits.header_bytes);
    let service = service_fn(|request| {
        let core = Rc::clone(&core);
        async move { Ok::<_, Never>(answer(core, request).await) }
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
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Health, for those who watch the process; everything else is the protocol.
async fn answer(core: Rc<Core>, request: Request<Incoming>) -> Response<ReplyBody> {
    match health(&core.app, request.uri().path()) {
        Some(health) => health,
        None => from_outside(core, request).await,
    }
}

/// How the process is, at the paths where that is asked.
pub fn health(app: &App, path: &str) -> Option<Response<ReplyBody>> {
    let said = |status, text: &'static str| Some(reply::whole(app, status, JSON, text));
    match path {
        "/healthz" => said(StatusCode::OK, r#"{"status":"ok"}"#),
        "/readyz" if app.is_stopping() => said(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"stopping"}"#),
        "/readyz" => said(StatusCode::OK, r#"{"status":"ready"}"#),
        _ => None,
    }
}

/// The protocol, for whoever may speak it here.
async fn from_outside(core: Rc<Core>, request: Request<Incoming>) -> Response<ReplyBody> {
    let origin = match origin::check(&core.app.config, &request) {
        Ok(origin) => origin,
        Err(fault) => return tally::refused(&core, reply::fault(&core.app, &fault, None)),
    };
    if request.uri().path() == "/metrics" && core.app.config.on_loopback() {
        return scrape(&core, &request);
    }
    let Some(origin) = origin else { return exchange(core, request).await };
    let preflight = origin::is_preflight(&request);
    let mut response = match preflight {
        true => reply::empty(&core.app, StatusCode::NO_CONTENT),
        false => exchange(core, request).await,
    };
    origin::allow(response.headers_mut(), origin, preflight);
    response
}

/// The counts, for whoever is on this machine: a proxy's clients are not.
fn scrape(core: &Core, request: &Request<Incoming>) -> Response<ReplyBody> {
    let app = &core.app;
    match *request.method() {
        _ if principal::is_forwarded(request.headers()) => reply::fault(app, &Fault::NoRoute, None),
        Method::GET => reply::whole(app, StatusCode::OK, export::CONTENT_TYPE, export::text(app)),
        _ => reply::fault(app, &Fault::Method("GET"), None),
    }
}
