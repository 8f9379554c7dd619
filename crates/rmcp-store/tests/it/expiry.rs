//! Sessions end when nobody has used them for a while, and after a while whatever happens.

use throughline_rmcp::{Millis, Sessions, Store};

use crate::replica::Replica;
use crate::{Backend, Time, until};

#[tokio::test]
async fn each_use_puts_idle_expiry_off() {
    for backend in Backend::all().await {
        let time = Time::new();
        let replica = || Replica::new(&Sessions::with_options(backend.store.clone(), time.options()));
        let serving = replica();
        let session = serving.initialize().await;
        // rmcp has it in memory all the time, and does not ask the store.
        time.pass(50);
        assert_eq!(serving.status(&session).await, 200);
        until_touched(&backend.store, time.now()).await;

        time.pass(50);
        let other = replica();
        assert_eq!(other.status(&session).await, 200, "{}", backend.name());
        until_touched(&backend.store, time.now()).await;
        time.pass(50);
        assert_eq!(replica().status(&session).await, 200, "{}", backend.name());
        until_touched(&backend.store, time.now()).await;

        time.pass(60);
        assert_eq!(replica().status(&session).await, 404, "{}", backend.name());
        assert_eq!(serving.status(&session).await, 404, "{}: in memory too", backend.name());
    }
}

#[tokio::test]
async fn absolute_expiry_ends_sessions_in_use() {
    for backend in Backend::all().await {
        let time = Time::new();
        let replica = || Replica::new(&Sessions::with_options(backend.store.clone(), time.options()));
        let serving = replica();
        let session = serving.initialize().await;
        for _ in 0..47 {
            time.pass(30);
            assert_eq!(serving.status(&session).await, 200, "{}", backend.name());
        }
        until_touched(&backend.store, time.now()).await;
        assert_eq!(replica().status(&session).await, 200, "{}", backend.name());
        time.pass(30);
        assert_eq!(serving.status(&session).await, 404, "{}", backend.name());
        assert_eq!(replica().status(&session).await, 404, "{}", backend.name());
    }
}

#[tokio::test]
async fn a_session_is_touched_once_a_minute() {
    let store = Store::memory();
    let time = Time::new();
    let replica = Replica::new(&Sessions::with_options(store.clone(), time.options()));
    let begun = time.now();
    let session = replica.initialize().await;
    let half_a_minute = || time.0.fetch_add(30_000, std::sync::atomic::Ordering::Relaxed);
    half_a_minute();
    for _ in 0..100 {
        assert_eq!(replica.status(&session).await, 200);
    }
    // Another that is told of afterwards shows that there was nothing to tell of the first.
    let other = replica.initialize().await;
    half_a_minute();
    half_a_minute();
    assert_eq!(replica.status(&other).await, 200);
    until_touched(&store, time.now()).await;
    let mut touched = touched(&store).await;
    touched.sort();
    assert_eq!(touched, [begun, time.now()]);
}

#[tokio::test]
async fn expired_records_leave_the_store() {
    let store = Store::memory();
    let time = Time::new();
    let replica = Replica::new(&Sessions::with_options(store.clone(), time.options()));
    replica.initialize().await;
    time.pass(24 * 60);
    let session = replica.initialize().await;
    time.pass(2);
    assert_eq!(replica.status(&session).await, 200);
    // With a clock that stands still all records count, expired ones too.
    until("the sweep", async || (touched(&store).await.len() == 1).then_some(())).await;
}

async fn touched(store: &Store) -> Vec<Millis> {
    let page = store.list(None, 100, Millis(0)).await.unwrap();
    page.records.iter().map(|(_, stored)| stored.touched).collect()
}

/// Waits until the store has been told of a use at `at`.
async fn until_touched(store: &Store, at: Millis) {
    until("the touch", async || touched(store).await.contains(&at).then_some(())).await;
}
