//! The log in this process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{Appended, Event, Excerpt, Head, Keep, News, StreamKey, length, tail};
use crate::record::{Millis, RecordKey};

/// The backend in memory. Clones share the streams.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    // No section under it waits for anything; the longest copies a page of pointers.
    inner: Arc<Mutex<Inner>>,
    news: broadcast::Sender<News>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: BTreeMap<StreamKey, Stream>,
    by_end: BTreeSet<(Millis, StreamKey)>,
    bytes: u64,
}

#[derive(Debug)]
struct Stream {
    head: Head,
    events: VecDeque<Bytes>,
}

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog { inner: Arc::default(), news: tail::sender() }
    }
}

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn append(
        &self,
        key: StreamKey,
        after: u64,
        payloads: &[Bytes],
        keep: Keep,
        now: Millis,
    ) -> Appended {
        let appended = self.lock().append(key, after, payloads, keep, now);
        if matches!(appended, Appended::Stored(_)) && !payloads.is_empty() {
            // An error only means that nobody waits.
            let _ = self.news.send(News { key });
        }
        appended
    }

    pub(super) fn read(&self, key: StreamKey, after: u64, limit: usize, now: Millis) -> Excerpt {
        let inner = self.lock();
        let Some(stream) = inner.streams.get(&key).filter(|stream| stream.head.lives(now)) else {
            return Excerpt::default();
        };
        let Head { first, last, until, .. } = stream.head;
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut left = limit;
        let mut events = Vec::new();
        for (number, payload) in (first..).zip(&stream.events).skip(skip) {
            if !events.is_empty() && payload.len() > left {
                break;
            }
            left = left.saturating_sub(payload.len());
            events.push(Event { number, payload: payload.clone() });
        }
        Excerpt { events, last, until: Some(until) }
    }

    pub(super) fn remove(&self, session: RecordKey) {
        let mut inner = self.lock();
        let all = StreamKey { session, stream: [0; 8] }..=StreamKey { session, stream: [0xff; 8] };
        let keys: Vec<_> = inner.streams.range(all).map(|(key, _)| *key).collect();
        for key in keys {
            inner.remove(key);
        }
    }

    pub(super) fn sweep(&self, now: Millis, limit: usize) -> usize {
        let mut inner = self.lock();
        let over: Vec<_> =
            inner.by_end.iter().take_while(|(until, _)| *until <= now).take(limit).copied().collect();
        for (_, key) in &over {
            inner.remove(*key);
        }
        over.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }
}

impl Inner {
    fn append(
        &mut self,
        key: StreamKey,
        after: u64,
        payloads: &[Bytes],
        keep: Keep,
        now: Millis,
    ) -> Appended {
        let last = self.streams.get(&key).filter(|stream| stream.head.lives(now)).map(|it| it.head.last);
        match last {
            Some(last) if last != after => return Appended::Conflict(last),
            Some(_) => {}
            None => self.remove(key),
        }
        if self.bytes + length(payloads) > keep.total && !payloads.is_empty() {
            return Appended::Full;
        }
        let stream = self
            .streams
            .entry(key)
            .or_insert_with(|| Stream { head: Head::behind(after), events: VecDeque::new() });
        self.by_end.remove(&(stream.head.until, key));
        self.bytes -= stream.head.bytes;
        stream.head.until = keep.until;
        for payload in payloads {
            stream.head.push(payload.len());
            stream.events.push_back(payload.clone());
        }
        while stream.head.overflows(&keep)
            && let Some(oldest) = stream.events.pop_front()
        {
            stream.head.shift(oldest.len());
        }
        self.bytes += stream.head.bytes;
        self.by_end.insert((keep.until, key));
        Appended::Stored(stream.head.last)
    }

    fn remove(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.remove(&key) {
            self.by_end.remove(&(stream.head.until, key));
            self.bytes -= stream.head.bytes;
        }
    }
}
