//! One modern request at a legacy server: sent, or waited for again; read until its response, or until the server asks
//! something that the client has to be asked first. Then the call stays where it is, its answer is read on by whoever
//! reads it ([`outlet`](crate::outlet)), and the client comes back for it with the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use throughline_wire::bridge::to_legacy::answer;
use throughline_wire::bridge::to_legacy::discover::server_info;
use throughline_wire::bridge::to_legacy::input::{self, MAX_QUESTIONS, Question};
use throughline_wire::bridge::to_legacy::notice::Hears;
use throughline_wire::bridge::to_legacy::state::Waits;
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome, Span};
use throughline_wire::sse::Frame;
use throughline_wire::{jsonrpc, method};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::caching;
use super::front::{Ending, Out};
use super::handle::{self, Handle};
use super::reading::{Events, Reading};
use super::state::Sealing;
use super::subscriptions::{self, Ear};
use crate::app::Core;
use crate::classify::{Arrived, Held, OnDisconnect};
use crate::error::{Fault, Modern};
use crate::outlet::{EventId, Followed};
use crate::reply::{self, Asked, ReplyBody, THROUGHLINE_SESSION};
use crate::session::{InFlight, Session};
use crate::{call, listen};

/// How long is read on after a question: servers ask several at once.
const COALESCE: Duration = Duration::from_millis(50);
/// How long a call that a client came back for goes on without it when its connection breaks: it may come once more.
const GRACE: Duration = Duration::from_secs(10);
/// How long a server that asks elsewhere may leave the call itself without an answer that can be waited for.
const STREAMS: Duration = Duration::from_secs(8);
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
    /// Ids of questions that have been answered, and stand behind one that has not.
    pub(super) answered: BTreeSet<String>,
    /// Keys of questions that have been seen, by the questions' ids.
    pub(super) known: BTreeMap<String, String>,
    /// The last of the questions that the server asked elsewhere than on the call's stream, if it did.
    pub(super) shelved: Option<u64>,
    /// The one before the first of them that is open.
    pub(super) open_behind: Option<u64>,
    /// What it asks there from now on.
    pub(super) ear: Option<Ear>,
    /// A session of the request's own lasts for as long as this.
    pub(super) _in_use: InFlight,
    /// What the client is to be asked.
    pub(super) questions: Vec<Question>,
    /// The event before the first of them.
    pub(super) begins: Option<EventId>,
    /// The last event that was read.
    pub(super) seen: Option<EventId>,
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
        if self.can_be_asked() {
            self.ear = subscriptions::hear(&self.core, &self.arrived, &self.session).await;
        }
        if let Source::Waiting(event) = source {
            self.asked_before(event).await?;
        }
        for _ in 0..ATTEMPTS {
            let (answer, asked) = self.opened(source).await.map_err(Ending::Fault)?;
            if let Some(header) = answer.headers().get(THROUGHLINE_SESSION) {
                let _ = to.send(Out::Carried(header.clone())).await;
            }
            match Reading::of(&self.core, answer).await.map_err(Ending::Fault)? {
                Reading::Whole(response, body) => return Ok(self.whole(response, body).await),
                Reading::Events(mut events) => {
                    for question in asked {
                        self.asked_aside(&question).await?;
                    }
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

    /// Whether there is anything that this client may be asked in the course of this request.
    fn can_be_asked(&self) -> bool {
        let declares = self.capabilities.as_deref().is_some_and(|raw| raw.contains(&b'"'));
        declares && self.arrived.held().is_some_and(|held| is_incomplete(&held.method))
    }

    /// Opens the answer; what the server asks elsewhere meanwhile is kept. Where it says nothing else for too long, as one
    /// does that answers in JSON, there is no stream to come back for, and it cannot ask.
    async fn opened(&mut self, source: Source) -> Result<(Response<ReplyBody>, Vec<Bytes>), Fault> {
        let mut ear = self.ear.take();
        let mut asked: Vec<Bytes> = Vec::new();
        let mut until = None;
        let answer = {
            let open = self.open(source);
            tokio::pin!(open);
            loop {
                tokio::select! {
                    answer = &mut open => break answer,
                    Some(question) = heard(&mut ear) => {
                        until.get_or_insert(Instant::now() + STREAMS);
                        self.session.hurry.notify_one();
                        asked.push(question);
                    }
                    () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                        until = None;
                        asked.drain(..).for_each(|question| self.refuse(&question));
                    }
                }
            }
        };
        self.ear = ear;
        Ok((answer?, asked))
    }

    async fn open(&self, source: Source) -> Result<Response<ReplyBody>, Fault> {
        let (core, arrived) = (&self.core, &self.arrived);
        match source {
            Source::Call => {
                let held = arrived.held().ok_or(Fault::UpstreamGarbled)?;
                // Who cannot be asked anything has nothing to come back for.
                let on_disconnect = match self.can_be_asked() {
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
        let mut asks = (!self.questions.is_empty()).then(|| Instant::now() + COALESCE);
        loop {
            let asked = self.questions.len();
            tokio::select! {
                next = events.next() => {
                    let Some(frame) = next.map_err(Ending::Fault)? else {
                        // Another connection of the client's follows, or whoever wrote it is gone: what was asked stands.
                        return if self.questions.is_empty() { Ok(None) } else { self.park().await.map(Some) };
                    };
                    if let Some(ending) = self.take(&frame, events.status, to).await? {
                        return Ok(Some(ending));
                    }
                }
                Some(question) = heard(&mut self.ear) => self.asked_aside(&question).await?,
                () = tokio::time::sleep_until(asks.unwrap_or_else(Instant::now)), if asks.is_some() => {
                    return self.park().await.map(Some);
                }
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
                Ok(Some(self.finish(status, &data, &envelope.object, outcome).await))
            }
            Message::Response { .. } => Ok(None),
            Message::Notification { method, params, .. } => {
                match self.hears.outward(&data, &method, params.as_ref()) {
                    // An error only says that the client has gone.
                    Some(message) => _ = to.send(Out::Notice(message)).await,
                    // Some servers tell of changes on the stream of the call that made them.
                    None => self.core.app.hubs.tell(self.session.key, &data),
                }
                Ok(None)
            }
            Message::Request { id, method, params } => {
                let begins = before
                    .or(self.seen.map(|event| EventId { number: event.number.saturating_sub(1), ..event }));
                self.asked(&data, id.raw(), &method, params.as_ref(), begins).await.map(|()| None)
            }
        }
    }

    /// An answer that is no stream.
    async fn whole(&mut self, response: Response<()>, body: Bytes) -> Ending {
        if let Ok(Envelope { message: Message::Response { outcome, .. }, object, .. }) =
            Envelope::parse(&body, &Limits::ANY_DEPTH)
        {
            let headers = response.headers().clone();
            return match self.finish(response.status(), &body, &object, outcome).await {
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
    async fn finish(&mut self, status: StatusCode, data: &[u8], object: &Span, outcome: Outcome) -> Ending {
        let held = self.arrived.held();
        let method = held.map_or("", |held| &*held.method);
        let under = |at: Span, with: &[u8]| answer::respond(data, object, &self.theirs, at, with);
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
                let (cancel, turns) = (self.cancelled(), outlet.turns());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(GRACE).await;
                    // Who has come since may have been asked something else, and is to have the time to answer it.
                    if outlet.followed() != Followed::Now && outlet.turns() == turns {
                        cancel.await;
                    }
                });
            }
        }
    }

    /// Cancels the call upstream (2025-11-25, Cancellation).
    pub(super) fn cancel(&self) {
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

/// The next question that is asked elsewhere; never ready where there is nowhere.
async fn heard(ear: &mut Option<Ear>) -> Option<Bytes> {
    match ear {
        Some(open) => {
            let question = open.questions.recv().await;
            if question.is_none() {
                *ear = None;
            }
            question
        }
        None => std::future::pending().await,
    }
}

/// Whether results of this method may say that input is required (2026-07-28, Multi Round-Trip Requests, "Supported
/// Requests").
pub(super) fn is_incomplete(method: &str) -> bool {
    matches!(method, method::TOOLS_CALL | method::PROMPTS_GET | method::RESOURCES_READ)
}

fn as_is(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    reply::with_body(response, body)
}
