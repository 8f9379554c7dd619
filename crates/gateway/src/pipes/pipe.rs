//! One pipe: what goes in and comes out of it, and who waits for that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use throughline_wire::envelope::{self, Envelope, Id, Limits, Message, Span};
use throughline_wire::splice::{Edit, splice};
use throughline_wire::{jsonrpc, method};
use tokio::sync::{Notify, mpsc};

use super::connection::Connection;
use crate::upstream::Refusal;

/// Messages on their way in, and to one reader; then whoever writes waits.
pub(super) const QUEUE: usize = 64;
/// How long a reader may take nothing, before it is cut off for the sake of the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// The member of `_meta` that names the `subscriptions/listen` request that a notification is for.
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What a request is told.
pub(super) enum Said {
    /// Its response.
    Response(Bytes),
    /// Something on the way.
    Message(Bytes),
}

/// The way in.
pub(super) enum Inlet {
    /// Lines for a program.
    Lines(mpsc::Sender<Bytes>),
    /// Requests to a server.
    Posts(Connection),
}

/// Why a message did not get in.
#[derive(Debug)]
pub(super) enum Untold {
    /// The pipe has ended, before or after it took the message.
    Ended,
    /// The other side certainly did not take it: the session is none there, or nobody was reached.
    Lost,
    /// It was refused.
    Refused(Box<Refusal>),
}

/// Who speaks through a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// One session.
    Own,
    /// Several, none of which may know of the others: ids are ours, and nobody is there to be asked.
    Shared,
    /// Requests without a session (2026-07-28), likewise; one that nobody waits for any more is cancelled.
    Sessionless,
}

/// A pipe and those who wait for what comes out of it.
pub(super) struct Pipe {
    inlet: Inlet,
    of: Use,
    waiting: RefCell<Vec<Waiting>>,
    listeners: RefCell<Vec<mpsc::Sender<Bytes>>>,
    pub(super) dead: Cell<bool>,
    end: Notify,
    garbage: Cell<u64>,
}

/// A request that waits, as its server knows it.
struct Waiting {
    turn: u64,
    /// Raw JSON of the request's id, and of its progress token.
    id: Box<str>,
    token: Option<Box<str>>,
    /// The same as its client knows them, where they are others.
    client: Option<Named>,
    to: mpsc::Sender<Said>,
}

/// What a client calls its request.
struct Named {
    session: Box<str>,
    id: Box<str>,
    token: Option<Box<str>>,
}

/// A request that waits; when it is dropped, nobody does.
pub(super) struct Turn {
    pipe: Rc<Pipe>,
    turn: u64,
    /// What it is told. Ends when the pipe does.
    pub(super) said: mpsc::Receiver<Said>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let before = self.pipe.waiting.borrow().len();
        self.pipe.waiting.borrow_mut().retain(|waiting| waiting.turn != self.turn);
        // Of one that has been answered nothing is there any more.
        if self.pipe.of == Use::Sessionless && self.pipe.waiting.borrow().len() < before {
            self.pipe.cancel(self.turn);
        }
    }
}

impl Pipe {
    pub(super) fn new(inlet: Inlet, of: Use) -> Rc<Self> {
        Rc::new(Pipe {
            inlet,
            of,
            waiting: RefCell::default(),
            listeners: RefCell::default(),
            dead: Cell::new(false),
            end: Notify::new(),
            garbage: Cell::new(0),
        })
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.dead.set(true);
        self.end.notify_one();
    }

    /// Returns when it is to end.
    pub(super) async fn ending(&self) {
        self.end.notified().await;
    }

    /// It has ended. Whoever waits learns it by the end of what it is told.
    pub(super) fn ended(&self) {
        self.dead.set(true);
        self.waiting.borrow_mut().clear();
        self.listeners.borrow_mut().clear();
    }

    /// Who speaks through it.
    pub(super) fn used_by(&self) -> Use {
        self.of
    }

    /// Sends a message in. `headers`: what came with it from the gateway, where that is not the gateway itself.
    pub(super) async fn tell(&self, message: &Bytes, headers: Option<&HeaderMap>) -> Result<(), Untold> {
        if self.dead.get() {
            return Err(Untold::Ended);
        }
        match &self.inlet {
            Inlet::Lines(lines) => lines.send(line(message)).await.map_err(|_| Untold::Ended),
            Inlet::Posts(connection) => {
                let sent = connection.post(message, headers).await;
                if matches!(sent, Err(Untold::Lost)) {
                    self.end();
                }
                sent
            }
        }
    }

    /// Sends a request of this session's in. `turn`: a number that no other request has.
    pub(super) async fn ask(
        self: &Rc<Self>,
        turn: u64,
        session: &str,
        id: &Id<'_>,
        message: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Turn, Untold> {
        let at = envelope::path(message, &["params", "_meta", "progressToken"]).ok().flatten();
        let token = at.clone().and_then(|at| std::str::from_utf8(&message[at]).ok()).map(Into::into);
        let (to, said) = mpsc::channel(QUEUE);
        let (waiting, message) = match self.of {
            Use::Own => (Waiting { turn, id: id.raw().into(), token, client: None, to }, message.clone()),
            Use::Shared | Use::Sessionless => {
                let ours = turn.to_string();
                let mut edits = vec![Edit::replace(id.span(), ours.as_bytes())];
                edits.extend(at.map(|at| Edit::replace(at, ours.as_bytes())));
                let renamed = splice(message, &mut edits).into();
                let client = Named { session: session.into(), id: id.raw().into(), token };
                let token = client.token.as_ref().map(|_| ours.as_str().into());
                (Waiting { turn, id: ours.into(), token, client: Some(client), to }, renamed)
            }
        };
        self.waiting.borrow_mut().push(waiting);
        let asked = Turn { pipe: Rc::clone(self), turn, said };
        self.tell(&message, Some(headers)).await.map(|()| asked)
    }

    /// Sends a notification or an answer of this session's in, as far as that is the session's alone to say.
    pub(super) async fn note(
        &self,
        session: &str,
        message: &Bytes,
        headers: &HeaderMap,
    ) -> Result<(), Untold> {
        if self.of == Use::Own {
            return self.tell(message, Some(headers)).await;
        }
        let asks = |method: &[u8]| {
            envelope::member(message, "method").is_ok_and(|at| at.is_some_and(|at| &message[at] == method))
        };
        let request = envelope::path(message, &["params", "requestId"]).ok().flatten();
        if asks(b"\"notifications/cancelled\"")
            && let Some(turn) = request.and_then(|at| self.turn_of(session, &message[at]))
        {
            self.cancel(turn);
        }
        Ok(())
    }

    fn turn_of(&self, session: &str, id: &[u8]) -> Option<u64> {
        let waiting = self.waiting.borrow();
        let is_it = |named: &Named| &*named.session == session && named.id.as_bytes() == id;
        waiting.iter().find(|waiting| waiting.client.as_ref().is_some_and(is_it)).map(|found| found.turn)
    }

    /// Tells a program that nobody waits for a request any more.
    fn cancel(&self, turn: u64) {
        let params = format!("{{\"requestId\":{turn}}}");
        let message = jsonrpc::notification(method::CANCELLED, Some(params.as_bytes()));
        if let Inlet::Lines(lines) = &self.inlet {
            // A program that takes nothing would not take this either.
            let _ = lines.try_send(line(&message));
        }
    }

    /// Opens a stream of what belongs to no request; None while the one session has one.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|present| !present.is_closed());
        if self.of == Use::Own && !listeners.is_empty() {
            return None;
        }
        let (to, said) = mpsc::channel(QUEUE);
        listeners.push(to);
        Some(said)
    }

    /// Takes what came out.
    pub(super) async fn heard(&self, message: &Bytes) {
        if message.trim_ascii().is_empty() {
            return;
        }
        match Envelope::parse(message, &Limits::ANY_DEPTH) {
            Ok(envelope) => self.said(message, &envelope.message).await,
            Err(_) => {
                if self.garbage.replace(self.garbage.get() + 1) == 0 {
                    tracing::warn!("an upstream says something that is no message; it is passed over");
                }
            }
        }
    }

    /// How much came out that was no message.
    pub(super) fn garbage(&self) -> u64 {
        self.garbage.get()
    }

    /// Brings a message to whom it is for.
    async fn said(&self, text: &Bytes, message: &Message<'_>) {
        let is_for = match message {
            Message::Response { id: Some(id), .. } => {
                if let Some((to, text)) = self.answered(text, id) {
                    self.give(&to, Said::Response(text)).await;
                }
                return;
            }
            Message::Request { .. } if self.of != Use::Own => None,
            Message::Notification { method, .. } if self.of == Use::Shared && is_for_all(method) => None,
            Message::Notification { method, params: Some(params), .. } => {
                self.of_notification(text, method, params).or_else(|| self.likely(text))
            }
            _ => self.likely(text),
        };
        if let Some((to, text)) = is_for
            && self.give(&to, Said::Message(text)).await
        {
            return;
        }
        match message {
            Message::Request { .. } if self.of != Use::Own => {}
            _ if self.told_listeners(text).await => return,
            _ => {}
        }
        if let Message::Request { id, method, .. } = message {
            let answer = match &**method {
                method::PING => jsonrpc::result(id.raw(), b"{}"),
                _ => jsonrpc::error(Some(id.raw()), -32601, "Nobody is there to be asked", None),
            };
            let _ = self.tell(&answer.into(), None).await;
        }
    }

    /// Tells a request something. One of several sessions' that takes nothing is cut off: the others wait behind it. False
    /// when nobody waits there any more.
    async fn give(&self, to: &mpsc::Sender<Said>, said: Said) -> bool {
        if self.of == Use::Own {
            return to.send(said).await.is_ok();
        }
        if let Ok(sent) = tokio::time::timeout(PATIENCE, to.send(said)).await {
            return sent.is_ok();
        }
        tracing::warn!("a request was cut off: nobody took what its program said");
        let cut = self.find(|waiting| waiting.to.same_channel(to));
        if let Some(cut) = cut.map(|at| self.waiting.borrow_mut().remove(at)) {
            self.cancel(cut.turn);
        }
        true
    }

    /// Which request a message is about that does not say it: the newest, most likely; of several sessions', the only one.
    fn likely(&self, text: &Bytes) -> Option<(mpsc::Sender<Said>, Bytes)> {
        let waiting = self.waiting.borrow();
        let newest = waiting.last().filter(|_| self.of == Use::Own || waiting.len() == 1)?;
        Some((newest.to.clone(), text.clone()))
    }

    /// Tells those who listen. False when there are none.
    async fn told_listeners(&self, text: &Bytes) -> bool {
        let listeners = self.listeners.borrow().clone();
        let mut told = false;
        for to in listeners {
            match tokio::time::timeout(PATIENCE, to.send(text.clone())).await {
                Ok(sent) => told |= sent.is_ok(),
                Err(_) => {
                    tracing::warn!("a reader of an upstream's stream was cut off: it took nothing");
                    self.listeners.borrow_mut().retain(|present| !present.same_channel(&to));
                }
            }
        }
        told
    }

    fn find(&self, which: impl Fn(&Waiting) -> bool) -> Option<usize> {
        self.waiting.borrow().iter().rposition(which)
    }

    /// A response, for who waits for it; then nobody does any more.
    fn answered(&self, text: &Bytes, id: &Id<'_>) -> Option<(mpsc::Sender<Said>, Bytes)> {
        let at = self.find(|waiting| *waiting.id == *id.raw())?;
        let waiting = self.waiting.borrow_mut().remove(at);
        let Some(client) = &waiting.client else { return Some((waiting.to, text.clone())) };
        let subscription = envelope::path(text, &["result", "_meta", SUBSCRIPTION]).ok().flatten();
        let places = [id.span()].into_iter().chain(subscription);
        let mut edits: Vec<_> = places.map(|at| Edit::replace(at, client.id.as_bytes())).collect();
        Some((waiting.to, splice(text, &mut edits).into()))
    }

    /// A notification that names its request, for who waits for that.
    fn of_notification(
        &self,
        text: &Bytes,
        method: &str,
        params: &Span,
    ) -> Option<(mpsc::Sender<Said>, Bytes)> {
        let place = |path: &[&str]| {
            let at = envelope::path(&text[params.clone()], path).ok().flatten()?;
            Some(params.start + at.start..params.start + at.end)
        };
        let token = place(&["progressToken"]).filter(|_| method == method::PROGRESS);
        let subscription = || place(&["_meta", SUBSCRIPTION]).filter(|_| self.of == Use::Sessionless);
        let is_token = token.is_some();
        let at = token.or_else(subscription)?;
        let name = std::str::from_utf8(&text[at.clone()]).ok()?;
        let found = self.find(|waiting| match is_token {
            true => waiting.token.as_deref() == Some(name),
            false => *waiting.id == *name,
        })?;
        let waiting = &self.waiting.borrow()[found];
        let theirs = waiting.client.as_ref().map(|client| match (is_token, &client.token) {
            (true, Some(token)) => token,
            _ => &client.id,
        });
        let text = match theirs {
            Some(theirs) => splice(text, &mut [Edit::replace(at, theirs.as_bytes())]).into(),
            None => text.clone(),
        };
        Some((waiting.to.clone(), text))
    }
}

/// Whether a notification is about the server, and not about what one session does.
fn is_for_all(notification: &str) -> bool {
    notification.ends_with("/list_changed") || notification == method::RESOURCE_UPDATED
}

/// A message as one line: an end can only stand between its parts, where a space says the same.
fn line(message: &[u8]) -> Bytes {
    let spaced = message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    spaced.chain([b'\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(turn: u64) -> Bytes {
        let params = format!("{{\"progressToken\":{turn},\"progress\":1}}");
        jsonrpc::notification(method::PROGRESS, Some(params.as_bytes())).into()
    }

    async fn ask(pipe: &Rc<Pipe>, turn: u64) -> Turn {
        let body =
            br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":1}}}"#;
        let body = Bytes::from_static(body);
        let limits = Limits::default();
        let Ok(Message::Request { id, .. }) = Envelope::parse(&body, &limits).map(|it| it.message) else {
            panic!("it is a request");
        };
        pipe.ask(turn, "session", &id, &body, &HeaderMap::new()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_does_not_hold_up_the_others_for_ever() {
        let (lines, mut taken) = mpsc::channel(QUEUE);
        let pipe = Pipe::new(Inlet::Lines(lines), Use::Shared);
        let (mut slow, mut other) = (ask(&pipe, 1).await, ask(&pipe, 2).await);
        for _ in 0..2 {
            taken.recv().await.unwrap();
        }
        let heard = async {
            for _ in 0..=QUEUE {
                pipe.heard(&progress(1)).await;
            }
            pipe.heard(&Bytes::from_static(br#"{"jsonrpc":"2.0","id":2,"result":{}}"#)).await;
        };
        tokio::time::timeout(PATIENCE * 2, heard).await.expect("the others are served");
        assert!(matches!(other.said.recv().await, Some(Said::Response(_))));
        let mut got = 0;
        while slow.said.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, QUEUE, "what it did not take is gone, and it is told by the end");
    }
}
