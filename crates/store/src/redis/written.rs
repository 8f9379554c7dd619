//! What of the event log this process has written. How much the log may hold in all cannot be counted over the nodes of a
//! cluster in one step, so each gateway keeps to its own share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::log::StreamKey;
use crate::record::{Millis, RecordKey};

/// Streams, by what they hold and until when.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    streams: BTreeMap<StreamKey, (u64, Millis)>,
    by_end: BTreeSet<(Millis, StreamKey)>,
    bytes: u64,
}

impl Inner {
    fn remove(&mut self, key: StreamKey) {
        if let Some((bytes, until)) = self.streams.remove(&key) {
            self.by_end.remove(&(until, key));
            self.bytes -= bytes;
        }
    }
}

impl Written {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much more would be no more than `total`.
    pub(super) fn has_room(&self, length: u64, total: u64, now: Millis) -> bool {
        let mut inner = self.lock();
        while let Some(&(_, key)) = inner.by_end.first().filter(|(until, _)| *until <= now) {
            inner.remove(key);
        }
        inner.bytes + length <= total
    }

    /// Takes note of what a stream holds now.
    pub(super) fn note(&self, key: StreamKey, bytes: u64, until: Millis) {
        let mut inner = self.lock();
        inner.remove(key);
        if bytes > 0 {
            inner.streams.insert(key, (bytes, until));
            inner.by_end.insert((until, key));
            inner.bytes += bytes;
        }
    }

    /// The streams of a session are gone.
    pub(super) fn forget(&self, session: RecordKey) {
        let mut inner = self.lock();
        let all = StreamKey { session, stream: [0; 8] }..=StreamKey { session, stream: [0xff; 8] };
        let keys: Vec<_> = inner.streams.range(all).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| inner.remove(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lapses_makes_room() {
        let written = Written::default();
        let stream = |n| StreamKey { session: RecordKey([n; 16]), stream: [n; 8] };
        written.note(stream(1), 6, Millis(10));
        written.note(stream(2), 3, Millis(20));
        assert!(written.has_room(1, 10, Millis(9)) && !written.has_room(2, 10, Millis(9)));
        assert!(written.has_room(7, 10, Millis(10)) && !written.has_room(8, 10, Millis(10)));
        written.note(stream(2), 5, Millis(30));
        assert!(!written.has_room(6, 10, Millis(20)));
        written.forget(RecordKey([2; 16]));
        assert!(written.has_room(10, 10, Millis(20)));
    }
}
