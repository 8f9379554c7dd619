//! The store is away.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};
use throughline_rmcp::Sessions;
use tokio::sync::Semaphore;

use crate::replica::Replica;
use crate::{Backend, Time, until};

#[tokio::test]
async fn sessions_in_memory_and_new_ones_go_on() {
    let backend = Backend::embedded().await;
    let time = Time::new();
    let sessions = Sessions::with_options(backend.store.clone(), time.options());
    let replica = Replica::new(&sessions);
    let before = replica.initialize().await;
    backend.store.close().await.unwrap();

    assert_eq!(replica.status(&before).await, 200);
    let during = replica.initialize().await;
    assert_eq!(replica.status(&during).await, 200);
    time.pass(2);
    assert_eq!((replica.status(&before).await, replica.status(&during).await), (200, 200));
    replica.delete(&before).await;
    assert_eq!(replica.status(&before).await, 404, "the client has ended it");
    time.pass(24 * 60);
    assert_eq!(replica.status(&during).await, 404, "it has reached its absolute expiry");
}

#[tokio::test]
async fn a_session_that_rmcp_has_dropped_comes_back_from_memory() {
    let backend = Backend::embedded().await;
    let time = Time::new();
    let sessions = Sessions::with_options(backend.store.clone(), time.options());
    let manager = || {
        let mut manager = LocalSessionManager::default();
        manager.session_config.keep_alive = Some(Duration::from_millis(1));
        sessions.manager(manager)
    };
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(Arc::new(sessions.clone()));
    let replica = Replica::with(manager(), config);
    let session = replica.initialize().await;
    backend.store.close().await.unwrap();
    // A request that comes just when rmcp ends the session gets 500 from rmcp.
    let never_404 = async || {
        let answer = replica.call(&session).await;
        assert!([200, 500].contains(&answer.status.as_u16()), "{answer:?}");
        answer
    };
    until("a restore", async || {
        (never_404().await.status.is_success() && replica.seen.restores() > 0).then_some(())
    })
    .await;
    time.pass(61);
    until("an error, since it is idle for too long as far as is known here", async || {
        let answer = never_404().await;
        assert!(!answer.status.is_success(), "{answer:?}");
        answer.body.contains("the session store is away").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_nobody_knows_is_an_error_and_no_404() {
    let backend = Backend::embedded().await;
    let session = Replica::new(&Sessions::new(backend.store.clone())).initialize().await;
    let after = Replica::new(&Sessions::new(backend.store.clone()));
    backend.store.close().await.unwrap();
    let calls = (after.call(&session), after.call(&session), after.call(&session));
    let answers = tokio::join!(calls.0, calls.1, calls.2);
    for answer in [answers.0, answers.1, answers.2] {
        assert_eq!(answer.status.as_u16(), 500, "{answer:?}");
        assert!(answer.body.contains("the session store is away"), "{answer:?}");
        assert!(!answer.body.contains(".redb"), "nothing about the store is said to clients: {answer:?}");
    }
}

/// The front page says what rmcp does by itself.
#[tokio::test]
async fn without_the_manager_those_who_wait_get_404() {
    let hangs = Arc::new(Hangs { asked: Semaphore::new(0), fails: Semaphore::new(0) });
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(hangs.clone());
    let replica = Replica::with(LocalSessionManager::default(), config);
    let fail = async {
        drop(hangs.asked.acquire().await);
        hangs.fails.add_permits(1);
    };
    let (first, second, third, ()) =
        tokio::join!(replica.status("id"), replica.status("id"), replica.status("id"), fail);
    assert_eq!((first, second, third), (500, 404, 404));
}

/// A store that fails when it is told to.
struct Hangs {
    asked: Semaphore,
    fails: Semaphore,
}

#[async_trait::async_trait]
impl SessionStore for Hangs {
    async fn load(&self, _: &str) -> Result<Option<SessionState>, SessionStoreError> {
        self.asked.add_permits(1);
        drop(self.fails.acquire().await);
        Err("away".into())
    }

    async fn store(&self, _: &str, _: &SessionState) -> Result<(), SessionStoreError> {
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), SessionStoreError> {
        Ok(())
    }
}
