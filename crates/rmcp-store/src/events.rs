//! The event log as rmcp's [`EventStore`]: streams that clients resume after the process, or at another replica.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage,
};
use throughline_store::{Appended, EventLog, Keep, Millis, RecordKey, StreamKey};
use tokio::sync::mpsc;

use crate::naming::Naming;
use crate::options::{later, wall_clock};

/// Events and bytes that are kept of one stream, and bytes of all.
const EVENTS: u64 = 1000;
const BYTES: u64 = 4 << 20;
const TOTAL: u64 = 256 << 20;
/// Bytes that are read at a time, and events between the log and a client.
const PAGE: usize = 256 * 1024;
const QUEUE: usize = 16;
/// How long a stream that another process writes to is followed without a word: then the client asks again, so that it does
/// not wait for ever for a process that is gone.
const ELSEWHERE: Duration = Duration::from_secs(30);
/// Streams whose last number is remembered, to save a question.
const REMEMBERED: usize = 4096;
/// How often two who write at a time try again.
const TURNS: usize = 16;
/// After how many events those are looked for whose time is over.
const SWEEP_EVERY: u64 = 64;
/// What a client gets in place of an id of an event that is not kept.
const NOT_KEPT: &str = "0";

/// Events of streams, in the store of the sessions. Durable when rmcp gives them to the client; while the store is away they
/// still reach the client that is there, which then cannot come back for them.
///
/// Within a [`Manager`](crate::Manager) an event id is good in the session that it was given in, and in no other.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    log: EventLog,
    naming: Naming,
    keep: Duration,
    /// The last number of streams that this process writes to.
    last: Mutex<HashMap<StreamKey, u64>>,
    appended: AtomicU64,
    failed: AtomicBool,
}

impl Events {
    pub(crate) fn new(log: EventLog, naming: Naming, keep: Duration) -> Events {
        let inner = Inner {
            log,
            naming,
            keep,
            last: Mutex::default(),
            appended: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        Events(Arc::new(inner))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("keep", &self.0.keep).finish_non_exhaustive()
    }
}

/// That an event id is none of an event that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event is not kept: its stream cannot be resumed")]
#[non_exhaustive]
pub struct NoEvent;

impl Inner {
    /// A stream's name in the log: a digest, since a session's id may be part of what rmcp calls it.
    fn key(&self, stream_id: &str) -> StreamKey {
        let name = self.naming.name(&format!("stream\0{stream_id}"));
        let mut stream = [0; 8];
        stream.copy_from_slice(&name.rest[..8]);
        StreamKey { session: name.key, stream }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<StreamKey, u64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: StreamKey, number: u64, is_over: bool) {
        let mut last = self.last();
        if is_over {
            last.remove(&key);
            return;
        }
        if last.len() >= REMEMBERED && !last.contains_key(&key) {
            last.clear();
        }
        last.insert(key, number);
    }

    /// Appends an event; its number, or None where it could not be kept.
    async fn append(&self, key: StreamKey, event: &[u8]) -> Option<u64> {
        let now = wall_clock();
        let mut after = self.last().get(&key).copied().unwrap_or(0);
        let keep = Keep {
            until: later(now, self.keep),
            events: EVENTS,
            bytes: BYTES,
            above: u64::MAX,
            total: TOTAL,
        };
        for _ in 0..TURNS {
            let event = event.to_vec().into();
            match self.log.append(key, after, vec![event], keep, now).await {
                Ok(Appended::Stored(number)) => {
                    self.failed.store(false, Ordering::Relaxed);
                    return Some(number);
                }
                Ok(Appended::Conflict(last)) => after = last,
                Ok(Appended::Full) => {
                    self.tell("the event log is full");
                    return None;
                }
                Err(error) => {
                    self.tell(&error.to_string());
                    return None;
                }
            }
        }
        None
    }

    fn tell(&self, why: &str) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = why, "events are not kept: streams cannot be resumed from here on");
        }
    }

    async fn sweep(&self, now: Millis) {
        if self.appended.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY)
            && let Err(error) = self.log.sweep(now, SWEEP_EVERY as usize).await
        {
            tracing::debug!(%error, "events whose time is over were not removed");
        }
    }
}

/// What rmcp calls.
#[async_trait::async_trait]
impl EventStore for Events {
    async fn store_event(
        &self,
        stream_id: &str,
        event: &ServerSseMessage,
    ) -> Result<EventId, EventStoreError> {
        let inner = &self.0;
        let key = inner.key(stream_id);
        let text = match &event.message {
            Some(message) => serde_json::to_vec(&**message)?,
            None => Vec::new(),
        };
        let number = inner.append(key, &text).await;
        inner.sweep(wall_clock()).await;
        let Some(number) = number else { return Ok(NOT_KEPT.to_owned()) };
        inner.remember(key, number, event.message.as_deref().is_some_and(is_response));
        Ok(name(key, number))
    }

    /// Follows the stream until its response, if this process writes to it; one of another process for as long as that
    /// says something.
    async fn replay_events_after(&self, last_event_id: &str) -> Result<EventStream, EventStoreError> {
        let (key, after) = read(last_event_id).ok_or(NoEvent)?;
        let first = self.0.log.read(key, u64::MAX, 1, wall_clock()).await?;
        if first.until.is_none() {
            return Err(NoEvent.into());
        }
        let (to, events) = mpsc::channel(QUEUE);
        tokio::spawn(follow(Arc::clone(&self.0), key, after, to));
        Ok(Box::pin(Followed(events)))
    }
}

async fn follow(inner: Arc<Inner>, key: StreamKey, after: u64, to: mpsc::Sender<ServerSseMessage>) {
    let mut tail = inner.log.tail(key, after);
    loop {
        // A stream whose writer is elsewhere, or was in a process that is gone, may have nothing more to say.
        let is_ours = inner.last().contains_key(&key);
        let patience = if is_ours { Duration::MAX } else { ELSEWHERE };
        let page = tokio::select! {
            page = tokio::time::timeout(patience, tail.next(PAGE, wall_clock)) => page,
            () = to.closed() => return,
        };
        let events = match page {
            Ok(Ok(page)) => page.events,
            Ok(Err(error)) => return tracing::warn!(%error, "a stream cannot be followed in the log"),
            Err(_) => return,
        };
        for event in events {
            let mut said = ServerSseMessage::default();
            said.event_id = Some(name(key, event.number));
            if !event.payload.is_empty() {
                match serde_json::from_slice::<ServerJsonRpcMessage>(&event.payload) {
                    Ok(message) => said.message = Some(Arc::new(message)),
                    Err(error) => {
                        tracing::warn!(line = error.line(), "an event cannot be read by this rmcp");
                        continue;
                    }
                }
            }
            let is_over = said.message.as_deref().is_some_and(is_response);
            if to.send(said).await.is_err() || is_over {
                return;
            }
        }
    }
}

fn is_response(message: &ServerJsonRpcMessage) -> bool {
    matches!(message, ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_))
}

/// An event's id: whoever knows it could not have guessed it, since the stream's name comes of what rmcp chose at random.
fn name(key: StreamKey, number: u64) -> EventId {
    let stream: String = key.stream.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{stream}-{number}", key.session)
}

fn read(id: &str) -> Option<(StreamKey, u64)> {
    let (stream, number) = id.split_once('-')?;
    // What reads numbers takes signs as well.
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if stream.len() != 48 || !stream.bytes().all(is_hex) || !number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let mut bytes = [0; 24];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&stream[2 * at..2 * at + 2], 16).ok()?;
    }
    let (session, stream) = bytes.split_at(16);
    let key = StreamKey { session: RecordKey(session.try_into().ok()?), stream: stream.try_into().ok()? };
    Some((key, number.parse().ok()?))
}

/// Events as they come.
struct Followed(mpsc::Receiver<ServerSseMessage>);

impl Stream for Followed {
    type Item = ServerSseMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        self.0.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_event() {
        let key = StreamKey { session: RecordKey([0xab; 16]), stream: [7; 8] };
        assert_eq!(read(&name(key, 12)), Some((key, 12)));
        for other in [
            "",
            "0",
            "-1",
            "ab-1",
            &name(key, 1)[1..],
            &name(key, 1).replace('a', "+"),
            &name(key, 1).replace("-1", "-+1"),
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
