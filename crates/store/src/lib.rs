//! The session records of Throughline: one small record for each session, changed by compare-and-set. And the event log:
//! what streams have said, for clients that come back.
//!
//! | Module | What it holds |
//! |---|---|
//! | `record` | what a record is, and how it is written as JSON |
//! | `rules` | what a write may do to what stands there; the same for every backend |
//! | `memory` | records in this process, gone with it |
//! | `embedded` | records in one redb file: a writer thread with group commit, frames, salvage |
//! | `log` | the event log: its rules, and a backend beside each of the records' |
//! | `redis` | records in Redis, shared by many gateways: scripts, circuit breaker, signals |
//! | `list` | pages of a listing |
//! | `watch` | the signal "this record changed" |
//! | `error` | what can go wrong, and what to do about it |
//!
//! A [`Store`] may be used from several runtimes at once: nothing in it belongs to one. Time is always
//! passed in, and only compared with what records say; what Redis removes on its own has expired long before.
//!
//! A write whose future is dropped before it is done may still happen.

mod embedded;
mod error;
mod list;
mod log;
mod memory;
mod record;
mod redis;
mod rules;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::redis::{Place, PlaceError, Redis};
pub use embedded::Embedded;
pub use embedded::salvage::{Salvaged, salvage};
pub use error::StoreError;
pub use list::{Cursor, Page};
pub use log::{Appended, Event, EventLog, Excerpt, Keep, StreamKey, Tail};
pub use memory::Memory;
pub use record::{Binding, Kind, Lease, Millis, Record, RecordKey, RestoreStep, State, Stored, Version};
pub use watch::{Changed, Watch};

/// What a compare-and-set did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The record now stands, with this version; on the embedded backend it is on disk, on Redis it is as durable
    /// as that is set up to be.
    Stored(Version),
    /// Nothing was written: this stands there instead, if anything that can be read does.
    Conflict(Option<Stored>),
}

/// What a backend has done since it was opened; for metrics and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of `put_if`, `delete` and `sweep` that did not fail, conflicts included.
    pub writes: u64,
    /// Durable commits of the embedded backend.
    pub commits: u64,
    /// Commands that callers had sent to Redis; what it does in the background is not counted.
    pub calls: u64,
}

/// The session records, in the backend that was chosen at start. Clones share it.
#[derive(Clone, Debug)]
pub enum Store {
    /// In this process only.
    Memory(Memory),
    /// In a file of this node.
    Embedded(Embedded),
    /// In Redis, for many gateways.
    Redis(Redis),
}

impl Store {
    /// An empty store in memory.
    #[must_use]
    pub fn memory() -> Store {
        Store::Memory(Memory::default())
    }

    /// Opens or creates `dir/sessions.redb`, under an exclusive lock that is held until the store is closed
    /// or its last clone dropped. The directory is created with mode 0700, the file with 0600.
    ///
    /// A file that is not as it was when a store last closed it is checked from end to end, which takes about as long
    /// as reading every record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] while another process has it; [`StoreError::Corrupt`] if it is damaged beyond
    /// redb's own repair (it is then left as it is: see [`salvage`]); [`StoreError::Full`] and
    /// [`StoreError::Io`] as the file system says.
    pub async fn embedded(dir: &Path) -> Result<Store, StoreError> {
        Embedded::open(dir).await.map(Store::Embedded)
    }

    /// The store in a Redis. Waits at most 2.5 s for a connection, and begins without one if there is none by
    /// then: calls fail at once until there is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] for what can never work, such as a file of certificates that cannot be read.
    pub async fn redis(place: &Place) -> Result<Store, StoreError> {
        Redis::open(place).await.map(Store::Redis)
    }

    /// The record of `key`, tombstones included. `None` if there is none, if it has expired at `now`, or if
    /// it cannot be decoded (which is logged).
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] after [`Store::close`]; on the embedded backend as its file fails, on Redis as that
    /// does. Memory never fails.
    pub async fn get(&self, key: RecordKey, now: Millis) -> Result<Option<Stored>, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.get(key, now)),
            Store::Embedded(embedded) => embedded.get(key, now),
            Store::Redis(redis) => redis.get(key, now).await,
        }
    }

    /// Writes `record` if what stands at `key` has the version `expected`, or, for `None`, if nothing does
    /// (an expired record is nothing). It is durable when this returns, and counts as a use at `now`.
    ///
    /// A tombstone is never replaced by an open record before it expires, whatever version is expected.
    /// A record that cannot be decoded is nothing too: a write that expects a version conflicts with
    /// `None`, and one that expects nothing replaces it.
    ///
    /// # Errors
    ///
    /// As [`Store::get`]; nothing is known to be written then, though it may have been.
    pub async fn put_if(
        &self,
        key: RecordKey,
        expected: Option<Version>,
        record: Record,
        now: Millis,
    ) -> Result<Put, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.put_if(key, expected, record, now)),
            Store::Embedded(embedded) => embedded.put_if(key, expected, record, now).await,
            Store::Redis(redis) => redis.put_if(key, expected, record, now).await,
        }
    }

    /// Leaves a tombstone at `key` (no binding, `initialize` or restore steps) until `tombstone_expires`, or
    /// until what stood there would have expired, if that is later. Returns what stood there, so that the
    /// caller can close its upstream session. Durable when this returns.
    ///
    /// `route` and `principal` are for the tombstone of a missing record; another keeps its own. Deleting
    /// a tombstone returns it, and changes nothing unless it has to last longer.
    ///
    /// # Errors
    ///
    /// As [`Store::put_if`].
    pub async fn delete(
        &self,
        key: RecordKey,
        tombstone_expires: Millis,
        route: [u8; 8],
        principal: [u8; 16],
        now: Millis,
    ) -> Result<Option<Stored>, StoreError> {
        let tombstone = rules::tombstone(route, principal, now, tombstone_expires);
        match self {
            Store::Memory(memory) => Ok(memory.delete(key, tombstone, now)),
            Store::Embedded(embedded) => embedded.delete(key, tombstone, now).await,
            Store::Redis(redis) => redis.delete(key, tombstone, now).await,
        }
    }

    /// Notes when records were used. Visible at once; on the embedded backend durable with the next commit, a few
    /// seconds later or at [`Store::close`]. Never changes a version, never moves [`Stored::touched`] back, and ignores keys
    /// that have no record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] after [`Store::close`]; on Redis as [`Store::put_if`], and some may be noted then.
    pub async fn touch_many(&self, touches: &[(RecordKey, Millis)]) -> Result<(), StoreError> {
        match self {
            Store::Memory(memory) => memory.touch_many(touches),
            Store::Embedded(embedded) => embedded.touch_many(touches)?,
            Store::Redis(redis) => redis.touch_many(touches).await?,
        }
        Ok(())
    }

    /// Some records behind `after`: tombstones too, but neither what has expired at `now` nor what cannot be
    /// decoded. At most `limit`, in the order of their keys.
    ///
    /// Redis has an order of its own, and its `limit` is a rough one: a page may be somewhat larger, or small or
    /// empty with more to come, and a record may be seen twice. What is written meanwhile may be missed.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    pub async fn list(&self, after: Option<Cursor>, limit: usize, now: Millis) -> Result<Page, StoreError> {
        let key = after.and_then(|cursor| cursor.key());
        match self {
            Store::Memory(memory) => Ok(Page::by_key(memory.list(key, limit, now), limit)),
            Store::Embedded(embedded) => Ok(Page::by_key(embedded.list(key, limit, now).await?, limit)),
            Store::Redis(redis) => redis.list(after, limit, now).await,
        }
    }

    /// Removes at most `limit` records that have expired at `now`, and returns how many. Looks only at
    /// those, so it costs nothing when there are none. Not signalled: an expired record was already gone. Redis
    /// removes them by itself, and the answer is 0.
    ///
    /// # Errors
    ///
    /// As [`Store::put_if`].
    pub async fn sweep(&self, now: Millis, limit: usize) -> Result<usize, StoreError> {
        match self {
            Store::Memory(memory) => Ok(memory.sweep(now, limit)),
            Store::Embedded(embedded) => embedded.sweep(now, limit).await,
            Store::Redis(redis) => redis.sweep(),
        }
    }

    /// Whether this process may now do the periodic work `what`, of which one turn `lasts` so long: of all
    /// processes on one Redis, the first that asks may, and then nobody until the turn is over. Always, on the
    /// other backends.
    ///
    /// # Errors
    ///
    /// As [`Store::put_if`].
    pub async fn turn(&self, what: &str, lasts: Duration) -> Result<bool, StoreError> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => Ok(true),
            Store::Redis(redis) => redis.turn(what, lasts).await,
        }
    }

    /// The records that `put_if` or `delete` change from now on, through any clone of this store or, on Redis, by
    /// any gateway. A signal comes after the change can be read; signals of one record come in their order. On
    /// Redis a signal may take a while or be lost: see [`Store::epoch`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        match self {
            Store::Memory(memory) => memory.watch(),
            Store::Embedded(embedded) => embedded.watch(),
            Store::Redis(redis) => redis.watch(),
        }
    }

    /// Whether the signals of [`Store::watch`] come through. `None` while changes that others make may go
    /// unnoticed, which begins 2 s after the signal connection last showed life; otherwise a number that grows
    /// each time signals may have been missed. What was read under an earlier one must be read again.
    ///
    /// Two atomic loads and a look at the clock: cheap enough for each request. Always `Some(0)` on a backend that
    /// nobody shares.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => Some(0),
            Store::Redis(redis) => redis.epoch(),
        }
    }

    /// Whether other processes may change what is in it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Store::Redis(_))
    }

    /// Why the store cannot be used as it should now, in a few words without secrets; `None` when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => redis.trouble(),
        }
    }

    /// Finishes what is queued, writes the touches and releases the file or the connections, for which Redis gets
    /// at most 4 s; every clone of this store then answers [`StoreError::Closed`]. Does nothing to a store in
    /// memory.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] if it was closed before; as [`Store::put_if`] if the touches could not be
    /// written, and the file is released nevertheless.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Embedded(embedded) => embedded.close().await,
            Store::Redis(redis) => redis.close().await,
        }
    }

    /// The backend in words: `memory`, `embedded` and its directory, or the address of the Redis without who signs
    /// in there.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Store::Memory(_) => "memory".to_owned(),
            Store::Embedded(embedded) => format!("embedded {}", embedded.dir().display()),
            Store::Redis(redis) => redis.describe(),
        }
    }

    /// What the backend has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match self {
            Store::Memory(memory) => memory.stats(),
            Store::Embedded(embedded) => embedded.stats(),
            Store::Redis(redis) => redis.stats(),
        }
    }
}
