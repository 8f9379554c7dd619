//! The word of a clean stop: what the file was like when it was closed. A file that is still like that need not be
//! checked from end to end at the next start: it is read once, and no page of it is interpreted.
//!
//! The word holds the file's length and a checksum of all of it, so that no damage in between passes for a clean stop:
//! not a flipped bit, not an older copy put back. It is against damage, not against someone who can write the file.
//! It is taken away, durably, before the file is opened: after a crash there is none.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

use super::file;

/// First line of the word.
const MAGIC: &str = "throughline store closed 1";
/// Bytes of the file that are read at a time.
const PIECE: usize = 1 << 18;

fn path(dir: &Path) -> PathBuf {
    dir.join("sessions.closed")
}

/// Leaves the word. The caller holds the lock of `dir` and has closed the database.
///
/// # Errors
/// As the file system says; the next start checks the file then.
pub(super) fn leave(dir: &Path) -> io::Result<()> {
    let word = describe(&file::path(dir))?;
    let new = dir.join("sessions.closed.new");
    let mut written = file::private(&new)?;
    written.set_len(0)?;
    written.write_all(word.as_bytes())?;
    written.sync_all()?;
    fs::rename(&new, path(dir))?;
    File::open(dir)?.sync_all()
}

/// Takes the word away, and says whether the file is as it was then. The caller holds the lock of `dir`, and has not
/// opened the database yet.
///
/// # Errors
/// As the file system says. A word that cannot be taken away must not be there at a later start.
pub(super) fn take(dir: &Path) -> io::Result<bool> {
    let word = match fs::read(path(dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        word => word?,
    };
    fs::remove_file(path(dir))?;
    File::open(dir)?.sync_all()?;
    Ok(describe(&file::path(dir)).is_ok_and(|present| present.as_bytes() == word))
}

fn describe(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut length, mut hash) = (0u64, Xxh3Default::new());
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                hash.update(&piece[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{MAGIC}\n{length} {:032x}\n", hash.digest128()))
}

#[cfg(test)]
mod tests {
    use super::super::Embedded;
    use super::*;
    use crate::StoreError;
    use crate::record::{Millis, RecordKey};

    fn dir_with(content: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file::path(dir.path()), content).unwrap();
        dir
    }

    #[test]
    fn a_word_is_good_once() {
        let dir = dir_with(&[7; 3 * PIECE + 1]);
        assert!(!take(dir.path()).unwrap(), "there is none yet");
        leave(dir.path()).unwrap();
        leave(dir.path()).unwrap();
        assert!(take(dir.path()).unwrap());
        assert!(!take(dir.path()).unwrap());
    }

    #[test]
    fn no_change_of_the_file_goes_unseen() {
        let content: Vec<u8> = (0..2 * PIECE).map(|n| n.to_le_bytes()[0]).collect();
        let changes: [fn(&mut Vec<u8>); 5] = [
            |bytes| bytes[0] ^= 1,
            |bytes| *bytes.last_mut().unwrap() ^= 0x80,
            |bytes| bytes[PIECE] ^= 4,
            |bytes| bytes.truncate(PIECE),
            |bytes| bytes.push(0),
        ];
        for (n, change) in changes.iter().enumerate() {
            let dir = dir_with(&content);
            leave(dir.path()).unwrap();
            let mut changed = content.clone();
            change(&mut changed);
            fs::write(file::path(dir.path()), &changed).unwrap();
            assert!(!take(dir.path()).unwrap(), "change {n}");
        }
    }

    #[test]
    fn another_word_is_none() {
        for word in ["", "throughline store closed 1\n", "throughline store closed 2\n4 00\n"] {
            let dir = dir_with(b"file");
            fs::write(path(dir.path()), word).unwrap();
            assert!(!take(dir.path()).unwrap(), "{word:?}");
            assert!(!path(dir.path()).exists());
        }
        let dir = dir_with(b"file");
        leave(dir.path()).unwrap();
        fs::remove_file(file::path(dir.path())).unwrap();
        assert!(!take(dir.path()).unwrap(), "there is no file");
    }

    /// Damages a closed store of many records in its middle, where opening alone does not look.
    async fn damaged_store() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).await.unwrap();
        for n in 0..200 {
            let tombstone = crate::rules::tombstone([n; 8], [n; 16], Millis(1), Millis(9));
            store.delete(RecordKey([n; 16]), tombstone, Millis(1)).await.unwrap();
        }
        store.close().await.unwrap();
        let mut bytes = fs::read(file::path(dir.path())).unwrap();
        let record = crate::rules::tombstone([7; 8], [7; 16], Millis(1), Millis(9));
        let principal = data_encoding::HEXLOWER.encode(&record.principal);
        let found: Vec<usize> = memmem(&bytes, principal.as_bytes()).collect();
        assert!(!found.is_empty());
        found.into_iter().for_each(|at| bytes[at] ^= 1);
        fs::write(file::path(dir.path()), &bytes).unwrap();
        dir
    }

    fn memmem<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        bytes.windows(needle.len()).enumerate().filter(move |(_, found)| *found == needle).map(|(at, _)| at)
    }

    #[tokio::test]
    async fn a_file_is_checked_exactly_where_there_is_no_word_for_it() {
        let dir = damaged_store().await;
        let opened = Embedded::open(dir.path()).await;
        assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "the word was not for this file");
        leave(dir.path()).unwrap();
        let store = Embedded::open(dir.path()).await.expect("nobody looked");
        assert_eq!(
            store.get(RecordKey([7; 16]), Millis(2)).unwrap(),
            None,
            "a record has a checksum of its own"
        );
        assert!(store.get(RecordKey([8; 16]), Millis(2)).unwrap().is_some());
    }
}
