//! The server behind a route, as this core speaks to it: requests of the gateway's own, and the look at the
//! beginning of an answer that decides whether the session is lost.

mod body;
mod certainty;
pub mod certificates;
mod connect;
pub mod cookies;
pub mod destination;
pub mod fleet;
pub mod http;
mod many;
pub mod modern;
pub mod older;
mod sending;
mod socket;
pub mod tunnel;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome};
use throughline_wire::loss;
use throughline_wire::sse::{Frame, SseDecoder};
use tokio::sync::Notify;

use crate::app::Core;
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::names;
pub use body::{AnswerBody, BrokeOff, read_whole};
use cookies::Jar;
use fleet::{Fleet, Place};
use http::{Answer, SendError};
use modern::Modern;

use sending::send_now;
pub(crate) use sending::send_plain;
pub use sending::{any_endpoint, is_ill, send, send_watched};

/// How much of an answer is looked at before its headers go out.
const HEAD_BYTES: usize = 4096;
/// What is worth reading, in bytes and time, rather than to open another connection.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// How long headers wait for the first event of a stream, so that an error can keep its status.
const FIRST_EVENT: Duration = Duration::from_secs(5);

/// How long a request of the gateway's own may take in all; whoever needs the session waits for it.
const OWN_REQUEST: Duration = Duration::from_secs(60);
/// How long a notification, a `ping` or a DELETE of the gateway's own may take.
const OWN_MESSAGE: Duration = Duration::from_secs(10);

/// Both content types: what every server accepts, whatever the client asked of the gateway.
pub const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
/// Content type of a message.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How the gateway names itself to upstreams.
pub const AGENT: HeaderValue = HeaderValue::from_static(concat!("throughline/", env!("CARGO_PKG_VERSION")));

/// What the gateway holds open at an upstream: what a request must carry to be in that session.
#[derive(Clone, Debug)]
pub struct Address {
    /// The endpoint that holds it; where none does, any of them.
    pub at: Place,
    /// The upstream's session id; None where it gives none.
    pub session_id: Option<HeaderValue>,
    /// The negotiated protocol version.
    pub version: Option<HeaderValue>,
    /// Its cookies.
    pub cookies: Jar,
    /// What the request at hand brought for the upstream; never kept.
    pub credentials: Credentials,
    /// What a server without sessions has to be told instead; None where it is spoken to as the client speaks.
    pub modern: Option<Arc<Modern>>,
}

impl Address {
    /// In no session.
    pub fn anywhere(fleet: &Arc<Fleet>) -> Self {
        Self::at(Place::Anywhere(Arc::clone(fleet)))
    }

    /// In no session yet, at an endpoint that may open one.
    pub fn at(at: Place) -> Self {
        Address {
            at,
            session_id: None,
            version: None,
            cookies: Jar::default(),
            credentials: Credentials::NONE,
            modern: None,
        }
    }

    /// Sets the headers that put a request into this session.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.session_id {
            headers.insert(names::SESSION_ID, id.clone());
        }
        if let Some(version) = &self.version {
            headers.insert(names::PROTOCOL_VERSION, version.clone());
        }
    }

    /// The same, for requests of the gateway's own that are made for a client's.
    pub fn on_behalf(&self, credentials: &Credentials) -> Self {
        Address { credentials: credentials.clone(), ..self.clone() }
    }

    /// Headers for a request of the gateway's own in this session.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(ACCEPT, ACCEPT_BOTH);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(USER_AGENT, AGENT);
        self.credentials.apply(&mut headers);
        self.apply(&mut headers);
        headers
    }
}

/// An answer whose beginning has been read.
pub struct Looked {
    /// HTTP status.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    /// What has been read.
    pub head: Head,
    /// What has not.
    pub body: AnswerBody,
}

/// The beginning of an answer.
pub enum Head {
    /// Of a body that is no stream: the pieces read so far.
    Plain(Vec<Bytes>),
    /// Of an event stream: the frames up to the first message, and the decoder that goes on.
    Events(SseDecoder, Vec<Frame>),
}

impl Looked {
    /// Reads the beginning: the first event, or 4 KiB.
    pub async fn at(answer: Answer, max_event: usize) -> Result<Self, SendError> {
        Self::soon(answer, max_event, None).await
    }

    /// The same, but for the first event nobody waits any more when this is notified.
    pub async fn soon(answer: Answer, max_event: usize, hurry: Option<&Notify>) -> Result<Self, SendError> {
        let Answer { status, headers, mut body } = answer;
        let broken = |error: BrokeOff| SendError::Broken(error.0);
        if !is_event_stream(&headers) {
            let (mut pieces, mut len) = (Vec::new(), 0);
            while len < HEAD_BYTES && !body.is_end() {
                match body.chunk().await {
                    None => break,
                    Some(piece) => {
                        let piece = piece.map_err(broken)?;
                        len += piece.len();
                        pieces.push(piece);
                    }
                }
            }
            return Ok(Looked { status, headers, head: Head::Plain(pieces), body });
        }
        let mut decoder = SseDecoder::new(max_event);
        let mut frames = Vec::new();
        // A stream that says nothing yet is passed on as it is: a client must not wait for headers for ever.
        tokio::select! {
            biased;
            first = first_message(&mut body, &mut decoder, &mut frames) => first?,
            () = tokio::time::sleep(FIRST_EVENT) => {}
            () = hurried(hurry) => {}
        }
        Ok(Looked { status, headers, head: Head::Events(decoder, frames), body })
    }

    /// Reads on to the response, keeping what comes before it; of a body that is no stream, all of it, up to `limit`
    /// bytes.
    pub async fn read_on(&mut self, limit: usize) -> Result<(), SendError> {
        match &mut self.head {
            Head::Plain(pieces) => {
                let mut len: usize = pieces.iter().map(Bytes::len).sum();
                while len < limit {
                    let Some(piece) = self.body.chunk().await else { break };
                    let piece = piece.map_err(|error| SendError::Broken(error.to_string()))?;
                    len += piece.len();
                    pieces.push(piece);
                }
            }
            Head::Events(decoder, frames) => {
                let is_response =
                    |frame: &Frame| frame.is_message() && frame.data().is_some_and(|data| is_response(&data));
                while !frames.last().is_some_and(is_response) {
                    match next_frame(&mut self.body, decoder).await? {
                        Some(frame) => frames.push(frame),
                        None => break,
                    }
                }
            }
        }
        Ok(())
    }

    /// The last message that has been read.
    pub fn message(&self) -> Cow<'_, [u8]> {
        match &self.head {
            Head::Plain(pieces) => match pieces.as_slice() {
                [one] => Cow::Borrowed(one),
                many => Cow::Owned(many.concat()),
            },
            Head::Events(_, frames) => {
                frames.iter().rev().find(|f| f.is_message()).and_then(Frame::data).unwrap_or_default()
            }
        }
    }

    /// The bytes that the session-loss table judges.
    pub fn beginning(&self) -> Cow<'_, [u8]> {
        match self.message() {
            Cow::Borrowed(message) if !self.is_stream() => {
                Cow::Borrowed(&message[..message.len().min(HEAD_BYTES)])
            }
            message => message,
        }
    }

    /// What the session-loss table says of this answer to what was sent there.
    pub fn verdict(&self, sent: &Address) -> loss::Verdict {
        let beginning = self.beginning();
        let answer = loss::Answer {
            status: self.status.as_u16(),
            content_type: self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()),
            www_authenticate: self.headers.contains_key(WWW_AUTHENTICATE),
            head: &beginning,
            session_sent: sent.session_id.is_some(),
        };
        match sent.modern {
            None => loss::verdict(&answer),
            Some(_) => loss::modern_verdict(&answer),
        }
    }

    /// Whether the answer is an event stream.
    pub fn is_stream(&self) -> bool {
        matches!(self.head, Head::Events(..))
    }

    /// Reads all of it. For a stream, up to the response to `id` (raw JSON); what else came goes to `other`.
    pub async fn response(
        self,
        id: Option<&str>,
        limit: usize,
        mut other: impl FnMut(&[u8]),
    ) -> Result<Bytes, Fault> {
        let broken = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "upstream answer broke off");
            Fault::MayHaveExecuted
        };
        match self.head {
            Head::Plain(pieces) => body::read_whole(self.body, pieces, limit)
                .await
                .map_err(|error| broken(&error))?
                .ok_or(Fault::AnswerTooLarge(limit)),
            Head::Events(mut decoder, frames) => {
                let mut frames = std::collections::VecDeque::from(frames);
                let mut body = self.body;
                loop {
                    let frame = match frames.pop_front() {
                        Some(frame) => frame,
                        None => match next_frame(&mut body, &mut decoder).await.map_err(|e| broken(&e))? {
                            Some(frame) => frame,
                            None => return Err(broken(&"stream ended without a response")),
                        },
                    };
                    let Some(data) = frame.data().filter(|_| frame.is_message()) else { continue };
                    if is_response_to(&data, id) {
                        drain(body);
                        return Ok(match data {
                            Cow::Borrowed(data) => frame.raw().slice_ref(data),
                            Cow::Owned(data) => data.into(),
                        });
                    }
                    other(&data);
                }
            }
        }
    }
}

/// Whether a message is a response, with a result or an error.
pub fn is_response(message: &[u8]) -> bool {
    is_response_to(message, None)
}

/// Whether the message is the response to the request with this raw id (any response, where `id` is None).
fn is_response_to(data: &[u8], id: Option<&str>) -> bool {
    match Envelope::parse(data, &Limits::ANY_DEPTH).map(|envelope| envelope.message) {
        Ok(Message::Response { id: Some(found), .. }) => id.is_none_or(|id| id == found.raw()),
        Ok(Message::Response { id: None, .. }) => true,
        _ => false,
    }
}

/// Whether a body with these headers is an event stream.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.get(..17))
        .is_some_and(|value| value.eq_ignore_ascii_case("text/event-stream"))
}

async fn first_message(
    body: &mut AnswerBody,
    decoder: &mut SseDecoder,
    frames: &mut Vec<Frame>,
) -> Result<(), SendError> {
    while let Some(frame) = next_frame(body, decoder).await? {
        let found = frame.is_message();
        frames.push(frame);
        if found {
            break;
        }
    }
    Ok(())
}

/// The next frame of an upstream's stream; None at its end.
pub async fn next_frame(body: &mut AnswerBody, decoder: &mut SseDecoder) -> Result<Option<Frame>, SendError> {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => return Ok(Some(frame)),
            Ok(None) => {}
            Err(error) => return Err(SendError::Broken(error.to_string())),
        }
        match body.chunk().await {
            None => return Ok(decoder.finish()),
            Some(Ok(chunk)) => decoder.push(chunk),
            Some(Err(error)) => return Err(SendError::Broken(error.to_string())),
        }
    }
}

async fn hurried(hurry: Option<&Notify>) {
    match hurry {
        Some(hurry) => hurry.notified().await,
        None => std::future::pending().await,
    }
}

/// Whether a message is a response with a result.
pub fn is_result(message: &[u8]) -> bool {
    let message = Envelope::parse(message, &Limits::ANY_DEPTH).map(|envelope| envelope.message);
    matches!(message, Ok(Message::Response { outcome: Outcome::Result(_), .. }))
}

/// What became of a request of the gateway's own.
pub enum Own {
    /// A JSON-RPC result; its raw value, and the session id that came with it.
    Result(Bytes, HeaderMap),
    /// Anything else, for the caller to judge or pass on.
    Refused(Refusal),
    /// It was not sent: the endpoint takes no connection, while another does.
    Down,
}

/// An upstream's answer that is no result.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers that the client may need (`WWW-Authenticate`, `Retry-After`, `Content-Type`).
    pub headers: HeaderMap,
    /// The body, or the message of the stream that it came in.
    pub body: Bytes,
}

impl Refusal {
    /// Whether it asks for credentials, so that it is the client's to answer.
    pub fn is_challenge(&self) -> bool {
        is_challenge(self.status, &self.headers)
    }
}

/// Whether an answer asks for credentials (RFC 9110, 11.6.1; RFC 6750, 3), or for better ones.
pub fn is_challenge(status: StatusCode, headers: &HeaderMap) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        && headers.contains_key(WWW_AUTHENTICATE)
}

/// Sends a request of the gateway's own and reads its answer whole.
pub async fn ask(
    core: &Rc<Core>,
    address: &Address,
    id: &str,
    body: Vec<u8>,
    limit: usize,
) -> Result<Own, Fault> {
    // Somebody waits for the session that this is about, and others for them.
    let asked = ask_unbounded(core, address, id, body, limit);
    tokio::time::timeout(OWN_REQUEST, asked).await.unwrap_or(Err(Fault::UpstreamTimeout))
}

async fn ask_unbounded(
    core: &Rc<Core>,
    address: &Address,
    id: &str,
    body: Vec<u8>,
    limit: usize,
) -> Result<Own, Fault> {
    let sent = send(core, address, Method::POST, address.headers(), body.into());
    let answer = match sent.await {
        Err(SendError::Down(error)) => {
            tracing::debug!(error, "upstream request not sent: its endpoint is down");
            return Ok(Own::Down);
        }
        sent => sent.map_err(fault_of)?,
    };
    let looked = Looked::at(answer, limit).await.map_err(fault_of)?;
    let (status, headers) = (looked.status, looked.headers.clone());
    let message = looked.response(Some(id), limit, |_| {}).await?;
    if status.is_success() {
        let limits = Limits::ANY_DEPTH;
        if let Ok(Envelope { message: Message::Response { outcome: Outcome::Result(span), .. }, .. }) =
            Envelope::parse(&message, &limits)
        {
            // Copied: what is kept of it would hold on to the buffer that it was read into.
            return Ok(Own::Result(Bytes::copy_from_slice(&message[span]), headers));
        }
    }
    Ok(Own::Refused(Refusal { status, headers, body: message }))
}

/// Sends a notification or a response of the gateway's own.
pub async fn tell(
    core: &Rc<Core>,
    address: &Address,
    body: Vec<u8>,
) -> Result<(StatusCode, HeaderMap), SendError> {
    let sent = send(core, address, Method::POST, address.headers(), body.into());
    let answer =
        tokio::time::timeout(OWN_MESSAGE, sent).await.unwrap_or(Err(SendError::Timeout(OWN_MESSAGE)))?;
    drain(answer.body);
    Ok((answer.status, answer.headers))
}

/// Lets go of an answer that nobody needs.
pub fn discard(looked: Looked) {
    drain(looked.body);
}

/// Reads the little that is left of a body, so that its connection can be used again; for as long as that pays.
pub fn drain(mut body: AnswerBody) {
    if body.is_end() {
        return;
    }
    let rest = async move {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(piece)) = body.chunk().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                break;
            }
        }
    };
    tokio::task::spawn_local(tokio::time::timeout(DRAIN_TIME, rest));
}

/// Ends an upstream session. Failure is no trouble of anyone's: the upstream will expire it.
pub async fn end(core: &Rc<Core>, address: &Address) {
    if address.session_id.is_none() {
        return;
    }
    if address.at.fleet().forwards() && !address.credentials.are_at_hand() {
        // Whose it is, it would have to be ended by: it is left to expire.
        return;
    }
    // An upstream that is away has forgotten the session or will: no waiting for its return.
    let sent = send_now(core, address, Method::DELETE, Bytes::new());
    match tokio::time::timeout(OWN_MESSAGE, sent).await {
        Ok(Ok(answer)) => drain(answer.body),
        Ok(Err(error)) => tracing::debug!(%error, "an upstream session was not ended"),
        Err(_) => tracing::debug!("an upstream session was not ended in time"),
    }
}

/// Ends an upstream session that nobody waits for.
pub fn end_later(core: &Rc<Core>, address: Address) {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move { end(&core, &address).await });
}

/// Whether the session still lives, by a `ping` in it; None when that cannot be told.
pub async fn ping(core: &Rc<Core>, address: &Address) -> Option<bool> {
    const ID: &str = "\"throughline-ping\"";
    let body = throughline_wire::jsonrpc::request(ID, throughline_wire::method::PING, None);
    let pinged = async {
        let answer = send_now(core, address, Method::POST, body.into()).await.ok()?;
        let looked = Looked::at(answer, HEAD_BYTES * 16).await.ok()?;
        let alive = loss::ping_says_alive(looked.status.as_u16(), &looked.beginning());
        discard(looked);
        alive
    };
    tokio::time::timeout(OWN_MESSAGE, pinged).await.ok().flatten()
}

/// How a failed sending is told to a client.
pub fn fault_of(error: SendError) -> Fault {
    tracing::warn!(%error, "upstream request failed");
    match error {
        SendError::NotSent(_) | SendError::Down(_) => Fault::UpstreamAway,
        SendError::Broken(_) => Fault::MayHaveExecuted,
        SendError::Timeout(_) => Fault::UpstreamTimeout,
    }
}
