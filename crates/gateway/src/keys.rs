//! The key ring file, and the keys in use, which a rotation replaces while requests go on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use throughline_wire::keyring::{KeyRing, KeyRingError};
use throughline_wire::seal::{Keys, OpenError, SessionToken};
use throughline_wire::tag::Purpose;

use crate::app::App;
use crate::effects::Effects;

/// Name of the key ring in the state directory.
pub const FILE: &str = "keyring";
/// How often a file that the operator may replace is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
    /// The ring came with the environment, where nothing can be written.
    #[error(
        "the key ring was given by THROUGHLINE_KEY_RING: rotate it with `throughline keys rotate FILE`, and give all replicas what FILE then holds"
    )]
    Given,
    /// Every replica has to have the file before its new key seals.
    #[error("{} is given to several replicas: rotate it with `throughline keys rotate FILE`; they take it when the file they read has changed", path.display())]
    Shared {
        /// The file.
        path: PathBuf,
    },
    /// The last rotation has not come into force.
    #[error("the newest key of {} seals only from {seals_from} (seconds since 1970) on: rotate after that", path.display())]
    UnderWay {
        /// The file.
        path: PathBuf,
        /// When.
        seals_from: u32,
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
    /// The id of the newest key.
    pub newest: u8,
    /// When it began to seal, or will.
    pub seals_from: u32,
}

impl Status {
    fn of(ring: &KeyRing, now: u32) -> Self {
        Status {
            ids: ring.ids(now),
            not_before: ring.not_before(),
            newest: ring.ids(u32::MAX).first().copied().unwrap_or_default(),
            seals_from: ring.seals_from(),
        }
    }
}

/// Where a ring is kept.
#[derive(Debug)]
enum Source {
    /// In a file of this gateway's own.
    Own(PathBuf),
    /// In a file that the operator gives to every replica.
    Shared(PathBuf),
    /// In the environment.
    Given,
}

/// The keys in use. Its methods are those of [`Keys`].
#[derive(Debug)]
pub struct LiveKeys {
    source: Source,
    effects: Effects,
    current: ArcSwap<InUse>,
}

#[derive(Debug)]
struct InUse {
    ring: KeyRing,
    keys: Keys,
}

impl InUse {
    fn new(ring: KeyRing, now: u32) -> Self {
        InUse { keys: Keys::derive(&ring, now), ring }
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
        Ok(Self::with(Source::Own(file.to_owned()), ring, effects))
    }

    /// Reads the ring of a file that every replica is given.
    ///
    /// # Errors
    /// [`KeysError`]; also when it is not there.
    pub fn shared(file: &Path, effects: Effects) -> Result<Self, KeysError> {
        Ok(Self::with(Source::Shared(file.to_owned()), read(file)?, effects))
    }

    /// With this ring.
    pub fn given(ring: KeyRing, effects: Effects) -> Self {
        Self::with(Source::Given, ring, effects)
    }

    fn with(source: Source, ring: KeyRing, effects: Effects) -> Self {
        let now = seconds(effects);
        LiveKeys { source, effects, current: ArcSwap::from_pointee(InUse::new(ring, now)) }
    }

    /// Puts a new key at the head of the ring, in the file first. From then on it seals; what the others sealed
    /// stays good.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in use stay the same then.
    pub fn rotate(&self) -> Result<Status, KeysError> {
        let file = match &self.source {
            Source::Own(file) => file,
            Source::Shared(file) => return Err(KeysError::Shared { path: file.clone() }),
            Source::Given => return Err(KeysError::Given),
        };
        let ring = rotate_with(file, Duration::ZERO, self.effects, |ring| self.is_kin(ring, file))?;
        self.use_ring(ring);
        Ok(self.status())
    }

    fn is_kin(&self, ring: &KeyRing, file: &Path) -> Result<(), KeysError> {
        if self.current.load().ring.is_kin(ring) {
            Ok(())
        } else {
            Err(KeysError::Foreign { path: file.to_owned() })
        }
    }

    fn use_ring(&self, ring: KeyRing) {
        self.current.store(Arc::new(InUse::new(ring, seconds(self.effects))));
    }

    /// Looks at a file that the operator may have replaced, and at the clock: a new key may begin to seal. Whether
    /// other keys are in use now.
    ///
    /// # Errors
    /// [`KeysError`]; the keys in use stay the same then.
    pub fn look(&self) -> Result<bool, KeysError> {
        let current = self.current.load_full();
        let ring = match &self.source {
            Source::Shared(file) => {
                let ring = read(file)?;
                self.is_kin(&ring, file)?;
                ring
            }
            Source::Own(_) | Source::Given => current.ring.clone(),
        };
        let seals = ring.ids(seconds(self.effects)).first() == Some(&current.keys.active_id());
        let changed = ring != current.ring || !seals;
        if changed {
            self.use_ring(ring);
        }
        Ok(changed)
    }

    /// Looks, again and again, until the gateway stops.
    pub async fn watch(app: Arc<App>) {
        let mut stop = app.stop_signal();
        let mut told = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let looking = Arc::clone(&app);
            // Not on this thread: the file may be on a disk that is far away.
            match tokio::task::spawn_blocking(move || looking.keys.look()).await {
                Ok(Ok(true)) => tracing::info!(keys = ?app.keys.status().ids, "another key ring is in use"),
                Ok(Ok(false)) => told.clear(),
                Ok(Err(error)) => {
                    let error = error.to_string();
                    if told != error {
                        tracing::error!(%error, "the key ring cannot be read; the keys in use stay");
                        told = error;
                    }
                }
                Err(_) => tracing::error!("looking at the key ring failed"),
            }
        }
    }

    /// What the ring in use holds.
    pub fn status(&self) -> Status {
        Status::of(&self.current.load().ring, seconds(self.effects))
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

    /// See [`Keys::seal_state`].
    pub fn seal_state(&self, context: &[u8], plain: &[u8], nonce: [u8; 12]) -> Vec<u8> {
        self.current.load().keys.seal_state(context, plain, nonce)
    }

    /// See [`Keys::open_state`].
    pub fn open_state(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.current.load().keys.open_state(context, sealed)
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

/// A new ring, as text: in lines, or as one for a variable of the environment.
pub fn generate(effects: Effects, one_line: bool) -> String {
    let ring = KeyRing::generate(effects.bytes());
    if one_line { ring.to_line() + "\n" } else { ring.to_text() }
}

fn seconds(effects: Effects) -> u32 {
    u32::try_from(effects.now().0 / 1000).unwrap_or(u32::MAX)
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

/// Puts a new key at the head of the ring in a file; it seals when `after` has passed.
///
/// # Errors
/// [`KeysError`]; the file stays as it is then.
pub fn rotate(file: &Path, after: Duration, effects: Effects) -> Result<Status, KeysError> {
    rotate_with(file, after, effects, |_| Ok(())).map(|ring| Status::of(&ring, seconds(effects)))
}

fn rotate_with(
    file: &Path,
    after: Duration,
    effects: Effects,
    check: impl FnOnce(&KeyRing) -> Result<(), KeysError>,
) -> Result<KeyRing, KeysError> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Of two rotations at a time neither may lose the other's key. The lock goes with the handle.
    let lock = File::open(dir).map_err(failed(dir))?;
    lock.lock().map_err(failed(dir))?;
    let mut ring = read(file)?;
    check(&ring)?;
    let now = seconds(effects);
    if ring.seals_from() > now {
        return Err(KeysError::UnderWay { path: file.to_owned(), seals_from: ring.seals_from() });
    }
    let after = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
    ring.rotate(effects.bytes(), now.saturating_add(after));
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
        let rotated = keys.rotate().unwrap();
        assert_eq!((rotated.ids, rotated.not_before), (vec![2, 1], 0));
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
        assert!(matches!(keys.rotate(), Err(KeysError::File { .. })));
        create(&file, Effects::REAL).unwrap();
        let before = fs::read(&file).unwrap();
        assert!(matches!(keys.rotate(), Err(KeysError::Foreign { .. })));
        assert_eq!((fs::read(&file).unwrap(), keys.status().ids), (before, vec![1]));
        assert!(create(&file, Effects::REAL).is_err(), "what is there is kept");
    }

    #[test]
    fn a_shared_ring_is_taken_when_its_file_changes_and_a_new_key_opens_before_it_seals() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyring");
        assert!(LiveKeys::shared(&file, Effects::REAL).is_err(), "replicas do not each make their own");
        create(&file, Effects::REAL).unwrap();
        let [one, two] = [(); 2].map(|()| LiveKeys::shared(&file, Effects::REAL).unwrap());
        assert!(matches!(one.rotate(), Err(KeysError::Shared { .. })));
        assert!(!one.look().unwrap());
        let rotated = rotate(&file, Duration::from_secs(3600), Effects::REAL).unwrap();
        assert_eq!((rotated.ids, rotated.newest), (vec![1, 2], 2));
        assert!(matches!(rotate(&file, Duration::ZERO, Effects::REAL), Err(KeysError::UnderWay { .. })));
        assert!(one.look().unwrap() && !one.look().unwrap());
        let sealed = one.seal_secret(b"context", b"plain", [1; 12]);
        assert!(two.open_secret(b"context", &sealed).is_some(), "the other has not looked yet");
        // The time has come: as if the file had been written an hour ago.
        let text = fs::read_to_string(&file).unwrap();
        let due = text.lines().map(|line| match line.starts_with("seals_from") {
            true => "seals_from = 1\n".to_owned(),
            false => format!("{line}\n"),
        });
        fs::write(&file, due.collect::<String>()).unwrap();
        assert!(one.look().unwrap() && two.look().unwrap());
        let sealed = one.seal_secret(b"context", b"plain", [1; 12]);
        assert_eq!((one.status().ids, sealed[1]), (vec![2, 1], 2));
        assert!(two.open_secret(b"context", &sealed).is_some());
        fs::remove_file(&file).unwrap();
        create(&file, Effects::REAL).unwrap();
        assert!(matches!(one.look(), Err(KeysError::Foreign { .. })), "another ring is not taken");
        assert_eq!(one.status().ids, [2, 1]);
    }

    #[test]
    fn rotations_at_the_same_time_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyring");
        create(&file, Effects::REAL).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| rotate(&file, Duration::ZERO, Effects::REAL).unwrap());
            }
        });
        assert_eq!(read(&file).unwrap().ids(0).len(), 9);
    }
}
