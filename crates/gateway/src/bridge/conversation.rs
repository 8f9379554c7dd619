//! One modern request at a legacy server: sent, or waited for again; read until its response, or until the server asks
//! something that the client has to be asked first. Then the call stays where it is, its answer is read on by whoever
//! reads it ([`outlet`](crate::outlet)), and the client comes back for it with the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use throughline_store::{Appended, Keep, Millis, StreamKey};
use throughline_wire::bridge::to_legacy::answer;
use throughline_wire::bridge::to_legacy::discover::server_info;
use throughline_wire::bridge::to_legacy::input::{self, Question};
use throughline_wire::bridge::to_legacy::notice::Hears;
use throughline_wire::bridge::to_legacy::request::salient;
use throughline_wire::bridge::to_legacy::state::{State, Waits};
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome, Span};
use throughline_wire::sse::Frame;
use throughline_wire::{jsonrpc, method};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::caching;
use super::front::{Ending, Out};
use super::handle::{self, Handle};
use super::reading::{Events, Reading};
use super::state::Sealing;
use crate::app::{Core, first};
use crate::classify::{Arrived, Held, OnDisconnect};
use crate::error::{Fault, Modern};
use crate::metrics::StoreOperation;
use crate::outlet::{EventId, Followed};
use crate::reply::{self, Asked, ReplyBody, THROUGHLINE_SESSION};
use crate::session::{Kind, Session, millis};
use crate::translate::Tagger;
use crate::{call, listen, recover};

/// How long is read on after a question: servers ask several at once.
const COALESCE: Duration = Duration::from_millis(50);
/// Questions that a client is asked at a time; the next ones follow when these are answered.
const MAX_QUESTIONS: usize = 16;
/// How long a call that a client came back for goes on without it when its connection breaks: it may come once more.
const GRACE: Duration = Duration::from_secs(10);
/// How often a stream whose reader is gone is taken up again.
const ATTEMPTS: usize = 4;

/// Where the answer comes from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// A call that is made now.
    Call,
    /// One that waits for its client, behind this event.
    Waiting(EventId),
}

/// See the module.
pub(super) struct Conversation {
    pub(super) core: Rc<Core>,
    /// The request, as a legacy client's.
    pub(super) arrived: Rc<Arrived>,
    pub(super) session: Arc<Session>,
    /// Raw JSON of its id toward the server, and toward the client.
    pub(super) id: String,
    pub(super) theirs: String,
    pub(super) hears: Hears,
    /// Answers that the client brings.
    pub(super) responses: BTreeMap<String, Vec<u8>>,
    pub(super) capabilities: Option<Vec<u8>>,
    pub(super) sealing: Sealing,
    /// What the client names the session's state by, where it does.
    pub(super) handle: Option<Handle>,
    pub(super) source: Source,
    /// Ids of questions that have been answered.
    pub(super) answered: BTreeSet<String>,
    /// Keys of questions that have been seen, by the questions' ids.
    pub(super) known: BTreeMap<String, String>,
    /// What the client is to be asked.
    pub(super) questions: Vec<Question>,
    /// The event before the first of them.
    pub(super) begins: Option<EventId>,
    /// The last event that was read.
    pub(super) seen: Option<EventId>,
}

/// What became of an answer to a question.
enum Claim {
    /// It is the first; it is to be sent.
    Ours,
    /// It has been given before.
    Same,
    /// Another has.
    Other,
}

impl Conversation {
    /// Runs until its end, or until its client goes away.
    pub(super) async fn run(mut self, to: mpsc::Sender<Out>) {
        let ending = tokio::select! {
            biased;
            () = to.closed() => None,
            ending = self.converse(&to) => Some(ending),
        };
        match ending {
            Some(Ok(ending) | Err(ending)) => {
                // An error only says that the client has gone by now.
                let _ = to.send(Out::End(ending)).await;
            }
            None => self.leave(),
        }
    }

    async fn converse(&mut self, to: &mpsc::Sender<Out>) -> Result<Ending, Ending> {
        let mut source = self.source;
        for _ in 0..ATTEMPTS {
            let answer = self.open(source).await.map_err(Ending::Fault)?;
            if let Some(header) = answer.headers().get(THROUGHLINE_SESSION) {
                let _ = to.send(Out::Carried(header.clone())).await;
            }
            match Reading::of(&self.core, answer).await.map_err(Ending::Fault)? {
                Reading::Whole(response, body) => return Ok(self.whole(response, body).await),
                Reading::Events(mut events) => {
                    if let Some(ending) = self.read(&mut events, to).await? {
                        return Ok(ending);
                    }
                }
            }
            // Whoever wrote the stream is gone; somebody else may have taken it over, or this does now.
            match self.seen {
                Some(event) => source = Source::Waiting(event),
                None => break,
            }
        }
        Err(Ending::Fault(Fault::MayHaveExecuted))
    }

    async fn open(&self, source: Source) -> Result<Response<ReplyBody>, Fault> {
        let (core, arrived) = (&self.core, &self.arrived);
        match source {
            Source::Call => {
                let held = arrived.held().ok_or(Fault::UpstreamGarbled)?;
                // Who cannot be asked anything has nothing to come back for.
                let can_be_asked = self.capabilities.as_deref().is_some_and(|raw| raw.contains(&b'"'));
                let on_disconnect = match can_be_asked && is_incomplete(&held.method) {
                    true => OnDisconnect::KeepReading,
                    false => OnDisconnect::Cancel,
                };
                let call = async {
                    let answered = call::run(core, arrived, held, &self.session).await?;
                    reply::relay(core, answered, &Asked { on_disconnect, ..Asked::by(arrived, held) }).await
                };
                let limit = core.app.config.timeouts.call;
                core.deadlines.within(limit, call).await.unwrap_or(Err(Fault::UpstreamTimeout))
            }
            Source::Waiting(event) => {
                let resumed = listen::resume(core, arrived, Arc::clone(&self.session), event).await;
                resumed.map_err(|fault| match fault {
                    Fault::StreamGone => Fault::Modern(Modern::Gone),
                    fault => fault,
                })
            }
        }
    }

    /// None at the end of a stream without a response.
    async fn read(&mut self, events: &mut Events, to: &mpsc::Sender<Out>) -> Result<Option<Ending>, Ending> {
        let mut asks = None;
        loop {
            let asked = self.questions.len();
            let next = match asks {
                Some(until) => match tokio::time::timeout_at(until, events.next()).await {
                    Ok(next) => next,
                    Err(_) => return self.park().await.map(Some),
                },
                None => events.next().await,
            };
            let Some(frame) = next.map_err(Ending::Fault)? else { return Ok(None) };
            if let Some(ending) = self.take(&frame, events.status, to).await? {
                return Ok(Some(ending));
            }
            if self.questions.len() >= MAX_QUESTIONS {
                return self.park().await.map(Some);
            }
            if self.questions.len() > asked {
                asks = Some(Instant::now() + COALESCE);
            }
        }
    }

    async fn take(
        &mut self,
        frame: &Frame,
        status: StatusCode,
        to: &mpsc::Sender<Out>,
    ) -> Result<Option<Ending>, Ending> {
        let before = self.seen;
        let id = frame.id().and_then(|id| std::str::from_utf8(id).ok());
        if let Some(event) = id.and_then(|id| EventId::parse(&self.core.app, self.session.key, id)) {
            self.seen = Some(event);
        }
        let Some(data) = frame.data().filter(|data| !data.is_empty() && frame.is_message()) else {
            return Ok(None);
        };
        let Ok(envelope) = Envelope::parse(&data, &Limits::ANY_DEPTH) else { return Ok(None) };
        match envelope.message {
            Message::Response { id, outcome } if id.as_ref().is_none_or(|id| id.raw() == self.id) => {
                let id = id.map(|id| id.span());
                Ok(Some(self.finish(status, &data, id, outcome).await))
            }
            Message::Response { .. } => Ok(None),
            Message::Notification { method, params, .. } => {
                if let Some(message) = self.hears.outward(&data, &method, params.as_ref()) {
                    let _ = to.send(Out::Notice(message)).await;
                }
                Ok(None)
            }
            Message::Request { id, method, params } => {
                let begins = before.or(self.seen.map(|event| EventId { number: event.number - 1, ..event }));
                self.asked(&data, id.raw(), &method, params.as_ref(), begins).await.map(|()| None)
            }
        }
    }

    /// The server asks something: it is answered here, or by what the client has brought, or the client is to be asked.
    async fn asked(
        &mut self,
        data: &[u8],
        id: &str,
        method: &str,
        params: Option<&Span>,
        begins: Option<EventId>,
    ) -> Result<(), Ending> {
        if self.answered.contains(id) {
            return Ok(());
        }
        if method == method::PING {
            self.respond(jsonrpc::result(id, b"{}"));
            return Ok(());
        }
        let own = self.own_id(id);
        let own = own.as_deref().unwrap_or(id.as_bytes());
        let question = Question::read(data, own, id.to_owned(), method, params);
        let may_ask = self.arrived.held().is_some_and(|held| is_incomplete(&held.method));
        let Some(question) = question.filter(|_| may_ask) else {
            let error = answer::METHOD_NOT_FOUND as i32;
            let text = "The client cannot be asked this in the course of this request";
            self.respond(jsonrpc::error(Some(id), error, text, None));
            return Ok(());
        };
        if let Some(lacks) = question.lacks(self.capabilities.as_deref()) {
            self.cancel();
            return Err(Ending::Fault(Fault::Modern(Modern::Capability(lacks))));
        }
        let question = self.named(question);
        let Some(response) = self.responses.get(&question.key).filter(|answer| question.fits(answer)) else {
            self.begins = self.begins.or(begins);
            self.questions.push(question);
            return Ok(());
        };
        match self.claim(id, response).await {
            Claim::Ours => self.respond(jsonrpc::result(id, response)),
            Claim::Same => {}
            Claim::Other => {
                let why = "the question was answered before, with something else".to_owned();
                return Err(Ending::Fault(Fault::Modern(Modern::Params(why))));
            }
        }
        self.answered.insert(id.to_owned());
        Ok(())
    }

    /// Under the key that the client knows it by, or one that no other has.
    fn named(&mut self, question: Question) -> Question {
        let key = match self.known.get(&question.id) {
            Some(key) => key.clone(),
            None => input::unique(&question.key, |key| self.known.values().any(|taken| taken == key)),
        };
        self.known.insert(question.id.clone(), key.clone());
        Question { key, ..question }
    }

    fn own_id(&self, id: &str) -> Option<Vec<u8>> {
        let bound = recover::current(&self.session)?;
        Tagger::new(&self.core.app, &bound).own_request(&envelope::string_value(id.as_bytes())?)
    }

    /// Whether this is the first answer to a question, at whichever replica.
    async fn claim(&self, id: &str, response: &[u8]) -> Claim {
        let app = &self.core.app;
        let stream = first(&app.keys.digest("answer to", &[id.as_bytes()]));
        let key = StreamKey { session: self.session.key, stream };
        let digest = app.keys.digest("answer", &[&salient(Some(response))]);
        let (now, limits) = (app.effects.now(), &app.config.streams);
        let lasts = millis(app.config.timeouts.call).max(millis(limits.keep));
        let keep = Keep {
            until: Millis(now.0.saturating_add(lasts)),
            events: 1,
            bytes: limits.bytes as u64,
            above: 0,
            total: limits.total as u64,
        };
        let log = app.store.events();
        match log.append(key, 0, vec![Bytes::copy_from_slice(&digest)], keep, now).await {
            Ok(Appended::Conflict(_)) => match log.read(key, 0, digest.len(), now).await {
                Ok(page) if page.events.iter().any(|event| event.payload[..] == digest) => Claim::Same,
                _ => Claim::Other,
            },
            // Without the log the call goes on, as far as it can.
            Ok(Appended::Stored(_) | Appended::Full) => Claim::Ours,
            Err(error) => {
                app.store_failed(StoreOperation::Append, &error);
                Claim::Ours
            }
        }
    }

    /// Tells the server something in the client's name, whether or not that is there to the end.
    fn respond(&self, body: Vec<u8>) {
        let (core, arrived, session) =
            (Rc::clone(&self.core), Rc::clone(&self.arrived), Arc::clone(&self.session));
        let Ok(held) = Held::response(Bytes::from(body)) else { return };
        tokio::task::spawn_local(async move { call::respond(&core, &arrived, &held, &session).await });
    }

    /// Leaves the call waiting, and asks the client.
    async fn park(&mut self) -> Result<Ending, Ending> {
        let app = &self.core.app;
        let Some(event) = self.begins else {
            self.cancel();
            return Err(Ending::Fault(Fault::UpstreamGarbled));
        };
        if !app.parked.has_room(app, &self.arrived.caller.principal) {
            self.cancel();
            return Err(Ending::Fault(Fault::TooManyRequests));
        }
        self.session.keep(&self.core).await;
        let waits = Waits::Call {
            session: self.session.key.0,
            event: event.text(app),
            id: self.id.clone(),
            once: self.session.kind == Kind::Once,
            answered: self.answered.iter().cloned().collect(),
        };
        let questions = std::mem::take(&mut self.questions);
        Ok(self.ask(waits, &questions))
    }

    fn ask(&self, waits: Waits, questions: &[Question]) -> Ending {
        let app = &self.core.app;
        let until = app.effects.now().0.saturating_add(millis(app.config.timeouts.parked));
        let asked = questions.iter().map(|question| (question.key.clone(), question.id.clone())).collect();
        let state = self.sealing.seal(&self.core, &State { waits, questions: asked, until });
        let said = self.arrived.route.initialize.last();
        let info = said.as_deref().and_then(server_info);
        Ending::Response(StatusCode::OK, input::input_required(&self.theirs, questions, &state, info))
    }

    /// An answer that is no stream.
    async fn whole(&mut self, response: Response<()>, body: Bytes) -> Ending {
        if let Ok(Message::Response { id, outcome }) =
            Envelope::parse(&body, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
        {
            let id = id.map(|id| id.span());
            let headers = response.headers().clone();
            return match self.finish(response.status(), &body, id, outcome).await {
                // What asks for credentials says so in its headers.
                Ending::Response(status, body) if !status.is_success() => {
                    Ending::AsIs(as_is(status, headers, body.into()))
                }
                ending => ending,
            };
        }
        Ending::AsIs(reply::with_body(response, body))
    }

    /// The server's response, for the client.
    async fn finish(
        &mut self,
        status: StatusCode,
        data: &[u8],
        id: Option<Span>,
        outcome: Outcome,
    ) -> Ending {
        let held = self.arrived.held();
        let method = held.map_or("", |held| &*held.method);
        let under = |at: Span, with: &[u8]| match id.clone() {
            Some(id) => answer::respond(data, id, &self.theirs, at, with),
            None => answer::respond(data, at.start..at.start, "", at, with),
        };
        match outcome {
            Outcome::Result(at) => {
                let said = self.arrived.route.initialize.last();
                let info = said.as_deref().and_then(server_info);
                let result =
                    answer::result(&data[at.clone()], method, caching(&self.arrived.route, method), info);
                let result = result.unwrap_or_else(|_| data[at.clone()].to_vec());
                let result = match &self.handle {
                    Some(handle) => handle.given(&self.core, &self.arrived, &result),
                    None => handle::offered(&self.arrived, method, result),
                };
                Ending::Response(status, under(at, &result))
            }
            Outcome::Error(at) => {
                let error = &data[at.clone()];
                if let Some(questions) = Question::of_error(error).filter(|_| is_incomplete(method)) {
                    let lacks = |question: &Question| question.lacks(self.capabilities.as_deref());
                    let lacking: Vec<_> = questions.iter().filter_map(lacks).collect();
                    return match lacking.is_empty() {
                        true => self.ask(Waits::Nothing, &questions),
                        false => Ending::Fault(Fault::Modern(Modern::Capability(input::together(lacking)))),
                    };
                }
                let status = match answer::code(error) {
                    Some(answer::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
                    _ => status,
                };
                Ending::Response(status, under(at, &answer::error(error)))
            }
        }
    }

    /// The client has gone.
    fn leave(&self) {
        match self.source {
            Source::Call => self.cancel(),
            Source::Waiting(event) => {
                let Some(outlet) = self.core.app.outlets.get(event.key) else { return };
                let cancel = self.cancelled();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(GRACE).await;
                    if outlet.followed() != Followed::Now {
                        cancel.await;
                    }
                });
            }
        }
    }

    /// Cancels the call upstream (2025-11-25, Cancellation).
    fn cancel(&self) {
        tokio::task::spawn_local(self.cancelled());
    }

    fn cancelled(&self) -> impl Future<Output = ()> + 'static {
        let (core, arrived, session) =
            (Rc::clone(&self.core), Rc::clone(&self.arrived), Arc::clone(&self.session));
        let params =
            format!(r#"{{"requestId":{},"reason":"The client has cancelled its request"}}"#, self.id);
        async move {
            let body = jsonrpc::notification(method::CANCELLED, Some(params.as_bytes()));
            if let Ok(held) = Held::told(Bytes::from(body)) {
                call::notify(&core, &arrived, &held, &session).await;
            }
        }
    }
}

/// Whether results of this method may say that input is required (2026-07-28, Multi Round-Trip Requests, "Supported
/// Requests").
fn is_incomplete(method: &str) -> bool {
    matches!(method, method::TOOLS_CALL | method::PROMPTS_GET | method::RESOURCES_READ)
}

fn as_is(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    reply::with_body(response, body)
}
