//! Calls that wait for the beginning of their answers while the upstream tells on the session's standing stream how far
//! they are: servers that answer in plain JSON have no other place for it.

use std::sync::Arc;

use throughline_wire::envelope::{self, Envelope, Limits, Message};
use throughline_wire::method;

use super::{Kind, Session, lock};
use crate::classify::Held;
use crate::deadlines::Pulse;

/// A call whose progress may be told of.
pub(super) struct Call {
    /// Raw JSON of its progress token.
    token: Box<str>,
    pulse: Arc<Pulse>,
}

/// The same, as the call has it; known to the session until it is dropped.
pub struct Awaited {
    session: Arc<Session>,
    pulse: Arc<Pulse>,
}

impl Awaited {
    /// Beats at each word of progress.
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.session.awaited).retain(|call| !Arc::ptr_eq(&call.pulse, &self.pulse));
    }
}

impl Session {
    /// Makes known that this call waits. None where nobody would tell of its progress: it named no token, or the client
    /// has no standing stream.
    pub fn await_progress(self: &Arc<Self>, held: &Held) -> Option<Awaited> {
        if self.kind != Kind::Issued || lock(&self.listener).is_none() {
            return None;
        }
        let token = held.param(&["_meta", "progressToken"]).ok()??;
        let token = std::str::from_utf8(&held.body[token]).ok()?.into();
        let pulse = Pulse::new();
        lock(&self.awaited).push(Call { token, pulse: Arc::clone(&pulse) });
        Some(Awaited { session: Arc::clone(self), pulse })
    }

    /// Takes note of a message on the standing stream.
    pub fn told(&self, message: &[u8]) {
        if lock(&self.awaited).is_empty() {
            return;
        }
        let Ok(Message::Notification { method, params: Some(params), .. }) =
            Envelope::parse(message, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
        else {
            return;
        };
        let params = &message[params];
        if method == method::PROGRESS
            && let Ok(Some(token)) = envelope::path(params, &["progressToken"])
        {
            let token = &params[token];
            let awaited = lock(&self.awaited);
            awaited.iter().filter(|call| call.token.as_bytes() == token).for_each(|call| call.pulse.beat());
        }
    }
}
