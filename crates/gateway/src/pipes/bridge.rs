//! The bridge's HTTP side: as much of Streamable HTTP as the gateway needs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use throughline_wire::envelope::{Envelope, Id, Limits, Message, Outcome};
use throughline_wire::headers::MCP_SESSION_ID;
use throughline_wire::{jsonrpc, method, sse};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::connection::{self, NotOpen};
use super::pipe::{Pipe, Said, Turn, Untold, Use};
use super::shared::{self, Shared};
use super::{SECRET, Settings, To, program};
use crate::deadlines::Deadlines;
use crate::upstream::Refusal;
use crate::upstream::http::{Endpoint, TIDY_EVERY};

/// A pipe that ends sooner than this after its start makes the next wait.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the end waits for pipes.
const END: Duration = Duration::from_secs(6);

pub(super) struct Bridge {
    settings: Arc<Settings>,
    /// The server at the other end; None where programs are.
    server: Option<Rc<Endpoint>>,
    pub(super) pipes: RefCell<HashMap<String, Rc<Pipe>>>,
    /// The one that serves all sessions, and the one that serves requests without any.
    pub(super) shared: RefCell<Option<Rc<Shared>>>,
    pub(super) sessionless: RefCell<Option<Rc<Pipe>>>,
    /// Held by who starts one of them.
    pub(super) starting: tokio::sync::Mutex<()>,
    /// Pipes that have not ended yet, those that are being ended included.
    running: Cell<usize>,
    turns: Cell<u64>,
    /// How many in a row did not live for long, and when the next may start.
    failures: Cell<u32>,
    rests_until: Cell<Option<Instant>>,
}

/// Serves until it is told to stop; then it ends all pipes.
pub(super) async fn serve(settings: Arc<Settings>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let server = match &settings.to {
        To::Program { .. } => None,
        To::Server(to) => Some(Endpoint::new(Arc::clone(to), settings.effects, Deadlines::new())),
    };
    let bridge = Rc::new(Bridge {
        settings,
        server,
        pipes: RefCell::default(),
        shared: RefCell::default(),
        sessionless: RefCell::default(),
        starting: tokio::sync::Mutex::default(),
        running: Cell::new(0),
        turns: Cell::new(0),
        failures: Cell::new(0),
        rests_until: Cell::new(None),
    });
    let mut tidy = tokio::time::interval(TIDY_EVERY);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = tidy.tick(), if bridge.server.is_some() => {
                bridge.server.iter().for_each(|server| server.tidy());
                continue;
            }
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let bridge = Rc::clone(&bridge);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| Rc::clone(&bridge).answer(request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection of a bridge ended");
            }
        });
    }
    for pipe in bridge.pipes.borrow_mut().drain().map(|(_, pipe)| pipe) {
        pipe.end();
    }
    let until = Instant::now() + END;
    while bridge.running.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The pipe has ended before it said what was asked: the connection breaks, which says so.
#[derive(Debug, thiserror::Error)]
#[error("the pipe ended")]
pub(super) struct Ended;

pub(super) type Answer = Result<Response<Spoken>, Ended>;

impl Bridge {
    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Answer {
        if request.headers().get(SECRET).is_none_or(|secret| *secret != self.settings.secret) {
            return Ok(plain(StatusCode::FORBIDDEN, Bytes::from_static(b"forbidden")));
        }
        let (parts, body) = request.into_parts();
        let session = parts.headers.get(MCP_SESSION_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let Ok(body) = body.collect().await else { return Err(Ended) };
        let body = body.to_bytes();
        let limits = Limits::ANY_DEPTH;
        let message = Envelope::parse(&body, &limits).map(|envelope| envelope.message);
        let pipe = match (&session, parts.method == Method::POST, &message) {
            (None, true, Ok(Message::Request { id, method, .. })) if method == method::INITIALIZE => {
                return self.initialize(id, &body, &parts.headers).await;
            }
            (None, true, Ok(Message::Request { id, method, .. }))
                if self.server.is_none() && shared::needs_no_session(&body) =>
            {
                return self.sessionless(id, method, &body, &parts.headers).await;
            }
            (None, ..) => {
                return Ok(error(StatusCode::BAD_REQUEST, -32000, "Bad Request: Missing session ID"));
            }
            (Some(id), ..) => {
                let pipe = self.pipes.borrow().get(id).cloned();
                pipe.filter(|pipe| !pipe.dead.get())
            }
        };
        let Some(pipe) = pipe else { return Ok(lost()) };
        match parts.method {
            Method::POST => {
                let session = session.as_deref().unwrap_or_default();
                self.post(&pipe, session, message, &body, &parts.headers).await
            }
            Method::GET => Ok(match pipe.listen() {
                Some(said) => stream(Spoken::Listening(said)),
                None => {
                    error(StatusCode::CONFLICT, -32000, "Conflict: only one stream is allowed per session")
                }
            }),
            Method::DELETE => {
                self.pipes.borrow_mut().remove(session.as_deref().unwrap_or_default());
                if pipe.used_by() == Use::Own {
                    pipe.end();
                }
                Ok(plain(StatusCode::OK, Bytes::new()))
            }
            _ => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
        }
    }

    async fn post(
        &self,
        pipe: &Rc<Pipe>,
        session: &str,
        message: Result<Message<'_>, throughline_wire::envelope::EnvelopeError>,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Answer {
        match message {
            Ok(Message::Request { id, .. }) => match pipe.ask(self.turn(), session, &id, body, headers).await
            {
                Ok(turn) => spoken(turn).await,
                Err(untold) => told_not(untold),
            },
            Ok(_) => match pipe.note(session, body, headers).await {
                Ok(()) => Ok(plain(StatusCode::ACCEPTED, Bytes::new())),
                Err(untold) => told_not(untold),
            },
            Err(_) => Ok(error(StatusCode::BAD_REQUEST, -32700, "Parse error")),
        }
    }

    /// Opens a pipe, and with it a session.
    async fn initialize(self: &Rc<Self>, id: &Id<'_>, body: &Bytes, headers: &HeaderMap) -> Answer {
        if self.settings.to.is_shared() {
            return self.share(id, body, headers).await;
        }
        let (session, pipe) = match self.begin(Use::Own, headers).await {
            Ok(begun) => begun,
            Err(answer) => return Ok(*answer),
        };
        let mut opening = Opening { bridge: self, session: &session, pipe: &pipe, opened: false };
        let mut turn = match pipe.ask(self.turn(), &session, id, body, headers).await {
            Ok(turn) => turn,
            Err(untold) => return told_not(untold),
        };
        let response = response(&mut turn).await?;
        opening.opened = matches!(shared::outcome(&response), Some(Outcome::Result(_)));
        let answer = json(response);
        Ok(if opening.opened { with_session(answer, &session) } else { answer })
    }

    /// A name for a session.
    pub(super) fn name(&self) -> String {
        let random = data_encoding::HEXLOWER.encode(&self.settings.effects.bytes::<16>());
        format!("{}{random}", self.settings.to.prefix())
    }

    /// Opens a pipe, known by a name of its own.
    pub(super) async fn begin(
        self: &Rc<Self>,
        of: Use,
        headers: &HeaderMap,
    ) -> Result<(String, Rc<Pipe>), Box<Response<Spoken>>> {
        if let Some(until) = self.rests_until.get() {
            tokio::time::sleep_until(until).await;
        }
        let session = self.name();
        let (bridge, name, began) = (Rc::clone(self), session.clone(), Instant::now());
        self.running.set(self.running.get() + 1);
        match self.open(of, headers, move || bridge.ended(&name, began)).await {
            Ok(pipe) => {
                self.pipes.borrow_mut().insert(session.clone(), Rc::clone(&pipe));
                Ok((session, pipe))
            }
            Err(answer) => {
                self.running.set(self.running.get() - 1);
                Err(answer)
            }
        }
    }

    /// A new pipe; counted already.
    async fn open(
        &self,
        of: Use,
        headers: &HeaderMap,
        ended: impl FnOnce() + 'static,
    ) -> Result<Rc<Pipe>, Box<Response<Spoken>>> {
        let line = self.settings.line;
        match (&self.settings.to, &self.server) {
            (To::Program { command, keeper }, _) => {
                if self.running.get() > command.processes {
                    return Err(Box::new(full()));
                }
                program::start(command, keeper, line, of, ended).map_err(|why| {
                    self.rest();
                    tracing::error!(error = %why, program = command.words[0], "a program cannot be started");
                    Box::new(error(StatusCode::BAD_GATEWAY, -32000, "The program cannot be started"))
                })
            }
            (To::Server(_), Some(server)) => {
                connection::open(server, headers, line, ended).await.map_err(|why| Box::new(not_open(why)))
            }
            (To::Server(_), None) => Err(Box::new(lost())),
        }
    }

    fn ended(&self, session: &str, began: Instant) {
        self.running.set(self.running.get() - 1);
        let by_itself = self.pipes.borrow_mut().remove(session).is_some();
        // With a process that served many, the sessions of all of them.
        self.pipes.borrow_mut().retain(|_, pipe| !pipe.dead.get());
        if by_itself && began.elapsed() < SHORT_LIFE {
            self.rest();
        } else {
            self.failures.set(0);
            self.rests_until.set(None);
        }
    }

    /// Lets the next pipe wait, longer each time, and not as long as others do.
    fn rest(&self) {
        let failures = self.failures.get().min(8);
        self.failures.set(failures + 1);
        let pause = (PAUSE_FIRST * (1 << failures)).min(PAUSE_MAX);
        let [random] = self.settings.effects.bytes();
        let pause = pause / 2 + pause.mul_f64(f64::from(random) / 512.0);
        self.rests_until.set(Some(Instant::now() + pause));
    }

    pub(super) fn turn(&self) -> u64 {
        self.turns.set(self.turns.get() + 1);
        self.turns.get()
    }
}

/// A session that is being opened. If nothing comes of that, nobody knows its pipe, which is ended.
struct Opening<'a> {
    bridge: &'a Bridge,
    session: &'a str,
    pipe: &'a Pipe,
    opened: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.opened {
            self.bridge.pipes.borrow_mut().remove(self.session);
            self.pipe.end();
        }
    }
}

/// The response to a request, without what is said before it.
pub(super) async fn response(turn: &mut Turn) -> Result<Bytes, Ended> {
    loop {
        match turn.said.recv().await {
            None => return Err(Ended),
            Some(Said::Message(_)) => {}
            Some(Said::Response(response)) => return Ok(response),
        }
    }
}

/// The answer to a request: JSON where the response is the first that is said, else a stream.
pub(super) async fn spoken(mut turn: Turn) -> Answer {
    match turn.said.recv().await {
        None => Err(Ended),
        Some(Said::Response(response)) => Ok(json(response)),
        Some(Said::Message(first)) => Ok(stream(Spoken::Answering(Some(first), Some(turn)))),
    }
}

/// An answer that begins a session.
pub(super) fn with_session(mut answer: Response<Spoken>, session: &str) -> Response<Spoken> {
    if let Ok(id) = HeaderValue::from_str(session) {
        answer.headers_mut().insert(HeaderName::from_static(MCP_SESSION_ID), id);
    }
    answer
}

/// That a message did not get in.
pub(super) fn told_not(untold: Untold) -> Answer {
    match untold {
        Untold::Ended => Err(Ended),
        Untold::Lost => Ok(lost()),
        Untold::Refused(refusal) => Ok(refused(*refusal)),
    }
}

fn not_open(why: NotOpen) -> Response<Spoken> {
    match why {
        NotOpen::Refused(refusal) => refused(*refusal),
        NotOpen::Unreachable(why) => {
            tracing::warn!(error = why, "a server of HTTP with SSE was not reached");
            error(NotOpen::STATUS, -32000, "The server was not reached")
        }
        NotOpen::Strange(why) => {
            tracing::warn!("a server of HTTP with SSE {why}");
            error(NotOpen::STATUS, -32000, "The server does not speak HTTP with SSE here")
        }
    }
}

fn lost() -> Response<Spoken> {
    error(StatusCode::NOT_FOUND, -32001, "Session not found")
}

fn full() -> Response<Spoken> {
    let mut full = error(StatusCode::SERVICE_UNAVAILABLE, -32000, "Too many processes run; try again later");
    full.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    full
}

/// A server's refusal, as it came.
fn refused(refusal: Refusal) -> Response<Spoken> {
    let mut response = plain(refusal.status, refusal.body);
    for name in [CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = refusal.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

pub(super) fn plain(status: StatusCode, body: Bytes) -> Response<Spoken> {
    let mut response = Response::new(Spoken::Whole(Some(body)));
    *response.status_mut() = status;
    response
}

/// A message as an answer.
pub(super) fn json(message: Bytes) -> Response<Spoken> {
    let mut response = plain(StatusCode::OK, message);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn error(status: StatusCode, code: i32, text: &str) -> Response<Spoken> {
    let mut response = json(jsonrpc::error(None, code, text, None).into());
    *response.status_mut() = status;
    response
}

fn stream(body: Spoken) -> Response<Spoken> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A body.
pub(super) enum Spoken {
    Whole(Option<Bytes>),
    /// The answer to a request: what came first, and what follows up to the response.
    Answering(Option<Bytes>, Option<Turn>),
    /// What belongs to no request.
    Listening(mpsc::Receiver<Bytes>),
}

impl Spoken {
    /// All of it, if it is there.
    pub(super) fn whole(&self) -> Option<&Bytes> {
        match self {
            Spoken::Whole(body) => body.as_ref(),
            Spoken::Answering(..) | Spoken::Listening(_) => None,
        }
    }
}

impl Body for Spoken {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let event = |message: &Bytes| Poll::Ready(Some(Ok(Frame::data(sse::event(message, None)))));
        match self.get_mut() {
            Spoken::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Spoken::Answering(first, turn) => {
                if let Some(first) = first.take() {
                    return event(&first);
                }
                let Some(present) = turn else { return Poll::Ready(None) };
                match present.said.poll_recv(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Some(Said::Message(message))) => event(&message),
                    Poll::Ready(Some(Said::Response(response))) => {
                        *turn = None;
                        event(&response)
                    }
                    Poll::Ready(None) => Poll::Ready(Some(Err(Ended))),
                }
            }
            Spoken::Listening(said) => match said.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(message)) => event(&message),
                Poll::Ready(None) => Poll::Ready(None),
            },
        }
    }
}
