//! A session manager of rmcp's, and what it does not say by itself: that sessions are used, that the store is away,
//! and that a session is still being restored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, GetExtensions, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::{
    EventStore, RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionRestoreMarker,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Away;
use crate::events::NoEvent;
use crate::scoped::{Scope, Scoped};
use crate::sessions::{Sessions, Standing};

/// A session that is not restored by then never will be.
const RESTORE: Duration = Duration::from_secs(30);

/// A session manager whose sessions are kept in [`Sessions`]; [`Sessions::manager`] makes one.
///
/// It passes everything on to the manager inside, and beside that
///
/// - counts each request of a session as a use of it, so that idle expiry slides, and ends those that have expired or
///   were ended by another process,
/// - answers for the store that is away: each request whose session nobody knows gets an error, and none a 404,
/// - lets no request into a session that is still being restored, and gives up one whose restoring request was dropped.
///
/// An [`EventStore`] is configured on the manager inside; the event ids that clients get are good in their session only.
pub struct Manager<M> {
    inner: Arc<M>,
    sessions: Sessions,
    /// Sessions that rmcp is restoring: each belongs to a request under way, or is given up at its deadline.
    restoring: Restoring,
}

type Restoring = Arc<Mutex<HashMap<SessionId, Restore>>>;

/// A session that is being restored. Whoever waits for its end sees this dropped.
struct Restore {
    deadline: Instant,
    ended: watch::Sender<()>,
}

/// Why the session manager could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError<E: std::error::Error + 'static> {
    /// The manager inside failed.
    #[error(transparent)]
    Inner(E),
    /// The store is away, and the session is not in memory.
    #[error(transparent)]
    Away(#[from] Away),
    /// A stream is to be resumed after an event that was not given in this session.
    #[error(transparent)]
    NoEvent(#[from] NoEvent),
}

impl<M> Manager<M> {
    pub(crate) fn new(inner: M, sessions: Sessions) -> Manager<M> {
        Manager { inner: Arc::new(inner), sessions, restoring: Arc::default() }
    }

    /// The manager inside.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    fn restoring(&self) -> MutexGuard<'_, HashMap<SessionId, Restore>> {
        lock(&self.restoring)
    }

    fn is_restoring(&self, id: &SessionId) -> bool {
        self.restoring().contains_key(id)
    }
}

impl<M: SessionManager> Manager<M> {
    /// What makes event ids this session's, where they are more than a number in it.
    fn scope(&self, id: &SessionId) -> Option<Scope> {
        self.inner.event_store().map(|_| self.sessions.scope(id))
    }

    /// Waits until nobody is restoring the session.
    async fn wait_for_restore(&self, id: &SessionId) -> Result<(), ManagerError<M::Error>> {
        loop {
            let (deadline, mut ended) = match self.restoring().get(id) {
                Some(restore) => (restore.deadline, restore.ended.subscribe()),
                None => return Ok(()),
            };
            if tokio::time::timeout_at(deadline, ended.changed()).await.is_err() {
                tracing::warn!("a session could not be restored in time: its next request tries again");
                self.close(id).await?;
            }
        }
    }

    async fn close(&self, id: &SessionId) -> Result<(), ManagerError<M::Error>> {
        self.sessions.released(id);
        let closed = self.inner.close_session(id).await.map_err(ManagerError::Inner);
        self.restoring().remove(id);
        closed
    }

    /// Has the requests of the session wait.
    fn begin_restore(&self, id: &SessionId) -> Begun {
        let (ended, _) = watch::channel(());
        self.restoring().insert(id.clone(), Restore { deadline: Instant::now() + RESTORE, ended });
        Begun { restoring: Some(Arc::clone(&self.restoring)), id: id.clone() }
    }

    /// Closes the session, unless [`Abandoned::restored`] comes before this is dropped.
    fn unless_restored(&self, id: &SessionId) -> Abandoned<M> {
        Abandoned { inner: Some(Arc::clone(&self.inner)), id: id.clone() }
    }
}

fn lock(restoring: &Restoring) -> MutexGuard<'_, HashMap<SessionId, Restore>> {
    restoring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first step of a restore. Unless it goes on, there is nothing to wait for when this is dropped.
struct Begun {
    restoring: Option<Restoring>,
    id: SessionId,
}

impl Begun {
    fn goes_on(mut self) {
        self.restoring = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(restoring) = &self.restoring {
            lock(restoring).remove(&self.id);
        }
    }
}

/// A later step of a restore that is under way. Dropped before its end, with the request that was restoring, it closes the
/// session: rmcp then ends what serves it, and calls [`SessionManager::close_session`] when that is done.
struct Abandoned<M: SessionManager> {
    inner: Option<Arc<M>>,
    id: SessionId,
}

impl<M: SessionManager> Abandoned<M> {
    fn restored(mut self) {
        self.inner = None;
    }
}

impl<M: SessionManager> Drop for Abandoned<M> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let id = self.id.clone();
        // Without a runtime all sessions end anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = inner.close_session(&id).await {
                    tracing::warn!(%error, "a session whose restore was abandoned could not be closed");
                }
            });
        }
    }
}

impl<M: SessionManager> SessionManager for Manager<M> {
    type Error = ManagerError<M::Error>;
    type Transport = M::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.inner.create_session().await.map_err(ManagerError::Inner)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        let step = self.is_restoring(id).then(|| self.unless_restored(id));
        let answer = self.inner.initialize_session(id, message).await.map_err(ManagerError::Inner)?;
        step.into_iter().for_each(Abandoned::restored);
        Ok(answer)
    }

    /// Called for each request that carries a session id, before anything else.
    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        loop {
            self.wait_for_restore(id).await?;
            if self.inner.has_session(id).await.map_err(ManagerError::Inner)? {
                if self.is_restoring(id) {
                    continue;
                }
                if self.sessions.used(id).await == Standing::Alive {
                    return Ok(true);
                }
                self.close(id).await?;
            }
            // rmcp asks the store next, and makes 404s of what fails there.
            self.sessions.exists(id).await?;
            if !self.is_restoring(id) && !self.inner.has_session(id).await.map_err(ManagerError::Inner)? {
                return Ok(false);
            }
        }
    }

    /// Called when a session is deleted, when it is idle for rmcp, and when what serves it has ended.
    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.close(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let stream = self.inner.create_stream(id, message).await.map_err(ManagerError::Inner)?;
        Ok(Scoped::new(stream, self.scope(id)))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        if !ends_restore(&message) {
            return self.inner.accept_message(id, message).await.map_err(ManagerError::Inner);
        }
        let step = self.unless_restored(id);
        self.inner.accept_message(id, message).await.map_err(ManagerError::Inner)?;
        step.restored();
        self.restoring().remove(id);
        Ok(())
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let stream = self.inner.create_standalone_stream(id).await.map_err(ManagerError::Inner)?;
        Ok(Scoped::new(stream, self.scope(id)))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let scope = self.scope(id);
        let last_event_id = match &scope {
            Some(scope) => scope.inward(&last_event_id).ok_or(NoEvent)?,
            None => last_event_id,
        };
        let stream = self.inner.resume(id, last_event_id).await.map_err(ManagerError::Inner)?;
        Ok(Scoped::new(stream, scope))
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        let begun = self.begin_restore(&id);
        let outcome = self.inner.restore_session(id).await.map_err(ManagerError::Inner)?;
        if matches!(outcome, RestoreOutcome::Restored(_)) {
            begun.goes_on();
        }
        Ok(outcome)
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        self.inner.event_store()
    }
}

/// Whether this is the last of what rmcp repeats to a restored session.
fn ends_restore(message: &ClientJsonRpcMessage) -> bool {
    match message {
        ClientJsonRpcMessage::Notification(sent) => {
            matches!(sent.notification, ClientNotification::InitializedNotification(_))
                && sent.notification.extensions().get::<SessionRestoreMarker>().is_some()
        }
        _ => false,
    }
}
