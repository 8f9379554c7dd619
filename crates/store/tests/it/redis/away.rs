//! A Redis that is away, or not as it should be.

use std::time::Duration;

use throughline_store::{Place, Put, Store, StoreError};

use crate::servers::{Server, eventually, free_port, now, store};
use crate::{NOW, get, key, put_new, record};

async fn trouble(store: &Store) -> String {
    let mut found = None;
    eventually("the store to be in trouble", async || {
        found = store.trouble();
        found.is_some()
    })
    .await;
    found.unwrap().to_string()
}

/// The error of a write.
async fn failure(store: &Store) -> StoreError {
    let mut error = None;
    eventually("a write to fail", async || {
        error = store.put_if(key(7), None, record(1), NOW).await.err();
        error.is_some()
    })
    .await;
    error.unwrap()
}

#[tokio::test]
async fn a_killed_redis_costs_nothing_and_comes_back() {
    let mut server = Server::start(&["--appendonly", "yes"]);
    let store = server.store().await;
    put_new(&store, key(1), record(1)).await;
    let epoch = store.epoch().unwrap();
    server.kill();
    let error = failure(&store).await;
    assert!(error.is_away(), "{error}");
    let (start, calls) = (now(), store.stats().calls);
    for _ in 0..1000 {
        assert!(store.get(key(1), NOW).await.unwrap_err().is_away());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(store.stats().calls, calls);
    let trouble = trouble(&store).await;
    assert!(trouble.starts_with(&format!("redis://127.0.0.1:{}: ", server.port)), "{trouble}");
    server.start_again();
    super::recovered(&store).await;
    assert_eq!(get(&store, key(1)).await.unwrap().record, record(1));
    eventually("signals on a new connection", async || store.epoch().is_some_and(|now| now > epoch)).await;
}

#[tokio::test]
async fn a_frozen_redis_costs_one_time_out() {
    let server = Server::start(&[]);
    // Longer than this machine may take, shorter than the beat that would find out without a caller.
    let store = store(&server.url_with("timeout=300ms")).await;
    put_new(&store, key(1), record(1)).await;
    let calls = store.stats().calls;
    server.freeze();
    let start = now();
    for _ in 0..1000 {
        assert!(store.get(key(1), NOW).await.unwrap_err().is_away());
    }
    let (took, sent) = (start.elapsed(), store.stats().calls - calls);
    println!("1000 reads of a frozen Redis took {took:?} and sent {sent} commands");
    assert!(took < Duration::from_millis(900), "{took:?}");
    assert!(sent <= 1, "{sent} commands");
    server.thaw();
    super::recovered(&store).await;
    assert_eq!(get(&store, key(1)).await.unwrap().record, record(1));
}

#[tokio::test]
async fn a_store_begins_without_its_redis() {
    let port = free_port();
    let start = now();
    let place = Place::parse(&format!("redis://127.0.0.1:{port}?timeout=5s")).unwrap();
    let store = Store::redis(&place).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!((store.epoch(), store.describe()), (None, format!("redis://127.0.0.1:{port}")));
    assert!(failure(&store).await.is_away());
    let server = Server::start_at(port);
    super::recovered(&store).await;
    put_new(&store, key(1), record(1)).await;
    store.close().await.unwrap();
    assert!(matches!(store.get(key(1), NOW).await, Err(StoreError::Closed)));
    assert!(matches!(store.touch_many(&[(key(1), NOW)]).await, Err(StoreError::Closed)));
    assert!(matches!(store.sweep(NOW, 1).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
    drop(server);
}

#[tokio::test]
async fn nothing_listens_is_said_at_once_and_nobody_answers_in_time() {
    // A server that takes connections and answers nothing.
    let server = Server::start(&[]);
    server.freeze();
    let start = now();
    let store = Store::redis(&Place::parse(&server.url()).unwrap()).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(store.get(key(1), NOW).await.unwrap_err().is_away());
    assert!(store.trouble().is_some());
    let start = now();
    store.close().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_replica_takes_no_writes_until_it_is_the_master() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let store = server.store().await;
    put_new(&store, key(1), record(1)).await;
    server.must(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    let error = failure(&store).await;
    assert!(error.is_away() && error.to_string().contains("READONLY"), "{error}");
    assert!(trouble(&store).await.contains("READONLY"));
    server.must(&["REPLICAOF", "NO", "ONE"]);
    super::recovered(&store).await;
    assert!(matches!(store.put_if(key(2), None, record(1), NOW).await.unwrap(), Put::Stored(_)));
}

#[tokio::test]
async fn without_memory_records_can_be_read() {
    let server = Server::start(&[]);
    let store = server.store().await;
    put_new(&store, key(1), record(1)).await;
    server.must(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = failure(&store).await;
    assert!(matches!(error, StoreError::OutOfMemory { .. }), "{error}");
    assert!(store.touch_many(&[(key(1), NOW)]).await.is_err());
    assert_eq!(get(&store, key(1)).await.unwrap().record, record(1));
    assert!(trouble(&store).await.contains("OOM"));
    assert_eq!(store.list(None, 10, NOW).await.unwrap().records.len(), 1);
    // What is read is signalled on: nobody can write here, but others may be able to.
    assert!(store.epoch().is_some());
    server.must(&["CONFIG", "SET", "maxmemory", "0"]);
    super::recovered(&store).await;
    put_new(&store, key(2), record(1)).await;
}

#[tokio::test]
async fn a_disk_that_fails_stops_writes_only() {
    let server = Server::start(&["--min-replicas-to-write", "1"]);
    let store = Store::redis(&Place::parse(&server.url()).unwrap()).await.unwrap();
    let error = failure(&store).await;
    assert!(matches!(error, StoreError::NoWrites { .. }), "{error}");
    assert_eq!(get(&store, key(1)).await, None);
    server.must(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    super::recovered(&store).await;
}

#[tokio::test]
async fn more_callers_than_there_is_room_for_are_served() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let writes = (0..3000).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { put_new(&store, key(n), record(1)).await })
    });
    let writes: Vec<_> = writes.collect();
    // Some of them will not wait for their answer.
    for write in writes.iter().step_by(3) {
        write.abort();
    }
    for (n, write) in writes.into_iter().enumerate() {
        match write.await {
            Ok(_) => assert!(get(&store, key(n as u32)).await.is_some()),
            Err(error) => assert!(error.is_cancelled() && n % 3 == 0),
        }
    }
    assert_eq!(store.trouble(), None);
}
