//! The signal "this record changed".

use tokio::sync::broadcast;

use crate::record::{RecordKey, Version};

/// Signals that a receiver may be behind before it is told [`Changed::All`] instead.
const CAPACITY: usize = 4096;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// This record, which now has this version or a later one.
    One(RecordKey, Version),
    /// Too many to say which, or nobody knows: take every record for changed.
    All,
}

/// A receiver of changes; see [`Store::watch`](crate::Store::watch).
#[derive(Debug)]
pub struct Watch(broadcast::Receiver<Changed>);

impl Watch {
    /// Waits for the next change. Waits for ever once the store is gone, since nothing can change then.
    /// Dropping the future loses no signal.
    pub async fn changed(&mut self) -> Changed {
        match self.0.recv().await {
            Ok(changed) => changed,
            Err(broadcast::error::RecvError::Lagged(_)) => Changed::All,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Where a backend announces changes, in their order.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Sender<Changed>);

impl Changes {
    pub(crate) fn new() -> Changes {
        Changes(broadcast::Sender::new(CAPACITY))
    }

    pub(crate) fn announce(&self, changed: Changed) {
        // An error only means that nobody watches.
        let _ = self.0.send(changed);
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }
}
