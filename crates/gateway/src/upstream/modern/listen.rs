//! A session's standing stream: `subscriptions/listen`, opened anew when the client subscribes to something else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use throughline_wire::bridge::to_modern::listen::{self, Heard};
use throughline_wire::method;
use throughline_wire::sse::{self, SseDecoder};
use tokio::sync::{mpsc, watch};

use super::{Modern, empty, headers};
use crate::app::Core;
use crate::upstream::body::{AnswerBody, BrokeOff};
use crate::upstream::http::{Answer, SendError};
use crate::upstream::sending::send_plain;
use crate::upstream::{self, Address};

/// How long subscriptions are gathered before the stream is opened anew.
const GATHER: Duration = Duration::from_millis(50);
/// Messages between the work and its reader; then the work waits.
const QUEUE: usize = 4;

struct Listening {
    core: Rc<Core>,
    to: Address,
    modern: Arc<Modern>,
    headers: HeaderMap,
    uris: watch::Receiver<std::collections::BTreeSet<String>>,
}

/// What came of opening the server's stream.
enum Opened {
    Stream(AnswerBody),
    /// There is nothing to listen for, yet.
    Silent,
    Refused(Answer),
}

/// Opens a stream of what the server says unasked.
pub(super) async fn open(
    core: &Rc<Core>,
    to: Address,
    modern: &Arc<Modern>,
    headers: HeaderMap,
) -> Result<Answer, SendError> {
    if !modern.offers().speaks_unasked() {
        return Ok(none());
    }
    let uris = modern.uris.subscribe();
    let mut listening = Listening { core: Rc::clone(core), to, modern: Arc::clone(modern), headers, uris };
    let body = match listening.open().await? {
        Opened::Stream(body) => Some(body),
        Opened::Silent => None,
        // The method is not known there.
        Opened::Refused(answer) if answer.status == StatusCode::NOT_FOUND => {
            upstream::drain(answer.body);
            return Ok(none());
        }
        Opened::Refused(answer) => return Ok(answer),
    };
    let (say, pieces) = mpsc::channel(QUEUE);
    let mut answer = empty(StatusCode::OK);
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.body = AnswerBody::made(listening.run(body, say), pieces);
    Ok(answer)
}

/// The answer of a server that has no such stream.
fn none() -> Answer {
    let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
    answer.headers.insert(ALLOW, HeaderValue::from_static("POST"));
    answer
}

impl Listening {
    async fn open(&mut self) -> Result<Opened, SendError> {
        let uris: Vec<String> = self.uris.borrow_and_update().iter().cloned().collect();
        let (id, offers) = (self.core.app.unique_id(), self.modern.offers());
        let request = self.modern.introduce(|client| listen::request(&id, offers, &uris, client));
        let Some(body) = request else { return Ok(Opened::Silent) };
        let headers = headers(self.headers.clone(), method::LISTEN, None);
        let answer = send_plain(&self.core, &self.to, Method::POST, headers, body.into(), None).await?;
        match answer.status.is_success() && upstream::is_event_stream(&answer.headers) {
            true => Ok(Opened::Stream(answer.body)),
            false => Ok(Opened::Refused(answer)),
        }
    }

    /// Passes on what the server says, until it ends the stream or that breaks: whoever reads here opens another then.
    async fn run(mut self, mut body: Option<AnswerBody>, say: mpsc::Sender<Bytes>) -> Result<(), BrokeOff> {
        let limit = self.core.app.config.limits.event_bytes;
        let mut decoder = SseDecoder::new(limit);
        loop {
            let frame = tokio::select! {
                biased;
                changed = self.uris.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return Ok(()),
                },
                frame = next(&mut body, &mut decoder) => Some(frame),
            };
            let Some(frame) = frame else {
                tokio::time::sleep(GATHER).await;
                // The one before goes when this one is there, so that nothing is missed in between.
                body = match self.open().await {
                    Ok(Opened::Stream(body)) => Some(body),
                    Ok(Opened::Silent) => None,
                    Ok(Opened::Refused(answer)) => return Err(BrokeOff(format!("status {}", answer.status))),
                    Err(error) => return Err(BrokeOff(error.to_string())),
                };
                decoder = SseDecoder::new(limit);
                continue;
            };
            let Some(frame) = frame.map_err(|error| BrokeOff(error.to_string()))? else { return Ok(()) };
            let Some(data) = frame.data().filter(|_| frame.is_message()) else { continue };
            let message = match listen::read(&data) {
                Heard::Acknowledged | Heard::Drop => continue,
                Heard::Ended => return Ok(()),
                Heard::Pass(message) => message,
                Heard::ToolsChanged(message) => {
                    self.modern.forget_tools();
                    message
                }
            };
            if say.send(sse::event(&message, None)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The next frame; never, where there is no stream.
async fn next(
    body: &mut Option<AnswerBody>,
    decoder: &mut SseDecoder,
) -> Result<Option<sse::Frame>, SendError> {
    match body {
        Some(body) => upstream::next_frame(body, decoder).await,
        None => std::future::pending().await,
    }
}
