//! Event ids that are good in one session only.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use pin_project_lite::pin_project;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

use crate::naming::Naming;

/// Makes event ids of one session's.
#[derive(Clone)]
pub(crate) struct Scope {
    naming: Naming,
    session_id: String,
}

impl Scope {
    pub(crate) fn new(naming: Naming, session_id: &str) -> Scope {
        Scope { naming, session_id: session_id.to_owned() }
    }

    fn tag(&self, event_id: &str) -> String {
        // Whoever knows the session's id may use the session; nobody else can make this.
        let name = self.naming.name(&format!("event\0{}\0{event_id}", self.session_id));
        name.rest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn outward(&self, event_id: &str) -> String {
        format!("{event_id}.{}", self.tag(event_id))
    }

    /// The id as the event store gave it; None where that was not in this session.
    pub(crate) fn inward(&self, event_id: &str) -> Option<String> {
        let (event_id, tag) = event_id.rsplit_once('.')?;
        (self.tag(event_id) == tag).then(|| event_id.to_owned())
    }
}

pin_project! {
    /// A stream whose event ids are a session's.
    pub(crate) struct Scoped<S> {
        #[pin]
        stream: S,
        // None where ids stay as they are.
        scope: Option<Scope>,
    }
}

impl<S> Scoped<S> {
    pub(crate) fn new(stream: S, scope: Option<Scope>) -> Scoped<S> {
        Scoped { stream, scope }
    }
}

impl<S: Stream<Item = ServerSseMessage>> Stream for Scoped<S> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        let this = self.project();
        let mut event = ready!(this.stream.poll_next(cx));
        if let (Some(event), Some(scope)) = (&mut event, this.scope)
            && let Some(id) = &mut event.event_id
        {
            *id = scope.outward(id);
        }
        Poll::Ready(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_good_in_its_session_alone() {
        let (one, other) = (Scope::new(Naming::new("a"), "1"), Scope::new(Naming::new("a"), "2"));
        let id = one.outward("x.y-1");
        assert_eq!(one.inward(&id).as_deref(), Some("x.y-1"));
        assert_eq!(
            (other.inward(&id), one.inward("x.y-1"), one.inward(&format!("z{id}"))),
            (None, None, None)
        );
    }
}
