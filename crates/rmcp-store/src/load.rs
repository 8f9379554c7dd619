//! A session is looked up once, however many requests ask for it at a time; while the store is away, from what is
//! remembered, or as soon as it is back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use throughline_store::{Record, RecordKey, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::error::Away;
use crate::memory::Owed;
use crate::naming::Name;
use crate::sessions::Shared;

/// Sessions that may wait at a time for a store that is away; others are told at once.
const WAITING: usize = 1024;
/// Pauses between two questions to a store that is away.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What a session's record is, if there is such a session.
type Answer = Result<Option<Record>, Away>;

/// The look-ups under way: as many as there are requests that wait for them.
pub(crate) struct Loads {
    under_way: Mutex<HashMap<RecordKey, watch::Receiver<Option<Answer>>>>,
    waiting: Semaphore,
}

impl Default for Loads {
    fn default() -> Loads {
        Loads { under_way: Mutex::default(), waiting: Semaphore::new(WAITING) }
    }
}

impl Loads {
    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<RecordKey, watch::Receiver<Option<Answer>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The record of a session that may be used, which this counts as; `Err` if nobody can say now.
    pub(crate) async fn load(self: &Arc<Self>, name: Name) -> Answer {
        let mut answer = self.join(name);
        // The look-up is dropped with its runtime, and its end of this then.
        let answer = answer.wait_for(Option::is_some).await.map_err(|_| Away)?;
        answer.clone().unwrap_or(Err(Away))
    }

    /// The look-up of this session: that under way, or a new one. It belongs to none of those who wait for it.
    fn join(self: &Arc<Self>, name: Name) -> watch::Receiver<Option<Answer>> {
        let mut under_way = self.loads.under_way();
        if let Some(answer) = under_way.get(&name.key) {
            return answer.clone();
        }
        let (send, answer) = watch::channel(None);
        under_way.insert(name.key, answer.clone());
        drop(under_way);
        let ends = Ends { shared: Arc::clone(self), key: name.key };
        tokio::spawn(async move {
            let answer = ends.shared.look_up(name).await;
            drop(ends);
            // Nobody waits any more: then nobody is told.
            let _ = send.send(Some(answer));
        });
        answer
    }

    async fn look_up(self: &Arc<Self>, name: Name) -> Answer {
        let give_up = Instant::now() + self.options.patience;
        let mut pause = PAUSE;
        let mut place = None;
        loop {
            if matches!(self.memory().owed(name.key), Some(Owed::End { .. })) {
                return Ok(None);
            }
            let now = self.now();
            let error = match self.store.get(name.key, now).await {
                Ok(Some(stored)) => {
                    let used = self.memory().copy(name.key).map(|(_, used)| used).unwrap_or_default();
                    if !self.is_good(name, &stored, used, now) {
                        self.memory().forget(name.key);
                        return Ok(None);
                    }
                    self.memory().saw(name.key, stored.record.clone(), now);
                    self.touch(name, now);
                    return Ok(Some(stored.record));
                }
                Ok(None) => {
                    // Had it been ended, there would be a tombstone: the store was not told yet, or has lost it.
                    let record = self.remembered(name);
                    if record.is_some() {
                        self.put_back(name);
                    }
                    return Ok(record);
                }
                Err(error) => error,
            };
            self.is_away(&error);
            // That it has been ended elsewhere since cannot be known now.
            if let Some(record) = self.remembered(name) {
                return Ok(Some(record));
            }
            if self.memory().copy(name.key).is_some_and(|(record, _)| record.expires <= now) {
                return Ok(None);
            }
            if place.is_none() {
                place = self.loads.waiting.try_acquire().ok();
            }
            if place.is_none() || matches!(error, StoreError::Closed) || Instant::now() >= give_up {
                return Err(Away);
            }
            tokio::time::sleep(pause.min(give_up - Instant::now())).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// A session as this process last saw it, if it may still be used.
    fn remembered(&self, name: Name) -> Option<Record> {
        let now = self.now();
        let mut memory = self.memory();
        let (record, used) = memory.copy(name.key)?;
        if record.expires <= now || self.options.is_idle(used, now) || record.principal != name.rest {
            return None;
        }
        memory.saw(name.key, record.clone(), now);
        Some(record)
    }
}

/// Takes a look-up off the list, whatever its end.
struct Ends {
    shared: Arc<Shared>,
    key: RecordKey,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.loads.under_way().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use throughline_store::Store;

    use super::*;
    use crate::naming::Naming;
    use crate::options::Options;
    use crate::sessions::Sessions;

    #[tokio::test]
    async fn those_who_ask_at_a_time_share_a_look_up() {
        let shared = Sessions::new(Store::memory()).shared;
        let name = |id| Naming::new("mcp").name(id);
        let mut asking: Vec<_> = (0..100).map(|_| Box::pin(shared.load(name("one")))).collect();
        let mut other = pin!(shared.load(name("other")));
        poll_fn(|context| {
            assert!(asking.iter_mut().all(|asks| asks.as_mut().poll(context).is_pending()));
            assert!(other.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(shared.loads.under_way().len(), 2);
        for asks in asking {
            assert_eq!(asks.await, Ok(None));
        }
        assert_eq!(other.await, Ok(None));
        assert!(shared.loads.under_way().is_empty());
    }

    #[tokio::test]
    async fn only_so_many_wait_for_a_store_that_is_away() {
        let options = Options::default().with_patience(Duration::from_secs(600));
        // Nobody listens there.
        let shared = Sessions::open_with("redis://127.0.0.1:1", options).await.unwrap().shared;
        let all = shared.loads.waiting.acquire_many(WAITING as u32).await.unwrap();
        assert_eq!(shared.load(Naming::new("mcp").name("one")).await, Err(Away));
        drop(all);
        let asks = shared.load(Naming::new("mcp").name("other"));
        let waited = tokio::time::timeout(Duration::from_millis(500), asks).await;
        assert!(waited.is_err(), "there is room to wait: {waited:?}");
    }
}
