//! One upstream endpoint over HTTP: connections of this core, kept alive, and requests sent at most once.
//!
//! The pool belongs to one core's runtime, so it needs no lock. What matters here is certainty: a request
//! that failed was either certainly not executed ([`SendError::NotSent`]), or may have been
//! ([`SendError::Broken`]). Everything that decides about repeating a call builds on this difference.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use throughline_store::Millis;

use super::body::{AnswerBody, Lease};
use super::certainty;
use super::connect::{self, Link, ONE_ATTEMPT};
use super::destination::Destination;
use super::many::{Many, Stream};
use super::socket::{Socket, is_quiet};
use crate::deadlines::{Deadlines, Pulse};
use crate::effects::Effects;

/// Connections kept for the next request, per core and endpoint. More may be open while requests are in flight.
const MAX_IDLE: usize = 256;
/// How long an idle connection is kept. Servers commonly close theirs after 5 s (Node, uvicorn) or more; closed
/// ones are noticed before they are used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often [`Endpoint::tidy`] is called.
pub const TIDY_EVERY: Duration = Duration::from_secs(10);
/// How often that finds a connection idle before it is closed.
const IDLE_TURNS: u64 = IDLE_TIMEOUT.as_secs() / TIDY_EVERY.as_secs();

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be made, it closed before a byte of the request went out, or the upstream says that it
    /// did not look at the request.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The same, of an endpoint that holds the session, while another takes connections.
    #[error("not sent: {0}; another endpoint takes connections")]
    Down(String),
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
    to: Arc<Destination>,
    effects: Effects,
    deadlines: Rc<Deadlines>,
    idle: RefCell<VecDeque<Idle>>,
    many: Many,
}

/// One connection that carries one request at a time.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    socket: Socket,
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

struct Idle {
    connection: Connection,
    /// How often it has been found idle: to ask what time it is for each use would cost more.
    turns: u64,
}

/// What a request goes out on.
enum Place {
    /// A connection of its own while it lasts.
    One(Connection),
    /// One that others use at the same time.
    Many(Stream),
}

/// Why one sending came to nothing.
enum Failed {
    /// The upstream certainly did not execute the request; here it is again, and why.
    Unsent(Box<Request<Full<Bytes>>>, String),
    /// Anything else.
    Send(SendError),
}

/// How often a request is taken to another connection when the one at hand would not have it.
const MAX_TURNS: usize = MAX_IDLE + 4;

impl Endpoint {
    /// Connections to this upstream, none yet.
    pub fn new(to: Arc<Destination>, effects: Effects, deadlines: Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Endpoint { to, effects, deadlines, idle: RefCell::default(), many: Many::default() })
    }

    /// Where it is, and how it is reached.
    pub fn destination(&self) -> &Destination {
        &self.to
    }

    /// Wall-clock time.
    pub fn now(&self) -> Millis {
        self.effects.now()
    }

    /// Sends one request, waiting for an upstream that refuses connections to come up. The body is shared, not
    /// copied, so the caller can keep it for a repetition.
    pub fn send(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> impl Future<Output = Result<Answer, SendError>> {
        self.send_watched(method, headers, body, None)
    }

    /// The same, where each sign of `pulse` gives the upstream as much time again to begin its answer.
    pub fn send_watched(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
        pulse: Option<Arc<Pulse>>,
    ) -> impl Future<Output = Result<Answer, SendError>> {
        self.send_within(self.to.connect_window, self.request(method, None, headers, body), pulse)
    }

    /// The same, for an upstream that is up now or not at all.
    pub fn send_now(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> impl Future<Output = Result<Answer, SendError>> {
        self.send_within(ONE_ATTEMPT, self.request(method, None, headers, body), None)
    }

    /// The same in one attempt, for a request that can go elsewhere.
    pub async fn send_once(
        self: &Rc<Self>,
        method: http::Method,
        headers: HeaderMap,
        body: Bytes,
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Answer, SendError> {
        self.send_within(Duration::ZERO, self.request(method, None, headers, body), pulse).await
    }

    /// Whether it takes connections: there is one, or one can be made, which is kept for the next request.
    ///
    /// # Errors
    /// [`SendError::NotSent`], after one attempt.
    pub async fn reach(self: &Rc<Self>) -> Result<(), SendError> {
        let place = match self.take().await {
            Some(place) => place,
            None => self.connect(Duration::ZERO).await?,
        };
        if let Place::One(connection) = place {
            self.put_back(connection);
        }
        Ok(())
    }

    /// Posts to another path of the upstream's, if it is up.
    pub async fn post(
        self: &Rc<Self>,
        path: &PathAndQuery,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        self.send_within(ONE_ATTEMPT, self.request(http::Method::POST, Some(path), headers, body), None).await
    }

    /// Gets something else that the upstream has, if it is up.
    pub async fn get(self: &Rc<Self>, path: &PathAndQuery, headers: HeaderMap) -> Result<Answer, SendError> {
        let request = self.request(http::Method::GET, Some(path), headers, Bytes::new());
        self.send_within(ONE_ATTEMPT, request, None).await
    }

    async fn send_within(
        self: &Rc<Self>,
        connect_window: Duration,
        mut request: Request<Full<Bytes>>,
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Answer, SendError> {
        // A connection that closes under our hands gives the request back: an idle one, or one to an upstream that
        // is just about to go. Then another gets it.
        for turn in 0..MAX_TURNS {
            let (place, reused) = match self.take().await {
                Some(place) => (place, true),
                None => (self.connect(connect_window).await?, false),
            };
            let sent = match place {
                Place::One(connection) => self.send_on_one(connection, request, reused, pulse.clone()).await,
                // In boxes, as is connecting: the future of a plain request need not have room for it.
                Place::Many(stream) => {
                    Box::pin(self.send_on_many(stream, request, reused, pulse.clone())).await
                }
            };
            request = match sent {
                Ok(answer) => return Ok(answer),
                Err(Failed::Send(error)) => return Err(error),
                Err(Failed::Unsent(request, _)) if reused || turn == 0 => *request,
                Err(Failed::Unsent(_, error)) => return Err(SendError::NotSent(error)),
            };
        }
        Err(SendError::NotSent("no connection would take it".to_owned()))
    }

    /// A connection that is there already.
    async fn take(&self) -> Option<Place> {
        match self.take_idle() {
            Some(connection) => Some(Place::One(connection)),
            None => self.many.take().await.map(Place::Many),
        }
    }

    async fn connect(&self, window: Duration) -> Result<Place, SendError> {
        Ok(match Box::pin(connect::connect(&self.to, window)).await? {
            Link::One(sender, socket) => Place::One(Connection { sender, socket }),
            Link::Many(sender, socket) => Place::Many(self.many.enter(sender, socket)),
        })
    }

    async fn send_on_one(
        self: &Rc<Self>,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        reused: bool,
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Answer, Failed> {
        let sent = connection.sender.try_send_request(request);
        match self.deadlines.within_signs(self.to.first_byte, pulse, sent).await {
            Err(_) => Err(Failed::Send(SendError::Timeout(self.to.first_byte))),
            Ok(Ok(response)) => Ok(answer(response, Lease::One(Rc::clone(self), connection))),
            Ok(Err(mut error)) => {
                let (unsent, error) = (error.take_message(), error.into_error());
                Err(match unsent {
                    Some(request) => Failed::Unsent(Box::new(request), error.to_string()),
                    None => Failed::Send(failure(&error, reused)),
                })
            }
        }
    }

    async fn send_on_many(
        self: &Rc<Self>,
        stream: Stream,
        mut request: Request<Full<Bytes>>,
        reused: bool,
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Answer, Failed> {
        // Here the URL stands for `Host` (RFC 9113, 8.3.1).
        *request.uri_mut() = self.absolute(request.uri());
        request.headers_mut().remove(HOST);
        // What was refused does not come back by itself.
        let copy = request.clone();
        let sent = stream.sender().try_send_request(request);
        match self.deadlines.within_signs(self.to.first_byte, pulse, sent).await {
            Err(_) => Err(Failed::Send(SendError::Timeout(self.to.first_byte))),
            Ok(Ok(response)) => Ok(answer(response, Lease::Many(stream))),
            Ok(Err(mut error)) => {
                let (unsent, error) = (error.take_message().is_some(), error.into_error());
                if unsent || certainty::was_refused(&error) {
                    stream.retire();
                    return Err(Failed::Unsent(Box::new(copy), error.to_string()));
                }
                Err(Failed::Send(failure(&error, reused)))
            }
        }
    }

    fn request(
        &self,
        method: http::Method,
        path: Option<&PathAndQuery>,
        headers: HeaderMap,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Origin form: the path alone, as to any server that is not a proxy.
        *request.uri_mut() = match path.or_else(|| self.to.uri.path_and_query()) {
            Some(path) => Uri::from(path.clone()),
            None => Uri::from_static("/"),
        };
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(HOST, self.to.authority.clone());
        for (name, value) in &self.to.headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(proxy) = self.to.through_proxy() {
            if let Some(authorization) = &proxy.authorization {
                headers.insert(PROXY_AUTHORIZATION, authorization.clone());
            }
            *request.uri_mut() = self.absolute(request.uri());
        }
        request
    }

    /// A path of the upstream's as a whole URL.
    fn absolute(&self, path: &Uri) -> Uri {
        let mut parts = self.to.uri.clone().into_parts();
        parts.path_and_query = path.path_and_query().cloned();
        Uri::from_parts(parts).unwrap_or_else(|_| self.to.uri.clone())
    }

    /// Keeps a connection for the next request.
    pub(super) fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, turns: 0 });
    }

    /// The most recently used idle connection that is still open.
    ///
    /// A server that was killed has closed its sockets, but hyper learns of it only when its task runs. One look
    /// at the socket here keeps a request from going into a connection that is already dead, where nobody could
    /// say any more whether it was executed.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, .. }) = idle.pop_back() {
            if connection.sender.is_ready() && is_quiet(&connection.socket) {
                return Some(connection);
            }
        }
        None
    }

    /// Closes connections that have been idle for long or were closed by the server. The rest stay.
    pub fn tidy(&self) {
        self.idle.borrow_mut().retain_mut(|idle| {
            idle.turns += 1;
            idle.turns <= IDLE_TURNS && !idle.connection.sender.is_closed()
        });
        self.many.tidy(IDLE_TIMEOUT);
    }
}

/// What a failure says of a request that did not come back.
fn failure(error: &hyper::Error, reused: bool) -> SendError {
    let said = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if !reused && certainty::was_handshake(error) {
        SendError::NotSent(said)
    } else {
        SendError::Broken(said)
    }
}

fn answer(response: Response<Incoming>, lease: Lease) -> Answer {
    let (parts, incoming) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: AnswerBody::arriving(incoming, lease) }
}

/// A future that the compiler need not know the size of; used where futures are kept.
pub type Local<T> = Pin<Box<dyn Future<Output = T>>>;
