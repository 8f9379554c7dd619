//! Many requests meet a session that is not in memory yet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{SessionManager, StreamableHttpServerConfig};
use throughline_rmcp::{Sessions, Store};

use crate::replica::Replica;
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_restores_a_session_once() {
    let store = Store::memory();
    let before = Replica::new(&Sessions::new(store.clone()));
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(before.initialize().await);
    }
    let after = Arc::new(Replica::new(&Sessions::new(store)));
    let calls: Vec<_> = (0..500)
        .map(|n: usize| {
            let (after, session) = (after.clone(), sessions[n % sessions.len()].clone());
            tokio::spawn(async move { after.status(&session).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(after.seen.restores(), sessions.len());
}

#[tokio::test]
async fn requests_wait_for_a_restore_that_is_under_way() {
    let (after, session) = restarted().await;
    after.seen.shut();
    let first = call(&after, &session);
    until("the restore", async || (after.seen.restores() == 1).then_some(())).await;
    let second = call(&after, &session);
    after.seen.open();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    assert_eq!(after.seen.restores(), 1);
}

#[tokio::test]
async fn a_restore_whose_request_is_dropped_is_made_again() {
    let (after, session) = restarted().await;
    after.seen.shut();
    let first = call(&after, &session);
    until("the restore", async || (after.seen.restores() == 1).then_some(())).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = call(&after, &session);
    after.seen.open();
    assert_eq!(second.await.unwrap(), 200);
    assert_eq!(after.seen.restores.load(Ordering::SeqCst), 2);
    assert_eq!(after.status(&session).await, 200);
}

/// A replica that has just started, and a session from before.
async fn restarted() -> (Arc<Replica>, String) {
    let store = Store::memory();
    let session = Replica::new(&Sessions::new(store.clone())).initialize().await;
    (Arc::new(Replica::new(&Sessions::new(store))), session)
}

fn call<M: SessionManager>(replica: &Arc<Replica<M>>, session: &str) -> tokio::task::JoinHandle<u16> {
    let (replica, session) = (replica.clone(), session.to_owned());
    tokio::spawn(async move { replica.status(&session).await })
}

/// The front page says what rmcp does by itself.
#[tokio::test]
async fn without_the_manager_a_dropped_restore_leaves_a_session_that_is_not_ready() {
    let sessions = Sessions::new(Store::memory());
    let plain = || {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(Arc::new(sessions.clone()));
        Arc::new(Replica::with(LocalSessionManager::default(), config))
    };
    let session = plain().initialize().await;
    let after = plain();
    after.seen.shut();
    let first = call(&after, &session);
    until("the restore", async || (after.seen.restores() == 1).then_some(())).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    after.seen.open();
    assert_eq!(after.status(&session).await, 500);
}
