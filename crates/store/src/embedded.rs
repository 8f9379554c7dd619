//! Records in one redb file of this node.
//!
//! **Writes** go through a bounded queue to one thread, which takes everything that is queued, applies it in
//! one transaction, commits that durably and only then answers: a lone write commits at once, and those that
//! arrive during a commit share the next one. A thousand writes a second so need no more commits a second
//! than the disk can do.
//!
//! **Reads** of one record run on the caller's thread. redb serves readers from a snapshot and holds no lock
//! over an fsync, so that they wait for neither the writer nor the queue: a few pages out of memory cost less
//! than a hop to another thread and back. A listing reads as much as it is asked to and gets a thread of its
//! own; operators ask for those, requests do not.

mod closed;
pub(crate) mod file;
mod frame;
pub(crate) mod job;
pub(crate) mod salvage;
mod tables;
mod writer;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};

use redb::{Database, ReadableDatabase};
use tokio::sync::{Semaphore, oneshot};

use self::tables::{Tables, View};
use self::writer::{Command, Writer};
use crate::log::embedded::EmbeddedLog;
use crate::record::{Millis, Record, RecordKey, Stored, Version};
use crate::watch::{Changes, Watch};
use crate::{Put, Stats, StoreError};

/// Writes that may be queued or under way; more wait for room.
const QUEUE: usize = 4096;

/// The backend in a file. Clones share it.
#[derive(Clone, Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    events: EmbeddedLog,
}

/// What the callers and the writer have in common.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    path: PathBuf,
    /// Replaced when a write has failed and the file is opened anew, and when it is closed.
    database: RwLock<Handle>,
    /// Touches that are not in the file yet.
    touches: Mutex<HashMap<RecordKey, Millis>>,
    changes: Changes,
    writes: AtomicU64,
    commits: AtomicU64,
}

#[derive(Debug)]
enum Handle {
    Open(Database),
    /// Could not be opened anew; the next write tries again.
    Failed(StoreError),
    Closed,
}

impl Embedded {
    pub(crate) async fn open(dir: &Path) -> Result<Embedded, StoreError> {
        let dir = dir.to_owned();
        let (opened, opening) = oneshot::channel();
        let (commands, queue) = mpsc::channel();
        // The thread that will write opens the file too: checking it takes a while.
        spawn(&dir.clone(), "throughline-store", move || match Writer::open(&dir, queue) {
            Ok(writer) => {
                if opened.send(Ok(writer.shared())).is_ok() {
                    writer.run();
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        })?;
        let shared = opening.await.map_err(|_| StoreError::Closed)??;
        let events = EmbeddedLog::new(&shared.dir);
        Ok(Embedded { shared, commands, room: Arc::new(Semaphore::new(QUEUE)), events })
    }

    pub(crate) fn events(&self) -> &EmbeddedLog {
        &self.events
    }

    pub(crate) fn get(&self, key: RecordKey, now: Millis) -> Result<Option<Stored>, StoreError> {
        // Before the file: the writer forgets a touch only once it can be read there.
        let waiting = self.shared.touches().get(&key).copied().unwrap_or_default();
        let mut stored = self.shared.read(|view| view.get(key, now))?;
        if let Some(stored) = &mut stored {
            stored.touched = stored.touched.max(waiting);
        }
        Ok(stored)
    }

    pub(crate) async fn put_if(
        &self,
        key: RecordKey,
        expected: Option<Version>,
        record: Record,
        now: Millis,
    ) -> Result<Put, StoreError> {
        self.write(move |tables| tables.put_if(key, expected, record, now)).await
    }

    pub(crate) async fn delete(
        &self,
        key: RecordKey,
        tombstone: Record,
        now: Millis,
    ) -> Result<Option<Stored>, StoreError> {
        self.write(move |tables| tables.delete(key, tombstone, now)).await
    }

    pub(crate) fn touch_many(&self, touches: &[(RecordKey, Millis)]) -> Result<(), StoreError> {
        if matches!(*self.shared.handle(), Handle::Closed) {
            return Err(StoreError::Closed);
        }
        let mut waiting = self.shared.touches();
        for (key, at) in touches {
            let latest = waiting.entry(*key).or_default();
            *latest = (*latest).max(*at);
        }
        Ok(())
    }

    pub(crate) async fn list(
        &self,
        after: Option<RecordKey>,
        limit: usize,
        now: Millis,
    ) -> Result<Vec<(RecordKey, Stored)>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (answer, answered) = oneshot::channel();
        let waiting = self.shared.touches().clone();
        spawn(&self.shared.path, "throughline-list", move || {
            let _ = answer.send(shared.read(|view| view.list(after, limit, now)));
        })?;
        let mut listed = answered.await.map_err(|_| StoreError::Closed)??;
        for (key, stored) in &mut listed {
            stored.touched = stored.touched.max(waiting.get(key).copied().unwrap_or_default());
        }
        Ok(listed)
    }

    pub(crate) async fn sweep(&self, now: Millis, limit: usize) -> Result<usize, StoreError> {
        self.write(move |tables| tables.sweep(now, limit)).await
    }

    pub(crate) fn watch(&self) -> Watch {
        self.shared.changes.watch()
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.events.close().await;
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Close(answer)).map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            writes: self.shared.writes.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
            calls: 0,
        }
    }

    /// Has the writer do `work` with others in one transaction, and waits until that is durable.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (command, answered) = Command::write(work, room);
        self.commands.send(command).map_err(|_| StoreError::Closed)?;
        // A writer that stopped drops what is queued, and with it the other end of this.
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Shared {
    fn handle(&self) -> std::sync::RwLockReadGuard<'_, Handle> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn touches(&self) -> MutexGuard<'_, HashMap<RecordKey, Millis>> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets touches that have been written, unless there has been a later one since.
    fn forget_touches(&self, written: &[(RecordKey, Millis)]) {
        let mut waiting = self.touches();
        for (key, at) in written {
            if let Entry::Occupied(entry) = waiting.entry(*key)
                && entry.get() <= at
            {
                entry.remove();
            }
        }
    }

    fn read<T>(&self, work: impl FnOnce(&View) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let handle = self.handle();
        let database = match &*handle {
            Handle::Open(database) => database,
            Handle::Failed(error) => return Err(error.clone()),
            Handle::Closed => return Err(StoreError::Closed),
        };
        file::guarded(&self.path, || work(&View::open(&database.begin_read()?)?))
    }
}

/// Starts a thread of that name; `path` is for the error.
pub(crate) fn spawn(path: &Path, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| StoreError::io(path, &error))
}
