//! The bridge's HTTP side: as much of Streamable HTTP as the gateway needs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use throughline_wire::envelope::{Envelope, Limits, Message};
use throughline_wire::headers::MCP_SESSION_ID;
use throughline_wire::{jsonrpc, method, sse};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::process::{Process, Said, Turn};
use super::{SECRET, Settings};

/// A process that ends sooner than this after its start makes the next wait.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the end waits for processes.
const END: Duration = Duration::from_secs(6);

struct Bridge {
    settings: Arc<Settings>,
    processes: RefCell<HashMap<String, Rc<Process>>>,
    /// Processes that have not ended yet, those that are being ended included.
    running: Cell<usize>,
    turns: Cell<u64>,
    /// How many in a row did not live for long, and when the next may start.
    failures: Cell<u32>,
    rests_until: Cell<Option<Instant>>,
}

/// Serves until it is told to stop; then it ends all processes.
pub(super) async fn serve(settings: Arc<Settings>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let bridge = Rc::new(Bridge {
        settings,
        processes: RefCell::default(),
        running: Cell::new(0),
        turns: Cell::new(0),
        failures: Cell::new(0),
        rests_until: Cell::new(None),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
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
                tracing::debug!(%error, "a connection of the bridge to programs ended");
            }
        });
    }
    for process in bridge.processes.borrow_mut().drain().map(|(_, process)| process) {
        process.end();
    }
    let until = Instant::now() + END;
    while bridge.running.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The process has ended before it said what it was asked: the connection breaks, which says so.
#[derive(Debug, thiserror::Error)]
#[error("the program ended")]
struct Ended;

type Answer = Result<Response<Spoken>, Ended>;

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
        let process = match (&session, parts.method == Method::POST, &message) {
            (None, true, Ok(Message::Request { id, method, .. })) if method == method::INITIALIZE => {
                return self.initialize(id.raw(), &body).await;
            }
            (None, ..) => {
                return Ok(error(StatusCode::BAD_REQUEST, -32000, "Bad Request: Missing session ID"));
            }
            (Some(id), ..) => {
                let process = self.processes.borrow().get(id).cloned();
                process.filter(|process| !process.dead.get())
            }
        };
        let Some(process) = process else {
            return Ok(error(StatusCode::NOT_FOUND, -32001, "Session not found"));
        };
        match parts.method {
            Method::POST => self.post(&process, message, &body).await,
            Method::GET => Ok(match process.listen() {
                Some(said) => stream(Spoken::Listening(said)),
                None => {
                    error(StatusCode::CONFLICT, -32000, "Conflict: only one stream is allowed per session")
                }
            }),
            Method::DELETE => {
                self.processes.borrow_mut().remove(session.as_deref().unwrap_or_default());
                process.end();
                Ok(plain(StatusCode::OK, Bytes::new()))
            }
            _ => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, Bytes::new())),
        }
    }

    async fn post(
        &self,
        process: &Rc<Process>,
        message: Result<Message<'_>, throughline_wire::envelope::EnvelopeError>,
        body: &Bytes,
    ) -> Answer {
        match message {
            Ok(Message::Request { id, .. }) => {
                let turn = process.ask(self.turn(), id.raw(), body).await.map_err(|_| Ended)?;
                spoken(turn).await
            }
            Ok(_) => {
                process.tell(body).await.map_err(|_| Ended)?;
                Ok(plain(StatusCode::ACCEPTED, Bytes::new()))
            }
            Err(_) => Ok(error(StatusCode::BAD_REQUEST, -32700, "Parse error")),
        }
    }

    /// Starts a process, and with it a session.
    async fn initialize(self: &Rc<Self>, id: &str, body: &Bytes) -> Answer {
        if let Some(until) = self.rests_until.get() {
            tokio::time::sleep_until(until).await;
        }
        if self.running.get() >= self.settings.command.processes {
            let mut full =
                error(StatusCode::SERVICE_UNAVAILABLE, -32000, "Too many processes run; try again later");
            full.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return Ok(full);
        }
        let session = data_encoding::HEXLOWER.encode(&self.settings.effects.bytes::<16>());
        let (bridge, name, began) = (Rc::clone(self), session.clone(), Instant::now());
        self.running.set(self.running.get() + 1);
        let started = Process::start(&self.settings, move || bridge.ended(&name, began));
        let process = match started {
            Ok(process) => process,
            Err(why) => {
                self.running.set(self.running.get() - 1);
                self.rest();
                tracing::error!(error = %why, program = self.settings.command.words[0], "a program cannot be started");
                return Ok(error(StatusCode::BAD_GATEWAY, -32000, "The program cannot be started"));
            }
        };
        self.processes.borrow_mut().insert(session.clone(), Rc::clone(&process));
        let turn = process.ask(self.turn(), id, body).await.map_err(|_| Ended)?;
        let mut answer = spoken(turn).await?;
        if let Ok(id) = HeaderValue::from_str(&session) {
            answer.headers_mut().insert(HeaderName::from_static(MCP_SESSION_ID), id);
        }
        Ok(answer)
    }

    fn ended(&self, session: &str, began: Instant) {
        self.running.set(self.running.get() - 1);
        let by_itself = self.processes.borrow_mut().remove(session).is_some();
        if by_itself && began.elapsed() < SHORT_LIFE {
            self.rest();
        } else {
            self.failures.set(0);
            self.rests_until.set(None);
        }
    }

    /// Lets the next process wait, longer each time, and not as long as others do.
    fn rest(&self) {
        let failures = self.failures.get().min(8);
        self.failures.set(failures + 1);
        let pause = (PAUSE_FIRST * (1 << failures)).min(PAUSE_MAX);
        let [random] = self.settings.effects.bytes();
        let pause = pause / 2 + pause.mul_f64(f64::from(random) / 512.0);
        self.rests_until.set(Some(Instant::now() + pause));
    }

    fn turn(&self) -> u64 {
        self.turns.set(self.turns.get() + 1);
        self.turns.get()
    }
}

/// The answer to a request: JSON where the response is the first that is said, else a stream.
async fn spoken(mut turn: Turn) -> Answer {
    match turn.said.recv().await {
        None => Err(Ended),
        Some(Said::Response(response)) => {
            let mut answer = plain(StatusCode::OK, response);
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(answer)
        }
        Some(Said::Message(first)) => Ok(stream(Spoken::Answering(Some(first), Some(turn)))),
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Spoken> {
    let mut response = Response::new(Spoken::Whole(Some(body)));
    *response.status_mut() = status;
    response
}

fn error(status: StatusCode, code: i32, text: &str) -> Response<Spoken> {
    let mut response = plain(status, jsonrpc::error(None, code, text, None).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn stream(body: Spoken) -> Response<Spoken> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A body.
enum Spoken {
    Whole(Option<Bytes>),
    /// The answer to a request: what came first, and what follows up to the response.
    Answering(Option<Bytes>, Option<Turn>),
    /// What belongs to no request.
    Listening(mpsc::Receiver<Bytes>),
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
