//! A session's standing stream: `subscriptions/listen`, opened anew when the client subscribes to something else.

use std::collections::BTreeSet;
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
    uris: watch::Receiver<BTreeSet<String>>,
}

/// A stream of the server's, or none while there is nothing to listen for.
struct Reading {
    body: Option<AnswerBody>,
    decoder: SseDecoder,
    /// The resources that it was asked for.
    uris: BTreeSet<String>,
}

/// What came of opening the server's stream.
enum Opened {
    Stream(Reading),
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
    let reading = match listening.open().await? {
        Opened::Stream(reading) => reading,
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
    answer.body = AnswerBody::made(listening.run(reading, say), pieces);
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
        let uris = self.uris.borrow_and_update().clone();
        let (id, offers) = (self.core.app.unique_id(), self.modern.offers());
        let request = self.modern.introduce(|client| listen::request(&id, offers, &uris, client));
        let decoder = SseDecoder::new(self.core.app.config.limits.event_bytes);
        let Some(body) = request else {
            self.modern.acknowledged.send_replace(Some(uris.clone()));
            return Ok(Opened::Stream(Reading { body: None, decoder, uris }));
        };
        let headers = headers(self.headers.clone(), method::LISTEN, None);
        let answer = send_plain(&self.core, &self.to, Method::POST, headers, body.into(), None).await?;
        match answer.status.is_success() && upstream::is_event_stream(&answer.headers) {
            true => Ok(Opened::Stream(Reading { body: Some(answer.body), decoder, uris })),
            false => Ok(Opened::Refused(answer)),
        }
    }

    /// Passes on what the server says, until it ends the stream or that breaks: whoever reads here opens another then.
    async fn run(mut self, mut reading: Reading, say: mpsc::Sender<Bytes>) -> Result<(), BrokeOff> {
        let modern = Arc::clone(&self.modern);
        loop {
            tokio::select! {
                biased;
                // Its sender is with what is held here.
                _ = self.uris.changed() => {}
                ended = reading.pass_on(&modern, &say) => return ended,
            }
            let anew = async {
                tokio::time::sleep(GATHER).await;
                self.open().await
            };
            // The one before is read until this one is there, so that nothing is missed in between.
            let opened = tokio::select! {
                biased;
                opened = anew => opened,
                ended = reading.pass_on(&modern, &say) => return ended,
            };
            reading = match opened {
                Ok(Opened::Stream(next)) => next,
                Ok(Opened::Refused(answer)) => return Err(BrokeOff(format!("status {}", answer.status))),
                Err(error) => return Err(BrokeOff(error.to_string())),
            };
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.modern.acknowledged.send_replace(None);
    }
}

impl Reading {
    /// Passes on what it says until it ends. Left off in the middle, it can go on later.
    async fn pass_on(&mut self, modern: &Modern, say: &mpsc::Sender<Bytes>) -> Result<(), BrokeOff> {
        let Some(body) = &mut self.body else { return std::future::pending().await };
        loop {
            // First the room: what has been read is passed on, however this ends.
            let Ok(room) = say.reserve().await else { return Ok(()) };
            let frame = upstream::next_frame(body, &mut self.decoder).await;
            let Some(frame) = frame.map_err(|error| BrokeOff(error.to_string()))? else { return Ok(()) };
            let Some(data) = frame.data().filter(|_| frame.is_message()) else { continue };
            let message = match listen::read(&data) {
                Heard::Acknowledged => {
                    modern.acknowledged.send_replace(Some(self.uris.clone()));
                    continue;
                }
                Heard::Drop => continue,
                Heard::Ended => return Ok(()),
                Heard::Pass(message) => message,
                Heard::ToolsChanged(message) => {
                    modern.forget_tools();
                    message
                }
            };
            room.send(sse::event(&message, None));
        }
    }
}
