//! The sessions that are in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use throughline_store::{RecordKey, Version};

use super::record::Reading;
use super::{Session, lock};
use crate::initialize::InitializeParams;

/// Live sessions of this process, and the `initialize` parameters of those that have not begun yet.
pub struct Table {
    shards: [Mutex<HashMap<RecordKey, Arc<Session>>>; SHARDS],
    pending: Mutex<Pending>,
    len: AtomicUsize,
    /// How many changes of records have been heard of.
    heard: AtomicU64,
}

/// Two cores rarely meet in one of them.
const SHARDS: usize = 64;
/// Parameters kept of clients that have not made a request yet; the oldest goes first. A client whose
/// parameters are gone is rebuilt from its id.
const MAX_PENDING: usize = 10_000;
/// How many sessions are looked at to find one that can make room.
const ROOM_SAMPLE: usize = 32;

#[derive(Default)]
struct Pending {
    params: HashMap<RecordKey, Arc<InitializeParams>>,
    order: VecDeque<RecordKey>,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            shards: std::array::from_fn(|_| Mutex::default()),
            pending: Mutex::default(),
            len: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
        }
    }
}

impl Table {
    fn shard(&self, key: &RecordKey) -> MutexGuard<'_, HashMap<RecordKey, Arc<Session>>> {
        lock(&self.shards[usize::from(key.0[0]) % SHARDS])
    }

    /// The live session of this key.
    pub fn get(&self, key: &RecordKey) -> Option<Arc<Session>> {
        self.shard(key).get(key).cloned()
    }

    /// The live session that a signal is about, if it is news to it.
    pub fn hear(&self, key: &RecordKey, version: Version) -> Option<Arc<Session>> {
        // First the count: a session that is just being entered is either found here or sees that it moved.
        self.heard.fetch_add(1, Ordering::SeqCst);
        self.get(key).filter(|session| session.hear(version))
    }

    /// How many changes of records have been heard of.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }

    /// How many are live.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether none is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the parameters of a client that has initialised and not made a request yet.
    pub fn remember(&self, key: RecordKey, params: Arc<InitializeParams>) {
        let mut pending = lock(&self.pending);
        if pending.params.insert(key, params).is_none() {
            pending.order.push_back(key);
        }
        while pending.params.len() > MAX_PENDING || pending.order.len() > 2 * MAX_PENDING {
            let Some(oldest) = pending.order.pop_front() else { break };
            pending.params.remove(&oldest);
        }
    }

    /// The live session of this key, begun now from remembered parameters if there are any.
    pub(super) fn adopt(
        &self,
        key: RecordKey,
        reading: &Reading<'_>,
        fresh: impl FnOnce(&InitializeParams) -> Session,
    ) -> Option<Arc<Session>> {
        // Taken and entered under the shard's lock, so that of two first requests neither sees neither.
        let mut shard = self.shard(&key);
        if let Some(session) = shard.get(&key) {
            return Some(Arc::clone(session));
        }
        let params = lock(&self.pending).params.remove(&key)?;
        let session = Arc::new(fresh(&params));
        shard.insert(key, Arc::clone(&session));
        self.len.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        reading.entered(&session);
        Some(session)
    }

    /// Enters a session, unless another request was faster: then that one's is returned.
    pub(super) fn insert(&self, session: Session, reading: &Reading<'_>) -> Arc<Session> {
        let mut shard = self.shard(&session.key);
        if let Some(faster) = shard.get(&session.key) {
            return Arc::clone(faster);
        }
        let session = Arc::new(session);
        shard.insert(session.key, Arc::clone(&session));
        self.len.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        reading.entered(&session);
        session
    }

    /// Takes a session that nobody uses out of memory. Its record stays.
    pub fn remove(&self, session: &Arc<Session>) {
        let mut shard = self.shard(&session.key);
        if session.is_quiet() && shard.get(&session.key).is_some_and(|found| Arc::ptr_eq(found, session)) {
            shard.remove(&session.key);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Shows each live session. Its shard is locked meanwhile.
    pub fn for_each(&self, mut see: impl FnMut(&Arc<Session>)) {
        for shard in &self.shards {
            lock(shard).values().for_each(&mut see);
        }
    }

    /// At most `limit` of the live sessions that meet a condition.
    pub fn select(&self, limit: usize, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            found.extend(shard.values().filter(|session| wanted(session)).take(limit - found.len()).cloned());
        }
        found
    }

    /// The idlest of a sample of sessions that nobody uses, beginning at some shard.
    pub(super) fn idle_one(&self, start: usize) -> Option<Arc<Session>> {
        let mut sample: Vec<Arc<Session>> = Vec::new();
        for offset in 0..SHARDS {
            let shard = lock(&self.shards[(start + offset) % SHARDS]);
            sample.extend(shard.values().filter(|session| session.is_quiet()).take(ROOM_SAMPLE).cloned());
            if sample.len() >= ROOM_SAMPLE {
                break;
            }
        }
        sample.into_iter().min_by_key(|session| session.used())
    }
}
