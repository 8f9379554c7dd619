//! A connection to a server of HTTP with SSE (2024-11-05, Transports): its stream, and the endpoint that this names.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use throughline_wire::envelope::{Envelope, Limits};
use throughline_wire::loss::{self, Verdict};
use throughline_wire::sse::{Frame, SseDecoder};

use super::SECRET;
use super::pipe::{Inlet, Pipe, Untold, Use};
use crate::names;
use crate::upstream::cookies::Jar;
use crate::upstream::http::{Answer, Endpoint, SendError};
use crate::upstream::{self, AnswerBody, JSON, Refusal};
use crate::urls;

/// How long a server may take to name its endpoint.
const NAMED: Duration = Duration::from_secs(10);
/// Longest refusal that is passed on, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// Where a connection's messages go.
pub(super) struct Connection {
    server: Rc<Endpoint>,
    path: PathAndQuery,
    /// What the connection was opened with, for messages of the gateway's own.
    headers: HeaderMap,
    cookies: Jar,
}

/// Why there is no connection.
pub(super) enum NotOpen {
    /// Nobody was reached.
    Unreachable(String),
    /// The server would not.
    Refused(Box<Refusal>),
    /// It answered something else than such a stream.
    Strange(&'static str),
}

/// Opens a connection for whoever sent these headers; messages may be `limit` bytes long. `ended` is called when it has
/// ended.
pub(super) async fn open(
    server: &Rc<Endpoint>,
    headers: &HeaderMap,
    limit: usize,
    ended: impl FnOnce() + 'static,
) -> Result<Rc<Pipe>, NotOpen> {
    let headers = passed(headers);
    let (mut body, mut decoder, cookies) = stream(server, headers.clone(), limit).await?;
    let path = tokio::time::timeout(NAMED, endpoint(server, &mut body, &mut decoder)).await;
    let path = path.map_err(|_| NotOpen::Strange("names no endpoint"))??;
    let connection = Connection { server: Rc::clone(server), path, headers, cookies };
    let pipe = Pipe::new(Inlet::Posts(connection), Use::Own);
    tokio::task::spawn_local({
        let pipe = Rc::clone(&pipe);
        async move {
            tokio::select! {
                () = read(&pipe, body, decoder) => {}
                () = pipe.ending() => {}
            }
            pipe.ended();
            ended();
        }
    });
    Ok(pipe)
}

async fn stream(
    server: &Rc<Endpoint>,
    mut headers: HeaderMap,
    limit: usize,
) -> Result<(AnswerBody, SseDecoder, Jar), NotOpen> {
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    let sent = server.send_now(Method::GET, headers, Bytes::new()).await;
    let answer = sent.map_err(|error| NotOpen::Unreachable(error.to_string()))?;
    if !answer.status.is_success() {
        return Err(NotOpen::Refused(Box::new(refusal(answer).await)));
    }
    if !upstream::is_event_stream(&answer.headers) {
        return Err(NotOpen::Strange("answers a GET with no stream"));
    }
    let cookies = Jar::new(Vec::new());
    cookies.keep(&answer.headers, server.destination(), || server.now());
    Ok((answer.body, SseDecoder::new(limit), cookies))
}

/// The endpoint, which the first event names. Of the same origin: what goes there carries credentials.
async fn endpoint(
    server: &Endpoint,
    body: &mut AnswerBody,
    decoder: &mut SseDecoder,
) -> Result<PathAndQuery, NotOpen> {
    loop {
        let frame = upstream::next_frame(body, decoder).await.ok().flatten();
        let frame = frame.ok_or(NotOpen::Strange("ends its stream without naming an endpoint"))?;
        if let Some(named) = named(&frame) {
            let found = urls::resolved(&server.destination().uri, &named);
            return found.ok_or(NotOpen::Strange("names an endpoint of another origin, or none"));
        }
        if frame.data().is_some() {
            return Err(NotOpen::Strange("says something before it names an endpoint"));
        }
    }
}

fn named(frame: &Frame) -> Option<String> {
    let data = frame.data().filter(|_| frame.event() == Some(b"endpoint"))?;
    String::from_utf8(data.trim_ascii().to_vec()).ok()
}

/// Whether a stream that a GET opened begins as one of HTTP with SSE does.
pub async fn names_endpoint(mut body: AnswerBody) -> bool {
    let mut decoder = SseDecoder::new(MAX_REFUSAL);
    let first = async {
        loop {
            match upstream::next_frame(&mut body, &mut decoder).await {
                Ok(Some(frame)) if frame.data().is_none() => {}
                Ok(frame) => return frame.is_some_and(|frame| named(&frame).is_some()),
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(NAMED, first).await.unwrap_or(false)
}

async fn read(pipe: &Pipe, mut body: AnswerBody, mut decoder: SseDecoder) {
    loop {
        match upstream::next_frame(&mut body, &mut decoder).await {
            Ok(Some(frame)) => {
                let data = frame.data().filter(|_| frame.is_message());
                if let Some(data) = data {
                    pipe.heard(&Bytes::copy_from_slice(&data)).await;
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::info!(%error, "a connection of HTTP with SSE broke"),
        }
    }
}

impl Connection {
    /// Sends a message, with what came with it from the gateway.
    pub(super) async fn post(&self, message: &Bytes, headers: Option<&HeaderMap>) -> Result<(), Untold> {
        let mut headers = headers.map_or_else(|| self.headers.clone(), passed);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, upstream::ACCEPT_BOTH);
        self.cookies.apply(&mut headers, || self.server.now());
        let answer = match self.server.post(&self.path, headers, message.clone()).await {
            Ok(answer) => answer,
            Err(SendError::NotSent(error) | SendError::Down(error)) => {
                tracing::info!(error, "a server of HTTP with SSE takes no connection");
                return Err(Untold::Lost);
            }
            Err(error) => {
                tracing::info!(%error, "a message did not get through to a server of HTTP with SSE");
                return Err(Untold::Ended);
            }
        };
        if answer.status.is_success() {
            upstream::drain(answer.body);
            return Ok(());
        }
        let refusal = refusal(answer).await;
        // The endpoint's URL names the session: what is wrong there is that, unless the message is said to be.
        let is_message = Envelope::parse(&refusal.body, &Limits::ANY_DEPTH).is_ok();
        if matches!(refusal.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::GONE)
            && !is_message
        {
            return Err(Untold::Lost);
        }
        let verdict = loss::verdict(&loss::Answer {
            status: refusal.status.as_u16(),
            content_type: refusal.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()),
            www_authenticate: refusal.is_challenge(),
            head: &refusal.body,
            session_sent: true,
        });
        match verdict {
            Verdict::Alive => Err(Untold::Refused(Box::new(refusal))),
            Verdict::Lost(_) | Verdict::Suspected(_) => Err(Untold::Lost),
        }
    }
}

async fn refusal(answer: Answer) -> Refusal {
    let Answer { status, headers, body } = answer;
    let body = upstream::read_whole(body, Vec::new(), MAX_REFUSAL).await.ok().flatten();
    Refusal { status, headers, body: body.unwrap_or_default() }
}

/// What of the gateway's headers the server gets.
fn passed(from: &HeaderMap) -> HeaderMap {
    let mut headers = from.clone();
    for name in [SECRET, names::SESSION_ID, HOST, CONTENT_LENGTH, CONTENT_TYPE, ACCEPT] {
        headers.remove(name);
    }
    headers
}

impl NotOpen {
    /// The status that says so, where the server did not give one.
    pub(super) const STATUS: StatusCode = StatusCode::BAD_GATEWAY;
}
