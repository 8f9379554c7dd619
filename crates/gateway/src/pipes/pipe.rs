//! One pipe: what goes in and comes out of it, and who waits for that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use throughline_wire::envelope::{self, Envelope, Limits, Message};
use throughline_wire::{jsonrpc, method};
use tokio::sync::{Notify, mpsc};

use super::connection::Connection;
use crate::upstream::Refusal;

/// Messages on their way in, and to one reader; then whoever writes waits.
pub(super) const QUEUE: usize = 64;
/// How long a reader of the standing stream may take nothing, before it is cut off for the sake of the others.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// A pipe and those who wait for what comes out of it.
pub(super) struct Pipe {
    inlet: Inlet,
    waiting: RefCell<Vec<Waiting>>,
    listener: RefCell<Option<mpsc::Sender<Bytes>>>,
    pub(super) dead: Cell<bool>,
    end: Notify,
    garbage: Cell<u64>,
}

struct Waiting {
    turn: u64,
    /// Raw JSON of the request's id, and of its progress token.
    id: Box<str>,
    token: Option<Box<str>>,
    to: mpsc::Sender<Said>,
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
        self.pipe.waiting.borrow_mut().retain(|waiting| waiting.turn != self.turn);
    }
}

impl Pipe {
    pub(super) fn new(inlet: Inlet) -> Rc<Self> {
        Rc::new(Pipe {
            inlet,
            waiting: RefCell::default(),
            listener: RefCell::default(),
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
        self.listener.borrow_mut().take();
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

    /// Sends a request in.
    pub(super) async fn ask(
        self: &Rc<Self>,
        turn: u64,
        id: &str,
        message: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Turn, Untold> {
        let token = envelope::path(message, &["params", "_meta", "progressToken"]).ok().flatten();
        let token = token.and_then(|at| std::str::from_utf8(&message[at]).ok()).map(Into::into);
        let (to, said) = mpsc::channel(QUEUE);
        self.waiting.borrow_mut().push(Waiting { turn, id: id.into(), token, to });
        let asked = Turn { pipe: Rc::clone(self), turn, said };
        self.tell(message, Some(headers)).await.map(|()| asked)
    }

    /// Opens the stream of what belongs to no request; None while another has it.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut listener = self.listener.borrow_mut();
        if listener.as_ref().is_some_and(|present| !present.is_closed()) {
            return None;
        }
        let (to, said) = mpsc::channel(QUEUE);
        *listener = Some(to);
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
        let is_request = matches!(message, Message::Request { .. });
        let to = match message {
            Message::Response { id: Some(id), .. } => {
                let to = self.find(|waiting| *waiting.id == *id.raw());
                if let Some(to) = to {
                    let _ = to.send(Said::Response(text.clone())).await;
                }
                return;
            }
            Message::Response { id: None, .. } => self.find(|_| true),
            Message::Notification { method, params: Some(params), .. } if method == method::PROGRESS => {
                let at = envelope::member(&text[params.clone()], "progressToken").ok().flatten();
                let token = at.map(|at| params.start + at.start..params.start + at.end);
                let token = token.and_then(|at| std::str::from_utf8(&text[at]).ok());
                self.find(|waiting| token.is_some() && waiting.token.as_deref() == token)
            }
            // Which request it is about, it does not say: the newest, most likely.
            _ => self.find(|_| true),
        };
        if let Some(to) = to
            && to.send(Said::Message(text.clone())).await.is_ok()
        {
            return;
        }
        let listener = self.listener.borrow().clone();
        if let Some(to) = listener {
            match tokio::time::timeout(PATIENCE, to.send(text.clone())).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) => {}
                Err(_) => {
                    tracing::warn!("a reader of an upstream's stream was cut off: it took nothing");
                    self.listener.borrow_mut().take();
                }
            }
        }
        if let (true, Message::Request { id, method, .. }) = (is_request, message) {
            let answer = match &**method {
                method::PING => jsonrpc::result(id.raw(), b"{}"),
                _ => jsonrpc::error(Some(id.raw()), -32601, "Nobody is there to be asked", None),
            };
            let _ = self.tell(&answer.into(), None).await;
        }
    }

    fn find(&self, which: impl Fn(&Waiting) -> bool) -> Option<mpsc::Sender<Said>> {
        self.waiting.borrow().iter().rev().find(|waiting| which(waiting)).map(|waiting| waiting.to.clone())
    }
}

/// A message as one line: an end can only stand between its parts, where a space says the same.
fn line(message: &[u8]) -> Bytes {
    let spaced = message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    spaced.chain([b'\n']).collect()
}
