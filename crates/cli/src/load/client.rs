//! One client of the load: a connection, a session where it has one, and calls one after the other.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use throughline_wire::era::{self, Probe};
use throughline_wire::headers::{MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, encode_value};
use throughline_wire::sse::SseDecoder;
use throughline_wire::version::ProtocolVersion;

use super::stats::{Failed, Kind, Told};
use crate::endpoint::{Endpoint, Sender};
use crate::text;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long the rest of a stream may take behind its response, before the connection is given up.
const REST: Duration = Duration::from_millis(250);
/// How much of a server's error is shown, in characters.
const SHOWN: usize = 200;
const LEGACY: &str = ProtocolVersion::V2025_11_25.as_str();
const MODERN: &str = ProtocolVersion::V2026_07_28.as_str();

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Behaviour {
    /// As modern where the server speaks 2026-07-28, else as issued.
    Auto,
    /// 2026-07-28: no handshake, every request on its own.
    Modern,
    /// A handshake, and the session id that it gives with every call.
    Issued,
    /// A handshake, and no session id ever: as connectors that cannot carry one.
    IdLess,
}

/// When a client with a handshake shakes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Handshake {
    /// When it begins, and when its session is lost.
    Once,
    /// Before every call; a call's time has the handshake in it.
    EachCall,
    /// Not at all (for clients without a session id).
    Never,
}

/// What all clients do alike.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) behaviour: Behaviour,
    pub(crate) handshake: Handshake,
    pub(crate) new_connections: bool,
    pub(crate) timeout: Duration,
    pub(crate) method: String,
    pub(crate) params: Value,
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) told: Told,
    pub(crate) outcome: Result<(), Failed>,
}

/// One client.
pub(crate) struct Client {
    job: Arc<Job>,
    sender: Option<Sender>,
    session: Session,
    /// A request's text around its id.
    call: (String, String),
    headers: HeaderMap,
    next_id: u64,
    /// Sessions and connections that it has opened since it was asked.
    pub(crate) opened: Opened,
}

#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) sessions: u64,
    pub(crate) connections: u64,
}

/// Where a client with a handshake stands.
enum Session {
    /// It has to shake hands, or never does.
    None,
    /// It has.
    Open {
        /// The id that it got, if it keeps one.
        id: Option<HeaderValue>,
        /// The version that the server chose.
        version: HeaderValue,
    },
}

/// A response, read to its end.
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    message: Bytes,
}

impl Client {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        let (call, headers) = request(&job, &job.method, job.params.clone());
        Client {
            job,
            sender: None,
            session: Session::None,
            call,
            headers,
            next_id: 1,
            opened: Opened::default(),
        }
    }

    /// Makes the call, with the handshake that it needs.
    pub(crate) async fn call(&mut self) -> Answer {
        let job = Arc::clone(&self.job);
        let Ok(answered) = tokio::time::timeout(job.timeout, self.call_patiently()).await else {
            // What still comes on it answers a call that nobody waits for.
            self.sender = None;
            let says = format!("no answer within {} s", job.timeout.as_secs_f64());
            return Answer { told: Told::default(), outcome: Err(Failed { kind: Kind::Timeout, says }) };
        };
        let mut answer =
            answered.unwrap_or_else(|failed| Answer { told: Told::default(), outcome: Err(failed) });
        if let Err(failed) = &mut answer.outcome {
            failed.says = quotable(&job, &failed.says);
        }
        answer
    }

    async fn call_patiently(&mut self) -> Result<Answer, Failed> {
        let each = self.job.handshake == Handshake::EachCall && self.has_handshake();
        if matches!(self.session, Session::None) {
            self.shake_hands().await?;
        }
        let read = self.send(self.call.clone(), self.headers.clone()).await?;
        let answer = judge(&read, self.is_in_session());
        if each {
            self.close().await;
        } else if matches!(&answer.outcome, Err(Failed { kind: Kind::SessionLost, .. })) {
            self.session = Session::None;
        }
        Ok(answer)
    }

    /// Asks for something beside the calls, such as the list of tools.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failed> {
        if matches!(self.session, Session::None) {
            self.shake_hands().await?;
        }
        let (text, headers) = request(&self.job, method, params);
        let read = self.send(text, headers).await?;
        judge(&read, self.is_in_session()).outcome?;
        let message: Value = serde_json::from_slice(&read.message).unwrap_or_default();
        Ok(message["result"].clone())
    }

    /// Whether the server speaks 2026-07-28.
    pub(crate) async fn probe(&mut self) -> Result<Probe, Failed> {
        let modern = modern_request("server/discover", json!({}));
        let read = self.send(modern.0, modern.1).await?;
        Ok(era::discover(read.status.as_u16(), &read.message))
    }

    /// Ends its session, where it has one.
    pub(crate) async fn close(&mut self) {
        let session = std::mem::replace(&mut self.session, Session::None);
        if let Session::Open { id: Some(id), version } = session {
            let job = Arc::clone(&self.job);
            let ended = async {
                let mut request = job.endpoint.request(Method::DELETE).body(Full::default()).ok()?;
                request.headers_mut().insert(MCP_SESSION_ID, id);
                request.headers_mut().insert(MCP_PROTOCOL_VERSION, version);
                self.exchange(request).await.ok()
            };
            // If that fails, the server's own expiry ends it.
            let _ = tokio::time::timeout(job.timeout, ended).await;
        }
    }

    fn has_handshake(&self) -> bool {
        matches!(self.job.behaviour, Behaviour::Issued | Behaviour::IdLess)
    }

    fn is_in_session(&self) -> bool {
        matches!(self.session, Session::Open { id: Some(_), .. })
    }

    async fn shake_hands(&mut self) -> Result<(), Failed> {
        if !self.has_handshake() || self.job.handshake == Handshake::Never {
            return Ok(());
        }
        let params = json!({
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": client_info(),
        });
        let (text, headers) = request(&self.job, "initialize", params);
        let read = self.send(text, headers).await?;
        judge(&read, false).outcome?;
        let id = read.headers.get(MCP_SESSION_ID).cloned();
        let message: Value = serde_json::from_slice(&read.message).unwrap_or_default();
        let chosen = message["result"]["protocolVersion"].as_str().unwrap_or(LEGACY);
        self.session = Session::Open {
            id: id.filter(|_| self.job.behaviour == Behaviour::Issued),
            version: HeaderValue::from_str(chosen).unwrap_or(HeaderValue::from_static(LEGACY)),
        };
        self.opened.sessions += 1;
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let headers = request(&self.job, "notifications/initialized", Value::Null).1;
        let read = self.post(Bytes::from_static(initialized.as_bytes()), headers).await?;
        if read.status.is_success() { Ok(()) } else { Err(refusal(&read, self.is_in_session())) }
    }

    async fn send(&mut self, (before, after): (String, String), headers: HeaderMap) -> Result<Read, Failed> {
        self.next_id += 1;
        self.post(Bytes::from(format!("{before}{}{after}", self.next_id)), headers).await
    }

    async fn post(&mut self, body: Bytes, headers: HeaderMap) -> Result<Read, Failed> {
        let request = self.job.endpoint.request(Method::POST).body(Full::new(body));
        let mut request = request.map_err(|error| failed(Kind::Broken, &error))?;
        request.headers_mut().extend(headers);
        if let Session::Open { id, version } = &self.session {
            request.headers_mut().insert(MCP_PROTOCOL_VERSION, version.clone());
            if let Some(id) = id {
                request.headers_mut().insert(MCP_SESSION_ID, id.clone());
            }
        }
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Read, Failed> {
        let mut request = request;
        loop {
            let kept = if self.job.new_connections { None } else { self.sender.take() };
            let is_new = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (read, is_whole) = read(response).await?;
                    self.sender = is_whole.then_some(sender);
                    return Ok(read);
                }
                Err(mut refused) => match refused.take_message() {
                    // The server had closed a connection that nobody used: nothing was sent.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(failed(Kind::Broken, refused.error())),
                },
            }
        }
    }

    async fn connect(&mut self) -> Result<Sender, Failed> {
        self.opened.connections += 1;
        self.job.endpoint.connect().await.map_err(|error| failed(Kind::Connect, &error))
    }
}

/// What a server says, as it may be shown: it may repeat what it was sent.
pub(super) fn quotable(job: &Job, says: &str) -> String {
    text::line(&text::without(&job.endpoint.secrets, says), SHOWN)
}

fn failed(kind: Kind, error: &dyn std::error::Error) -> Failed {
    Failed { kind, says: error.to_string() }
}

fn client_info() -> Value {
    json!({ "name": "throughline-load", "version": env!("CARGO_PKG_VERSION") })
}

/// A request's text around its id, and the headers that go with it.
fn request(job: &Job, method: &str, params: Value) -> ((String, String), HeaderMap) {
    if job.behaviour == Behaviour::Modern {
        return modern_request(method, params);
    }
    (around_id(method, &params), headers())
}

fn modern_request(method: &str, mut params: Value) -> ((String, String), HeaderMap) {
    let mut headers = headers();
    headers.insert(MCP_PROTOCOL_VERSION, HeaderValue::from_static(MODERN));
    let mut add = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(&encode_value(text)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add(MCP_METHOD, method);
    if let Some(name) = params["name"].as_str() {
        add(MCP_NAME, name);
    }
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": client_info(),
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    (around_id(method, &params), headers)
}

fn around_id(method: &str, params: &Value) -> (String, String) {
    let method = Value::from(method);
    (r#"{"jsonrpc":"2.0","id":"#.to_owned(), format!(r#","method":{method},"params":{params}}}"#))
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers
}

/// Reads the response in an answer, and whether the connection is good for another request.
async fn read(response: Response<Incoming>) -> Result<(Read, bool), Failed> {
    let (parts, body) = response.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let body = Limited::new(body, MAX_ANSWER);
    let (message, is_whole) = if kind.starts_with(b"text/event-stream") {
        read_events(body).await?
    } else {
        (body.collect().await.map_err(|error| failed(Kind::Broken, error.as_ref()))?.to_bytes(), true)
    };
    Ok((Read { status: parts.status, headers: parts.headers, message }, is_whole))
}

/// The response among the events. What comes behind it is waited for a moment, to keep the connection.
async fn read_events(mut body: Limited<Incoming>) -> Result<(Bytes, bool), Failed> {
    let mut decoder = SseDecoder::new(MAX_ANSWER);
    let mut ended = false;
    let message = loop {
        let frame = decoder.next_frame().map_err(|error| failed(Kind::NotMcp, &error))?;
        let frame = if ended { frame.or_else(|| decoder.finish()) } else { frame };
        match frame {
            Some(frame) => {
                let data = frame.data().unwrap_or_default();
                if is_response(&data) {
                    break Bytes::copy_from_slice(&data);
                }
            }
            None if ended => {
                let says = "the stream ended without a response".to_owned();
                return Err(Failed { kind: Kind::Broken, says });
            }
            None => match body.frame().await {
                Some(Ok(chunk)) => chunk.into_data().into_iter().for_each(|data| decoder.push(data)),
                Some(Err(error)) => return Err(failed(Kind::Broken, error.as_ref())),
                None => ended = true,
            },
        }
    };
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let is_whole = tokio::time::timeout(REST, rest).await.is_ok();
    Ok((message, is_whole))
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Of a result, what is counted.
#[derive(Deserialize)]
struct Counted<'a> {
    #[serde(rename = "isError", default)]
    is_error: bool,
    #[serde(rename = "resultType", borrow, default)]
    result_type: Option<Cow<'a, str>>,
    #[serde(rename = "structuredContent", borrow)]
    structured: Option<&'a RawValue>,
}

fn is_response(data: &[u8]) -> bool {
    serde_json::from_slice::<Message<'_>>(data)
        .is_ok_and(|message| message.result.is_some() || message.error.is_some())
}

/// What an answer comes to.
fn judge(read: &Read, in_session: bool) -> Answer {
    let header = |name: &str| read.headers.get(name)?.to_str().ok();
    let mut told = Told {
        instance: None,
        answered_by: header("throughline-instance").map(str::to_owned),
        restored: header("throughline-session").is_some_and(|held| held.starts_with("restored")),
    };
    if !read.status.is_success() {
        return Answer { told, outcome: Err(refusal(read, in_session)) };
    }
    let outcome = match serde_json::from_slice::<Message<'_>>(&read.message) {
        Ok(Message { error: Some(error), .. }) => {
            Err(Failed { kind: Kind::Rpc(error.code), says: error.message })
        }
        Ok(Message { result: Some(result), .. }) => {
            let result: Option<Counted<'_>> = serde_json::from_str(result.get()).ok();
            told.instance = result.as_ref().and_then(|result| instance(result.structured?));
            match result {
                Some(result) if result.is_error => {
                    Err(Failed { kind: Kind::Tool, says: tool_text(&read.message) })
                }
                Some(result) if result.result_type.as_deref() == Some("input_required") => {
                    let says = "the tool asks its caller something, and nobody is there".to_owned();
                    Err(Failed { kind: Kind::Input, says })
                }
                _ => Ok(()),
            }
        }
        _ => Err(Failed { kind: Kind::NotMcp, says: excerpt(&read.message) }),
    };
    Answer { told, outcome }
}

fn refusal(read: &Read, in_session: bool) -> Failed {
    let lost = in_session && read.status == StatusCode::NOT_FOUND;
    let kind = if lost { Kind::SessionLost } else { Kind::Http(read.status.as_u16()) };
    Failed { kind, says: excerpt(&read.message) }
}

fn instance(structured: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, alias = "instance_id", alias = "instanceId")]
        instance: Option<Cow<'a, str>>,
    }
    serde_json::from_str::<Named<'_>>(structured.get()).ok()?.instance.map(Cow::into_owned)
}

fn tool_text(message: &[u8]) -> String {
    let message: Value = serde_json::from_slice(message).unwrap_or_default();
    message["result"]["content"][0]["text"].as_str().unwrap_or("no text").to_owned()
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned()
}
