//! A request to a modern server: one round after the other, until it is answered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use throughline_wire::bridge::to_modern::answer::{self, Asked, Said};
use throughline_wire::bridge::to_modern::input::{self, Needed, Reply};
use throughline_wire::bridge::to_modern::request::{self, Round};
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome, Span};
use throughline_wire::era::HEADER_MISMATCH;
use throughline_wire::method;
use throughline_wire::sse::{self, IdEdit, SseDecoder};
use tokio::sync::{Notify, mpsc};

use super::questions::Waiting;
use super::{Modern, headers, json};
use crate::app::Core;
use crate::deadlines::Pulse;
use crate::error::Fault;
use crate::session::lock;
use crate::upstream::body::{AnswerBody, BrokeOff, read_whole};
use crate::upstream::http::{Answer, SendError};
use crate::upstream::sending::send_plain;
use crate::upstream::{self, Address};

/// How often a server may ask for something before it answers.
const MAX_ROUNDS: u32 = 16;
/// How much it may ask for at a time.
const MAX_QUESTIONS: usize = 64;
/// Pause before a call is sent again of which the server wanted just that; doubled up to the most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a request that is safe to repeat is sent again after its stream broke.
const MAX_BROKEN: u32 = 3;
/// Messages between the work and its reader; then the work waits.
const QUEUE: usize = 4;

/// One request, as the client knows it.
pub(super) struct Call {
    core: Rc<Core>,
    to: Address,
    modern: Arc<Modern>,
    id: Box<str>,
    method: Box<str>,
    headers: HeaderMap,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
    cancelled: Arc<Notify>,
    /// What the present round brings of the one before.
    round: Round,
    rounds: u32,
    broken: u32,
}

/// What comes next.
enum Next {
    /// More of the server's stream.
    Read(SseDecoder, AnswerBody),
    /// The client is to be asked.
    Ask(Needed),
    /// The response, which goes out as it is.
    Answer(Vec<u8>),
}

/// How the answer to a round begins.
enum Begun {
    Next(Next),
    /// It is no answer to a message; it passes as it came.
    Foreign(Answer),
}

impl Call {
    /// The request in `body`, with this id (raw JSON) and method.
    pub(super) fn new(
        core: &Rc<Core>,
        to: Address,
        modern: &Arc<Modern>,
        (id, method): (Box<str>, Box<str>),
        headers: HeaderMap,
        body: &Bytes,
        pulse: Option<Arc<Pulse>>,
    ) -> Self {
        let cancelled = Arc::new(Notify::new());
        lock(&modern.calls).push((id.clone(), Arc::clone(&cancelled)));
        Call {
            core: Rc::clone(core),
            to,
            modern: Arc::clone(modern),
            id,
            method,
            headers,
            body: body.clone(),
            pulse,
            cancelled,
            round: Round::default(),
            rounds: 0,
            broken: 0,
        }
    }

    /// Sends it. A response that is no stream stays none; anything else goes on as one.
    pub(super) async fn begin(mut self) -> Result<Answer, SendError> {
        let cancelled = Arc::clone(&self.cancelled);
        let begun = tokio::select! {
            biased;
            () = cancelled.notified() => return Ok(json(Fault::Cancelled.body(Some(&self.id)))),
            begun = self.send() => begun?,
        };
        Ok(match begun {
            Begun::Foreign(answer) => answer,
            Begun::Next(Next::Answer(response)) => json(response),
            Begun::Next(next) => {
                let (to, pieces) = mpsc::channel(QUEUE);
                let mut answer = super::empty(StatusCode::OK);
                answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                answer.body = AnswerBody::made(self.go_on(next, to), pieces);
                answer
            }
        })
    }

    /// One round: sent, and its beginning looked at.
    async fn send(&mut self) -> Result<Begun, SendError> {
        let begun = self.once().await?;
        // The list of tools that is known here is not the server's any more (2026-07-28, Streamable HTTP, "Client
        // Behavior"). It refused the call before it did anything.
        if &*self.method == method::TOOLS_CALL
            && let Begun::Next(Next::Answer(response)) = &begun
            && error_code(response) == Some(HEADER_MISMATCH)
        {
            self.modern.forget_tools();
            return self.once().await;
        }
        Ok(begun)
    }

    async fn once(&mut self) -> Result<Begun, SendError> {
        let id = self.core.app.unique_id();
        let limits = Limits::ANY_DEPTH;
        let Ok(Envelope { object, message: Message::Request { id: own, params, .. }, .. }) =
            Envelope::parse(&self.body, &limits)
        else {
            return Err(SendError::NotSent("no request".to_owned()));
        };
        let body = self.modern.introduce(|client| {
            request::request(&self.body, &object, (&own, &id), params.as_ref(), client, &self.round)
        });
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                let refusal = Fault::Envelope(error).body(Some(&self.id));
                return Ok(Begun::Next(Next::Answer(refusal)));
            }
        };
        let params = params.map_or(&b"{}"[..], |at| &self.body[at]);
        let name = request::name(&self.method, params);
        let mut headers = headers(self.headers.clone(), &self.method, name.as_deref());
        if let Some(name) = name.filter(|_| &*self.method == method::TOOLS_CALL) {
            let arguments = envelope::member(params, "arguments").ok().flatten().map(|at| &params[at]);
            let to = (&self.to, &self.headers);
            self.modern.mirror(&self.core, to, &name, arguments.unwrap_or_default(), &mut headers).await;
        }
        let sent = send_plain(&self.core, &self.to, Method::POST, headers, body.into(), self.pulse.clone());
        self.look(sent.await?).await
    }

    /// What an answer begins with. Whoever reads a stream waits for its first message.
    async fn look(&mut self, answer: Answer) -> Result<Begun, SendError> {
        let Answer { status, mut headers, body } = answer;
        let limits = &self.core.app.config.limits;
        if status.is_success() && upstream::is_event_stream(&headers) {
            return Ok(Begun::Next(Next::Read(SseDecoder::new(limits.event_bytes), body)));
        }
        let limit = limits.answer_bytes;
        let whole = read_whole(body, Vec::new(), limit).await.map_err(|error| SendError::Broken(error.0))?;
        let Some(whole) = whole else { return Ok(Begun::Next(self.fails(&Fault::AnswerTooLarge(limit)))) };
        let body = match self.read(&whole).1 {
            Some(next) if is_of_a_modern_server(status, &whole) => return Ok(Begun::Next(next)),
            // Whatever it is, it carries the id that the client knows.
            Some(Next::Answer(response)) => response.into(),
            _ => whole,
        };
        headers.remove(CONTENT_LENGTH);
        Ok(Begun::Foreign(Answer { status, headers, body: AnswerBody::whole(body) }))
    }

    /// What a message is: whether it passes as it is, or what follows from it.
    fn read(&self, data: &[u8]) -> (bool, Option<Next>) {
        match answer::read(data, Asked { method: &self.method, id: &self.id }) {
            Said::Keep => (true, None),
            Said::Drop => (false, None),
            Said::Needs(needed) => (false, Some(Next::Ask(needed))),
            Said::Invalid => (false, Some(self.fails(&Fault::UpstreamGarbled))),
            Said::Response(response) => (false, Some(Next::Answer(self.learn(response)))),
        }
    }

    fn fails(&self, fault: &Fault) -> Next {
        Next::Answer(fault.body(Some(&self.id)))
    }

    /// Looks at a list of tools on its way to the client.
    fn learn(&self, response: Vec<u8>) -> Vec<u8> {
        match result_of(&response).filter(|_| &*self.method == method::TOOLS_LIST) {
            Some(result) => self.modern.show_tools(response, &result, &self.body),
            None => response,
        }
    }

    /// Goes on until there is a response, or something that stands for it.
    async fn go_on(mut self, mut next: Next, to: mpsc::Sender<Bytes>) -> Result<(), BrokeOff> {
        loop {
            let cancelled = Arc::clone(&self.cancelled);
            next = tokio::select! {
                biased;
                () = cancelled.notified() => self.fails(&Fault::Cancelled),
                following = self.step(next, &to) => match following? {
                    Some(next) => next,
                    None => return Ok(()),
                },
            };
        }
    }

    /// One step of it. None when it is over.
    async fn step(&mut self, next: Next, to: &mpsc::Sender<Bytes>) -> Result<Option<Next>, BrokeOff> {
        let (decoder, body) = match next {
            Next::Answer(response) => {
                let _ = to.send(sse::event(&response, None)).await;
                return Ok(None);
            }
            Next::Ask(needed) => return Ok(Some(self.ask(needed, to).await)),
            Next::Read(decoder, body) => (decoder, body),
        };
        match self.relay(decoder, body, to).await {
            Ok(next) => Ok(Some(next)),
            // A broken stream loses its request (2026-07-28, Changelog): it is made anew if that is safe.
            Err(error) if method::is_repeatable(&self.method) && self.broken < MAX_BROKEN => {
                self.broken += 1;
                tracing::debug!(%error, method = &*self.method, "safe to repeat: sent again");
                Ok(Some(self.again().await))
            }
            Err(error) => Err(BrokeOff(error.to_string())),
        }
    }

    /// Passes messages on until one says what comes next.
    async fn relay(
        &mut self,
        mut decoder: SseDecoder,
        mut body: AnswerBody,
        to: &mpsc::Sender<Bytes>,
    ) -> Result<Next, SendError> {
        loop {
            let Some(frame) = upstream::next_frame(&mut body, &mut decoder).await? else {
                return Err(SendError::Broken("the stream ended without a response".to_owned()));
            };
            let Some(data) = frame.data().filter(|_| frame.is_message()) else { continue };
            let (passes, next) = self.read(&data);
            if passes {
                // There is nothing to come back for by an id of a modern server's.
                let _ = to.send(frame.rewrite(None, IdEdit::Remove)).await;
            }
            if let Some(next) = next {
                upstream::drain(body);
                return Ok(next);
            }
        }
    }

    /// Sends the request again.
    async fn again(&mut self) -> Next {
        match self.send().await {
            Ok(Begun::Next(next)) => next,
            Ok(Begun::Foreign(answer)) => {
                tracing::warn!(status = answer.status.as_u16(), "a round of a call was refused");
                self.fails(&Fault::UpstreamGarbled)
            }
            Err(error) => self.fails(&upstream::fault_of(error)),
        }
    }

    /// Asks the client what the server needs, and sends the call again with the answers.
    async fn ask(&mut self, needed: Needed, to: &mpsc::Sender<Bytes>) -> Next {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS || needed.questions.len() > MAX_QUESTIONS {
            return self.fails(&Fault::TooManyRounds);
        }
        let beyond = needed.beyond(self.modern.can);
        if !beyond.is_empty() {
            return self.fails(&Fault::CannotAsk(beyond));
        }
        self.round = Round { responses: None, state: needed.state };
        if needed.questions.is_empty() {
            let pause = PAUSE.saturating_mul(1 << (self.rounds - 1).min(8)).min(PAUSE_MAX);
            tokio::time::sleep(pause).await;
            return self.again().await;
        }
        let mut waiting = Vec::new();
        for question in &needed.questions {
            let Some(one) = Waiting::begin(&self.core) else { return self.fails(&Fault::TooManyRequests) };
            let _ = to.send(sse::event(&question.request(one.id()), None)).await;
            waiting.push(one);
        }
        let mut results = Vec::new();
        for one in &mut waiting {
            match one.reply().await {
                Reply::Result(result) => results.push(result),
                Reply::Error(error) => return Next::Answer(input::declined(&self.id, &error)),
            }
        }
        self.round.responses = Some(input::responses(&needed.questions, &results));
        self.again().await
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.modern.calls).retain(|(_, cancelled)| !Arc::ptr_eq(cancelled, &self.cancelled));
    }
}

/// Whether an answer that is no stream is a message of a modern server's. Statuses that belong to errors of the
/// protocol there (2026-07-28, Streamable HTTP) are a mere 200 with a handshake. A 4xx that a modern server would not
/// have sent stays what it is: the server may have been replaced.
fn is_of_a_modern_server(status: StatusCode, body: &[u8]) -> bool {
    const ITS_OWN: [i64; 6] = [-32020, -32021, -32602, -32601, -32603, -32002];
    match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
            error_code(body).is_some_and(|code| ITS_OWN.contains(&code))
        }
        status => status.is_success(),
    }
}

fn error_code(response: &[u8]) -> Option<i64> {
    let Ok(Message::Response { outcome: Outcome::Error(at), .. }) =
        Envelope::parse(response, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
    else {
        return None;
    };
    let error = &response[at];
    let code = envelope::member(error, "code").ok()??;
    std::str::from_utf8(&error[code]).ok()?.parse().ok()
}

fn result_of(response: &[u8]) -> Option<Span> {
    match Envelope::parse(response, &Limits::ANY_DEPTH).ok()?.message {
        Message::Response { outcome: Outcome::Result(at), .. } => Some(at),
        _ => None,
    }
}
