//! What can go wrong: each message says what happened, why, and what to do, on one line.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what was asked. Cloned to every waiter of a failed commit.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another store of this one, has the directory open.
    #[error(
        "{} is in use by another throughline process: stop that one, or give this one a directory of its own with --state-dir",
        path.display()
    )]
    Locked {
        /// The file of sessions.
        path: PathBuf,
    },
    /// The file is damaged beyond repair, or is no file of ours. It was kept.
    #[error(
        "{} is damaged or not a session store ({reason}); it was kept: start once with --salvage to keep what can be read, or run with --store embedded:OTHER",
        path.display()
    )]
    Corrupt {
        /// The file of sessions.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No room for the write. The store goes on once there is some.
    #[error(
        "{} cannot grow, its file system or quota is full: free some space, or choose another with --state-dir",
        path.display()
    )]
    Full {
        /// The file of sessions.
        path: PathBuf,
    },
    /// The file system failed. The store opens its file anew for the next write.
    #[error("{} cannot be read or written ({reason}): check that it exists, its owner, its mode and its disk", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The store was closed, or its writer stopped after an internal error (which was logged).
    #[error(
        "the session store is closed, by a shutdown or an internal error that was logged: restart the gateway"
    )]
    Closed,
}

impl StoreError {
    /// Whether the store is away for now, which it says itself in the log.
    #[must_use]
    pub fn is_away(&self) -> bool {
        false
    }

    /// Names `path` as where an error of the file system came from.
    pub(crate) fn io(path: &Path, error: &io::Error) -> StoreError {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
            // redb says so of a file that does not begin or end as its own do.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StoreError::Corrupt { path, reason: error.to_string() }
            }
            _ => StoreError::Io { path, reason: error.to_string() },
        }
    }

    /// Names `path` as where an error of redb came from.
    pub(crate) fn engine(path: &Path, error: &redb::Error) -> StoreError {
        use redb::Error as E;
        match error {
            E::Io(error) => StoreError::io(path, error),
            E::DatabaseAlreadyOpen => StoreError::Locked { path: path.to_owned() },
            E::Corrupted(_)
            | E::UpgradeRequired(_)
            | E::RepairAborted
            | E::TableTypeMismatch { .. }
            | E::TableIsMultimap(_)
            | E::TypeDefinitionChanged { .. }
            | E::TableDoesNotExist(_) => {
                StoreError::Corrupt { path: path.to_owned(), reason: error.to_string() }
            }
            _ => StoreError::Io { path: path.to_owned(), reason: error.to_string() },
        }
    }
}
