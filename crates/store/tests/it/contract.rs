//! What every backend does. `contract!` runs each function on all of them.

use std::collections::{BTreeSet, HashSet};

use throughline_store::{Changed, Cursor, Kind, Millis, Page, Put, RecordKey, State, Store, Stored, Watch};

use crate::servers::{Cluster, PATIENCE, Server, store};
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
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::Server::start(&[]);
                let store = server.store().await;
                super::$name(store.clone()).await;
                store.close().await.unwrap();
            })*
        }
        // In one test, since a cluster takes seconds to make.
        #[tokio::test]
        async fn redis_cluster() {
            let cluster = Cluster::start();
            $({
                let name = stringify!($name);
                println!("{name}");
                let store = store(&format!("{}&prefix={name}", cluster.url())).await;
                $name(store.clone()).await;
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
    deleting_keeps_whose_it_was
    expiry_is_what_now_says
    a_version_is_no_earlier_than_its_write
    a_record_may_last_for_ever
    a_listing_shows_every_record
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

async fn deleting_keeps_whose_it_was(store: Store) {
    let keyed = crate::Record { kind: Kind::Keyed, created: Millis(NOW.0 - 5), ..record(1) };
    put_new(&store, key(1), keyed.clone()).await;
    store.delete(key(1), NOW, [1; 8], [1; 16], Millis(NOW.0 + 1)).await.unwrap();
    let tombstone = get(&store, key(1)).await.unwrap();
    assert_eq!(tombstone.touched, Millis(NOW.0 + 1));
    let tombstone = tombstone.record;
    assert_eq!((tombstone.route, tombstone.principal), (ROUTE, PRINCIPAL));
    assert_eq!((tombstone.kind, tombstone.created), (Kind::Keyed, keyed.created));
    assert_eq!((tombstone.expires, tombstone.initialized), (LATER, false));
}

async fn a_record_may_last_for_ever(store: Store) {
    let eternal = crate::Record { expires: Millis(u64::MAX), ..record(1) };
    let version = put_new(&store, key(1), eternal.clone()).await;
    assert_eq!(get(&store, key(1)).await.unwrap().record, eternal);
    assert!(matches!(put(&store, key(1), Some(version), eternal).await, Put::Stored(_)));
    delete(&store, key(1)).await;
    assert_eq!(get(&store, key(1)).await.unwrap().record.state, State::Deleted);
}

async fn a_version_is_no_earlier_than_its_write(store: Store) {
    let first = put_new(&store, key(1), record(1)).await;
    let much_later = Millis(LATER.0 - 1);
    let put = store.put_if(key(1), Some(first), record(2), much_later).await.unwrap();
    let Put::Stored(second) = put else { panic!("{put:?}") };
    // The clock of another gateway is behind.
    store.delete(key(1), LATER, ROUTE, PRINCIPAL, NOW).await.unwrap();
    let third = get(&store, key(1)).await.unwrap().version;
    // A store that has forgotten what stood there begins above it.
    let put = store.put_if(key(2), None, record(2), much_later).await.unwrap();
    let Put::Stored(fresh) = put else { panic!("{put:?}") };
    assert!(first < second && second < third && first < fresh && fresh < third);
}

async fn expiry_is_what_now_says(store: Store) {
    let version = put_new(&store, key(1), record(1)).await;
    let last = Millis(LATER.0 - 1);
    assert!(store.get(key(1), last).await.unwrap().is_some());
    assert_eq!(store.get(key(1), LATER).await.unwrap(), None);
    assert!(store.list(None, 9, LATER).await.unwrap().records.is_empty());
    let again = crate::Record { expires: Millis(LATER.0 + 9), ..record(2) };
    let stale = store.put_if(key(1), Some(version), again.clone(), LATER).await.unwrap();
    assert_eq!(stale, Put::Conflict(None));
    assert!(matches!(store.put_if(key(1), None, again, LATER).await.unwrap(), Put::Stored(_)));
    assert!(store.get(key(1), LATER).await.unwrap().is_some());
}

async fn a_listing_shows_every_record(store: Store) {
    let keys: BTreeSet<_> = (0..100).map(key).collect();
    for key in &keys {
        put_new(&store, *key, record(1)).await;
    }
    delete(&store, key(4)).await;
    let mut cursor = None;
    let mut listed = Vec::new();
    loop {
        let page = store.list(cursor, 20, NOW).await.unwrap();
        listed.extend(page.records.iter().map(|(key, _)| *key));
        cursor = page.next.map(|cursor| Cursor::from_bytes(&cursor.to_bytes()).unwrap());
        match cursor {
            None => break,
            Some(cursor) if cursor.key().is_some() => {
                assert!(page.records.len() <= 20 && listed.is_sorted());
                assert_eq!(cursor.key(), listed.last().copied());
            }
            Some(_) => {}
        }
    }
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), keys);
}

async fn sweep_removes_what_has_expired_and_only_that(store: Store) {
    if matches!(store, Store::Redis(_)) {
        // Redis does that by itself.
        assert_eq!(store.sweep(LATER, 100).await.unwrap(), 0);
        return;
    }
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
    let left = store.list(None, 100, NOW).await.unwrap().records;
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
    assert_eq!(listed(&store).await, [(key(1), stored)]);
    assert_eq!(get(&store, key(2)).await, None);
    let next = store.put_if(key(1), Some(version), record(2), at).await.unwrap();
    assert!(matches!(next, Put::Stored(_)));
    assert_eq!(get(&store, key(1)).await.unwrap().touched, at);
}

/// All records.
async fn listed(store: &Store) -> Vec<(RecordKey, Stored)> {
    let mut page = store.list(None, 9, NOW).await.unwrap();
    while let Some(next) = page.next {
        let more = store.list(Some(next), 9, NOW).await.unwrap();
        page = Page { records: [page.records, more.records].concat(), next: more.next };
    }
    page.records
}

/// The next change.
async fn next(watch: &mut Watch) -> Changed {
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a change is signalled")
}

async fn a_watch_tells_who_changed_in_order(store: Store) {
    let mut watch = store.watch();
    let first = put_new(&store, key(1), record(1)).await;
    let second = put_new(&store, key(2), record(1)).await;
    put(&store, key(2), None, record(2)).await;
    store.touch_many(&[(key(1), LATER)]).await.unwrap();
    delete(&store, key(1)).await;
    delete(&store, key(1)).await;
    let third = get(&store, key(1)).await.unwrap().version;
    store.sweep(LATER, 9).await.unwrap();
    // So that what should not be signalled would show.
    let last = put_new(&store, key(3), record(1)).await;
    for (n, version) in [(1, first), (2, second), (1, third), (3, last)] {
        assert_eq!(next(&mut watch).await, Changed::One(key(n), version));
    }
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
    // What is signalled after all of them has arrived.
    let mut other = store.watch();
    put_new(&store, key(5000), record(1)).await;
    while !matches!(next(&mut other).await, Changed::One(it, _) if it == key(5000)) {}
    assert_eq!(next(&mut watch).await, Changed::All);
    assert!(matches!(next(&mut watch).await, Changed::One(..)));
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
