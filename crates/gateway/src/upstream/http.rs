//! One upstream endpoint over HTTP/1.1: connections of this core, kept alive, and requests sent at most once.
//!
//! The pool belongs to one core's runtime, so it needs no lock. What matters here is certainty: a request
//! that failed was either certainly not sent ([`SendError::NotSent`]), or may have been executed
//! ([`SendError::Broken`]). Everything that decides about repeating a call builds on this difference.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::sockets;

/// Connections kept for the next request, per core and endpoint. More may be open while requests are in flight.
const MAX_IDLE: usize = 256;
/// How long an idle connection is kept. Servers commonly close theirs after 5 s (Node, uvicorn) or more; closed
/// ones are noticed before they are used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one attempt to connect may take, at least: a packet may be lost on the way.
const ONE_ATTEMPT: Duration = Duration::from_secs(1);
/// First pause before a refused connection is tried again; doubled up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made, or it closed before a byte of the request went out.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The connection broke after the request may have been sent.
    #[error("connection broke: {0}")]
    Broken(String),
    /// No response head came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// An answer whose body is still on its way.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    /// The rest of the answer.
    pub body: AnswerBody,
}

/// Connections of one core to one endpoint.
pub struct Endpoint {
    uri: Uri,
    authority: String,
    host: String,
    port: u16,
    connect_window: Duration,
    first_byte: Duration,
    idle: RefCell<VecDeque<Idle>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    socket: Rc<TcpStream>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Endpoint {
    /// For `uri` (absolute, `http`). `connect_window`: how long a refused connection is tried again;
    /// `first_byte`: how long a response head may take.
    pub fn new(uri: Uri, connect_window: Duration, first_byte: Duration) -> Rc<Self> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(80);
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        Rc::new(Endpoint {
            uri,
            authority,
            host,
            port,
            connect_window,
            first_byte,
            idle: RefCell::new(VecDeque::new()),
        })
    }

    /// Sends one request, waiting for an upstream that refuses connections to come up. The body is shared, not
    /// copied, so the caller can keep it for a repetition.
    pub async fn send(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        self.send_within(self.connect_window, method, headers, body).await
    }

    /// The same, for an upstream that is up now or not at all.
    pub async fn send_now(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        self.send_within(ONE_ATTEMPT, method, headers, body).await
    }

    async fn send_within(
        self: &Rc<Self>,
        connect_window: Duration,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        let mut request = Some(self.request(method, headers, body));
        loop {
            // An idle connection that closes under our hands gives the request back; a fresh one is tried once
            // per turn, within the connect window.
            let Some(unsent) = request.take() else { return Err(SendError::NotSent("no request".into())) };
            let (mut connection, reused) = match self.take_idle() {
                Some(connection) => (connection, true),
                None => (self.connect(connect_window).await?, false),
            };
            let answered =
                tokio::time::timeout(self.first_byte, connection.sender.try_send_request(unsent)).await;
            match answered {
                Err(_) => return Err(SendError::Timeout(self.first_byte)),
                Ok(Ok(response)) => return Ok(self.answer(response, connection)),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) if reused => request = Some(unsent),
                    Some(_) => return Err(SendError::NotSent(error.error().to_string())),
                    None => return Err(SendError::Broken(error.error().to_string())),
                },
            }
        }
    }

    fn request(&self, method: http::Method, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Origin form: the path alone, as to any server that is not a proxy.
        *request.uri_mut() = match self.uri.path_and_query() {
            Some(path) => Uri::from(path.clone()),
            None => Uri::from_static("/"),
        };
        *request.headers_mut() = headers;
        if let Ok(host) = http::HeaderValue::from_str(&self.authority) {
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }

    fn answer(self: &Rc<Self>, response: http::Response<Incoming>, connection: Connection) -> Answer {
        let (parts, incoming) = response.into_parts();
        let mut body = AnswerBody { incoming, lease: Some(Lease { endpoint: Rc::clone(self), connection }) };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The most recently used idle connection that is still open.
    ///
    /// A server that was killed has closed its sockets, but hyper learns of it only when its task runs. One look
    /// at the socket here keeps a request from going into a connection that is already dead, where nobody could
    /// say any more whether it was executed.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop_back() {
            let fresh = since.elapsed() < IDLE_TIMEOUT;
            if fresh && connection.sender.is_ready() && is_quiet(&connection.socket) {
                return Some(connection);
            }
        }
        None
    }

    /// Closes connections that have been idle for long or were closed by the server. The rest stay.
    pub fn tidy(&self) {
        let usable = |idle: &Idle| idle.since.elapsed() < IDLE_TIMEOUT && !idle.connection.sender.is_closed();
        self.idle.borrow_mut().retain(usable);
    }

    async fn connect(&self, window: Duration) -> Result<Connection, SendError> {
        let deadline = Instant::now() + window;
        let mut pause = RETRY_FIRST;
        loop {
            let patience = deadline.max(Instant::now() + ONE_ATTEMPT);
            let error = match tokio::time::timeout_at(patience, self.connect_once()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "connecting took too long".to_owned(),
            };
            if Instant::now() + pause >= deadline {
                return Err(SendError::NotSent(error));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn connect_once(&self) -> io::Result<Connection> {
        let socket = match self.host.parse::<std::net::IpAddr>() {
            Ok(ip) => TcpStream::connect((ip, self.port)).await?,
            Err(_) => TcpStream::connect((self.host.as_str(), self.port)).await?,
        };
        socket.set_nodelay(true)?;
        sockets::notice_death(&socket, sockets::TAKES_NOTHING)?;
        let socket = Rc::new(socket);
        let io = TokioIo::new(SharedSocket(Rc::clone(&socket)));
        let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Connection { sender, socket })
    }
}

/// Open, and with nothing to read: a server that has something to say on an idle connection is closing it.
fn is_quiet(socket: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    matches!(SockRef::from(socket).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The connection that an answer is being read from.
struct Lease {
    endpoint: Rc<Endpoint>,
    connection: Connection,
}

/// An answer's body; when it has been read to its end, the connection goes back to the pool. Dropped before,
/// the connection is closed, which is how an upstream learns that nobody listens any more.
pub struct AnswerBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl AnswerBody {
    fn give_back(&mut self) {
        let Some(Lease { endpoint, connection }) = self.lease.take() else { return };
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = endpoint.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: Instant::now() });
    }

    /// The next piece of the body; None at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next piece, if it has arrived: the connection gets one turn to find out. None otherwise, and at the end.
    pub async fn chunk_at_hand(&mut self) -> Option<Bytes> {
        if self.is_end() {
            return None;
        }
        tokio::task::yield_now().await;
        let arrived = std::future::poll_fn(|cx| match self.poll_chunk(cx) {
            Poll::Ready(Some(Ok(piece))) => Poll::Ready(Some(piece)),
            // Nothing that matters comes after what the caller has; a break is as good as the end.
            Poll::Ready(_) | Poll::Pending => Poll::Ready(None),
        });
        arrived.await
    }

    /// The next piece of the body; None at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => {
                    self.give_back();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    // Trailers carry nothing in this protocol.
                    if let Ok(data) = Frame::into_data(frame) {
                        if self.incoming.is_end_stream() {
                            self.give_back();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }

    /// Whether everything was read.
    pub fn is_end(&self) -> bool {
        // Of a chunked body hyper knows the end only when it has been read; then the lease is given back.
        self.lease.is_none() || self.incoming.is_end_stream()
    }

    /// How much is still to come, as far as known.
    pub fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The socket, shared between hyper's connection and the pool's look at it before each use.
struct SharedSocket(Rc<TcpStream>);

impl AsyncRead for SharedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl SharedSocket {
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |socket| socket.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |socket| socket.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Reads a body to its end; `None` when it is longer than `limit` bytes.
pub async fn read_whole(
    mut body: AnswerBody,
    head: Vec<Bytes>,
    limit: usize,
) -> Result<Option<Bytes>, hyper::Error> {
    let mut whole = Whole::default();
    for piece in head {
        whole.push(piece);
    }
    while let Some(piece) = body.chunk().await {
        whole.push(piece?);
        if whole.len > limit {
            return Ok(None);
        }
    }
    Ok((whole.len <= limit).then(|| whole.finish()))
}

/// Pieces put together; a single one is not copied.
#[derive(Default)]
struct Whole {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Whole {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push(piece);
    }

    fn finish(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => self.pieces.concat().into(),
        }
    }
}

/// A future that the compiler need not know the size of; used where futures are kept.
pub type Local<T> = Pin<Box<dyn Future<Output = T>>>;
