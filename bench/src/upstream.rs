//! The server behind every subject: an MCP echo server on bare hyper, one runtime per core, so that it is never
//! what limits a measurement.

use std::cell::Cell;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime;
use tokio::sync::{broadcast, mpsc};
use tokio::task::LocalSet;

use crate::client::SESSION_ID;
use crate::subject::{Answer, Kind};

/// A running one.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// One count for each core, so that they do not meet in it.
    counts: Vec<Arc<AtomicU64>>,
    /// What it says on all standing streams.
    told: broadcast::Sender<Bytes>,
}

impl Upstream {
    /// Says something on every standing stream that is open.
    pub(crate) fn tell(&self, event: Bytes) {
        // Without a stream there is nobody to hear it.
        let _ = self.told.send(event);
    }

    /// How many standing streams are open.
    pub(crate) fn standing(&self) -> usize {
        self.told.receiver_count()
    }

    /// Requests that it has answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Serves on any port until the process ends.
pub(crate) fn start(cores: usize, kind: Kind) -> io::Result<Upstream> {
    serve_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, cores, kind)
}

/// Serves here until the process ends.
pub(crate) fn serve_on(listener: TcpListener, cores: usize, kind: Kind) -> io::Result<Upstream> {
    let address = listener.local_addr()?;
    // Sessions end with the process, as in most servers: an id of another is not known.
    let boot = format!("{:016x}-", RandomState::new().build_hasher().finish());
    let (mut workers, mut counts) = (Vec::new(), Vec::new());
    let (told, _) = broadcast::channel(64);
    for core in 0..cores {
        let (worker, streams) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let count = Arc::new(AtomicU64::new(0));
        let (minted, told) = (Cell::new(0), told.clone());
        let echo = Echo { kind, boot: boot.clone(), core, minted, count: Arc::clone(&count), told };
        thread::spawn(move || LocalSet::new().block_on(&runtime, serve(streams, Rc::new(echo))));
        workers.push(worker);
        counts.push(count);
    }
    // Dealt out in turn: with few connections, chance would leave a core without any.
    thread::spawn(move || {
        for (stream, worker) in listener.incoming().zip(workers.iter().cycle()) {
            let sent = stream.map(|stream| worker.send(stream));
            if let Err(error) = sent {
                eprintln!("upstream: {error}");
            }
        }
    });
    Ok(Upstream { address, counts, told })
}

/// One core's part of the server.
struct Echo {
    kind: Kind,
    boot: String,
    core: usize,
    minted: Cell<u64>,
    count: Arc<AtomicU64>,
    told: broadcast::Sender<Bytes>,
}

/// A body: as a rule whole, or a standing stream.
type Reply = Either<Full<Bytes>, Standing>;

/// A stream without an end.
struct Standing(mpsc::Receiver<Bytes>);

impl Body for Standing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

async fn serve(mut streams: mpsc::UnboundedReceiver<TcpStream>, echo: Rc<Echo>) {
    while let Some(stream) = streams.recv().await {
        let echo = Rc::clone(&echo);
        tokio::task::spawn_local(async move {
            if let Ok(stream) = adopt(stream) {
                let answer = service_fn(|request| {
                    let echo = Rc::clone(&echo);
                    async move { Ok::<_, Infallible>(echo.answer(request).await) }
                });
                // A client that goes away is no failure.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            }
        });
    }
}

fn adopt(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    name: Option<&'a str>,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
}

const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}"#;

impl Echo {
    async fn answer(&self, request: Request<Incoming>) -> Response<Reply> {
        self.count.fetch_add(1, Ordering::Relaxed);
        if request.method() == Method::GET && self.kind == Kind::Sessions {
            return self.stand();
        }
        self.answer_whole(request).await.map(Either::Left)
    }

    /// The answer to a GET.
    fn stand(&self) -> Response<Reply> {
        let (events, body) = mpsc::channel(1);
        let mut told = self.told.subscribe();
        tokio::task::spawn_local(async move {
            loop {
                tokio::select! {
                    () = events.closed() => return,
                    Ok(event) = told.recv() => if events.send(event).await.is_err() { return },
                    else => return,
                }
            }
        });
        let mut response = Response::new(Either::Right(Standing(body)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }

    async fn answer_whole(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let session =
            request.headers().get(SESSION_ID).map(|id| id.as_bytes().starts_with(self.boot.as_bytes()));
        match *request.method() {
            Method::POST => {}
            // The end of a session.
            Method::DELETE => return empty(StatusCode::OK),
            _ => return empty(StatusCode::METHOD_NOT_ALLOWED),
        }
        let Ok(body) = request.into_body().collect().await else { return empty(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
            return empty(StatusCode::BAD_REQUEST);
        };
        match (self.kind, session) {
            (Kind::Sessions, None) if message.method != "initialize" => {
                return empty(StatusCode::BAD_REQUEST);
            }
            (Kind::Sessions, Some(false)) => return unknown_session(),
            _ => {}
        }
        let Some(id) = message.id else { return empty(StatusCode::ACCEPTED) };
        let tool = message.params.as_ref().and_then(|params| params.name);
        match (message.method, message.params.and_then(|params| params.arguments)) {
            ("tools/call", Some(Arguments { text })) => {
                let result = format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":false}}"#);
                if tool == Some(Answer::Events.tool()) { events(id, &result) } else { json(id, &result) }
            }
            ("initialize", _) => {
                let mut response = json(id, INITIALIZED);
                if let Some(session) = self.mint() {
                    response.headers_mut().insert(SESSION_ID, session);
                }
                response
            }
            _ => json(id, "{}"),
        }
    }

    fn mint(&self) -> Option<HeaderValue> {
        let next = self.minted.get() + 1;
        self.minted.set(next);
        let id = HeaderValue::try_from(format!("{}{}-{next:08x}", self.boot, self.core)).ok();
        id.filter(|_| self.kind == Kind::Sessions)
    }
}

/// As the SDKs say it.
fn unknown_session() -> Response<Full<Bytes>> {
    let body = r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn json(id: &RawValue, result: &str) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A stream of one event, in chunks since servers do not know a stream's length.
fn events(id: &RawValue, result: &str) -> Response<Full<Bytes>> {
    let body = format!("event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n\n");
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    response
}
