//! Sockets and connections of the clients' side.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::app::{App, Core};
use crate::error::Fault;
use crate::exchange::exchange;
use crate::metrics::export;
use crate::peer::Peer;
use crate::principal;
use crate::reply::{self, ReplyBody};
use crate::room::{self, Place, Placed, Taken};
use crate::tally;
use crate::tls::Tls;
use crate::upstream::JSON;
use crate::{connection, names, origin, sockets, status};

/// Connections that wait to be accepted, per core.
const BACKLOG: i32 = 1024;

/// Headers of which there is one: of two, this gateway and another reader could each take another.
const ONCE: [HeaderName; 9] = [
    HOST,
    AUTHORIZATION,
    CONTENT_TYPE,
    ORIGIN,
    names::SESSION_ID,
    names::PROTOCOL_VERSION,
    names::METHOD,
    names::NAME,
    names::LAST_EVENT_ID,
];

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
pub async fn serve(core: Rc<Core>, listener: TcpListener, room: Arc<Semaphore>, tls: Option<Tls>) {
    let mut stop = core.app.stop_signal();
    let (alive, mut all_done) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&core, &listener, &room) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(accepted) => begin(&core, accepted, &alive, &tls),
            Err(error) => {
                // Out of file descriptors, or a client that is gone already: the next one may fare better.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    // Those that the kernel has accepted would be reset with the socket.
    while let Some(Ok(accepted)) = waiting(&core, &listener, &room).await {
        begin(&core, accepted, &alive, &tls);
    }
    drop((listener, alive));
    let _ = all_done.recv().await;
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// Serves a connection, as a task of its own. `alive` is held as long as it lasts.
fn begin(core: &Rc<Core>, accepted: Accepted, alive: &mpsc::Sender<()>, tls: &Option<Tls>) {
    let (stream, address, permit) = accepted;
    let (core, alive, tls) = (Rc::clone(core), alive.clone(), tls.clone());
    let peer = Peer::new(&core.app.config, address, tls.is_some());
    tokio::task::spawn_local(async move {
        connection::serve(core, stream, peer, tls).await;
        drop((permit, alive));
    });
}

/// A connection that waits to be accepted, if there is one now.
async fn waiting(core: &Core, listener: &TcpListener, room: &Arc<Semaphore>) -> Option<io::Result<Accepted>> {
    let mut accepting = pin!(accept(core, listener, room));
    poll_fn(|cx| match accepting.as_mut().poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn accept(core: &Core, listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    sockets::notice_death(&stream, core.app.config.timeouts.answer_write)?;
    Ok((stream, address, permit))
}

/// Health, for those who watch the process; everything else is the protocol.
pub async fn answer(
    core: Rc<Core>,
    peer: Peer,
    request: Request<Incoming>,
    taken: Option<Rc<Taken>>,
) -> Response<Placed> {
    if let Some(health) = health(&core.app, request.uri().path()) {
        return Placed::hold(health, None, taken);
    }
    let (place, response) = match Place::take(&core, request.method()) {
        Ok(place) => (Some(place), from_outside(core, peer, request).await),
        Err(fault) => (None, refuse(&core, &fault, request)),
    };
    Placed::hold(response, place, taken)
}

/// How the process is, at the paths where that is asked.
pub fn health(app: &App, path: &str) -> Option<Response<ReplyBody>> {
    let said = |status, text: &'static str| Some(reply::whole(app, status, JSON, text));
    match path {
        "/healthz" => said(StatusCode::OK, r#"{"status":"ok"}"#),
        "/readyz" if app.is_leaving() => said(StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"stopping"}"#),
        // Still ready: sessions go on without the store, and it is away for the other replicas as well.
        "/readyz" => Some(match app.store.trouble() {
            None => reply::whole(app, StatusCode::OK, JSON, r#"{"status":"ready"}"#),
            Some(reason) => {
                let body = serde_json::json!({ "status": "degraded", "store": &*reason });
                reply::whole(app, StatusCode::OK, JSON, body.to_string())
            }
        }),
        _ => None,
    }
}

/// The protocol, for whoever may speak it here.
async fn from_outside(core: Rc<Core>, peer: Peer, mut request: Request<Incoming>) -> Response<ReplyBody> {
    let checked = sane(&core, &mut request).and_then(|()| origin::check(&core.app.config, peer, &request));
    let origin = match checked {
        Ok(origin) => origin,
        Err(fault) => return refuse(&core, &fault, request),
    };
    if core.app.config.on_loopback()
        && let Some(response) = to_people(&core, &request)
    {
        return response;
    }
    let Some(origin) = origin else { return exchange(core, peer, request).await };
    let preflight = origin::is_preflight(&request);
    let mut response = match preflight {
        true => reply::empty(&core.app, StatusCode::NO_CONTENT),
        false => exchange(core, peer, request).await,
    };
    origin::allow(response.headers_mut(), origin, preflight);
    response
}

fn refuse(core: &Core, fault: &Fault, request: Request<Incoming>) -> Response<ReplyBody> {
    room::linger(request.into_body(), fault);
    tally::refused(core, reply::fault(&core.app, fault, None))
}

/// What two readers of a request could take for two things; and what differs between the HTTP versions: how many
/// headers there may be, and where the host is named. Behind this it is in `Host`.
fn sane(core: &Core, request: &mut Request<Incoming>) -> Result<(), Fault> {
    if request.headers().len() > core.app.config.limits.headers {
        return Err(Fault::TooManyHeaders);
    }
    let headers = request.headers();
    // Nearly always every header comes once.
    if headers.len() != headers.keys_len() && ONCE.iter().any(|name| headers.get_all(name).iter().count() > 1)
    {
        return Err(Fault::Repeated);
    }
    match (request.uri().authority().map(Authority::as_str), headers.get(HOST)) {
        (None, None) => Err(Fault::NoHost),
        (None, Some(_)) => Ok(()),
        // RFC 9113, section 8.3.1; in HTTP/1.1 the target stands above the header (RFC 9112, section 3.2.2).
        (Some(target), Some(host)) if request.version() == Version::HTTP_2 && target != host => {
            Err(Fault::NoHost)
        }
        (Some(target), _) => {
            let host = HeaderValue::from_str(target).map_err(|_| Fault::NoHost)?;
            request.headers_mut().insert(HOST, host);
            Ok(())
        }
    }
}

/// The counts and the status page, for whoever is on this machine: a proxy's clients are not.
fn to_people(core: &Core, request: &Request<Incoming>) -> Option<Response<ReplyBody>> {
    let (app, path) = (&core.app, request.uri().path());
    match *request.method() {
        Method::GET if principal::is_forwarded(request.headers()) => None,
        Method::GET if path == "/metrics" => {
            Some(reply::whole(app, StatusCode::OK, export::CONTENT_TYPE, export::text(app)))
        }
        Method::GET => status::answer(app, path),
        _ => (path == "/metrics").then(|| reply::fault(app, &Fault::Method("GET"), None)),
    }
}
