//! A Redis that is killed, hangs, comes back, and has lost what it held.

use std::sync::Arc;
use std::time::Duration;

use throughline_rmcp::{Options, Sessions};
use tokio::time::Instant;

use crate::replica::Replica;
use crate::servers::Server;
use crate::{Backend, PATIENCE, Time, until};

/// One that keeps what it has answered over a restart.
fn durable() -> Server {
    Server::start(&["--appendonly", "yes", "--appendfsync", "always"])
}

async fn replica(redis: &Server) -> Replica {
    Replica::new(&Sessions::new(redis.store().await))
}

/// Waits until another process has this session.
async fn until_restorable(redis: &Server, session: &str) {
    until("the session in Redis", async || {
        let other = replica(redis).await;
        (other.status(session).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sessions_go_on_while_redis_is_dead_and_what_happened_is_written_when_it_is_back() {
    let mut redis = durable();
    let serving = replica(&redis).await;
    let (kept, ended) = (serving.initialize().await, serving.initialize().await);
    redis.kill();

    assert_eq!(serving.status(&kept).await, 200);
    let begun = serving.initialize().await;
    assert_eq!(serving.status(&begun).await, 200);
    serving.delete(&ended).await;
    assert_eq!(serving.status(&ended).await, 404);

    redis.start_again();
    until_restorable(&redis, &kept).await;
    until_restorable(&redis, &begun).await;
    until("the end in Redis", async || {
        let other = replica(&redis).await;
        (other.status(&ended).await == 404).then_some(())
    })
    .await;
    assert_eq!(serving.status(&ended).await, 404);
}

#[tokio::test]
async fn requests_wait_a_while_for_a_redis_that_is_away() {
    let mut redis = durable();
    let session = replica(&redis).await.initialize().await;
    let options = Options::default().with_patience(PATIENCE);
    let after = Arc::new(Replica::new(&Sessions::with_options(redis.store().await, options)));
    redis.kill();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (after, session) = (after.clone(), session.clone());
            tokio::spawn(async move { after.status(&session).await })
        })
        .collect();
    // A session in memory does not wait, and shows that the others have come to the store before it is back.
    let other = after.initialize().await;
    assert_eq!(after.status(&other).await, 200);
    assert!(calls.iter().all(|call| !call.is_finished()));
    redis.start_again();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(after.seen.restores(), 1);
}

#[tokio::test]
async fn a_redis_that_hangs_delays_by_no_more_than_is_said() {
    let redis = Server::start(&[]);
    let session = replica(&redis).await.initialize().await;
    let options = Options::default().with_patience(Duration::from_millis(300));
    let store = Sessions::open_with(&redis.url_with("timeout=50ms"), options).await.unwrap();
    let after = Replica::new(&store);
    redis.freeze();
    let asked = Instant::now();
    let (one, other) = tokio::join!(after.call(&session), after.call(&session));
    for answer in [one, other] {
        assert_eq!(answer.status.as_u16(), 500, "{answer:?}");
        assert!(answer.body.contains("the session store is away"), "{answer:?}");
        assert!(!answer.body.contains("127.0.0.1"), "nothing about the store is said to clients: {answer:?}");
    }
    assert!(asked.elapsed() >= Duration::from_millis(300));
    redis.thaw();
    until("the session", async || (after.status(&session).await == 200).then_some(())).await;
}

#[tokio::test]
async fn what_redis_has_lost_is_written_again() {
    let redis = Server::start(&[]);
    let time = Time::new();
    let serving = Replica::new(&Sessions::with_options(redis.store().await, time.options()));
    let live = serving.initialize().await;
    assert_eq!(serving.status(&live).await, 200);
    redis.must(&["FLUSHALL"]);
    time.pass(1);
    assert_eq!(serving.status(&live).await, 200);
    until("the session in Redis", async || {
        let other = Replica::new(&Sessions::with_options(redis.store().await, time.options()));
        (other.status(&live).await == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_in_use_costs_redis_one_look_and_one_touch_a_minute() {
    let Backend { store, _redis, .. } = Backend::redis().await;
    let time = Time::new();
    let serving = Replica::new(&Sessions::with_options(store.clone(), time.options()));
    let session = serving.initialize().await;
    let mut calls = store.stats().calls;
    // Scripts are loaded at their first use.
    for (minute, expected) in [(0, 0), (1, 3), (2, 2)] {
        for _ in 0..100 {
            assert_eq!(serving.status(&session).await, 200);
        }
        until("the touch", async || (store.stats().calls >= calls + expected).then_some(())).await;
        assert_eq!(store.stats().calls, calls + expected, "minute {minute}");
        calls += expected;
        time.pass(1);
    }
}

#[tokio::test]
async fn a_server_starts_while_redis_is_away() {
    let mut redis = durable();
    redis.kill();
    let sessions = Sessions::open(&redis.url()).await.unwrap();
    let serving = Replica::new(&sessions);
    let session = serving.initialize().await;
    assert_eq!(serving.status(&session).await, 200);
    redis.start_again();
    until_restorable(&redis, &session).await;
}
