//! The event log: what streams have said, kept for clients that come back for it.
//!
//! A stream's events are numbered from 1 on, without gaps, by its one writer. The oldest leave when there are too many,
//! and the whole stream when nobody wrote to it for long. What an event is, is the gateway's business: here it is bytes.
//!
//! | Backend | Where |
//! |---|---|
//! | `log/memory.rs` | this process |
//! | `redis/events.rs` | Redis, which trims what it is told to; how much it may hold is counted by each process of what it writes |
//! | `log/embedded.rs` | a redb file of its own beside the records, made at the first event. It is no treasure: one that is damaged is replaced by an empty one |

pub(crate) mod embedded;
pub(crate) mod memory;
mod tail;

use std::fmt;

use bytes::Bytes;
use data_encoding::HEXLOWER;

pub use self::tail::Tail;
pub(crate) use self::tail::sender;
use crate::record::{Millis, RecordKey};
use crate::redis::events::RedisLog;
use crate::{Store, StoreError};

/// Names a stream: the session that it belongs to, and which of its streams it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// The session's record.
    pub session: RecordKey,
    /// Chosen at random by whoever begins the stream.
    pub stream: [u8; 8],
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.session, HEXLOWER.encode(&self.stream))
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number in its stream.
    pub number: u64,
    /// What was appended.
    pub payload: Bytes,
}

/// How much of a stream is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Until when, if nothing more is appended.
    pub until: Millis,
    /// How many events; never fewer than one.
    pub events: u64,
    /// How many bytes of payload. The newest event stays, however long it is.
    pub bytes: u64,
    /// Events above this number stay, however many and long they are.
    pub above: u64,
    /// How many bytes of payload the whole log may hold; in Redis, what this process has written of it.
    pub total: u64,
}

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The events are there, on disk where the backend has one; the number of the last.
    Stored(u64),
    /// Nothing was written: the stream's last event has this number, and not the one that was expected.
    Conflict(u64),
    /// Nothing was written: the log is full.
    Full,
}

/// A part of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// Events in their order. The first may follow a gap: what was trimmed.
    pub events: Vec<Event>,
    /// The number of the stream's last event; 0 where it has none, or nothing is known of it.
    pub last: u64,
    /// Until when the stream is kept, as its writer said last; None where nothing is known of it.
    pub until: Option<Millis>,
}

/// What of a stream was appended last; what a [`Tail`] is woken by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    pub(crate) key: StreamKey,
}

/// The event log of a [`Store`]. Clones share it.
#[derive(Clone, Debug)]
pub enum EventLog {
    /// In this process only.
    Memory(memory::MemoryLog),
    /// In a file of this node.
    Embedded(embedded::EmbeddedLog),
    /// In Redis, for many gateways.
    Redis(RedisLog),
}

impl Store {
    /// Its event log.
    #[must_use]
    pub fn events(&self) -> EventLog {
        match self {
            Store::Memory(memory) => EventLog::Memory(memory.events().clone()),
            Store::Embedded(embedded) => EventLog::Embedded(embedded.events().clone()),
            Store::Redis(redis) => EventLog::Redis(RedisLog::new(redis.clone())),
        }
    }
}

impl EventLog {
    /// Appends to a stream whose last event is `after`, or of which nothing is known, and trims it. Without payloads it
    /// only keeps the stream until later. Durable when this returns.
    ///
    /// # Errors
    ///
    /// As [`Store::put_if`]; nothing is known to be written then, though it may have been.
    pub async fn append(
        &self,
        key: StreamKey,
        after: u64,
        payloads: Vec<Bytes>,
        keep: Keep,
        now: Millis,
    ) -> Result<Appended, StoreError> {
        match self {
            EventLog::Memory(log) => Ok(log.append(key, after, &payloads, keep, now)),
            EventLog::Embedded(log) => log.append(key, after, payloads, keep, now).await,
            EventLog::Redis(log) => log.append(key, after, payloads, keep, now).await,
        }
    }

    /// The events of a stream above `after`, about `limit` bytes of them but at least one, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    pub async fn read(
        &self,
        key: StreamKey,
        after: u64,
        limit: usize,
        now: Millis,
    ) -> Result<Excerpt, StoreError> {
        match self {
            EventLog::Memory(log) => Ok(log.read(key, after, limit, now)),
            EventLog::Embedded(log) => log.read(key, after, limit, now).await,
            EventLog::Redis(log) => log.read(key, after, limit, now).await,
        }
    }

    /// The events of a stream above `after`, those to come included.
    #[must_use]
    pub fn tail(&self, key: StreamKey, after: u64) -> Tail {
        let news = match self {
            EventLog::Memory(log) => log.news(),
            EventLog::Embedded(log) => log.news(),
            EventLog::Redis(log) => log.news(),
        };
        Tail::new(self.clone(), news, key, after)
    }

    /// Where a [`Tail`] in another process is in this stream, if there is one. Always none where the log is not shared.
    ///
    /// # Errors
    ///
    /// As [`EventLog::read`].
    pub async fn awaited(&self, key: StreamKey) -> Result<Option<u64>, StoreError> {
        match self {
            EventLog::Memory(_) | EventLog::Embedded(_) => Ok(None),
            EventLog::Redis(log) => log.awaited(key).await,
        }
    }

    /// Removes all streams of a session.
    ///
    /// # Errors
    ///
    /// As [`EventLog::append`].
    pub async fn remove(&self, session: RecordKey) -> Result<(), StoreError> {
        match self {
            EventLog::Memory(log) => log.remove(session),
            EventLog::Embedded(log) => log.remove(session).await?,
            EventLog::Redis(log) => log.remove(session).await?,
        }
        Ok(())
    }

    /// Removes at most `limit` streams whose time is over, and returns how many. Redis does that by itself.
    ///
    /// # Errors
    ///
    /// As [`EventLog::append`].
    pub async fn sweep(&self, now: Millis, limit: usize) -> Result<usize, StoreError> {
        match self {
            EventLog::Memory(log) => Ok(log.sweep(now, limit)),
            EventLog::Embedded(log) => log.sweep(now, limit).await,
            EventLog::Redis(_) => Ok(0),
        }
    }

    /// How many bytes of payload it holds, as far as it has been used since it was opened. None where only the store's own
    /// operator can tell.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            EventLog::Memory(log) => Some(log.bytes()),
            EventLog::Embedded(log) => Some(log.bytes()),
            EventLog::Redis(_) => None,
        }
    }
}

/// What is known of a stream besides its events. The rules of an append and a trim; the same for every backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number of the oldest event that is kept; one more than `last` where none is.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) until: Millis,
}

impl Head {
    /// Of a stream that begins behind this number.
    pub(crate) fn behind(last: u64) -> Head {
        Head { first: last.saturating_add(1), last, ..Head::default() }
    }

    pub(crate) fn lives(&self, now: Millis) -> bool {
        self.until > now
    }

    /// Takes one more event in.
    pub(crate) fn push(&mut self, length: usize) {
        self.last += 1;
        self.bytes += length as u64;
    }

    /// Whether the oldest event has to leave.
    pub(crate) fn overflows(&self, keep: &Keep) -> bool {
        let events = (self.last + 1).saturating_sub(self.first);
        self.first < self.last
            && self.first <= keep.above
            && (events > keep.events || self.bytes > keep.bytes)
    }

    /// Lets the oldest event go.
    pub(crate) fn shift(&mut self, length: usize) {
        self.first += 1;
        self.bytes = self.bytes.saturating_sub(length as u64);
    }
}

/// Bytes of these payloads.
pub(crate) fn length(payloads: &[Bytes]) -> u64 {
    payloads.iter().map(|payload| payload.len() as u64).sum()
}
