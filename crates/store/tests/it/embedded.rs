//! What only the file does: lasting, being locked, and sharing commits.

use std::os::unix::fs::PermissionsExt;

use throughline_store::{Millis, Put, Store, StoreError};

use crate::{LATER, NOW, delete, get, key, put_new, record};

#[tokio::test]
async fn records_touches_and_tombstones_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    let version = put_new(&store, key(1), record(1)).await;
    put_new(&store, key(2), record(2)).await;
    delete(&store, key(2)).await;
    store.touch_many(&[(key(1), LATER)]).await.unwrap();
    store.close().await.unwrap();

    let store = Store::embedded(dir.path()).await.unwrap();
    let stored = get(&store, key(1)).await.unwrap();
    assert_eq!((stored.record, stored.version, stored.touched), (record(1), version, LATER));
    let put = store.put_if(key(2), None, record(3), NOW).await.unwrap();
    assert!(matches!(put, Put::Conflict(Some(_))));
    assert_eq!(store.sweep(LATER, 9).await.unwrap(), 2, "the order of expiry survives too");
}

#[tokio::test]
async fn dropping_every_clone_flushes_and_releases_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    put_new(&store, key(1), record(1)).await;
    store.touch_many(&[(key(1), LATER)]).await.unwrap();
    drop(store);
    let store = loop {
        match Store::embedded(dir.path()).await {
            Ok(store) => break store,
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(get(&store, key(1)).await.unwrap().touched, LATER);
}

#[tokio::test]
async fn a_second_open_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    let error = Store::embedded(dir.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let message = error.to_string();
    assert!(message.contains("another throughline process") && message.contains("--state-dir"), "{message}");
    let salvage = throughline_store::salvage(dir.path(), NOW);
    assert!(matches!(salvage, Err(StoreError::Locked { .. })), "a file in use is not salvaged");
    put_new(&store, key(1), record(1)).await;
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    assert_eq!(store.describe(), format!("embedded {}", dir.path().display()));
    let clone = store.clone();
    store.close().await.unwrap();
    assert!(matches!(clone.get(key(1), NOW).await, Err(StoreError::Closed)));
    assert!(matches!(clone.list(None, 1, NOW).await, Err(StoreError::Closed)));
    assert!(matches!(clone.put_if(key(1), None, record(1), NOW).await, Err(StoreError::Closed)));
    assert!(matches!(clone.touch_many(&[(key(1), NOW)]).await, Err(StoreError::Closed)));
    assert!(matches!(clone.close().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn writes_in_flight_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    // More than the queue holds, so that some wait for room.
    const WRITES: u32 = 6000;
    let writes = (0..WRITES).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put_new(&store, key(n), record(n)).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let stats = store.stats();
    assert_eq!(stats.writes, u64::from(WRITES));
    assert!(stats.commits <= 200, "{} commits", stats.commits);
    assert_eq!(store.list(None, 10_000, NOW).await.unwrap().records.len(), WRITES as usize);
}

#[tokio::test]
async fn each_answer_waits_for_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    for n in 0..5 {
        put_new(&store, key(n), record(n)).await;
        assert_eq!(store.stats().commits, u64::from(n) + 1);
    }
}

#[test]
fn several_runtimes_use_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The runtime that opened it is gone by the time that others use it.
    let store = runtime().block_on(Store::embedded(dir.path())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                runtime().block_on(async {
                    for n in 0..50 {
                        put_new(&store, key(thread * 50 + n), record(n)).await;
                    }
                });
            });
        }
    });
    let listed = runtime().block_on(store.list(None, 1000, NOW)).unwrap().records;
    assert_eq!(listed.len(), 200);
}

#[tokio::test]
async fn only_the_owner_may_read() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/throughline");
    let store = Store::embedded(&dir).await.unwrap();
    put_new(&store, key(1), record(1)).await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in dir.read_dir().unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    store.close().await.unwrap();
    throughline_store::salvage(&dir, Millis(0)).unwrap();
    assert_eq!(mode(&dir.join("sessions.redb")), 0o600);
}
