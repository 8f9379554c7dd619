//! The file and its directory: made, locked, opened, checked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, ReadableDatabase};

use super::tables::{Tables, View};
use crate::StoreError;

/// Bytes of pages that redb keeps in memory. Records are small and bindings cached by the gateway, so its
/// default of 1 GiB would only hold what the page cache of the system holds too.
const CACHE: usize = 8 << 20;

/// The file of sessions in `dir`.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("sessions.redb")
}

/// The exclusive right to a directory, until dropped. A file of its own rather than redb's lock: that one is
/// let go while a database is opened anew, and a salvage must hold it without opening what it salvages.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it with a child that this process is forking at the moment, until that
        // has become its program. Nothing can be done about an error, and closing follows.
        let _ = self.0.unlock();
    }
}

/// Makes `dir` if it is missing, and takes its lock.
pub(super) fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| StoreError::io(dir, &error))?;
    let path = dir.join("sessions.lock");
    let file = private(&path).map_err(|error| StoreError::io(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path: self::path(dir) }),
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io(&path, &error)),
    }
}

/// What is known of a file that is about to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It is as it was when it was closed.
    Closed,
    /// Nothing.
    Unknown,
}

/// Opens the database in `dir`, whose lock the caller holds, and makes it if it is missing.
pub(super) fn open(dir: &Path, condition: Condition) -> Result<Database, StoreError> {
    let path = path(dir);
    if !path.try_exists().map_err(|error| StoreError::io(&path, &error))? {
        let new = create(dir, |_| Ok(()))?;
        publish(dir, &new)?;
    }
    guarded(&path, || {
        let repaired = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&repaired);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        builder.set_repair_callback(move |_| noted.store(true, Ordering::Relaxed));
        let mut database = builder.create_file(private(&path)?)?;
        // A repair after a crash checks every page; otherwise this does. Damage found now is an error with
        // a way out; found later it would be one for some session in the middle of its work.
        let is_sound = condition == Condition::Closed || repaired.load(Ordering::Relaxed);
        if !is_sound && !database.check_integrity()? {
            tracing::warn!(path = %path.display(), "the session store was damaged and has been repaired");
        }
        // A read first: it also works, and the store with it, where the disk has no room for a commit.
        if View::open(&database.begin_read()?).is_err() {
            tables(&database, |_| Ok(()))?;
        }
        Ok(database)
    })
}

/// Makes a database under another name, filled by `fill`, and closes it: a crash on the way leaves no
/// half-made `sessions.redb`. Returns where it is, for [`publish`].
pub(super) fn create(
    dir: &Path,
    fill: impl FnOnce(&mut Tables<'_>) -> Result<(), redb::Error>,
) -> Result<PathBuf, StoreError> {
    let new = dir.join("sessions.redb.new");
    guarded(&new, || {
        private(&new)?.set_len(0)?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create_file(private(&new)?)?;
        tables(&database, fill)
    })?;
    Ok(new)
}

/// Gives a database made by [`create`] its name, durably.
pub(super) fn publish(dir: &Path, new: &Path) -> Result<(), StoreError> {
    fs::rename(new, path(dir))
        // The name is durable once the directory is.
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| StoreError::io(dir, &error))
}

/// Runs `work` on a file that may be damaged. redb checks much of what it reads but not all, and a panic of
/// its must not end the gateway. (It does where the whole program is built with `panic = "abort"`.)
pub(crate) fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| StoreError::engine(path, &error)),
        Err(_) => Err(StoreError::Corrupt {
            path: path.to_owned(),
            reason: "the storage engine failed on it".to_owned(),
        }),
    }
}

fn tables(
    database: &Database,
    fill: impl FnOnce(&mut Tables<'_>) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    fill(&mut Tables::open(&transaction)?)?;
    transaction.commit()?;
    Ok(())
}

/// Opens `path` for reading and writing, and makes it for its owner alone if it is missing.
pub(crate) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
