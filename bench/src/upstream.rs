//! The server behind every subject: an MCP echo server on bare hyper, one runtime per core, so that it is never
//! what limits a measurement.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::subject::Answer;

/// Serves until the process ends.
pub(crate) fn start(cores: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut workers = Vec::new();
    for _ in 0..cores {
        let (worker, streams) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || LocalSet::new().block_on(&runtime, serve(streams)));
        workers.push(worker);
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
    Ok(address)
}

async fn serve(mut streams: mpsc::UnboundedReceiver<TcpStream>) {
    while let Some(stream) = streams.recv().await {
        tokio::task::spawn_local(async move {
            if let Ok(stream) = adopt(stream) {
                // A client that goes away is no failure.
                let _ =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
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

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    match *request.method() {
        Method::POST => {}
        // The end of a session.
        Method::DELETE => return Ok(empty(StatusCode::OK)),
        _ => return Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
    }
    let Ok(body) = request.into_body().collect().await else { return Ok(empty(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let Some(id) = message.id else { return Ok(empty(StatusCode::ACCEPTED)) };
    let tool = message.params.as_ref().and_then(|params| params.name);
    Ok(match (message.method, message.params.and_then(|params| params.arguments)) {
        ("tools/call", Some(Arguments { text })) => {
            let result = format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":false}}"#);
            if tool == Some(Answer::Events.tool()) { events(id, &result) } else { json(id, &result) }
        }
        ("initialize", _) => {
            let mut response = json(id, INITIALIZED);
            response.headers_mut().insert("mcp-session-id", HeaderValue::from_static("echo-session"));
            response
        }
        _ => json(id, "{}"),
    })
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
