//! Damaged files: a clear error or a sound store, never a panic; and what can be read is kept.

use std::collections::HashMap;
use std::path::Path;

use throughline_store::{Millis, Put, Record, RecordKey, Store, StoreError, salvage};

use crate::{LATER, NOW, delete, get, key, put, put_new, record};

const RECORDS: u32 = 300;

/// A closed store of open records, some of them changed and some deleted, and what is in it.
async fn filled(dir: &Path) -> HashMap<RecordKey, Record> {
    let store = Store::embedded(dir).await.unwrap();
    for n in 0..RECORDS {
        let version = put_new(&store, key(n), record(n)).await;
        match n % 5 {
            0 => drop(put(&store, key(n), Some(version), record(n + 1)).await),
            1 => drop(delete(&store, key(n)).await),
            _ => {}
        }
    }
    let listed = store.list(None, usize::MAX, NOW).await.unwrap().records;
    assert_eq!(listed.len(), RECORDS as usize);
    store.close().await.unwrap();
    listed.into_iter().map(|(key, stored)| (key, stored.record)).collect()
}

/// How many records can be read in `dir`. Each must be as it was written, or as it was first put: where a
/// later copy has left no trace, a salvage cannot know better.
async fn readable(dir: &Path, written: &HashMap<RecordKey, Record>) -> usize {
    let store = Store::embedded(dir).await.unwrap();
    let listed = store.list(None, usize::MAX, NOW).await.unwrap().records;
    for (found, stored) in &listed {
        let n = u32::from_be_bytes(*found.0.first_chunk().unwrap());
        let sound = stored.record == written[found] || stored.record == record(n);
        assert!(sound, "record {n} is none that was written");
        assert_eq!(get(&store, *found).await.as_ref(), Some(stored));
    }
    put_new(&store, key(RECORDS), record(1)).await;
    store.close().await.unwrap();
    listed.len()
}

#[tokio::test]
async fn garbage_is_refused_and_left_alone() {
    for garbage in [b"not a database".repeat(1000), b"short".to_vec(), vec![0; 8192]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sessions.redb");
        std::fs::write(&path, &garbage).unwrap();
        let error = Store::embedded(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("it was kept") && message.contains("--store embedded:OTHER"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);

        let salvaged = salvage(dir.path(), NOW).unwrap();
        assert_eq!((salvaged.kept, salvaged.lost), (0, 0));
        assert_eq!(std::fs::read(&salvaged.moved_to).unwrap(), garbage);
        readable(dir.path(), &HashMap::new()).await;
    }
}

#[tokio::test]
async fn a_salvage_of_a_sound_file_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let written = filled(dir.path()).await;
    for n in 1..=2 {
        let salvaged = salvage(dir.path(), NOW).unwrap();
        assert_eq!((salvaged.kept, salvaged.lost), (RECORDS as usize, 0));
        assert_eq!(salvaged.moved_to, dir.path().join(format!("sessions.redb.damaged-{n}")));
    }
    let store = Store::embedded(dir.path()).await.unwrap();
    let listed = store.list(None, usize::MAX, NOW).await.unwrap().records;
    let kept: HashMap<_, _> = listed.into_iter().map(|(key, stored)| (key, stored.record)).collect();
    assert_eq!(kept, written);
    store.close().await.unwrap();
    assert_eq!(salvage(dir.path(), LATER).unwrap().kept, 0, "what has expired is not worth keeping");
}

#[tokio::test]
async fn a_salvage_takes_the_living_of_two_incarnations() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    let mut version = put_new(&store, key(1), record(0)).await;
    for n in 1..5 {
        let Put::Stored(next) = put(&store, key(1), Some(version), record(n)).await else {
            panic!("conflict")
        };
        version = next;
    }
    assert_eq!(store.sweep(LATER, 9).await.unwrap(), 1);
    let again = Record { expires: Millis(LATER.0 + 9), ..record(9) };
    store.put_if(key(1), None, again.clone(), LATER).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(salvage(dir.path(), LATER).unwrap().kept, 1);
    let store = Store::embedded(dir.path()).await.unwrap();
    assert_eq!(store.get(key(1), LATER).await.unwrap().unwrap().record, again);
}

/// Damages a copy of a filled store, opens it, salvages it if it cannot be opened, and returns how many
/// records are left.
async fn survive(sound: &Path, written: &HashMap<RecordKey, Record>, damage: impl Fn(&mut Vec<u8>)) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sessions.redb");
    // The word that it was closed cleanly must not vouch for it.
    std::fs::copy(sound.join("sessions.closed"), dir.path().join("sessions.closed")).unwrap();
    let mut bytes = std::fs::read(sound.join("sessions.redb")).unwrap();
    damage(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    match Store::embedded(dir.path()).await {
        Ok(store) => store.close().await.unwrap(),
        Err(StoreError::Corrupt { .. }) => {
            assert!(path.exists(), "the damaged file is kept");
            let salvaged = salvage(dir.path(), NOW).unwrap();
            assert!(salvaged.moved_to.exists());
        }
        Err(error) => panic!("{error}"),
    }
    readable(dir.path(), written).await
}

#[tokio::test]
async fn a_truncated_file_gives_back_what_is_left() {
    let sound = tempfile::tempdir().unwrap();
    let written = filled(sound.path()).await;
    let mut most = 0;
    for eighths in 0..8 {
        let left = survive(sound.path(), &written, |bytes| bytes.truncate(bytes.len() * eighths / 8)).await;
        most = most.max(left);
    }
    assert!(most > 0, "some truncation leaves records");
}

#[tokio::test]
async fn flipped_pages_give_back_the_others() {
    const PAGE: usize = 4096;
    let sound = tempfile::tempdir().unwrap();
    let written = filled(sound.path()).await;
    let used = std::fs::read(sound.path().join("sessions.redb")).unwrap();
    let mut lost_any = false;
    for (n, page) in used.chunks(PAGE).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let flip =
            |bytes: &mut Vec<u8>| bytes[n * PAGE..][..page.len()].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let left = survive(sound.path(), &written, flip).await;
        assert!(left + 40 > RECORDS as usize, "page {n} took {} records along", RECORDS as usize - left);
        lost_any |= left < RECORDS as usize;
    }
    assert!(lost_any, "some page held records");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_absent_until_it_is_put_anew() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let path = dir.path().join("sessions.redb");
    const RECORDS_TABLE: redb::TableDefinition<'_, &[u8; 16], &[u8]> = redb::TableDefinition::new("records");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(RECORDS_TABLE).unwrap().insert(&key(2).0, b"\x02future".as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let store = Store::embedded(dir.path()).await.unwrap();
    assert_eq!(get(&store, key(2)).await, None);
    assert_eq!(store.list(None, usize::MAX, NOW).await.unwrap().records.len(), RECORDS as usize - 1);
    let version = get(&store, key(3)).await.unwrap().version;
    let conflict = put(&store, key(2), Some(version), record(1)).await;
    assert_eq!(conflict, Put::Conflict(None));
    // Its entry in the order of expiry is stale now and must not take the new one along.
    let longer = Record { expires: Millis(LATER.0 + 9), ..record(1) };
    put_new(&store, key(2), longer).await;
    assert_eq!(store.sweep(LATER, usize::MAX).await.unwrap(), RECORDS as usize - 1);
    assert!(store.get(key(2), LATER).await.unwrap().is_some());
}
