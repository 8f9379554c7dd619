//! Two gateways on one Redis.

use std::collections::HashSet;
use std::time::Duration;

use throughline_store::{Changed, Put, Store, Version, Watch};

use crate::servers::{Cluster, PATIENCE, Server, eventually, now, store};
use crate::{delete, get, key, put, put_new, record};

async fn next(watch: &mut Watch) -> Changed {
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a change is signalled")
}

#[tokio::test]
async fn what_one_changes_the_other_is_told() {
    let server = Server::start(&[]);
    let (one, other) = (server.store().await, server.store().await);
    let stranger = store(&server.url_with("prefix=stranger")).await;
    let (mut watch, mut own, mut strangers) = (other.watch(), one.watch(), stranger.watch());
    let version = put_new(&one, key(1), record(1)).await;
    for watch in [&mut watch, &mut own] {
        assert_eq!(next(watch).await, Changed::One(key(1), version));
    }
    // A signal comes after what it tells of.
    let found = get(&other, key(1)).await.unwrap();
    assert_eq!((found.version, found.record), (version, record(1)));
    delete(&other, key(1)).await;
    let Changed::One(_, deleted) = next(&mut own).await else { panic!("not one") };
    assert!(deleted > version);
    assert_eq!(get(&one, key(1)).await.unwrap().version, deleted);

    assert_eq!(get(&stranger, key(1)).await, None);
    let last = put_new(&stranger, key(2), record(1)).await;
    assert_eq!(next(&mut strangers).await, Changed::One(key(2), last), "of others it hears nothing");
}

#[tokio::test]
async fn a_signal_of_another_release_is_everything() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let mut watch = store.watch();
    server.must(&["PUBLISH", "throughline:changed", "v2 what may come"]);
    assert_eq!(next(&mut watch).await, Changed::All);
}

#[tokio::test]
async fn of_all_gateways_one_has_the_turn() {
    let server = Server::start(&[]);
    let (one, other) = (server.store().await, server.store().await);
    let hour = Duration::from_secs(3600);
    assert!(one.turn("sweep", hour).await.unwrap());
    for store in [&one, &other] {
        assert!(!store.turn("sweep", hour).await.unwrap());
    }
    assert!(other.turn("other", Duration::from_millis(50)).await.unwrap());
    eventually("the turn to be over", async || one.turn("other", hour).await.unwrap()).await;
    assert!(Store::memory().turn("sweep", hour).await.unwrap());
    assert!(Store::memory().turn("sweep", hour).await.unwrap());
}

#[tokio::test]
async fn silence_lapses_the_epoch_and_another_begins() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let first = store.epoch().unwrap();
    let mut watch = store.watch();
    server.freeze();
    let frozen = now();
    eventually("the epoch to lapse", async || store.epoch().is_none()).await;
    let lapsed = frozen.elapsed();
    println!("the epoch lapsed after {lapsed:?}");
    // The last beat was at most half a second old; the rest is this machine.
    assert!(lapsed < Duration::from_millis(2900), "{lapsed:?}");
    assert!(store.trouble().is_some());
    server.thaw();
    super::recovered(&store).await;
    assert!(store.epoch().unwrap() > first);
    assert_eq!(next(&mut watch).await, Changed::All);
    let version = put_new(&store, key(1), record(1)).await;
    while next(&mut watch).await != Changed::One(key(1), version) {}
}

#[tokio::test]
async fn a_signal_connection_that_breaks_is_made_again() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let first = store.epoch().unwrap();
    let mut watch = store.watch();
    server.must(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(next(&mut watch).await, Changed::All);
    assert!(store.epoch().unwrap() > first);
    // The beats go on, on the new connection.
    let start = now();
    eventually("more than two seconds to pass", async || {
        assert!(store.epoch().is_some());
        start.elapsed() > Duration::from_millis(2500)
    })
    .await;
}

/// Two stores, eight writers each, and each version is won once.
pub(super) async fn compete(one: &Store, other: &Store) {
    let first = put_new(one, key(1), record(0)).await;
    let writers = (0..16).map(|writer| {
        let store = if writer % 2 == 0 { one.clone() } else { other.clone() };
        tokio::spawn(async move {
            let (mut version, mut won) = (first, Vec::<Version>::new());
            while won.len() < 20 {
                match put(&store, key(1), Some(version), record(writer)).await {
                    Put::Stored(new) => {
                        won.push(new);
                        version = new;
                    }
                    Put::Conflict(standing) => version = standing.unwrap().version,
                }
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
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_never_win_the_same_version() {
    let server = Server::start(&[]);
    compete(&server.store().await, &server.store().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_on_a_cluster() {
    let cluster = Cluster::start();
    let (one, other) = (store(&cluster.url()).await, store(&cluster.url()).await);
    compete(&one, &other).await;
}
