//! Programs of which one process serves everybody: those that keep nothing in sessions, as the configuration says, and
//! those of revision 2026-07-28 (Transports, "stdio"), which has none.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use throughline_wire::envelope::{self, Envelope, Id, Limits, Message, Outcome};
use throughline_wire::era::{self, Probe};
use throughline_wire::splice::{Edit, splice};
use throughline_wire::{jsonrpc, method};

use super::bridge::{Answer, Bridge, Ended, Spoken, error, json, response, spoken, told_not, with_session};
use super::pipe::{Pipe, Use};

/// The member of `_meta` by which a request needs no session.
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// How long a program may take to say what it is: those of earlier revisions may keep silent.
const DISCOVER: Duration = Duration::from_secs(5);

/// The process that serves all sessions.
pub(super) struct Shared {
    pipe: Rc<Pipe>,
    /// What it said to the first `initialize`: raw JSON of the result.
    welcome: Bytes,
}

/// Whether a request is one that needs no session.
pub(super) fn needs_no_session(body: &[u8]) -> bool {
    matches!(envelope::path(body, &["params", "_meta", VERSION]), Ok(Some(_)))
}

/// The outcome of a response.
pub(super) fn outcome(text: &Bytes) -> Option<Outcome> {
    match Envelope::parse(text, &Limits::ANY_DEPTH).ok()?.message {
        Message::Response { outcome, .. } => Some(outcome),
        _ => None,
    }
}

impl Bridge {
    /// One more session of the process that serves all, which is started for the first.
    pub(super) async fn share(self: &Rc<Self>, id: &Id<'_>, body: &Bytes, headers: &HeaderMap) -> Answer {
        // Of two that come at a time, one starts it.
        let turn = self.starting.lock().await;
        let present = self.shared.borrow().clone().filter(|shared| !shared.pipe.dead.get());
        let shared = match present {
            Some(shared) => shared,
            None => match self.start_shared(id, body, headers).await? {
                Ok(shared) => shared,
                Err(refused) => return Ok(*refused),
            },
        };
        drop(turn);
        let session = self.name();
        self.pipes.borrow_mut().insert(session.clone(), Rc::clone(&shared.pipe));
        Ok(with_session(json(jsonrpc::result(id.raw(), &shared.welcome).into()), &session))
    }

    async fn start_shared(
        self: &Rc<Self>,
        id: &Id<'_>,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Result<Rc<Shared>, Box<Response<Spoken>>>, Ended> {
        let pipe = match self.begin(Use::Shared, headers).await {
            Ok((_, pipe)) => pipe,
            Err(refused) => return Ok(Err(refused)),
        };
        // Whatever this client can be asked, another could not.
        let announced = envelope::path(body, &["params", "capabilities"]).ok().flatten();
        let body = match announced {
            Some(at) => splice(body, &mut [Edit::replace(at, b"{}")]).into(),
            None => body.clone(),
        };
        let mut turn = pipe.ask(self.turn(), "", id, &body, headers).await.map_err(|_| Ended)?;
        let text = response(&mut turn).await?;
        let Some(Outcome::Result(at)) = outcome(&text) else {
            pipe.end();
            return Ok(Err(Box::new(json(text))));
        };
        let told = jsonrpc::notification(method::INITIALIZED, None).into();
        pipe.tell(&told, None).await.map_err(|_| Ended)?;
        let shared = Rc::new(Shared { welcome: text.slice(at), pipe });
        *self.shared.borrow_mut() = Some(Rc::clone(&shared));
        Ok(Ok(shared))
    }

    /// A request without a session.
    pub(super) async fn sessionless(
        self: &Rc<Self>,
        id: &Id<'_>,
        method: &str,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Answer {
        let turn = self.starting.lock().await;
        let present = self.sessionless.borrow().clone().filter(|pipe| !pipe.dead.get());
        let is_new = present.is_none();
        let pipe = match present {
            Some(pipe) => pipe,
            None => match self.begin(Use::Sessionless, headers).await {
                Ok((_, pipe)) => pipe,
                Err(refused) => return Ok(*refused),
            },
        };
        *self.sessionless.borrow_mut() = Some(Rc::clone(&pipe));
        drop(turn);
        let asked = match pipe.ask(self.turn(), "", id, body, headers).await {
            Ok(asked) => asked,
            Err(untold) => return told_not(untold),
        };
        if !is_new || method != method::DISCOVER {
            return spoken(asked).await.map(of_this_era);
        }
        let answer = tokio::time::timeout(DISCOVER, spoken(asked)).await;
        if let Ok(Ok(answer)) = answer
            && let Some(text) = answer.body().whole()
            && era::discover(StatusCode::OK.as_u16(), text) == Probe::Modern
        {
            return Ok(of_this_era(answer));
        }
        // A program of an earlier revision, which a request without a handshake may have confused.
        pipe.end();
        Ok(error(StatusCode::BAD_REQUEST, -32000, "Bad Request: Missing session ID"))
    }
}

/// The answer with the status that an error has over HTTP in this era (2026-07-28, Transports).
fn of_this_era(mut answer: Response<Spoken>) -> Response<Spoken> {
    let code = answer.body().whole().and_then(|text| {
        let Outcome::Error(at) = outcome(text)? else { return None };
        let code = envelope::member(&text[at.clone()], "code").ok()??;
        std::str::from_utf8(&text[at.start + code.start..at.start + code.end]).ok()?.parse().ok()
    });
    match code {
        Some(-32601) => *answer.status_mut() = StatusCode::NOT_FOUND,
        Some(-32700 | -32600 | -32602 | -32022..=-32020) => *answer.status_mut() = StatusCode::BAD_REQUEST,
        _ => {}
    }
    answer
}
