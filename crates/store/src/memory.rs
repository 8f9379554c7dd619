//! Records in this process. Bounded only by expiry and [`sweep`](crate::Store::sweep): how many sessions a
//! principal may have is the gateway's limit to set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::memory::MemoryLog;
use crate::record::{Millis, Record, RecordKey, Stored, Version};
use crate::rules::{self, Decision};
use crate::watch::{Changed, Changes, Watch};
use crate::{Put, Stats};

/// The backend in memory. Clones share the records.
#[derive(Clone, Debug)]
pub struct Memory {
    // One std mutex: no section under it waits for anything or takes more than microseconds, except a
    // listing, which an operator asks for.
    inner: Arc<Mutex<Inner>>,
    changes: Arc<Changes>,
    events: MemoryLog,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<RecordKey, Stored>,
    by_expiry: BTreeSet<(Millis, RecordKey)>,
    writes: u64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { inner: Arc::default(), changes: Arc::new(Changes::new()), events: MemoryLog::default() }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn events(&self) -> &MemoryLog {
        &self.events
    }

    pub(crate) fn get(&self, key: RecordKey, now: Millis) -> Option<Stored> {
        self.lock().records.get(&key).filter(|stored| stored.lives(now)).cloned()
    }

    pub(crate) fn put_if(
        &self,
        key: RecordKey,
        expected: Option<Version>,
        record: Record,
        now: Millis,
    ) -> Put {
        let mut inner = self.lock();
        inner.writes += 1;
        let current = inner.records.get(&key);
        let last = current.map_or(Version::NONE, |stored| stored.version);
        match rules::put(current, last, expected, record, now) {
            Decision::Conflict(current) => Put::Conflict(current),
            Decision::Write(stored) => {
                let version = stored.version;
                inner.insert(key, stored);
                // Under the lock, so that signals come in the order of the changes.
                self.changes.announce(Changed::One(key, version));
                Put::Stored(version)
            }
        }
    }

    pub(crate) fn delete(&self, key: RecordKey, tombstone: Record, now: Millis) -> Option<Stored> {
        let mut inner = self.lock();
        inner.writes += 1;
        let current = inner.records.get(&key);
        let last = current.map_or(Version::NONE, |stored| stored.version);
        let stood = current.filter(|stored| stored.lives(now)).cloned();
        if let Some(stored) = rules::bury(current, last, tombstone, now) {
            let version = stored.version;
            inner.insert(key, stored);
            self.changes.announce(Changed::One(key, version));
        }
        stood
    }

    pub(crate) fn touch_many(&self, touches: &[(RecordKey, Millis)]) {
        let mut inner = self.lock();
        for (key, at) in touches {
            if let Some(stored) = inner.records.get_mut(key) {
                stored.touched = stored.touched.max(*at);
            }
        }
    }

    pub(crate) fn list(
        &self,
        after: Option<RecordKey>,
        limit: usize,
        now: Millis,
    ) -> Vec<(RecordKey, Stored)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.lock()
            .records
            .range((from, Bound::Unbounded))
            .filter(|(_, stored)| stored.lives(now))
            .take(limit)
            .map(|(key, stored)| (*key, stored.clone()))
            .collect()
    }

    pub(crate) fn sweep(&self, now: Millis, limit: usize) -> usize {
        let mut inner = self.lock();
        inner.writes += 1;
        let expired: Vec<_> =
            inner.by_expiry.iter().take_while(|(expires, _)| *expires <= now).take(limit).copied().collect();
        for (expires, key) in &expired {
            inner.by_expiry.remove(&(*expires, *key));
            inner.records.remove(key);
        }
        expired.len()
    }

    pub(crate) fn watch(&self) -> Watch {
        self.changes.watch()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats { writes: self.lock().writes, ..Stats::default() }
    }
}

impl Inner {
    fn insert(&mut self, key: RecordKey, stored: Stored) {
        self.by_expiry.insert((stored.record.expires, key));
        let expires = stored.record.expires;
        if let Some(old) = self.records.insert(key, stored)
            && old.record.expires != expires
        {
            self.by_expiry.remove(&(old.record.expires, key));
        }
    }
}
