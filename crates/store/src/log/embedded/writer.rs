//! The thread that writes: queue and group commit.

use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};

use redb::Database;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Shared;
use super::tables::Tables;
use crate::StoreError;
use crate::embedded::file::{guarded, private};
use crate::embedded::job;

/// Writes that share one commit at most.
const BATCH: usize = 256;
/// Bytes of pages that redb keeps in memory: most of what is read was just written.
const CACHE: usize = 8 << 20;

/// What the writer is asked to do.
pub(super) enum Command {
    /// One write.
    Write(Job),
    /// Release the file, and stop.
    Close(oneshot::Sender<()>),
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

/// The thread's own part.
pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
}

impl Writer {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path, queue: mpsc::Receiver<Command>) -> Result<Writer, StoreError> {
        let (database, bytes) = open(path)?;
        let shared = Shared {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            bytes: AtomicU64::new(bytes),
        };
        Ok(Writer { shared: Arc::new(shared), queue })
    }

    /// What the callers need.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Writes until it is told to close, or until nobody is left who could ask for anything.
    pub(super) fn run(self) {
        while let Ok(first) = self.queue.recv() {
            let mut jobs = Vec::new();
            let mut command = Some(first);
            let mut close = None;
            while let Some(next) = command {
                match next {
                    Command::Write(job) => jobs.push(job),
                    Command::Close(answer) => {
                        close = Some(answer);
                        break;
                    }
                }
                command = if jobs.len() < BATCH { self.queue.try_recv().ok() } else { None };
            }
            if !jobs.is_empty() && self.commit(jobs).is_break() {
                return;
            }
            if let Some(answer) = close {
                self.shared.replace(None);
                let _ = answer.send(());
                return;
            }
        }
        self.shared.replace(None);
    }

    /// Applies `jobs` in one transaction, commits it, and answers. Breaks after a panic, with the file closed.
    fn commit(&self, mut jobs: Vec<Job>) -> ControlFlow<()> {
        let Ok(result) = catch_unwind(AssertUnwindSafe(|| self.transact(&mut jobs))) else {
            tracing::error!(path = %self.shared.path.display(), "the writer of the event log panicked and stops");
            let _ = catch_unwind(AssertUnwindSafe(|| self.shared.replace(None)));
            return ControlFlow::Break(());
        };
        if let Err(error) = &result {
            tracing::warn!(%error, "a commit of the event log failed");
            // redb refuses everything after a failed write until it has read again what is there.
            self.shared.replace(None);
            self.reopen();
        }
        for job in jobs {
            job.answer(result.clone());
        }
        ControlFlow::Continue(())
    }

    fn transact(&self, jobs: &mut [Job]) -> Result<(), StoreError> {
        let is_open = self.shared.database.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if !is_open {
            self.reopen();
        }
        let database = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::Closed)?;
        let transact = || -> Result<u64, redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(redb::Durability::Immediate)?;
            let mut tables = Tables::open(&transaction, self.shared.bytes.load(Ordering::Relaxed))?;
            for job in jobs {
                job.apply(&mut tables)?;
            }
            let bytes = tables.bytes;
            drop(tables);
            transaction.commit()?;
            Ok(bytes)
        };
        let bytes = transact().map_err(|error| StoreError::engine(&self.shared.path, &error))?;
        self.shared.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn reopen(&self) {
        match open(&self.shared.path) {
            Ok((database, bytes)) => {
                self.shared.bytes.store(bytes, Ordering::Relaxed);
                self.shared.replace(Some(database));
            }
            Err(error) => tracing::error!(%error, "the event log cannot be opened again"),
        }
    }
}

/// Opens the file and counts what is in it; makes an empty one where there is none, or one that cannot be read.
fn open(path: &Path) -> Result<(Database, u64), StoreError> {
    match try_open(path) {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::warn!(%error, "the event log cannot be read and begins anew");
            fs::remove_file(path).map_err(|error| StoreError::io(path, &error))?;
            try_open(path)
        }
        opened => opened,
    }
}

fn try_open(path: &Path) -> Result<(Database, u64), StoreError> {
    guarded(path, || {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create_file(private(path)?)?;
        let transaction = database.begin_write()?;
        Tables::forget_others(&transaction)?;
        let tables = Tables::open(&transaction, 0)?;
        let bytes = tables.count()?;
        drop(tables);
        transaction.commit()?;
        Ok((database, bytes))
    })
}
