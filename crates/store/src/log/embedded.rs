//! The log in a redb file of this node, `events.redb`, apart from the records: it is written to more often, and nobody
//! needs it for long.
//!
//! One thread writes, as for the records: it takes what is queued, commits that durably and then answers. The file is
//! opened, or made, when it is first needed. One that cannot be read is replaced by an empty one: clients then cannot
//! come back for what was in it.

mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};

use bytes::Bytes;
use redb::{Database, ReadableDatabase};
use tokio::sync::{OnceCell, Semaphore, broadcast, oneshot};

use self::tables::{Tables, View};
use self::writer::{Command, Writer};
use super::{Appended, Excerpt, Keep, News, StreamKey, tail};
use crate::StoreError;
use crate::embedded::file::guarded;
use crate::embedded::spawn;
use crate::record::{Millis, RecordKey};

/// Writes that may be queued or under way; more wait for room.
const QUEUE: usize = 1024;

/// The backend in a file. Clones share it.
#[derive(Clone, Debug)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    open: OnceCell<Open>,
    closed: AtomicBool,
    news: broadcast::Sender<News>,
}

/// The log once it has been used.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
}

/// What the callers and the writer have in common.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// None while a write has failed and the file has not been opened anew, and when it is closed.
    database: RwLock<Option<Database>>,
    bytes: AtomicU64,
}

impl EmbeddedLog {
    /// The log of a store in `dir`, whose lock the caller holds.
    pub(crate) fn new(dir: &Path) -> EmbeddedLog {
        EmbeddedLog {
            inner: Arc::new(Inner {
                path: dir.join("events.redb"),
                open: OnceCell::new(),
                closed: AtomicBool::new(false),
                news: tail::sender(),
            }),
        }
    }

    pub(super) async fn append(
        &self,
        key: StreamKey,
        after: u64,
        payloads: Vec<Bytes>,
        keep: Keep,
        now: Millis,
    ) -> Result<Appended, StoreError> {
        let says = !payloads.is_empty();
        let append = move |tables: &mut Tables<'_>| tables.append(key, after, &payloads, &keep, now);
        let appended = self.write(append).await?;
        if says && matches!(appended, Appended::Stored(_)) {
            // An error only means that nobody waits.
            let _ = self.inner.news.send(News { key });
        }
        Ok(appended)
    }

    pub(super) async fn read(
        &self,
        key: StreamKey,
        after: u64,
        limit: usize,
        now: Millis,
    ) -> Result<Excerpt, StoreError> {
        self.open().await?.shared.read(|view| view.read(key, after, limit, now))
    }

    pub(super) async fn remove(&self, session: RecordKey) -> Result<(), StoreError> {
        if !self.is_there() {
            return Ok(());
        }
        self.write(move |tables| tables.remove_all(session)).await
    }

    pub(super) async fn sweep(&self, now: Millis, limit: usize) -> Result<usize, StoreError> {
        if !self.is_there() {
            return Ok(0);
        }
        self.write(move |tables| tables.sweep(now, limit)).await
    }

    pub(super) fn bytes(&self) -> u64 {
        self.inner.open.get().map_or(0, |open| open.shared.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.inner.news.subscribe()
    }

    /// Finishes what is queued and releases the file.
    pub(crate) async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        let Some(open) = self.inner.open.get() else { return };
        let (answer, answered) = oneshot::channel();
        if open.commands.send(Command::Close(answer)).is_ok() {
            let _ = answered.await;
        }
    }

    /// Whether there can be anything in it: it is in use, or an earlier process has left a file.
    fn is_there(&self) -> bool {
        self.inner.open.get().is_some() || self.inner.path.exists()
    }

    async fn open(&self) -> Result<&Open, StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let path = &self.inner.path;
        let begin = || async {
            let (opened, opening) = oneshot::channel();
            let (commands, queue) = mpsc::channel();
            let place = path.clone();
            spawn(path, "throughline-events", move || match Writer::open(&place, queue) {
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
            Ok(Open { shared, commands, room: Arc::new(Semaphore::new(QUEUE)) })
        };
        self.inner.open.get_or_try_init(begin).await
    }

    /// Has the writer do `work` with others in one transaction, and waits until that is durable.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let open = self.open().await?;
        let room = Arc::clone(&open.room).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (command, answered) = Command::write(work, room);
        open.commands.send(command).map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

impl Shared {
    fn read<T>(&self, work: impl FnOnce(&View) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(StoreError::Closed)?;
        guarded(&self.path, || work(&View::open(&database.begin_read()?)?))
    }

    fn replace(&self, with: Option<Database>) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *database, with);
        drop(database);
        // Closing a database writes, and readers need not wait for that.
        drop(old);
    }
}
