//! The HTTP under rmcp's client: a connection for each request, so that a load balancer has its choice each time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use rmcp::model::{ClientJsonRpcMessage, JsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use sse_stream::Sse;
use throughline_wire::headers::{LAST_EVENT_ID, MCP_SESSION_ID};
use throughline_wire::sse::SseDecoder;

use super::raw::{Number, Raw};
use crate::endpoint::{ConnectError, Endpoint};
use crate::text;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How much of an answer that is no MCP is quoted, in characters.
const QUOTED: usize = 200;

/// Why an exchange gave nothing that MCP could read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the server wants authorization ({status}: {challenge}); give --bearer or THROUGHLINE_BEARER")]
    Unauthorized { status: StatusCode, challenge: String },
    #[error("the server does not know this session (404): it was lost, or has ended")]
    SessionLost,
    #[error("the server answered {status}{}", quoted(.text))]
    Status { status: StatusCode, text: String },
    #[error("what answered is no MCP server ({status}, {kind}{})", quoted(.text))]
    NotMcp { status: StatusCode, kind: String, text: String },
    #[error("the answer is longer than {} MiB", MAX_ANSWER / 1024 / 1024)]
    TooLong,
    #[error("a request cannot be made of this: {0}")]
    Request(#[from] http::Error),
}

impl Trouble {
    /// Whether any other request would meet the same.
    fn is_hopeless(&self) -> bool {
        matches!(self, Trouble::Connect(_) | Trouble::Unauthorized { .. })
    }
}

fn quoted(text: &str) -> String {
    let line = text::line(text, QUOTED);
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

type Failed = StreamableHttpError<Trouble>;

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        StreamableHttpError::Client(trouble)
    }
}

/// What is known of the last exchanges beside what rmcp tells.
#[derive(Default)]
pub(crate) struct Seen {
    /// The last result, byte for byte.
    pub(crate) result: Option<Box<RawValue>>,
    /// `Throughline-Instance`: who answered at the URL, a gateway or the server itself.
    pub(crate) answered_by: Option<String>,
    /// `Throughline-Session`: what became of the session.
    pub(crate) session: Option<String>,
    /// The last failure, in words for people.
    pub(crate) trouble: Option<String>,
    /// Whether any other request would meet the same.
    is_hopeless: bool,
}

/// An HTTP client of one endpoint.
#[derive(Clone)]
pub(crate) struct Http {
    endpoint: Arc<Endpoint>,
    raw: Option<Arc<Raw>>,
    seen: Arc<Mutex<Seen>>,
}

impl Http {
    pub(crate) fn new(endpoint: Arc<Endpoint>, raw: Option<Arc<Raw>>) -> Self {
        Http { endpoint, raw, seen: Arc::default() }
    }

    /// Takes what has been seen since the last time.
    pub(crate) fn take_seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether any other request would meet what the last one met.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_hopeless
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn exchange(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<(Response<Incoming>, Option<Number>), Trouble> {
        let is_post = method == Method::POST;
        let mut request = self.endpoint.request(method).body(Full::new(Bytes::from(body.clone())))?;
        request.headers_mut().extend(headers);
        let number = self
            .raw
            .as_ref()
            .map(|raw| raw.request(request.method(), request.uri(), request.headers(), &body));
        let answered = async {
            let mut sender = self.endpoint.connect().await?;
            let sent = sender.send_request(request).await;
            sent.map_err(|error| Trouble::Broken(error.to_string()))
        };
        let response = match answered.await {
            Ok(response) => response,
            Err(trouble) => {
                self.note(number, &trouble.to_string());
                return Err(trouble);
            }
        };
        if let (Some(raw), Some(number)) = (&self.raw, number) {
            raw.head(number, &response);
        }
        if is_post {
            let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
            let (answered_by, session) = (header("throughline-instance"), header("throughline-session"));
            self.see(|seen| {
                seen.answered_by = answered_by.or(seen.answered_by.take());
                seen.session = session.or(seen.session.take());
            });
        }
        Ok((response, number))
    }

    fn note(&self, number: Option<Number>, what: &str) {
        if let (Some(raw), Some(number)) = (&self.raw, number) {
            raw.note(number, what);
        }
    }

    async fn post(
        &self,
        message: ClientJsonRpcMessage,
        headers: HeaderMap,
        max_event: usize,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let (response, number) = self.exchange(Method::POST, headers, serde_json::to_vec(&message)?).await?;
        let status = response.status();
        if let Some(trouble) = refusal(&response) {
            return Err(trouble.into());
        }
        let session = response.headers().get(MCP_SESSION_ID);
        let session = session.and_then(|id| id.to_str().ok()).map(str::to_owned);
        let kind = content_type(response.headers());
        if status.is_success() && kind.starts_with("text/event-stream") {
            let events = Events::new(self.clone(), number, response.into_body(), max_event);
            return Ok(StreamableHttpPostResponse::Sse(Box::pin(events), session));
        }
        let body = self.whole(number, response.into_body()).await?;
        let asked = match &message {
            JsonRpcMessage::Request(request) => Some(&request.id),
            _ => None,
        };
        // Nobody waits for what answers a notification, so long as it was taken.
        if asked.is_none() && status.is_success() {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        match serde_json::from_slice::<ServerJsonRpcMessage>(&body) {
            Ok(message) => {
                self.keep_result(&body);
                Ok(StreamableHttpPostResponse::Json(answering(message, asked), session))
            }
            Err(_) => {
                let text = String::from_utf8_lossy(&body).into_owned();
                if status.is_success() {
                    Err(Trouble::NotMcp { status, kind, text }.into())
                } else if status == StatusCode::NOT_FOUND && has_session(&message) {
                    Err(Trouble::SessionLost.into())
                } else {
                    Err(Trouble::Status { status, text }.into())
                }
            }
        }
    }

    async fn whole(&self, number: Option<Number>, body: Incoming) -> Result<Bytes, Trouble> {
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Trouble::TooLong
            } else {
                Trouble::Broken(error.to_string())
            }
        });
        match body {
            Ok(body) => {
                let body = body.to_bytes();
                if let (Some(raw), Some(number)) = (&self.raw, number) {
                    raw.body(number, &body);
                }
                Ok(body)
            }
            Err(trouble) => {
                self.note(number, &trouble.to_string());
                Err(trouble)
            }
        }
    }

    /// Keeps the result of a response as it came: rmcp's own model of it has lost what it does not know.
    fn keep_result(&self, message: &[u8]) {
        #[derive(Deserialize)]
        struct Message {
            result: Option<Box<RawValue>>,
        }
        if let Ok(Message { result: Some(result) }) = serde_json::from_slice(message) {
            self.see(|seen| seen.result = Some(result));
        }
    }

    /// Keeps the failure for whoever tells the user of it: rmcp wraps it in words of its own.
    fn told<T>(&self, outcome: Result<T, Failed>) -> Result<T, Failed> {
        if let Err(failed) = &outcome {
            let hopeless = matches!(failed, StreamableHttpError::Client(trouble) if trouble.is_hopeless());
            let trouble = failed_text(failed);
            self.see(|seen| (seen.trouble, seen.is_hopeless) = (Some(trouble), hopeless));
        }
        outcome
    }
}

fn failed_text(failed: &Failed) -> String {
    match failed {
        StreamableHttpError::Client(trouble) => trouble.to_string(),
        other => text::line(&other.to_string(), QUOTED),
    }
}

/// Whether the message is one that is sent in a session.
fn has_session(message: &ClientJsonRpcMessage) -> bool {
    use rmcp::model::ClientRequest::{DiscoverRequest, InitializeRequest};
    !matches!(message, JsonRpcMessage::Request(request)
        if matches!(request.request, InitializeRequest(_) | DiscoverRequest(_)))
}

/// Answers that are no MCP's, by their status alone.
fn refusal(response: &Response<Incoming>) -> Option<Trouble> {
    let status = response.status();
    let challenge = response.headers().get(WWW_AUTHENTICATE).map(HeaderValue::as_bytes);
    match (status, challenge) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(challenge)) => {
            let challenge = text::line(&String::from_utf8_lossy(challenge), QUOTED);
            Some(Trouble::Unauthorized { status, challenge })
        }
        (StatusCode::UNAUTHORIZED, None) => {
            Some(Trouble::Unauthorized { status, challenge: "no challenge given".to_owned() })
        }
        _ => None,
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    kind.unwrap_or(Cow::Borrowed("no content type")).to_ascii_lowercase()
}

/// An error without an id answers the request that it came for; rmcp would wait on for one with it.
fn answering(message: ServerJsonRpcMessage, asked: Option<&RequestId>) -> ServerJsonRpcMessage {
    match (message, asked) {
        (JsonRpcMessage::Error(mut error), Some(asked)) => {
            error.id = Some(asked.clone());
            JsonRpcMessage::Error(error)
        }
        (message, _) => message,
    }
}

/// The headers of a request, for rmcp's own order of arguments.
fn headers(
    session: Option<&str>,
    bearer: Option<&str>,
    more: HashMap<HeaderName, HeaderValue>,
) -> Result<HeaderMap, Failed> {
    let mut headers: HeaderMap = more.into_iter().collect();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| Trouble::Request(error.into()));
    if let Some(session) = session {
        headers.insert(MCP_SESSION_ID, value(session)?);
    }
    if let Some(bearer) = bearer {
        headers.insert(AUTHORIZATION, value(&format!("Bearer {bearer}"))?);
    }
    Ok(headers)
}

impl StreamableHttpClient for Http {
    type Error = Trouble;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        bearer: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        self.post_message_with_max_sse_event_size(uri, message, session, bearer, more, MAX_ANSWER).await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        _: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        bearer: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
        max_event: usize,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let mut headers = headers(session.as_deref(), bearer.as_deref(), more)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let outcome = self.post(message, headers, max_event).await;
        self.told(outcome)
    }

    async fn delete_session(
        &self,
        _: Arc<str>,
        session: Arc<str>,
        bearer: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Failed> {
        let headers = headers(Some(&session), bearer.as_deref(), more)?;
        let (response, number) = self.exchange(Method::DELETE, headers, Vec::new()).await?;
        self.whole(number, response.into_body()).await?;
        Ok(())
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        bearer: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<Sse, SseError>> + Send>>, Failed> {
        self.get_stream_with_max_sse_event_size(uri, session, last_event, bearer, more, MAX_ANSWER).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        _: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        bearer: Option<String>,
        more: HashMap<HeaderName, HeaderValue>,
        max_event: usize,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<Sse, SseError>> + Send>>, Failed> {
        let mut headers = headers(session.as_deref(), bearer.as_deref(), more)?;
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_event {
            let id = HeaderValue::from_str(&id).map_err(|error| Trouble::Request(error.into()))?;
            headers.insert(LAST_EVENT_ID, id);
        }
        let (response, number) = self.exchange(Method::GET, headers, Vec::new()).await?;
        let kind = content_type(response.headers());
        if response.status().is_success() && kind.starts_with("text/event-stream") {
            return Ok(Box::pin(Events::new(self.clone(), number, response.into_body(), max_event)));
        }
        self.whole(number, response.into_body()).await?;
        Err(StreamableHttpError::ServerDoesNotSupportSse)
    }
}

/// How long to wait before the stream is opened again, in milliseconds, if the frame says so.
fn retry(frame: &[u8]) -> Option<u64> {
    let mut lines = std::str::from_utf8(frame).ok()?.lines();
    lines.find_map(|line| line.strip_prefix("retry:")?.trim().parse().ok())
}

/// The events of an answer, as they come.
struct Events {
    http: Http,
    number: Option<Number>,
    body: Incoming,
    decoder: SseDecoder,
    ended: bool,
}

impl Events {
    fn new(http: Http, number: Option<Number>, body: Incoming, max_event: usize) -> Self {
        Events { http, number, body, decoder: SseDecoder::new(max_event), ended: false }
    }

    fn event(&self, frame: &throughline_wire::sse::Frame) -> Sse {
        if let (Some(raw), Some(number)) = (&self.http.raw, self.number) {
            raw.body(number, frame.raw());
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let data = frame.data();
        if let Some(data) = data.as_deref().filter(|_| frame.is_message()) {
            self.http.keep_result(data);
        }
        Sse {
            event: frame.event().filter(|name| !name.is_empty()).map(text),
            data: data.as_deref().map(text),
            id: frame.id().map(text),
            retry: retry(frame.raw()),
        }
    }
}

impl Stream for Events {
    type Item = Result<Sse, SseError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match this.decoder.next_frame() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(this.event(&frame)))),
                Ok(None) if this.ended => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(SseError::Body(Box::new(error))))),
            }
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        this.decoder.push(bytes);
                    }
                }
                Some(Err(error)) => {
                    this.ended = true;
                    this.http.note(this.number, &format!("the connection broke: {error}"));
                    return Poll::Ready(Some(Err(SseError::Body(Box::new(error)))));
                }
                None => {
                    this.ended = true;
                    this.http.note(this.number, "the end of the stream");
                    if let Some(frame) = this.decoder.finish() {
                        return Poll::Ready(Some(Ok(this.event(&frame))));
                    }
                }
            }
        }
    }
}
