//! What can go wrong: each message says what happened, why, and what to do, on one line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Redis does not answer, or says that it cannot now. It is tried again in the background.
    #[error(
        "{place} is away ({reason}): check that it runs, that it can be reached from here and that it is the master; it is tried again in the background"
    )]
    Away {
        /// Which Redis.
        place: Arc<str>,
        /// What showed it.
        reason: Arc<str>,
    },
    /// Redis does not accept who we are. It is tried again in the background.
    #[error(
        "{place} refuses this gateway ({reason}): check user and password; it is tried again in the background, with what the password file says then"
    )]
    Refused {
        /// Which Redis.
        place: Arc<str>,
        /// What it said.
        reason: Arc<str>,
    },
    /// Redis knows us, but does not allow this.
    #[error(
        "{place} does not allow this gateway what it needs ({reason}): give its user the rights that docs/scaling.md lists"
    )]
    Forbidden {
        /// Which Redis.
        place: Arc<str>,
        /// What it said.
        reason: Arc<str>,
    },
    /// Redis has no memory for a write. What is stored can be read.
    #[error(
        "{place} has no memory left ({reason}): raise its maxmemory, or shorten sessions.absolute; until then nothing is written"
    )]
    OutOfMemory {
        /// Which Redis.
        place: Arc<str>,
        /// What it said.
        reason: Arc<str>,
    },
    /// Redis takes no writes because its disk fails or replicas are missing. What is stored can be read.
    #[error(
        "{place} takes no writes ({reason}): look at its log, its disk and its replicas; until then nothing is written"
    )]
    NoWrites {
        /// Which Redis.
        place: Arc<str>,
        /// What it said.
        reason: Arc<str>,
    },
    /// Redis answered what it never should.
    #[error("{place} gave an unexpected answer ({reason}): check that nothing else writes under its prefix")]
    Unexpected {
        /// Which Redis.
        place: Arc<str>,
        /// What it said.
        reason: Arc<str>,
    },
    /// The address of a Redis can never work as it is.
    #[error("{place} cannot be used: {reason}")]
    Unusable {
        /// Which Redis.
        place: Arc<str>,
        /// What is wrong, and what to do.
        reason: Arc<str>,
    },
    /// The store was closed, or its writer stopped after an internal error (which was logged).
    #[error(
        "the session store is closed, by a shutdown or an internal error that was logged: restart the gateway"
    )]
    Closed,
}

impl StoreError {
    /// Whether Redis is away, or does not let this gateway do what it needs: the next call will hardly do better.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, StoreError::Away { .. } | StoreError::Refused { .. } | StoreError::Forbidden { .. })
    }

    /// What is wrong, without what to do about it.
    pub(crate) fn brief(&self) -> String {
        match self {
            StoreError::Away { place, reason }
            | StoreError::Refused { place, reason }
            | StoreError::Forbidden { place, reason }
            | StoreError::OutOfMemory { place, reason }
            | StoreError::NoWrites { place, reason }
            | StoreError::Unexpected { place, reason }
            | StoreError::Unusable { place, reason } => format!("{place}: {reason}"),
            other => other.to_string(),
        }
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
