//! The way out of a damaged file.
//!
//! It does not go through redb, which may refuse the file or trip over it: records lie in the file as frames
//! that carry their key, version and checksums, so that they can be found by looking for them. Pages that
//! redb has freed still hold older copies, hence the highest version of a key wins, and a damaged copy wins
//! over older intact ones: an old state is not what was stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use super::file;
use super::frame::{self, Frame};
use crate::StoreError;
use crate::record::{Millis, RecordKey, Stored, Version};

/// What a [`salvage`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Records, tombstones included, in the fresh file.
    pub kept: usize,
    /// Records of which only the head could still be read. What left no trace is not counted.
    pub lost: usize,
    /// Where the damaged file is now.
    pub moved_to: PathBuf,
}

/// Moves the file of sessions in `dir` aside, to `sessions.redb.damaged-<n>`, and writes every record in it
/// that can be read and has not expired at `now` into a fresh one. Blocks, and needs as much memory as the
/// file has bytes.
///
/// Touches go back to the last write. Where a page with a tombstone was lost without a trace, an older copy
/// of its record may come back.
///
/// # Errors
///
/// [`StoreError::Locked`] while the store is in use; [`StoreError::Io`] and [`StoreError::Full`] as the file
/// system says, with the damaged file still in its place.
pub fn salvage(dir: &Path, now: Millis) -> Result<Salvaged, StoreError> {
    let _lock = file::lock(dir)?;
    let path = file::path(dir);
    let bytes = fs::read(&path).map_err(|error| StoreError::io(&path, &error))?;
    let found = newest(&bytes, now);
    let lost = found.values().filter(|copy| copy.stored.is_none()).count();
    let kept = found.len() - lost;
    let fresh = file::create(dir, |tables| {
        let mut intact = found.iter().filter_map(|(key, copy)| Some((*key, copy.stored.as_ref()?)));
        intact.try_for_each(|(key, stored)| tables.write(key, stored, None))
    })?;
    let moved_to = move_aside(&path)?;
    file::publish(dir, &fresh)?;
    Ok(Salvaged { kept, lost, moved_to })
}

/// The newest copy of a record; `stored` is missing if it is damaged.
struct Copy {
    version: Version,
    expires: Millis,
    stored: Option<Stored>,
}

fn newest(bytes: &[u8], now: Millis) -> HashMap<RecordKey, Copy> {
    let mut found: HashMap<RecordKey, Copy> = HashMap::new();
    for (key, frame) in frame::scan(bytes) {
        let copy = match frame {
            Frame::Intact(stored) => {
                Copy { version: stored.version, expires: stored.record.expires, stored: Some(stored) }
            }
            Frame::Damaged(header) => Copy { version: header.version, expires: header.expires, stored: None },
            Frame::Unreadable => continue,
        };
        // First of all: versions begin anew once an expired record has been swept, so that an expired copy
        // with a higher version says nothing about a living one.
        if copy.expires <= now {
            continue;
        }
        let rank = |copy: &Copy| (copy.version, copy.stored.is_some());
        match found.entry(key) {
            Entry::Occupied(mut best) if rank(best.get()) < rank(&copy) => {
                best.insert(copy);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(none) => {
                none.insert(copy);
            }
        }
    }
    found
}

/// Gives the damaged file a second name that is free. The fresh one then replaces it under the first, so
/// that there is a file of sessions at every moment.
fn move_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut n = 1_u32;
    loop {
        let aside = path.with_extension(format!("redb.damaged-{n}"));
        if aside.try_exists().map_err(|error| StoreError::io(&aside, &error))? {
            n += 1;
            continue;
        }
        // Some file systems have no hard links.
        return fs::hard_link(path, &aside)
            .or_else(|_| fs::rename(path, &aside))
            .map(|()| aside)
            .map_err(|error| StoreError::io(path, &error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    const KEY: RecordKey = RecordKey([1; 16]);
    const NOW: Millis = Millis(100);

    fn copy(version: u64, expires: u64) -> Vec<u8> {
        let record = rules::tombstone([0; 8], [0; 16], Millis(version), Millis(expires));
        let stored = Stored { record, version: Version(version), touched: Millis(0) };
        frame::encode(KEY, &stored).unwrap()
    }

    fn damaged(mut frame: Vec<u8>) -> Vec<u8> {
        *frame.last_mut().unwrap() ^= 1;
        frame
    }

    /// The version kept of these copies; `None` for a record that is lost.
    fn kept(copies: &[Vec<u8>]) -> Option<u64> {
        let found = newest(&copies.concat(), NOW);
        found.get(&KEY)?.stored.as_ref().map(|stored| stored.version.0)
    }

    #[test]
    fn the_newest_living_copy_counts() {
        assert_eq!(kept(&[copy(2, 200), copy(3, 200), copy(1, 200)]), Some(3));
        assert_eq!(kept(&[damaged(copy(3, 200)), copy(3, 200)]), Some(3), "one good copy is enough");
        assert_eq!(kept(&[copy(2, 200), damaged(copy(3, 200))]), None, "an old state is not what was stored");
        assert_eq!(kept(&[copy(9, 100), copy(1, 200)]), Some(1), "the first has expired");
        assert!(newest(&copy(1, 100), NOW).is_empty());
    }
}
