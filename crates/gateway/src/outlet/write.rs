//! The task's side of an outlet: events go to the log first, then to the connection that follows.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use throughline_store::{Appended, Millis};
use throughline_wire::sse::{self, Frame, IdEdit};

use super::entry::Entry;
use super::{BEAT, EventId, GONE, Outlet};
use crate::app::Core;
use crate::metrics::StoreOperation;
use crate::sealed_log;
use crate::session::millis;

/// How long a client waits before it comes back, in milliseconds.
const RETRY: u32 = 1000;

/// One event that is to be written.
#[derive(Clone)]
pub enum Say {
    /// A frame of the upstream's, with other data where they are given.
    Frame(Frame, Option<Vec<u8>>),
    /// A message of the gateway's own.
    Message(Vec<u8>),
    /// An event without data: the client can come back from here.
    Prime,
}

/// What a client that can come back is told first, and when a stream closes for now.
pub(super) fn prime(id: &str) -> Bytes {
    format!("id: {id}\nretry: {RETRY}\ndata:\n\n").into()
}

/// How a client is told to come back, where it has an id already.
pub(super) fn retry() -> Bytes {
    format!("retry: {RETRY}\n\n").into()
}

/// What writes to an outlet. While it lives, clients that come back find the outlet here.
pub struct Writer {
    core: Rc<Core>,
    /// What it writes to.
    pub outlet: Arc<Outlet>,
    /// The binding that events come from.
    pub generation: u32,
    /// The last event id that the upstream gave.
    pub upstream_id: Vec<u8>,
    /// Until when the log keeps the stream, where anything of it is there.
    kept: Option<Millis>,
    /// The log has failed, and that was said.
    failed: bool,
}

impl Writer {
    /// The writer of an outlet; where there is one of its name already, that is returned.
    pub fn new(core: &Rc<Core>, outlet: Arc<Outlet>, generation: u32) -> Result<Self, Arc<Outlet>> {
        core.app.outlets.enter(&outlet)?;
        let core = Rc::clone(core);
        // Of a stream that another process left it is not known, and soon found out.
        let kept = (outlet.last() > 0).then_some(Millis(0));
        Ok(Writer { core, outlet, generation, upstream_id: Vec::new(), kept, failed: false })
    }

    /// Whether more can be written without losing what waits for the client.
    pub fn has_room(&self) -> bool {
        self.outlet.has_room(&self.core.app)
    }

    /// Writes events; the last of them may be the response. When this returns they are in the log, where it works.
    pub async fn write(&mut self, events: Vec<(Say, bool)>) {
        let app = &self.core.app;
        let before = self.outlet.last();
        let (mut frames, mut sealed) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
        for (number, (say, response)) in (before + 1..).zip(events) {
            let id = EventId { opener: self.outlet.opener, key: self.outlet.key, number };
            let entry = Entry {
                generation: self.generation,
                response,
                upstream_id: self.upstream_id.clone(),
                request: self.outlet.request.as_deref().unwrap_or_default().to_owned(),
                frame: say.frame(&id.text(app)),
            };
            sealed.push(entry.seal(app, &id));
            frames.push((number, entry.frame));
        }
        let logged = self.append(before, sealed).await;
        for (number, frame) in frames {
            self.outlet.push(number, frame, logged);
        }
    }

    /// How often [`Writer::keep`] is to be called.
    pub fn beat(&self) -> Duration {
        let keep = self.core.app.config.streams.keep / 4;
        if self.core.app.store.is_shared() { BEAT.min(keep) } else { keep }
    }

    /// Keeps what is in the log, if it would leave soon: nobody has written for a while. Where other replicas share the
    /// log, shows them that the stream is written to, and sees whether its client follows there.
    pub async fn keep(&mut self) {
        let app = Arc::clone(&self.core.app);
        let half = millis(app.config.streams.keep) / 2;
        let shared = app.store.is_shared();
        if self.kept.is_some_and(|until| shared || app.effects.now().0 + half >= until.0) {
            self.append(self.outlet.last(), Vec::new()).await;
        }
        if shared
            && self.kept.is_some()
            && let Ok(Some(taken)) = app.store.events().awaited(self.outlet.key).await
        {
            self.outlet.followed_elsewhere(taken);
        }
    }

    /// Lets other replicas know that there is such a stream.
    pub async fn announce(&mut self) {
        if self.core.app.store.is_shared() {
            self.append(self.outlet.last(), Vec::new()).await;
        }
    }

    /// Lets other replicas know that nobody writes to it any more, so that they need not wait to find out.
    pub async fn hand_on(&mut self) {
        let app = &self.core.app;
        if app.store.is_shared() && self.kept.is_some() {
            let keep = app.config.streams.keep.saturating_sub(GONE);
            self.append_for(self.outlet.last(), Vec::new(), keep).await;
        }
    }

    async fn append(&mut self, after: u64, sealed: Vec<Bytes>) -> bool {
        let keep = self.core.app.config.streams.keep;
        self.append_for(after, sealed, keep).await
    }

    async fn append_for(&mut self, after: u64, sealed: Vec<Bytes>, keep: Duration) -> bool {
        let app = &self.core.app;
        let (now, keep) = (app.effects.now(), sealed_log::keep(app, keep, self.outlet.taken()));
        let why = match app.store.events().append(self.outlet.key, after, sealed, keep, now).await {
            Ok(Appended::Stored(_)) => {
                self.kept = Some(keep.until);
                self.failed = false;
                return true;
            }
            Ok(Appended::Conflict(_)) => "another process writes to it",
            Ok(Appended::Full) => "the event log is full; raise streams.total",
            Err(error) => {
                app.store_failed(StoreOperation::Append, &error);
                "the event log failed"
            }
        };
        if !std::mem::replace(&mut self.failed, true) {
            let session = app.log_id(&self.outlet.key.session.0);
            tracing::warn!(session, why, "a stream cannot be resumed from here on");
        }
        false
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.outlet.end();
        self.core.app.outlets.leave(&self.outlet);
    }
}

impl Say {
    fn frame(&self, id: &str) -> Bytes {
        match self {
            Say::Frame(frame, data) => frame.rewrite(data.as_deref(), IdEdit::Set(id.as_bytes())),
            Say::Message(message) => sse::event(message, Some(id.as_bytes())),
            Say::Prime => prime(id),
        }
    }
}
