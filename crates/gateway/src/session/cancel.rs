//! Requests that wait for the beginning of their answers, and clients that cancel them: many servers do not answer then, so
//! that nobody need wait.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Kind, Session, lock};
use crate::classify::Held;

/// A request that can be cancelled.
pub(super) struct Waiting {
    /// Raw JSON of its id.
    id: Box<str>,
    cancelled: Arc<Notify>,
}

/// The same, as the request has it; known to the session until it is dropped.
pub struct Cancellable {
    session: Arc<Session>,
    cancelled: Arc<Notify>,
}

impl Cancellable {
    /// Returns when the client has cancelled the request.
    pub async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        lock(&self.session.waiting).retain(|waiting| !Arc::ptr_eq(&waiting.cancelled, &self.cancelled));
    }
}

impl Session {
    /// Makes known that this request waits. None where its id could be another caller's as well.
    pub fn cancellable(self: &Arc<Self>, held: &Held) -> Option<Cancellable> {
        let id = held.raw_id().filter(|_| self.kind == Kind::Issued)?.into();
        let cancelled = Arc::new(Notify::new());
        lock(&self.waiting).push(Waiting { id, cancelled: Arc::clone(&cancelled) });
        Some(Cancellable { session: Arc::clone(self), cancelled })
    }

    /// Lets the request with this id (raw JSON) go, if it waits.
    pub fn cancel(&self, id: &str) {
        lock(&self.waiting).iter().filter(|one| *one.id == *id).for_each(|one| one.cancelled.notify_one());
    }
}
