//! The event log in Redis.
//!
//! | Key or channel | What it is |
//! |---|---|
//! | `PREFIX:e:{SESSION}:STREAM` | a stream's events, a Redis stream: entry `NUMBER-1` has the payload as `p` |
//! | `PREFIX:e:{SESSION}:STREAM:head` | `first`, `last`, `bytes` and `until` of it |
//! | `PREFIX:e:{SESSION}:STREAM:tail` | another gateway waits for more behind this number; expires |
//! | `PREFIX:e:{SESSION}` | the keys of a session's streams |
//! | `PREFIX:events` | channel of news: session and stream |
//!
//! News are published only for streams that somebody waits for; and whoever waits looks now and then as well.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use redis::Value;
use tokio::sync::broadcast;

use super::circuit::Access;
use super::dial::Link;
use super::script::{self, Script};
use super::{Redis, StoreError};
use crate::log::{Appended, Event, Excerpt, Keep, News, StreamKey, length};
use crate::record::{Millis, RecordKey};

/// How long others are told of a stream that is waited for, if it is not said again.
const INTEREST: Duration = Duration::from_secs(6);
/// How often whoever waits says so again, and looks.
pub(crate) const LOOK: Duration = Duration::from_secs(2);
/// Numbers above this are not exact in a script.
const MAX: u64 = 1 << 53;

/// The log of a Redis store. Clones share it.
#[derive(Clone, Debug)]
pub struct RedisLog(Redis);

impl RedisLog {
    pub(crate) fn new(redis: Redis) -> RedisLog {
        RedisLog(redis)
    }

    pub(crate) async fn append(
        &self,
        key: StreamKey,
        after: u64,
        payloads: Vec<Bytes>,
        keep: Keep,
        now: Millis,
    ) -> Result<Appended, StoreError> {
        let (length, written) = (length(&payloads), &self.0.shared.written);
        if length > 0 && !written.has_room(length, keep.total, now) {
            return Ok(Appended::Full);
        }
        let numbers = [now.0, after, keep.until.0, keep.events, keep.bytes, keep.above];
        let numbers = numbers.map(|number| number.min(MAX).to_string());
        let (name, channel, session) =
            (flat(key), self.0.shared.place.news(), self.session_name(key.session));
        let mut arguments: Vec<&[u8]> = numbers.iter().map(|number| number.as_bytes()).collect();
        arguments.extend([name.as_bytes(), channel.as_bytes(), session.as_bytes()]);
        arguments.extend(payloads.iter().map(AsRef::as_ref));
        let answer =
            self.run(&script::APPEND, Access::Write, key.session, &self.name(key), &arguments).await?;
        match answer {
            Value::Array(parts) => match parts.as_slice() {
                [Value::Int(1), last, bytes] => {
                    written.note(key, self.number(bytes)?, keep.until);
                    Ok(Appended::Stored(self.number(last)?))
                }
                [Value::Int(_), last] => Ok(Appended::Conflict(self.number(last)?)),
                _ => Err(self.0.unexpected("an append")),
            },
            _ => Err(self.0.unexpected("an append")),
        }
    }

    pub(crate) async fn read(
        &self,
        key: StreamKey,
        after: u64,
        limit: usize,
        now: Millis,
    ) -> Result<Excerpt, StoreError> {
        let numbers = [now.0, after, limit as u64].map(|number| number.min(MAX).to_string());
        let arguments = [&numbers[0], &numbers[1], &numbers[2]].map(|number| number.as_bytes());
        let answer = self.run(&script::READ, Access::Read, key.session, &self.name(key), &arguments).await?;
        let parts = match answer {
            Value::Nil => return Ok(Excerpt::default()),
            Value::Array(parts) => parts,
            _ => return Err(self.0.unexpected("a read")),
        };
        let [last, until, parts @ ..] = parts.as_slice() else { return Err(self.0.unexpected("a read")) };
        let mut events = Vec::with_capacity(parts.len() / 2);
        for event in parts.chunks_exact(2) {
            let [number, Value::BulkString(payload)] = event else {
                return Err(self.0.unexpected("a read"));
            };
            events.push(Event { number: self.number(number)?, payload: Bytes::copy_from_slice(payload) });
        }
        Ok(Excerpt { events, last: self.number(last)?, until: Some(Millis(self.number(until)?)) })
    }

    pub(crate) async fn remove(&self, session: RecordKey) -> Result<(), StoreError> {
        self.0.shared.written.forget(session);
        let name = self.session_name(session);
        self.run(&script::FORGET, Access::Write, session, &name, &[]).await.map(drop)
    }

    pub(crate) async fn awaited(&self, key: StreamKey) -> Result<Option<u64>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(format!("{}:tail", self.name(key)));
        let send = async |link: &Link| link.send(&command).await;
        match self.0.send(Access::Read, Some(key.session), send).await? {
            Value::Nil => Ok(None),
            position => self.number(&position).map(Some),
        }
    }

    /// Lets other gateways tell of this stream for a while, and know how far it has been read.
    pub(crate) async fn wait_for(&self, key: StreamKey, after: u64) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}:tail", self.name(key))).arg(after).arg("PX").arg(INTEREST.as_millis() as u64);
        let send = async |link: &Link| link.send(&command).await;
        self.0.send(Access::Write, Some(key.session), send).await.map(drop)
    }

    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        self.0.shared.signals.news()
    }

    async fn run(
        &self,
        script: &Script,
        access: Access,
        session: RecordKey,
        key: &str,
        arguments: &[&[u8]],
    ) -> Result<Value, StoreError> {
        let run = async |link: &Link| script.run(link, key, arguments, || self.0.count()).await;
        self.0.send_counted(access, Some(session), run).await
    }

    fn number(&self, value: &Value) -> Result<u64, StoreError> {
        let number = match value {
            Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            Value::SimpleString(text) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.0.unexpected("the event log"))
    }

    fn session_name(&self, session: RecordKey) -> String {
        self.0.shared.place.key(&format!("e:{{{session}}}"))
    }

    fn name(&self, key: StreamKey) -> String {
        format!("{}:{}", self.session_name(key.session), HEXLOWER.encode(&key.stream))
    }
}

/// A stream in the news.
fn flat(key: StreamKey) -> String {
    format!("{}{}", key.session, HEXLOWER.encode(&key.stream))
}

/// The stream that news are of.
pub(super) fn parse(payload: &[u8]) -> Option<News> {
    let (session, stream) = payload.split_at_checked(32)?;
    let session = RecordKey(HEXLOWER.decode(session).ok()?.try_into().ok()?);
    let stream = HEXLOWER.decode(stream).ok()?.try_into().ok()?;
    Some(News { key: StreamKey { session, stream } })
}
