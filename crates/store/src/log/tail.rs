//! Reading on in a stream, and waiting for more.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{EventLog, News, Page, StreamKey};
use crate::StoreError;
use crate::record::Millis;

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
    pub async fn next(&mut self, limit: usize, now: fn() -> Millis) -> Result<Page, StoreError> {
        loop {
            let page = self.log.read(self.key, self.after, limit, now()).await?;
            if let Some(event) = page.events.last() {
                self.after = event.number;
                return Ok(page);
            }
            self.changed().await;
        }
    }

    /// Waits until something may have been appended. The receiver is older than the last look, so nothing is missed.
    async fn changed(&mut self) {
        loop {
            match self.news.recv().await {
                Ok(news) if news.key == self.key => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Where a backend tells of appends.
pub(super) fn sender() -> broadcast::Sender<News> {
    broadcast::Sender::new(CAPACITY)
}
