//! One client: a connection, and what its requests carry.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Failure;
use crate::subject::Answer;

/// What is echoed: it makes a call of about 300 bytes, and an answer of about as many.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and over the fence behind it, and over the brook \
                    behind the fence, until there is nothing left to jump over but the dog, which has not moved.";
/// As long as those of common clients.
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}},"clientInfo":{"name":"throughline-bench","title":"Throughline benchmark","version":"1.0.0","websiteUrl":"https://github.com/throughline/throughline"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
pub(crate) const SESSION_ID: &str = "mcp-session-id";

/// The call of every measurement.
pub(crate) fn call(answer: Answer) -> Bytes {
    let tool = answer.tool();
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"{TEXT}"}}}}}}"#
    ))
}

/// Whether a body answers such a call.
pub(crate) fn check_echo(body: &[u8]) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(body);
    if text.contains(TEXT) { Ok(()) } else { Err(format!("not an echo: {text}").into()) }
}

/// A connection of a client.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    headers: HeaderMap,
}

impl Caller {
    /// Connects. Needs a [`LocalSet`](tokio::task::LocalSet).
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let sender = sender(address).await?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&address.to_string())?);
        headers.insert(USER_AGENT, HeaderValue::from_static("throughline-bench/1"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        Ok(Caller { sender, headers })
    }

    /// Connects anew; the session stays.
    pub(crate) async fn reconnect(&mut self, address: SocketAddr) -> Result<(), Failure> {
        self.sender = sender(address).await?;
        Ok(())
    }

    /// Begins a session, and forgets the one before.
    pub(crate) async fn initialize(&mut self) -> Result<(), Failure> {
        self.headers.remove(SESSION_ID);
        let (answered, _) = self.post(Bytes::from_static(INITIALIZE.as_bytes())).await?;
        let id = answered.get(SESSION_ID).ok_or("initialize gave no session id")?;
        self.headers.insert(SESSION_ID, id.clone());
        self.post(Bytes::from_static(INITIALIZED.as_bytes())).await?;
        Ok(())
    }

    /// Opens the session's standing stream: its body.
    pub(crate) async fn listen(&mut self) -> Result<Incoming, Failure> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = http::Uri::from_static("/mcp");
        *request.headers_mut() = self.headers.clone();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("GET: {}", response.status()).into());
        }
        Ok(response.into_body())
    }

    /// Sends one message and reads the answer to its end. It has to be a success.
    pub(crate) async fn post(&mut self, message: Bytes) -> Result<(HeaderMap, Bytes), Failure> {
        match self.send(message).await? {
            (StatusCode::OK | StatusCode::ACCEPTED, headers, body) => Ok((headers, body)),
            (status, _, body) => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// The same, whatever the status.
    pub(crate) async fn send(&mut self, message: Bytes) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/mcp");
        *request.headers_mut() = self.headers.clone();
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok((parts.status, parts.headers, body.collect().await?.to_bytes()))
    }
}

async fn sender(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
