//! The load: a fixed number of connections, each of which sends its next request when it has its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::Failure;
use crate::proxy::Usage;
use crate::subject::{Answer, Client};

/// What is echoed: it makes a call of about 300 bytes, and an answer of about as many.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and over the fence behind it, and over the brook \
                    behind the fence, until there is nothing left to jump over but the dog, which has not moved.";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"throughline-bench","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const SESSION_ID: &str = "mcp-session-id";

/// One turn of one subject.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) answer: Answer,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What came of it.
pub(crate) struct Turn {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The proxy's, before and after.
    pub(crate) usage: Option<(Usage, Usage)>,
}

/// Phases of a turn, behind the warm-up.
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// What the generating threads and the one that measures have in common.
#[derive(Default)]
struct Shared {
    ready: AtomicUsize,
    phase: AtomicU8,
    requests: AtomicU64,
}

impl Load {
    /// Runs one turn; `usage` is asked at both ends of the measured time.
    pub(crate) fn run(self, usage: impl Fn() -> Result<Option<Usage>, Failure>) -> Result<Turn, Failure> {
        let load = Arc::new(self);
        let shared = Arc::new(Shared::default());
        let generators = (0..load.threads).map(|index| {
            let (load, shared) = (Arc::clone(&load), Arc::clone(&shared));
            thread::spawn(move || generate(&load, index, &shared))
        });
        let generators: Vec<Generator> = generators.collect();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let measured = runtime.block_on(measure(&load, &shared, &generators, usage));
        // Also after a failure, so that the generators end; theirs is the reason then.
        shared.phase.store(OVER, Ordering::Relaxed);
        let mut latency = histogram()?;
        for generator in generators {
            latency.add(generator.join().map_err(|_| "a generator panicked")??)?;
        }
        let (requests, elapsed, usage) = measured?;
        Ok(Turn { requests, elapsed, latency, usage })
    }
}

type Generator = JoinHandle<Result<Histogram<u64>, Failure>>;
type Measured = (u64, Duration, Option<(Usage, Usage)>);

async fn measure(
    load: &Load,
    shared: &Shared,
    generators: &[Generator],
    usage: impl Fn() -> Result<Option<Usage>, Failure>,
) -> Result<Measured, Failure> {
    while shared.ready.load(Ordering::Relaxed) < load.connections {
        if generators.iter().any(JoinHandle::is_finished) {
            return Err("a generator gave up".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(load.warm_up).await;
    let start = (Instant::now(), shared.requests.load(Ordering::Relaxed), usage()?);
    shared.phase.store(MEASURED, Ordering::Relaxed);
    tokio::time::sleep(load.measured).await;
    let end = (Instant::now(), shared.requests.load(Ordering::Relaxed), usage()?);
    Ok((end.1 - start.1, end.0 - start.0, start.2.zip(end.2)))
}

/// One minute at most, three digits.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?)
}

/// One thread's share of the connections.
fn generate(load: &Arc<Load>, index: usize, shared: &Arc<Shared>) -> Result<Histogram<u64>, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let share = (index..load.connections).step_by(load.threads);
        let connections: Vec<_> =
            share.map(|_| tokio::task::spawn_local(call_on(Arc::clone(load), Arc::clone(shared)))).collect();
        let mut latency = histogram()?;
        for connection in connections {
            latency.add(connection.await??)?;
        }
        Ok(latency)
    })
}

/// Calls over one connection until the turn is over. Every answer has to be the right one.
async fn call_on(load: Arc<Load>, shared: Arc<Shared>) -> Result<Histogram<u64>, Failure> {
    let mut caller = Caller::connect(&load).await?;
    let tool = load.answer.tool();
    let call = Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"{TEXT}"}}}}}}"#
    ));
    let first = caller.post(call.clone()).await?.1;
    if !String::from_utf8_lossy(&first).contains(TEXT) {
        return Err(format!("not an echo: {}", String::from_utf8_lossy(&first)).into());
    }
    shared.ready.fetch_add(1, Ordering::Relaxed);
    let mut latency = histogram()?;
    loop {
        let phase = shared.phase.load(Ordering::Relaxed);
        if phase == OVER {
            return Ok(latency);
        }
        let start = Instant::now();
        let (_, body) = caller.post(call.clone()).await?;
        if phase == MEASURED {
            latency.saturating_record(u64::try_from(start.elapsed().as_nanos())?);
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if body != first {
            return Err(format!("another answer than before: {}", String::from_utf8_lossy(&body)).into());
        }
    }
}

/// One connection, with what its requests carry.
struct Caller {
    sender: SendRequest<Full<Bytes>>,
    headers: HeaderMap,
}

impl Caller {
    async fn connect(load: &Load) -> Result<Self, Failure> {
        let stream = TcpStream::connect(load.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&load.address.to_string())?);
        headers.insert(USER_AGENT, HeaderValue::from_static("throughline-bench/1"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        let mut caller = Caller { sender, headers };
        if load.client == Client::Issued {
            let (answered, _) = caller.post(Bytes::from_static(INITIALIZE.as_bytes())).await?;
            let id = answered.get(SESSION_ID).ok_or("initialize gave no session id")?;
            caller.headers.insert(SESSION_ID, id.clone());
            caller.post(Bytes::from_static(INITIALIZED.as_bytes())).await?;
        }
        Ok(caller)
    }

    /// Sends one message and reads the answer to its end.
    async fn post(&mut self, message: Bytes) -> Result<(HeaderMap, Bytes), Failure> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/mcp");
        *request.headers_mut() = self.headers.clone();
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        match parts.status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok((parts.headers, body)),
            status => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }
}
