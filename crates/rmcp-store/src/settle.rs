//! What the store is told behind the requests: uses, in one go, and what it could not be told while it was away. One
//! task, while there is something to tell.

use std::sync::{Arc, Weak};
use std::time::Duration;

use throughline_store::StoreError;

use crate::memory::Owed;
use crate::naming::Name;
use crate::sessions::Shared;

/// Uses of so long are told in one go.
const BATCH: Duration = Duration::from_secs(1);
/// The longest pause before a store that is away is told again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Sessions that the store is told of in one turn.
const TURN: usize = 256;
/// Expired records are removed at most so often, and so many in one turn.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const SWEEP_BATCH: usize = 1000;

/// Has the store told soon.
pub(crate) fn soon(shared: &Arc<Shared>) {
    if std::mem::replace(&mut shared.memory().settling, true) {
        return;
    }
    let mut settling = Settling(Some(Arc::downgrade(shared)));
    tokio::spawn(async move {
        let mut pause = BATCH;
        loop {
            tokio::time::sleep(pause).await;
            // Gone with the last of the sessions' clones.
            let Some(shared) = settling.shared() else { return };
            pause = match once(&shared).await {
                Ok(()) => BATCH,
                Err(StoreError::Closed) => {
                    shared.memory().give_up();
                    return;
                }
                Err(_) => LONGEST_PAUSE.min(pause * 2),
            };
            let mut memory = shared.memory();
            if memory.is_settled() {
                // Under the same lock, so that what comes behind it starts a task of its own.
                memory.settling = false;
                settling.end();
                return;
            }
        }
    });
}

/// Says that no task is settling any more, should it be dropped with its runtime.
struct Settling(Option<Weak<Shared>>);

impl Settling {
    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.as_ref()?.upgrade()
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let Some(shared) = self.shared() {
            shared.memory().settling = false;
        }
    }
}

/// Tells the store what it is to be told now.
pub(crate) async fn once(shared: &Shared) -> Result<(), StoreError> {
    let told = tell(shared).await;
    match &told {
        Ok(()) => shared.is_back(),
        Err(error) => shared.is_away(error),
    }
    told
}

async fn tell(shared: &Shared) -> Result<(), StoreError> {
    let (touches, owed) = {
        let mut memory = shared.memory();
        (std::mem::take(&mut memory.touches), memory.some_owed(TURN))
    };
    let touches: Vec<_> = touches.into_iter().collect();
    if let Err(error) = shared.store.touch_many(&touches).await {
        let mut memory = shared.memory();
        touches.iter().for_each(|(key, _)| memory.look_again(*key));
        return Err(error);
    }
    let now = shared.now();
    for (key, ticket, owed) in owed {
        match owed {
            Owed::Record(record) => {
                // One that was ended elsewhere meanwhile stays ended.
                let name = Name { key, rest: record.principal };
                shared.write(name, &record, now).await?;
            }
            Owed::End { until } if until > now => {
                // What never was needs no tombstone; what is keeps its own principal.
                if shared.store.get(key, now).await?.is_some() {
                    shared.end(Name { key, rest: [0; 16] }, until, now).await?;
                }
            }
            Owed::End { .. } => {}
        }
        shared.memory().told(key, ticket);
    }
    let due = crate::options::later(shared.memory().swept, SWEEP_EVERY) <= now;
    if due {
        shared.store.sweep(now, SWEEP_BATCH).await?;
        let mut memory = shared.memory();
        memory.swept = now;
        memory.tidy(|used| shared.options.is_idle(used, now));
    }
    Ok(())
}
