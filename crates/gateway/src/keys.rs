//! The key ring file, and the keys in use, which a rotation replaces while requests go on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use throughline_wire::keyring::{KeyRing, KeyRingError};
use throughline_wire::seal::{Keys, OpenError, SessionToken};
use throughline_wire::tag::Purpose;

use crate::effects::Effects;

/// Name of the key ring in the state directory.
pub const FILE: &str = "keyring";

/// Why there is no key ring, or no new key in it.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file or its directory cannot be used.
    #[error("cannot use {}: {source}; choose another state directory with --state-dir", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file does not hold a key ring.
    #[error("{}: {source}; restore the file, or move it away (sessions then begin anew)", path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: KeyRingError,
    },
    /// The file was replaced by a ring with another root: sessions would lose their owners.
    #[error("{} holds another key ring than the one in use; restart the gateway to use it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// What may be told of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Ids of all keys, the active one first.
    pub ids: Vec<u8>,
    /// Session ids issued before this many seconds since 1970 are refused.
    pub not_before: u32,
}

impl Status {
    fn of(ring: &KeyRing) -> Self {
        Status { ids: ring.ids(), not_before: ring.not_before() }
    }
}

/// The keys in use. Its methods are those of [`Keys`].
pub struct LiveKeys {
    file: PathBuf,
    current: ArcSwap<InUse>,
}

struct InUse {
    ring: KeyRing,
    keys: Keys,
}

impl InUse {
    fn new(ring: KeyRing) -> Self {
        InUse { keys: Keys::derive(&ring), ring }
    }
}

impl LiveKeys {
    /// Reads the ring of a file, which is made if it is not there.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn open(file: &Path, effects: Effects) -> Result<Self, KeysError> {
        let ring = match read(file) {
            Err(KeysError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(file, effects)?
            }
            read => read?,
        };
        Ok(LiveKeys { file: file.to_owned(), current: ArcSwap::from_pointee(InUse::new(ring)) })
    }

    /// Puts a new key at the head of the ring, in the file first. From then on it seals; what the others sealed
    /// stays good.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in use stay the same then.
    pub fn rotate(&self, effects: Effects) -> Result<Status, KeysError> {
        let ring = rotate_with(&self.file, effects, |ring| {
            if self.current.load().ring.is_kin(ring) {
                Ok(())
            } else {
                Err(KeysError::Foreign { path: self.file.clone() })
            }
        })?;
        let status = Status::of(&ring);
        self.current.store(Arc::new(InUse::new(ring)));
        Ok(status)
    }

    /// What the ring in use holds.
    pub fn status(&self) -> Status {
        Status::of(&self.current.load().ring)
    }

    /// See [`Keys::seal_session`].
    pub fn seal_session(&self, token: &SessionToken, nonce: [u8; 12]) -> String {
        self.current.load().keys.seal_session(token, nonce)
    }

    /// See [`Keys::open_session`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_session(&self, text: &str) -> Result<SessionToken, OpenError> {
        self.current.load().keys.open_session(text)
    }

    /// See [`Keys::digest`]: a rotation changes none.
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.current.load().keys.digest(purpose, parts)
    }

    /// See [`Keys::seal_secret`].
    pub fn seal_secret(&self, context: &[u8], plain: &[u8], nonce: [u8; 12]) -> Vec<u8> {
        self.current.load().keys.seal_secret(context, plain, nonce)
    }

    /// See [`Keys::open_secret`].
    pub fn open_secret(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.current.load().keys.open_secret(context, sealed)
    }

    /// See [`Keys::tag`].
    pub fn tag(&self, purpose: Purpose, session: &[u8; 16], generation: u32, value: &[u8]) -> String {
        self.current.load().keys.tag(purpose, session, generation, value)
    }

    /// See [`Keys::untag`].
    pub fn untag(&self, purpose: Purpose, session: &[u8; 16], text: &str) -> Option<(u32, Vec<u8>)> {
        self.current.load().keys.untag(purpose, session, text)
    }
}

/// A new ring, as text.
pub fn generate(effects: Effects) -> String {
    KeyRing::generate(effects.bytes()).to_text()
}

/// Writes a new ring to a file that is not there yet, and its directory if need be.
///
/// # Errors
/// [`KeysError::File`], also when the file is there.
pub fn create(file: &Path, effects: Effects) -> Result<KeyRing, KeysError> {
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        private_dir(dir).map_err(failed(dir))?;
    }
    let ring = KeyRing::generate(effects.bytes());
    write_new(file, &ring.to_text()).map_err(failed(file))?;
    Ok(ring)
}

/// Puts a new key at the head of the ring in a file. A gateway that is running takes it at its next start.
///
/// # Errors
/// [`KeysError`]; the file stays as it is then.
pub fn rotate(file: &Path, effects: Effects) -> Result<Status, KeysError> {
    rotate_with(file, effects, |_| Ok(())).map(|ring| Status::of(&ring))
}

fn rotate_with(
    file: &Path,
    effects: Effects,
    check: impl FnOnce(&KeyRing) -> Result<(), KeysError>,
) -> Result<KeyRing, KeysError> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Of two rotations at a time neither may lose the other's key. The lock goes with the handle.
    let lock = File::open(dir).map_err(failed(dir))?;
    lock.lock().map_err(failed(dir))?;
    let mut ring = read(file)?;
    check(&ring)?;
    ring.rotate(effects.bytes());
    replace(file, &ring.to_text()).map_err(failed(file))?;
    // The new name is on disk only with the directory.
    lock.sync_all().map_err(failed(dir))?;
    Ok(ring)
}

fn read(file: &Path) -> Result<KeyRing, KeysError> {
    let text = fs::read_to_string(file).map_err(failed(file))?;
    KeyRing::parse(&text).map_err(|source| KeysError::Ring { path: file.to_owned(), source })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::File { path, source }
}

/// Makes a directory that only its owner can look into.
fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file of secrets that is not there yet, whole or not at all: a torn key file would end every session.
///
/// # Errors
/// As the system says; `AlreadyExists` where the file is there.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    // A hard link fails where the file has appeared meanwhile: two first starts must not have two key rings.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked
}

/// Writes a file of secrets in place of another: who reads it sees the one or the other.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_beside(path, text)?;
    fs::rename(&temporary, path)
}

fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_sealed_before_a_rotation_opens_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/keyring");
        let keys = LiveKeys::open(&file, Effects::REAL).unwrap();
        let sealed = keys.seal_secret(b"context", b"plain", [1; 12]);
        let digest = keys.digest("principal", &[b"somebody"]);
        let tag = keys.tag(Purpose::Request, &[7; 16], 3, b"0");
        assert_eq!(keys.rotate(Effects::REAL).unwrap(), Status { ids: vec![2, 1], not_before: 0 });
        for keys in [&keys, &LiveKeys::open(&file, Effects::REAL).unwrap()] {
            assert_eq!(keys.status().ids, [2, 1]);
            assert_eq!(keys.open_secret(b"context", &sealed).as_deref(), Some(&b"plain"[..]));
            assert_eq!(keys.digest("principal", &[b"somebody"]), digest);
            assert_eq!(keys.untag(Purpose::Request, &[7; 16], &tag), Some((3, b"0".to_vec())));
            assert_ne!(keys.seal_secret(b"context", b"plain", [1; 12]), sealed);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_ring_that_is_not_the_one_in_use_is_not_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyring");
        let keys = LiveKeys::open(&file, Effects::REAL).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(matches!(keys.rotate(Effects::REAL), Err(KeysError::File { .. })));
        create(&file, Effects::REAL).unwrap();
        let before = fs::read(&file).unwrap();
        assert!(matches!(keys.rotate(Effects::REAL), Err(KeysError::Foreign { .. })));
        assert_eq!((fs::read(&file).unwrap(), keys.status().ids), (before, vec![1]));
        assert!(create(&file, Effects::REAL).is_err(), "what is there is kept");
    }

    #[test]
    fn rotations_at_the_same_time_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyring");
        create(&file, Effects::REAL).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| rotate(&file, Effects::REAL).unwrap());
            }
        });
        assert_eq!(read(&file).unwrap().ids().len(), 9);
    }
}
