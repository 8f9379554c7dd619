//! What a server asks in the course of a conversation: answered here, or with what the client has brought, or kept until
//! the client is asked, while the call waits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use throughline_store::StreamKey;
use throughline_wire::bridge::to_legacy::answer;
use throughline_wire::bridge::to_legacy::discover::server_info;
use throughline_wire::bridge::to_legacy::input::{self, Question};
use throughline_wire::bridge::to_legacy::request::salient;
use throughline_wire::bridge::to_legacy::state::{State, Waits};
use throughline_wire::envelope::{self, Envelope, Limits, Message, Span};
use throughline_wire::{jsonrpc, method};
use tokio::sync::oneshot;

use super::conversation::{Conversation, is_incomplete};
use super::front::Ending;
use super::kept::{Claim, Shelf, claim};
use crate::app::{Core, first};
use crate::classify::{Arrived, Held};
use crate::error::{Fault, Modern};
use crate::outlet::{EventId, Opener};
use crate::session::{Kind, Session, millis};
use crate::translate::Tagger;
use crate::{call, recover};

/// How often an answer is sent that did not get to the server, and after which pause at first.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

impl Conversation {
    /// The server asks something on the session's stream.
    pub(super) async fn asked_aside(&mut self, data: &[u8]) -> Result<(), Ending> {
        // Where the call's answer goes on from, once this is answered.
        let begins = self.seen.or_else(|| {
            let outlet = self.core.app.outlets.of_request(self.session.key, &self.id)?;
            Some(EventId { opener: Opener::Call, key: outlet.key, number: 0 })
        });
        let shelf = Shelf::of(&self.core, &self.session, &self.id);
        let number = match begins {
            Some(_) => {
                shelf.put(&self.core, self.shelved.unwrap_or(0), self.position().unwrap_or(0), data).await
            }
            None => None,
        };
        match number {
            Some(number) => self.take_up(number, data, begins).await,
            None => {
                self.refuse(data);
                Ok(())
            }
        }
    }

    /// What it asked there before, and the client has not answered: it stands in no stream that is read again.
    pub(super) async fn asked_before(&mut self, begins: EventId) -> Result<(), Ending> {
        let shelf = Shelf::of(&self.core, &self.session, &self.id);
        let questions = match shelf.behind(&self.core, self.shelved.unwrap_or(0)).await {
            Ok(questions) => questions,
            // Without the log a call goes on that needs nothing of it.
            Err(_) if self.shelved.is_none() => return Ok(()),
            Err(fault) => return Err(Ending::Fault(fault)),
        };
        for (number, data) in questions {
            self.take_up(number, &data, Some(begins)).await?;
        }
        Ok(())
    }

    async fn take_up(&mut self, number: u64, data: &[u8], begins: Option<EventId>) -> Result<(), Ending> {
        let Ok(Message::Request { id, method, params }) =
            Envelope::parse(data, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
        else {
            return Ok(());
        };
        let waiting = self.questions.len();
        self.asked(data, id.raw(), &method, params.as_ref(), begins).await?;
        if self.questions.len() > waiting {
            self.open_behind.get_or_insert(number.saturating_sub(1));
        }
        self.shelved = Some(number);
        Ok(())
    }

    /// Behind which of the questions on the session's stream one may be open; None where there were none.
    fn position(&self) -> Option<u64> {
        self.open_behind.or(self.shelved)
    }

    /// Tells the server that nobody can be asked.
    pub(super) fn refuse(&self, data: &[u8]) {
        if let Ok(Message::Request { id, .. }) =
            Envelope::parse(data, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
        {
            let text = "The client cannot be asked this in the course of this request";
            self.respond(jsonrpc::error(Some(id.raw()), answer::METHOD_NOT_FOUND as i32, text, None));
        }
    }

    /// The server asks something: it is answered here, or by what the client has brought, or the client is to be asked.
    pub(super) async fn asked(
        &mut self,
        data: &[u8],
        id: &str,
        method: &str,
        params: Option<&Span>,
        begins: Option<EventId>,
    ) -> Result<(), Ending> {
        if self.has_been_answered(id) {
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
            self.refuse(data);
            return Ok(());
        };
        if let Some(lacks) = question.lacks(self.capabilities.as_deref()) {
            self.cancel();
            return Err(Ending::Fault(Fault::Modern(Modern::Capability(lacks))));
        }
        let question = self.named(question);
        self.decide(question, begins).await
    }

    /// A question that the client can be asked: answered with what it has brought, or kept to be asked.
    async fn decide(&mut self, question: Question, begins: Option<EventId>) -> Result<(), Ending> {
        let id = question.id.clone();
        if self.has_been_answered(&id) {
            return Ok(());
        }
        let Some(response) = self.responses.get(&question.key).filter(|answer| question.fits(answer)) else {
            self.begins = self.begins.or(begins);
            self.questions.push(question);
            return Ok(());
        };
        if let Claim::Other = self.answer(&id, response).await {
            let why = "the question was answered before, with something else".to_owned();
            return Err(Ending::Fault(Fault::Modern(Modern::Params(why))));
        }
        // Only what stands behind the first open question will be read again.
        if self.begins.is_some() {
            self.answered.insert(id);
        }
        Ok(())
    }

    fn has_been_answered(&mut self, id: &str) -> bool {
        match self.begins {
            Some(_) => self.answered.contains(id),
            None => self.answered.remove(id),
        }
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

    /// Gives the server the client's answer to a question, if it is the first. What is claimed is sent, whether or not the
    /// client is there to the end: who comes again with the same answer does not send it again.
    async fn answer(&self, id: &str, response: &[u8]) -> Claim {
        let (core, arrived, session) =
            (Rc::clone(&self.core), Rc::clone(&self.arrived), Arc::clone(&self.session));
        let keys = &core.app.keys;
        let stream = first(&keys.digest("answer to", &[id.as_bytes()]));
        let key = StreamKey { session: session.key, stream };
        let mark = keys.digest("answer", &[&salient(Some(response))]);
        let body = jsonrpc::result(id, response);
        let (tell, told) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let claim = claim(&core, key, mark).await;
            let is_ours = matches!(claim, Claim::Ours);
            let _ = tell.send(claim);
            if let Ok(held) = Held::response(body.into())
                && is_ours
            {
                deliver(&core, &arrived, &held, &session).await;
            }
        });
        // Without a word the core is ending, and the client's connection with it.
        told.await.unwrap_or(Claim::Same)
    }

    /// Tells the server something in the client's name, whether or not that is there to the end.
    fn respond(&self, body: Vec<u8>) {
        let (core, arrived, session) =
            (Rc::clone(&self.core), Rc::clone(&self.arrived), Arc::clone(&self.session));
        let Ok(held) = Held::response(Bytes::from(body)) else { return };
        self.core.tell_later(async move { deliver(&core, &arrived, &held, &session).await });
    }

    /// Leaves the call waiting, and asks the client.
    pub(super) async fn park(&mut self) -> Result<Ending, Ending> {
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

    pub(super) fn ask(&self, waits: Waits, questions: &[Question]) -> Ending {
        let app = &self.core.app;
        let until = app.effects.now().0.saturating_add(millis(app.config.timeouts.parked));
        let asked = questions.iter().map(|question| (question.key.clone(), question.id.clone())).collect();
        let aside = self.position();
        let state = self.sealing.seal(&self.core, &State { waits, questions: asked, aside, until });
        let said = self.arrived.route.initialize.last();
        let info = said.as_deref().and_then(server_info);
        Ending::Response(StatusCode::OK, input::input_required(&self.theirs, questions, &state, info))
    }
}

/// Sends an answer, again where it did not get there: nobody else will, once it is claimed.
async fn deliver(core: &Rc<Core>, arrived: &Arrived, held: &Held, session: &Arc<Session>) {
    for attempt in 1..=ATTEMPTS {
        let Err(fault) = call::respond(core, arrived, held, session).await else { return };
        tracing::info!(%fault, attempt, "an answer did not reach the upstream");
        tokio::time::sleep(PAUSE * attempt).await;
    }
}
