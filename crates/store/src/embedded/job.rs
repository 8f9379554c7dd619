//! A write that waits for its commit: the same for the file of records and that of events.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::StoreError;

/// One, whatever it writes and returns; `Tables` are those of its file, in a transaction.
pub(crate) trait Job<Tables>: Send {
    /// Does the work in the transaction, and keeps its result.
    fn apply(&mut self, tables: &mut Tables) -> Result<(), redb::Error>;
    /// Answers with that result, or with why the transaction failed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// The work, and where its answer goes.
pub(crate) struct Write<T, F> {
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl<T, F> Write<T, F> {
    /// A write, and where its answer will come. `room` is its place in the queue.
    pub(crate) fn new(
        work: F,
        room: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (answer, answered) = oneshot::channel();
        (Write { work: Some(work), result: None, answer, _room: room }, answered)
    }
}

impl<Tables, T, F> Job<Tables> for Write<T, F>
where
    T: Send,
    F: FnOnce(&mut Tables) -> Result<T, redb::Error> + Send,
{
    fn apply(&mut self, tables: &mut Tables) -> Result<(), redb::Error> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(tables)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Write { result, answer, .. } = *self;
        // An error only means that the caller has gone.
        let _ = answer.send(committed.and_then(|()| result.ok_or(StoreError::Closed)));
    }
}
