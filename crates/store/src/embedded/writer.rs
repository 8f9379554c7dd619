//! The thread that writes: queue, group commit, touches.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::file::Condition;
use super::tables::Tables;
use super::{Handle, Shared, closed, file, job};
use crate::StoreError;
use crate::record::{Millis, RecordKey};
use crate::watch::{Changed, Changes};

/// Writes that share one commit at most: what the first of them waits for stays short.
const BATCH: usize = 1024;

/// How long touches wait when nothing else is written.
const TOUCHES_WAIT: Duration = Duration::from_secs(5);

/// What the writer is asked to do.
pub(super) enum Command {
    /// One write.
    Write(Job),
    /// Flush the touches, release the file, and stop.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

impl Command {
    /// A write, and where its answer will come. `room` is its place in the queue.
    pub(super) fn write<T: Send + 'static>(
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
        room: OwnedSemaphorePermit,
    ) -> (Command, oneshot::Receiver<Result<T, StoreError>>) {
        let (write, answered) = job::Write::new(work, room);
        (Command::Write(Box::new(write)), answered)
    }
}

/// A write in the tables of this file.
pub(super) type Job = Box<dyn for<'txn> job::Job<Tables<'txn>>>;

type Jobs = Vec<Job>;

/// The thread's own part. Dropped in this order: who learns from the queue that the writer has gone may open
/// the same directory at once.
pub(super) struct Writer {
    shared: Arc<Shared>,
    _lock: file::Lock,
    queue: mpsc::Receiver<Command>,
}

impl Writer {
    /// Locks `dir` and opens the database in it.
    pub(super) fn open(dir: &Path, queue: mpsc::Receiver<Command>) -> Result<Writer, StoreError> {
        let lock = file::lock(dir)?;
        let taken = closed::take(dir).map_err(|error| StoreError::io(dir, &error))?;
        let condition = if taken { Condition::Closed } else { Condition::Unknown };
        let shared = Shared {
            dir: dir.to_owned(),
            path: file::path(dir),
            database: RwLock::new(Handle::Open(file::open(dir, condition)?)),
            touches: Mutex::new(HashMap::new()),
            changes: Changes::new(),
            writes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        };
        Ok(Writer { shared: Arc::new(shared), _lock: lock, queue })
    }

    /// What the callers need.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Writes until it is told to close, until nobody is left who could ask for anything, or until something
    /// panics.
    pub(super) fn run(self) {
        loop {
            let (jobs, end) = self.next();
            let mut result = Ok(());
            if !jobs.is_empty() || !self.shared.touches().is_empty() {
                match self.commit(jobs) {
                    ControlFlow::Continue(committed) => result = committed,
                    ControlFlow::Break(jobs) => {
                        drop(self);
                        drop(jobs);
                        return;
                    }
                }
            }
            if let Some(end) = end {
                self.close();
                drop(self);
                if let End::Close(answer) = end {
                    let _ = answer.send(result);
                }
                return;
            }
        }
    }

    /// Waits for a write or for the time to flush touches, and takes whatever else is queued by then.
    fn next(&self) -> (Jobs, Option<End>) {
        let mut jobs = Vec::new();
        let mut command = match self.queue.recv_timeout(TOUCHES_WAIT) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return (jobs, Some(End::Abandoned)),
        };
        while let Some(next) = command {
            match next {
                Command::Write(job) => jobs.push(job),
                Command::Close(answer) => return (jobs, Some(End::Close(answer))),
            }
            command = if jobs.len() < BATCH { self.queue.try_recv().ok() } else { None };
        }
        (jobs, None)
    }

    /// Applies `jobs` and the touches in one transaction, commits it, announces it, and answers. Breaks
    /// with the unanswered jobs after a panic: whatever state redb or this code is in then, nothing more
    /// should be written.
    fn commit(&self, mut jobs: Jobs) -> ControlFlow<Jobs, Result<(), StoreError>> {
        let touches: Vec<_> = self.shared.touches().iter().map(|(key, at)| (*key, *at)).collect();
        let Ok(result) = catch_unwind(AssertUnwindSafe(|| self.transact(&mut jobs, &touches))) else {
            tracing::error!(path = %self.shared.path.display(), "the writer of the session store panicked and stops");
            // Closing what panicked may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| self.replace(Handle::Closed)));
            return ControlFlow::Break(jobs);
        };
        let result = result.map(|changed| {
            self.shared.forget_touches(&touches);
            self.shared.commits.fetch_add(1, Ordering::Relaxed);
            self.shared.writes.fetch_add(jobs.len() as u64, Ordering::Relaxed);
            for one in changed {
                self.shared.changes.announce(one);
            }
        });
        if let Err(error) = &result {
            tracing::warn!(%error, "a commit of the session store failed");
            // Readers get the error meanwhile: they run on the gateway's cores and must not wait for a disk
            // in trouble.
            self.replace(Handle::Failed(error.clone()));
            self.reopen();
        }
        for job in jobs {
            job.answer(result.clone());
        }
        ControlFlow::Continue(result)
    }

    /// The transaction itself; returns what changed. An error anywhere undoes all of it.
    fn transact(
        &self,
        jobs: &mut [Job],
        touches: &[(RecordKey, Millis)],
    ) -> Result<Vec<Changed>, StoreError> {
        if matches!(*self.shared.handle(), Handle::Failed(_)) {
            self.reopen();
        }
        let handle = self.shared.handle();
        let database = match &*handle {
            Handle::Open(database) => database,
            Handle::Failed(error) => return Err(error.clone()),
            Handle::Closed => return Err(StoreError::Closed),
        };
        let transact = || -> Result<Vec<Changed>, redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(redb::Durability::Immediate)?;
            let mut tables = Tables::open(&transaction)?;
            for job in jobs {
                job.apply(&mut tables)?;
            }
            for (key, at) in touches {
                tables.touch(*key, *at)?;
            }
            let changed = std::mem::take(&mut tables.changed);
            drop(tables);
            transaction.commit()?;
            Ok(changed)
        };
        transact().map_err(|error| StoreError::engine(&self.shared.path, &error))
    }

    /// Opens the file anew: redb refuses everything after one failed write, such as one to a full disk,
    /// until it has read again what is there. The old handle must have been replaced, or its lock would
    /// exclude the new one.
    fn reopen(&self) {
        self.replace(match file::open(&self.shared.dir, Condition::Unknown) {
            Ok(database) => Handle::Open(database),
            Err(error) => {
                tracing::error!(%error, "the session store cannot be opened again");
                Handle::Failed(error)
            }
        });
    }

    /// Closes the file, and leaves word that it is sound where it is.
    fn close(&self) {
        let was_open = matches!(*self.shared.handle(), Handle::Open(_));
        self.replace(Handle::Closed);
        if was_open && let Err(error) = closed::leave(&self.shared.dir) {
            tracing::warn!(%error, "the session store will be checked from end to end at the next start");
        }
    }

    fn replace(&self, with: Handle) {
        let mut handle = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *handle, with);
        drop(handle);
        // Closing a database writes, and readers need not wait for that.
        drop(old);
    }
}

/// Why the writer stops.
enum End {
    /// It was told to, and answers this.
    Close(oneshot::Sender<Result<(), StoreError>>),
    /// All stores are gone.
    Abandoned,
}

#[cfg(test)]
mod tests {
    use super::super::Embedded;
    use super::*;

    #[tokio::test]
    async fn a_writer_that_panics_leaves_a_closed_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).await.unwrap();
        let panics = store.write(|_| -> Result<(), _> { panic!("on purpose") });
        let queued = store.write(|_| Ok(()));
        let (panicked, queued) = tokio::join!(panics, queued);
        assert!(matches!(panicked, Err(StoreError::Closed)));
        assert!(matches!(queued, Err(StoreError::Closed)));
        assert!(matches!(store.write(|_| Ok(())).await, Err(StoreError::Closed)));
        assert!(matches!(store.get(RecordKey([0; 16]), Millis(1)), Err(StoreError::Closed)));
        assert!(matches!(store.touch_many(&[]), Err(StoreError::Closed)));
        assert!(matches!(store.close().await, Err(StoreError::Closed)));
        Embedded::open(dir.path()).await.expect("the file is free and sound");
    }

    #[tokio::test]
    async fn a_failed_commit_fails_its_writes_and_not_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).await.unwrap();
        let full = std::io::ErrorKind::StorageFull;
        let failed = store.write::<()>(move |_| Err(redb::Error::Io(full.into()))).await;
        assert!(matches!(failed, Err(StoreError::Full { .. })));
        store.write(|_| Ok(())).await.expect("the file has been opened anew");
        assert_eq!(store.get(RecordKey([0; 16]), Millis(1)).unwrap(), None);
    }
}
