//! From a destination to a connection: name, socket, proxy, encryption, protocol.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::destination::{Destination, Tls};
use super::http::SendError;
use super::socket::{SharedSocket, Socket};
use super::tunnel::{self, Said};
use crate::config::Proxy;
use crate::sockets;

/// How long one attempt to connect may take, at least: a packet may be lost on the way.
pub(super) const ONE_ATTEMPT: Duration = Duration::from_secs(1);
/// First pause before a refused connection is tried again; doubled up to [`RETRY_MAX`].
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(20);
pub(super) const RETRY_MAX: Duration = Duration::from_millis(500);

/// A new connection, by the protocol that it speaks.
pub(super) enum Link {
    /// HTTP/1.1: one request at a time.
    One(http1::SendRequest<Full<Bytes>>, Socket),
    /// HTTP/2: many.
    Many(http2::SendRequest<Full<Bytes>>, Socket),
}

/// Why there is no connection.
enum Failed {
    /// Trying again may help: the upstream may be coming up.
    ForNow(String),
    /// It will not: a certificate or a proxy says no.
    ForGood(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if is_tls { Failed::ForGood(format!("TLS: {error}")) } else { Failed::ForNow(error.to_string()) }
    }
}

/// Connects, trying again for as long as `window` while that may help.
pub(super) async fn connect(to: &Destination, window: Duration) -> Result<Link, SendError> {
    let deadline = Instant::now() + window;
    let mut pause = RETRY_FIRST;
    loop {
        let patience = deadline.max(Instant::now() + ONE_ATTEMPT);
        let error = match tokio::time::timeout_at(patience, once(to)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Failed::ForGood(error))) => return Err(SendError::NotSent(error)),
            Ok(Err(Failed::ForNow(error))) => error,
            Err(_) => "connecting took too long".to_owned(),
        };
        if Instant::now() + pause >= deadline {
            return Err(SendError::NotSent(error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn once(to: &Destination) -> Result<Link, Failed> {
    let (host, port) = match &to.proxy {
        Some(proxy) => (proxy.host.as_str(), proxy.port),
        None => (to.host.as_str(), to.port),
    };
    let address = to.address.map_or_else(|| host.parse::<std::net::IpAddr>(), Ok);
    let mut socket = match address {
        Ok(ip) => TcpStream::connect((ip, port)).await,
        Err(_) => TcpStream::connect((host, port)).await,
    }?;
    socket.set_nodelay(true)?;
    sockets::notice_death(&socket, sockets::TAKES_NOTHING)?;
    match &to.tls {
        None => one(Rc::new(RefCell::new(socket))).await,
        Some(tls) => {
            if let Some(proxy) = &to.proxy {
                tunnel(&mut socket, proxy, to).await?;
            }
            encrypted(Rc::new(RefCell::new(socket)), tls).await
        }
    }
}

async fn one(socket: Socket) -> Result<Link, Failed> {
    let io = TokioIo::new(SharedSocket(Rc::clone(&socket)));
    let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
    run(connection);
    Ok(Link::One(sender, socket))
}

async fn encrypted(socket: Socket, tls: &Tls) -> Result<Link, Failed> {
    let connector = TlsConnector::from(tls.certificates.config());
    let stream = connector.connect(tls.name.clone(), SharedSocket(Rc::clone(&socket))).await?;
    let speaks_many = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if speaks_many {
        let (sender, connection) = http2::handshake(OnThisCore, io).await.map_err(io::Error::other)?;
        run(connection);
        Ok(Link::Many(sender, socket))
    } else {
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        run(connection);
        Ok(Link::One(sender, socket))
    }
}

fn run(connection: impl Future<Output = Result<(), hyper::Error>> + 'static) {
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
}

/// Where HTTP/2's own tasks run.
#[derive(Clone, Copy)]
struct OnThisCore;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisCore {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(work);
    }
}

/// Has the proxy open a tunnel.
async fn tunnel(socket: &mut TcpStream, proxy: &Proxy, to: &Destination) -> Result<(), Failed> {
    let status = match tunnel::ask(socket, proxy, &to.host, to.port).await? {
        Said::Status(status) => status,
        Said::NoEnd => return Err(Failed::ForGood("the proxy's answer to CONNECT has no end".to_owned())),
        Said::Closed => return Err(Failed::ForNow("the proxy closed the connection".to_owned())),
    };
    let shown = match std::str::from_utf8(&status) {
        Ok(digits) if !digits.is_empty() => digits,
        _ => "nothing readable",
    };
    match shown.as_bytes() {
        [b'2', ..] => Ok(()),
        // It did not reach the upstream, which may be coming up.
        b"502" | b"503" | b"504" => Err(Failed::ForNow(format!("the proxy answered {shown} to CONNECT"))),
        _ => Err(Failed::ForGood(format!("the proxy answered {shown} to CONNECT"))),
    }
}
