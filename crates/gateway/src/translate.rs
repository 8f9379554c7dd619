//! What has to be changed in messages because sessions are renewed (issued ones) or shared (keyed ones).
//! Bytes in, bytes out; everything not named here passes as it is.

use std::sync::Arc;

use throughline_wire::envelope::{self, Envelope, Limits, Message, Span};
use throughline_wire::splice::{Edit, splice};
use throughline_wire::tag::Purpose;
use throughline_wire::{jsonrpc, method};

use crate::app::App;
use crate::binding::Bound;
use crate::classify::Held;
use crate::error::Fault;

/// What becomes of a message on its way to the client.
#[derive(Debug, PartialEq)]
pub enum Outward {
    /// It passes.
    Keep,
    /// It passes, changed.
    Replace(Vec<u8>),
    /// It is not for this client.
    Drop,
    /// It is a question that this client cannot be asked; the answer for the upstream.
    Answer(Vec<u8>),
}

/// Marks what an upstream session minted with the binding's generation: the ids of its requests to the client, its
/// progress tokens and event ids begin anew in every upstream session, and an answer must not reach another question.
pub struct Tagger {
    app: Arc<App>,
    bound: Arc<Bound>,
}

impl Tagger {
    /// For one binding of a session.
    pub fn new(app: &Arc<App>, bound: &Arc<Bound>) -> Self {
        Tagger { app: Arc::clone(app), bound: Arc::clone(bound) }
    }

    fn tag(&self, purpose: Purpose, value: &[u8]) -> String {
        self.app.keys.tag(purpose, &self.bound.mark, self.bound.generation, value)
    }

    /// An event id, for the client.
    pub fn event_id(&self, id: &[u8]) -> String {
        self.tag(Purpose::Event, id)
    }

    /// The upstream's own event id, if the client's is of this binding.
    pub fn own_event_id(&self, id: &str) -> Option<Vec<u8>> {
        self.untag(Purpose::Event, id)
    }

    fn untag(&self, purpose: Purpose, text: &str) -> Option<Vec<u8>> {
        let (generation, value) = self.app.keys.untag(purpose, &self.bound.mark, text)?;
        (generation == self.bound.generation).then_some(value)
    }

    /// A message of the upstream's, for the client.
    pub fn outward(&self, data: &[u8]) -> Outward {
        let limits = Limits::ANY_DEPTH;
        let Ok(envelope) = Envelope::parse(data, &limits) else { return Outward::Keep };
        let quoted = |purpose, value: &[u8]| format!("\"{}\"", self.tag(purpose, value)).into_bytes();
        match envelope.message {
            Message::Request { id, params, .. } => {
                let request = quoted(Purpose::Request, id.raw().as_bytes());
                let token = params.and_then(|params| member_at(data, &params, &["_meta", "progressToken"]));
                let progress = token.map(|at| (quoted(Purpose::Progress, &data[at.clone()]), at));
                let mut edits = vec![Edit::replace(id.span(), &request)];
                if let Some((token, at)) = &progress {
                    edits.push(Edit::replace(at.clone(), token));
                }
                Outward::Replace(splice(data, &mut edits))
            }
            Message::Notification { method, params: Some(params), .. } if method == method::CANCELLED => {
                match member_at(data, &params, &["requestId"]) {
                    Some(at) => {
                        let request = quoted(Purpose::Request, &data[at.clone()]);
                        Outward::Replace(splice(data, &mut [Edit::replace(at, &request)]))
                    }
                    None => Outward::Keep,
                }
            }
            _ => Outward::Keep,
        }
    }

    /// The client's answer to a question of this binding; None where it answers another.
    pub fn inward_response(&self, held: &Held) -> Option<Vec<u8>> {
        self.inward(Purpose::Request, &held.body, held.id.clone()?)
    }

    /// The upstream's own id (raw JSON) of a question of this binding, by the text of the one that the client knows.
    pub fn own_request(&self, text: &str) -> Option<Vec<u8>> {
        self.untag(Purpose::Request, text)
    }

    /// The client's progress on a question of this binding; None where it is about another.
    pub fn inward_progress(&self, held: &Held) -> Option<Vec<u8>> {
        self.inward(Purpose::Progress, &held.body, held.param(&["progressToken"]).ok()??)
    }

    fn inward(&self, purpose: Purpose, body: &[u8], at: Span) -> Option<Vec<u8>> {
        let text = envelope::string_value(&body[at.clone()])?;
        let own = self.untag(purpose, &text)?;
        Some(splice(body, &mut [Edit::replace(at, &own)]))
    }
}

/// One request in a session that many callers share: its id and progress token were made unique.
pub struct Renamed {
    ours: String,
    theirs: Box<str>,
    token: Option<Box<str>>,
}

impl Renamed {
    /// The request under an id of ours, and how to undo it. The id serves as the progress token as well.
    pub fn request(held: &Held, ours: String) -> Result<(Vec<u8>, Self), Fault> {
        let theirs = held.raw_id().unwrap_or("null").into();
        let token_at = held.param(&["_meta", "progressToken"])?;
        let token = token_at.clone().and_then(|at| std::str::from_utf8(&held.body[at]).ok()).map(Into::into);
        let mut edits = Vec::with_capacity(2);
        edits.extend(held.id.clone().map(|at| Edit::replace(at, ours.as_bytes())));
        edits.extend(token_at.map(|at| Edit::replace(at, ours.as_bytes())));
        let body = splice(&held.body, &mut edits);
        Ok((body, Renamed { ours, theirs, token }))
    }

    /// (ours, theirs), raw JSON.
    pub fn ids(&self) -> (&str, &str) {
        (&self.ours, &self.theirs)
    }

    /// A message of the upstream's, for the caller of this request.
    pub fn outward(&self, data: &[u8]) -> Outward {
        let limits = Limits::ANY_DEPTH;
        let Ok(envelope) = Envelope::parse(data, &limits) else { return Outward::Keep };
        let restored = |at: Span, theirs: &str| {
            Outward::Replace(splice(data, &mut [Edit::replace(at, theirs.as_bytes())]))
        };
        match envelope.message {
            Message::Response { id: Some(id), .. } if id.raw() == self.ours => {
                restored(id.span(), &self.theirs)
            }
            // An error whose request the upstream could not read came on this request's own answer.
            Message::Response { id: None, .. } => Outward::Keep,
            Message::Response { .. } => Outward::Drop,
            Message::Request { id, method, .. } => Outward::Answer(cannot_ask(id.raw(), &method)),
            Message::Notification { method, params, .. } if method == method::PROGRESS => {
                let at = params.and_then(|params| member_at(data, &params, &["progressToken"]));
                match (at, &self.token) {
                    (Some(at), Some(token)) if data[at.clone()] == *self.ours.as_bytes() => {
                        restored(at, token)
                    }
                    _ => Outward::Drop,
                }
            }
            Message::Notification { method, .. } if method == method::CANCELLED => Outward::Drop,
            Message::Notification { .. } => Outward::Keep,
        }
    }
}

/// A question that no client can be asked: answered here, so that the upstream does not wait for it.
pub fn unasked(data: &[u8]) -> Outward {
    let limits = Limits::ANY_DEPTH;
    match Envelope::parse(data, &limits).map(|envelope| envelope.message) {
        Ok(Message::Request { id, method, .. }) => Outward::Answer(cannot_ask(id.raw(), &method)),
        _ => Outward::Keep,
    }
}

fn cannot_ask(id: &str, method: &str) -> Vec<u8> {
    const METHOD_NOT_FOUND: i32 = -32601;
    match method {
        method::PING => jsonrpc::result(id, b"{}"),
        _ => jsonrpc::error(
            Some(id),
            METHOD_NOT_FOUND,
            "This client cannot be asked: it holds no session of its own and announced no capabilities",
            None,
        ),
    }
}

fn member_at(data: &[u8], params: &Span, names: &[&str]) -> Option<Span> {
    let found = envelope::path(&data[params.clone()], names).ok()??;
    Some(params.start + found.start..params.start + found.end)
}
