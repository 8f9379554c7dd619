//! Reading on in a stream, and waiting for more.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{EventLog, Excerpt, News, StreamKey};
use crate::StoreError;
use crate::record::Millis;
use crate::redis::events::LOOK;

/// Signals that a tail may be behind; then it looks.
const CAPACITY: usize = 1024;

/// Reads a stream from some number on; see [`EventLog::tail`].
#[derive(Debug)]
pub struct Tail {
    log: EventLog,
    news: broadcast::Receiver<News>,
    key: StreamKey,
    after: u64,
}

impl Tail {
    pub(super) fn new(log: EventLog, news: broadcast::Receiver<News>, key: StreamKey, after: u64) -> Tail {
        Tail { log, news, key, after }
    }

    /// The next events, as [`EventLog::read`] gives them; waits until there are some. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// As [`EventLog::read`].
    pub async fn next(&mut self, limit: usize, now: fn() -> Millis) -> Result<Excerpt, StoreError> {
        if let EventLog::Redis(log) = &self.log {
            log.wait_for(self.key, self.after).await?;
        }
        loop {
            let page = self.log.read(self.key, self.after, limit, now()).await?;
            if let Some(event) = page.events.last() {
                self.after = event.number;
                return Ok(page);
            }
            match &self.log {
                EventLog::Redis(log) => {
                    // Before the look, so that news of what comes behind it are sent. They may be lost on their way.
                    let _ = tokio::time::timeout(LOOK, Self::changed(&mut self.news, self.key)).await;
                    log.wait_for(self.key, self.after).await?;
                }
                EventLog::Memory(_) | EventLog::Embedded(_) => Self::changed(&mut self.news, self.key).await,
            }
        }
    }

    /// Waits until something may have been appended. The receiver is older than the last look, so nothing is missed.
    async fn changed(news: &mut broadcast::Receiver<News>, key: StreamKey) {
        loop {
            match news.recv().await {
                Ok(news) if news.key == key => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Where a backend tells of appends.
pub(crate) fn sender() -> broadcast::Sender<News> {
    broadcast::Sender::new(CAPACITY)
}
