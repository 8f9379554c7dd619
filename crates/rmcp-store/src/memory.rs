//! What this process knows by itself: which sessions are in use here, how they last stood in the store, and what
//! the store has still to be told.

use std::collections::HashMap;
use std::time::Duration;

use throughline_store::{Millis, Record, RecordKey};

use crate::options::later;

/// Copies in one half of [`Copies`].
const COPIES: usize = 4096;
/// Sessions of which the store may have to be told something, while it is away.
const OWED: usize = 10_000;

/// All of it, behind one lock.
#[derive(Default)]
pub(crate) struct Memory {
    /// The sessions that rmcp has in memory and that were used: as many as it has, and for a minute perhaps a few
    /// that ended just as they were used.
    live: HashMap<RecordKey, Live>,
    copies: Copies,
    /// Uses that the store is told of in one go.
    pub(crate) touches: HashMap<RecordKey, Millis>,
    owed: HashMap<RecordKey, (Ticket, Owed)>,
    tickets: u64,
    /// Whether a task is telling the store.
    pub(crate) settling: bool,
    /// When expired records were last removed.
    pub(crate) swept: Millis,
}

/// A session that rmcp has in memory.
struct Live {
    used: Millis,
    looked: Millis,
    /// When it ends, used or not; nothing is known of a session that was too large to be kept.
    expires: Option<Millis>,
}

/// What a request in a session that rmcp has in memory calls for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing.
    Known,
    /// A look at its record, which has not been looked at for a while. `last` is when it was used here before.
    Look { last: Millis },
    /// It has reached its absolute expiry.
    Expired,
}

/// Tells what is owed from what was owed for the same session before.
pub(crate) type Ticket = u64;

/// What the store has to be told once it can be.
#[derive(Clone, Debug)]
pub(crate) enum Owed {
    /// A session that began, or that the store has lost.
    Record(Record),
    /// A session that ended; nobody needs to be told any more once it would have expired.
    End { until: Millis },
}

/// More is owed already than may be.
#[derive(Debug)]
pub(crate) struct Full;

impl Memory {
    /// Notes a session as it stands, because it began or was asked for.
    pub(crate) fn saw(&mut self, key: RecordKey, record: Record, now: Millis) {
        self.copies.insert(key, Copy { record, used: now });
    }

    /// Notes a request in a session that rmcp has in memory.
    pub(crate) fn used(&mut self, key: RecordKey, now: Millis, look_every: Duration) -> Use {
        let Memory { live, copies, .. } = self;
        let live = live.entry(key).or_insert_with(|| match copies.get(key) {
            Some(Copy { record, used }) => Live { used: *used, looked: *used, expires: Some(record.expires) },
            None => Live { used: now, looked: now, expires: None },
        });
        if live.expires.is_some_and(|expires| expires <= now) {
            return Use::Expired;
        }
        let last = std::mem::replace(&mut live.used, now);
        if later(live.looked, look_every) > now {
            return Use::Known;
        }
        // For those that come meanwhile: one look is enough.
        live.looked = now;
        Use::Look { last }
    }

    /// Has the next request look at the record again.
    pub(crate) fn look_again(&mut self, key: RecordKey) {
        if let Some(live) = self.live.get_mut(&key) {
            live.looked = Millis(0);
        }
    }

    /// The session has left rmcp's memory.
    pub(crate) fn released(&mut self, key: RecordKey) {
        if let Some(live) = self.live.remove(&key)
            && let Some(copy) = self.copies.get(key)
        {
            copy.used = copy.used.max(live.used);
        }
    }

    /// The record as it was last seen, and when the session was last used here.
    pub(crate) fn copy(&mut self, key: RecordKey) -> Option<(Record, Millis)> {
        let used = self.live.get(&key).map_or(Millis(0), |live| live.used);
        self.copies.get(key).map(|copy| (copy.record.clone(), copy.used.max(used)))
    }

    /// Forgets what rmcp has forgotten too: nothing in memory is unused for so long.
    pub(crate) fn tidy(&mut self, is_idle: impl Fn(Millis) -> bool) {
        self.live.retain(|_, live| !is_idle(live.used));
    }

    /// Forgets a session that has ended, and says whether its record was still owed.
    pub(crate) fn forget(&mut self, key: RecordKey) -> bool {
        self.live.remove(&key);
        self.copies.remove(key);
        self.touches.remove(&key);
        matches!(self.owed.remove(&key), Some((_, Owed::Record(_))))
    }

    /// Notes what the store has to be told.
    pub(crate) fn owe(&mut self, key: RecordKey, owed: Owed) -> Result<(), Full> {
        if self.owed.len() >= OWED && !self.owed.contains_key(&key) {
            return Err(Full);
        }
        self.tickets += 1;
        self.owed.insert(key, (self.tickets, owed));
        Ok(())
    }

    /// What the store has to be told of this session.
    pub(crate) fn owed(&self, key: RecordKey) -> Option<&Owed> {
        self.owed.get(&key).map(|(_, owed)| owed)
    }

    /// Some of what the store has to be told.
    pub(crate) fn some_owed(&self, count: usize) -> Vec<(RecordKey, Ticket, Owed)> {
        self.owed.iter().take(count).map(|(key, (ticket, owed))| (*key, *ticket, owed.clone())).collect()
    }

    /// The store has been told.
    pub(crate) fn told(&mut self, key: RecordKey, ticket: Ticket) {
        if self.owed.get(&key).is_some_and(|(latest, _)| *latest == ticket) {
            self.owed.remove(&key);
        }
    }

    /// Whether the store knows everything.
    pub(crate) fn is_settled(&self) -> bool {
        self.touches.is_empty() && self.owed.is_empty()
    }

    /// Nothing will ever be told to this store again.
    pub(crate) fn give_up(&mut self) {
        self.touches.clear();
        self.owed.clear();
    }
}

/// The sessions seen last, for when the store is away. Two halves: when the newer is full, the older is dropped.
#[derive(Default)]
struct Copies {
    newer: HashMap<RecordKey, Copy>,
    older: HashMap<RecordKey, Copy>,
}

struct Copy {
    record: Record,
    used: Millis,
}

impl Copies {
    fn insert(&mut self, key: RecordKey, copy: Copy) {
        self.older.remove(&key);
        if self.newer.len() >= COPIES && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, copy);
    }

    fn get(&mut self, key: RecordKey) -> Option<&mut Copy> {
        if let Some(copy) = self.older.remove(&key) {
            self.insert(key, copy);
        }
        self.newer.get_mut(&key)
    }

    fn remove(&mut self, key: RecordKey) {
        self.newer.remove(&key);
        self.older.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use throughline_store::{Kind, State};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn record(expires: u64) -> Record {
        Record {
            kind: Kind::Issued,
            route: [0; 8],
            principal: [0; 16],
            created: Millis(0),
            expires: Millis(expires),
            state: State::Open { binding: None, generation: 0, lease: None },
            initialize: "{}".into(),
            initialized: true,
            restore: Vec::new(),
        }
    }

    fn key(n: u64) -> RecordKey {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_be_bytes());
        RecordKey(key)
    }

    #[test]
    fn a_record_is_looked_at_once_a_minute() {
        let mut memory = Memory::default();
        memory.saw(key(1), record(1_000_000), Millis(0));
        assert_eq!(memory.used(key(1), Millis(0), MINUTE), Use::Known);
        assert_eq!(memory.used(key(1), Millis(59_999), MINUTE), Use::Known);
        assert_eq!(memory.used(key(1), Millis(60_000), MINUTE), Use::Look { last: Millis(59_999) });
        assert_eq!(memory.used(key(1), Millis(60_001), MINUTE), Use::Known);
        memory.look_again(key(1));
        assert_eq!(memory.used(key(1), Millis(60_002), MINUTE), Use::Look { last: Millis(60_001) });
        assert_eq!(memory.used(key(1), Millis(1_000_000), MINUTE), Use::Expired);
    }

    #[test]
    fn copies_are_bounded_and_the_latest_stay() {
        let mut memory = Memory::default();
        for n in 0..10 * COPIES as u64 {
            memory.saw(key(n), record(n), Millis(n));
            memory.used(key(n), Millis(0), MINUTE);
            memory.released(key(n));
            assert!(memory.copy(key(0)).is_some(), "0 is asked for each time, so it stays");
        }
        let copies = &memory.copies;
        assert!(copies.newer.len() <= COPIES && copies.older.len() <= COPIES);
        assert!(memory.live.is_empty());
        let (latest, used) = memory.copy(key(10 * COPIES as u64 - 1)).unwrap();
        assert_eq!(latest.expires, used);
        assert!(memory.copy(key(1)).is_none());
    }

    #[test]
    fn what_is_owed_is_bounded_and_the_last_word_counts() {
        let mut memory = Memory::default();
        for n in 0..OWED as u64 {
            memory.owe(key(n), Owed::Record(record(n))).unwrap();
        }
        assert!(memory.owe(key(OWED as u64), Owed::Record(record(1))).is_err());
        let (first, ticket, _) = memory.some_owed(1).pop().unwrap();
        memory.owe(first, Owed::End { until: Millis(5) }).unwrap();
        memory.told(first, ticket);
        assert!(matches!(memory.owed(first), Some(Owed::End { .. })), "the earlier word was told");
        assert!(!memory.forget(first));
        assert!(memory.forget(key(if first == key(1) { 2 } else { 1 })));
    }
}
