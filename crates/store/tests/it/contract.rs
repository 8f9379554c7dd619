//! What every backend does. `contract!` runs each function on all of them.

use std::collections::HashSet;
use std::task::Poll;

use throughline_store::{Changed, Millis, Put, State, Store, Watch};

use crate::{LATER, NOW, PRINCIPAL, ROUTE, delete, get, key, put, put_new, record};

macro_rules! contract {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(throughline_store::Store::memory()).await;
            })*
        }
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let store = throughline_store::Store::embedded(dir.path()).await.unwrap();
                super::$name(store.clone()).await;
                store.close().await.unwrap();
            })*
        }
    };
}

contract! {
    a_record_comes_back_as_it_was_put
    a_put_needs_the_version_that_stands_there
    a_tombstone_keeps_nothing_and_blocks_revival
    deleting_what_is_missing_leaves_a_tombstone
    deleting_twice_changes_nothing
    expiry_is_what_now_says
    list_pages_in_the_order_of_keys
    sweep_removes_what_has_expired_and_only_that
    a_touch_changes_no_version
    a_watch_tells_who_changed_in_order
    a_watch_that_lags_is_told_so
    of_many_writers_one_wins_each_version
}

async fn a_record_comes_back_as_it_was_put(store: Store) {
    assert_eq!(get(&store, key(1)).await, None);
    let version = put_new(&store, key(1), record(3)).await;
    let stored = get(&store, key(1)).await.unwrap();
    assert_eq!((stored.record, stored.version, stored.touched), (record(3), version, NOW));
    assert_eq!(get(&store, key(2)).await, None);
}

async fn a_put_needs_the_version_that_stands_there(store: Store) {
    let first = put_new(&store, key(1), record(1)).await;
    let standing = get(&store, key(1)).await;
    assert_eq!(put(&store, key(1), None, record(2)).await, Put::Conflict(standing));
    let Put::Stored(second) = put(&store, key(1), Some(first), record(2)).await else { panic!("conflict") };
    assert!(second > first);
    let standing = get(&store, key(1)).await;
    assert_eq!(put(&store, key(1), Some(first), record(3)).await, Put::Conflict(standing.clone()));
    assert_eq!(standing.unwrap().record, record(2));
    assert_eq!(put(&store, key(2), Some(first), record(3)).await, Put::Conflict(None));
}

async fn a_tombstone_keeps_nothing_and_blocks_revival(store: Store) {
    put_new(&store, key(1), record(1)).await;
    assert_eq!(delete(&store, key(1)).await.unwrap().record, record(1));
    let tombstone = get(&store, key(1)).await.unwrap();
    assert_eq!(tombstone.record.state, State::Deleted);
    assert!(tombstone.record.initialize.is_empty() && tombstone.record.restore.is_empty());
    for expected in [None, Some(tombstone.version)] {
        let put = put(&store, key(1), expected, record(2)).await;
        assert_eq!(put, Put::Conflict(Some(tombstone.clone())));
    }
    let put = store.put_if(key(1), None, record(2), LATER).await.unwrap();
    assert!(matches!(put, Put::Stored(_)), "an expired tombstone blocks nothing");
}

async fn deleting_what_is_missing_leaves_a_tombstone(store: Store) {
    assert_eq!(delete(&store, key(1)).await, None);
    let tombstone = get(&store, key(1)).await.unwrap().record;
    assert_eq!((tombstone.route, tombstone.principal), (ROUTE, PRINCIPAL));
    assert_eq!((tombstone.expires, tombstone.state), (LATER, State::Deleted));
    assert!(matches!(put(&store, key(1), None, record(1)).await, Put::Conflict(Some(_))));
}

async fn deleting_twice_changes_nothing(store: Store) {
    put_new(&store, key(1), record(1)).await;
    // A tombstone lasts at least as long as the record would have.
    store.delete(key(1), NOW, ROUTE, PRINCIPAL, NOW).await.unwrap();
    let tombstone = get(&store, key(1)).await;
    assert_eq!(delete(&store, key(1)).await, tombstone);
    assert_eq!(get(&store, key(1)).await, tombstone);
    let longer = Millis(LATER.0 + 1);
    store.delete(key(1), longer, ROUTE, PRINCIPAL, NOW).await.unwrap();
    assert_eq!(get(&store, key(1)).await.unwrap().record.expires, longer);
}

async fn expiry_is_what_now_says(store: Store) {
    let version = put_new(&store, key(1), record(1)).await;
    let last = Millis(LATER.0 - 1);
    assert!(store.get(key(1), last).await.unwrap().is_some());
    assert_eq!(store.get(key(1), LATER).await.unwrap(), None);
    assert!(store.list(None, 9, LATER).await.unwrap().is_empty());
    let again = crate::Record { expires: Millis(LATER.0 + 9), ..record(2) };
    let stale = store.put_if(key(1), Some(version), again.clone(), LATER).await.unwrap();
    assert_eq!(stale, Put::Conflict(None));
    assert!(matches!(store.put_if(key(1), None, again, LATER).await.unwrap(), Put::Stored(_)));
    assert!(store.get(key(1), LATER).await.unwrap().is_some());
}

async fn list_pages_in_the_order_of_keys(store: Store) {
    for n in [5, 3, 1, 4, 2] {
        put_new(&store, key(n), record(n)).await;
    }
    delete(&store, key(4)).await;
    let mut after = None;
    let mut listed = Vec::new();
    loop {
        let page = store.list(after, 2, NOW).await.unwrap();
        after = page.last().map(|(key, _)| *key);
        listed.extend(page.iter().map(|(key, _)| *key));
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(listed, [1, 2, 3, 4, 5].map(key));
}

async fn sweep_removes_what_has_expired_and_only_that(store: Store) {
    for n in 0..10 {
        put_new(&store, key(n), record(n)).await;
    }
    // This one was prolonged: its old expiry must not take it along.
    let version = get(&store, key(3)).await.unwrap().version;
    let longer = crate::Record { expires: Millis(LATER.0 + 9), ..record(3) };
    put(&store, key(3), Some(version), longer).await;
    assert_eq!(store.sweep(NOW, 100).await.unwrap(), 0);
    assert_eq!(store.sweep(LATER, 4).await.unwrap(), 4);
    assert_eq!(store.sweep(LATER, 100).await.unwrap(), 5);
    let left = store.list(None, 100, NOW).await.unwrap();
    assert_eq!(left.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(3)]);
    assert_eq!(store.sweep(LATER, 100).await.unwrap(), 0);
}

async fn a_touch_changes_no_version(store: Store) {
    let version = put_new(&store, key(1), record(1)).await;
    let at = Millis(NOW.0 + 50);
    let earlier = Millis(NOW.0 + 20);
    store.touch_many(&[(key(1), at), (key(2), at)]).await.unwrap();
    store.touch_many(&[(key(1), earlier)]).await.unwrap();
    let stored = get(&store, key(1)).await.unwrap();
    assert_eq!((stored.version, stored.touched), (version, at));
    assert_eq!(store.list(None, 9, NOW).await.unwrap(), [(key(1), stored)]);
    assert_eq!(get(&store, key(2)).await, None);
    let next = store.put_if(key(1), Some(version), record(2), at).await.unwrap();
    assert!(matches!(next, Put::Stored(_)));
    assert_eq!(get(&store, key(1)).await.unwrap().touched, at);
}

/// The next change, which must have been signalled already.
async fn next(watch: &mut Watch) -> Option<Changed> {
    let mut changed = std::pin::pin!(watch.changed());
    std::future::poll_fn(|context| match changed.as_mut().poll(context) {
        Poll::Ready(changed) => Poll::Ready(Some(changed)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn a_watch_tells_who_changed_in_order(store: Store) {
    let mut watch = store.watch();
    put_new(&store, key(1), record(1)).await;
    put_new(&store, key(2), record(1)).await;
    put(&store, key(2), None, record(2)).await;
    store.touch_many(&[(key(1), LATER)]).await.unwrap();
    delete(&store, key(1)).await;
    store.sweep(LATER, 9).await.unwrap();
    for n in [1, 2, 1] {
        assert!(matches!(next(&mut watch).await, Some(Changed::One(changed, _)) if changed == key(n)));
    }
    assert_eq!(next(&mut watch).await, None);
}

async fn a_watch_that_lags_is_told_so(store: Store) {
    let mut watch = store.watch();
    let writes = (0..5000).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put_new(&store, key(n), record(n)).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    assert_eq!(next(&mut watch).await, Some(Changed::All));
    assert!(matches!(next(&mut watch).await, Some(Changed::One(..))));
}

async fn of_many_writers_one_wins_each_version(store: Store) {
    let first = put_new(&store, key(1), record(0)).await;
    let writers = (0..16).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut version, mut won) = (first, Vec::new());
            while won.len() < 20 {
                match put(&store, key(1), Some(version), record(writer)).await {
                    Put::Stored(new) => {
                        won.push(new);
                        version = new;
                    }
                    Put::Conflict(standing) => version = standing.unwrap().version,
                }
                tokio::task::yield_now().await;
            }
            won
        })
    });
    let mut won = HashSet::new();
    for writer in writers.collect::<Vec<_>>() {
        for version in writer.await.unwrap() {
            assert!(won.insert(version), "{version:?} was won twice");
        }
    }
    assert_eq!(won.len(), 16 * 20);
    assert_eq!(Some(&get(&store, key(1)).await.unwrap().version), won.iter().max());
}
