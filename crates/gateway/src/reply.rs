//! What the client gets: status, headers, and a body that may still be on its way from the upstream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use throughline_wire::envelope::{Envelope, Limits, Message};
use throughline_wire::headers::MCP_SESSION_ID;
use throughline_wire::sse::{self, IdEdit, SseDecoder};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::app::{App, Core};
use crate::call::{Answered, Translate};
use crate::classify::{Accepts, OnDisconnect};
use crate::error::Fault;
use crate::initialize::Welcome;
use crate::recover::Bound;
use crate::session::InFlight;
use crate::translate::{self, Outward};
use crate::upstream::http::{AnswerBody, read_whole};
use crate::upstream::{self, Head, JSON, Looked};

/// Comment lines keep a quiet stream open: load balancers close theirs after 30 s (CloudFront) or more.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
/// Calls that may go on without their client at a time, in all.
const MAX_DETACHED: usize = 1024;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const THROUGHLINE_SESSION: HeaderName = HeaderName::from_static("throughline-session");
const THROUGHLINE_INSTANCE: HeaderName = HeaderName::from_static("throughline-instance");

/// A body of one of the kinds that the gateway answers with.
pub enum ReplyBody {
    /// None.
    Empty,
    /// All of it.
    Whole(Option<Bytes>),
    /// An upstream's, as it comes.
    Relay(Box<Relay>),
    /// What a task sends.
    Channel(mpsc::Receiver<Bytes>),
}

/// The connection to the client has to be cut: headers have gone out, and the rest will not come.
#[derive(Debug, thiserror::Error)]
#[error("the upstream broke off")]
pub struct CutOff;

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            ReplyBody::Empty => Poll::Ready(None),
            ReplyBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ReplyBody::Relay(relay) => {
                relay.poll_next(cx).map(|next| next.map(|piece| piece.map(Frame::data)))
            }
            ReplyBody::Channel(channel) => {
                channel.poll_recv(cx).map(|next| next.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ReplyBody::Empty | ReplyBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Empty | ReplyBody::Whole(None) => SizeHint::with_exact(0),
            ReplyBody::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Relay(relay) => relay.size_hint(),
            ReplyBody::Channel(_) => SizeHint::default(),
        }
    }
}

/// A response with a whole body.
pub fn whole(
    app: &App,
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Whole(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    signed(app, response)
}

/// A response without a body.
pub fn empty(app: &App, status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Empty);
    *response.status_mut() = status;
    signed(app, response)
}

/// A stream that a task fills.
pub fn channel(app: &App, channel: mpsc::Receiver<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Channel(channel));
    stream_headers(response.headers_mut());
    signed(app, response)
}

/// Says which instance answered.
fn signed(app: &App, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(THROUGHLINE_INSTANCE, app.instance_header.clone());
    response
}

fn stream_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

/// A failure, as the table in `error` has it. `id`: raw JSON of the request's.
pub fn fault(app: &App, fault: &Fault, id: Option<&str>) -> Response<ReplyBody> {
    let mut response = whole(app, fault.status(), JSON, fault.body(id));
    if let Some(allow) = fault.allow() {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(seconds) = fault.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if let Some(challenge) = fault.challenge() {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge.clone());
    }
    response
}

/// The answer to `initialize`.
pub fn welcome(app: &App, welcome: Welcome) -> Response<ReplyBody> {
    match welcome {
        Welcome::Result { body, session_id } => {
            let mut response = whole(app, StatusCode::OK, JSON, body);
            if let Some(id) = session_id {
                response.headers_mut().insert(HeaderName::from_static(MCP_SESSION_ID), id);
            }
            response
        }
        Welcome::Refused { status, refusal, body } => {
            let mut response = whole(app, status, JSON, body);
            pass_headers(&refusal.headers, response.headers_mut());
            if refusal
                .headers
                .get(CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
            {
                // The message was taken out of its stream.
                response.headers_mut().insert(CONTENT_TYPE, JSON);
            }
            response
        }
    }
}

/// The upstream's headers that a client gets.
fn pass_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE, ALLOW] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

/// What the reply needs to know of the request.
pub struct Asked<'a> {
    /// Raw JSON of its id.
    pub id: Option<&'a str>,
    /// What the client can read.
    pub accepts: Accepts,
    /// What it means if the client goes away.
    pub on_disconnect: OnDisconnect,
}

/// Passes an upstream's answer on.
pub async fn relay(
    core: &Rc<Core>,
    answered: Answered,
    asked: &Asked<'_>,
) -> Result<Response<ReplyBody>, Fault> {
    let app = &core.app;
    let Answered { looked, translate, carried, in_flight } = answered;
    let mut headers = HeaderMap::with_capacity(8);
    pass_headers(&looked.headers, &mut headers);
    if let Some((bound, origin)) = &carried {
        let value = format!("{};generation={}", origin.as_str(), bound.generation);
        headers.extend(HeaderValue::from_str(&value).ok().map(|value| (THROUGHLINE_SESSION, value)));
    }
    let status = looked.status;
    let bound = carried.map(|(bound, _)| bound);
    let body = match (&looked.head, asked.accepts, &translate) {
        (Head::Events(..), Accepts::Json, _) | (Head::Plain(_), _, Translate::Renamed(_)) => {
            if looked.is_stream() {
                headers.insert(CONTENT_TYPE, JSON);
            }
            let limit = app.config.limits.answer_bytes;
            ReplyBody::Whole(Some(gather(core, looked, &translate, bound.as_ref(), asked.id, limit).await?))
        }
        (Head::Plain(_), ..) => relay_body(core, looked, translate, bound, asked, in_flight),
        (Head::Events(..), ..) => {
            stream_headers(&mut headers);
            relay_body(core, looked, translate, bound, asked, in_flight)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(signed(app, response))
}

fn relay_body(
    core: &Rc<Core>,
    looked: Looked,
    translate: Translate,
    bound: Option<Arc<Bound>>,
    asked: &Asked<'_>,
    in_flight: Option<InFlight>,
) -> ReplyBody {
    if looked.body.is_end() {
        // All of it is here already, as with most answers: no need to come back for more.
        if let Head::Plain(pieces) = looked.head {
            return match pieces.len() {
                0 => ReplyBody::Empty,
                1 => ReplyBody::Whole(pieces.into_iter().next()),
                _ => ReplyBody::Whole(Some(pieces.concat().into())),
            };
        }
    }
    let (pieces, events) = match looked.head {
        Head::Plain(pieces) => (pieces.into(), None),
        Head::Events(decoder, frames) => {
            let mut events = Events {
                decoder,
                translate,
                bound,
                request: asked.id.map(Into::into),
                answered: false,
                resumable: false,
                heartbeat: None,
                until: Instant::now() + core.app.config.timeouts.call,
            };
            let mut pieces = VecDeque::with_capacity(frames.len());
            pieces.extend(frames.iter().filter_map(|frame| events.outward(core, frame)));
            (pieces, Some(events))
        }
    };
    ReplyBody::Relay(Box::new(Relay {
        core: Rc::clone(core),
        body: Some(looked.body),
        pieces,
        events,
        on_disconnect: asked.on_disconnect,
        _in_flight: in_flight,
    }))
}

/// Reads an answer whole and translates it.
async fn gather(
    core: &Rc<Core>,
    looked: Looked,
    translate: &Translate,
    bound: Option<&Arc<Bound>>,
    id: Option<&str>,
    limit: usize,
) -> Result<Bytes, Fault> {
    let sent = match translate {
        Translate::Renamed(renamed) => Some(renamed.ids().0),
        _ => id,
    };
    let response = looked
        .response(sent, limit, |other| {
            if let Outward::Answer(answer) = translate::unasked(other) {
                answer_upstream(core, bound, answer);
            }
        })
        .await?;
    Ok(match translate {
        Translate::Renamed(renamed) => match renamed.outward(&response) {
            Outward::Replace(restored) => restored.into(),
            _ => response,
        },
        _ => response,
    })
}

/// Tells the upstream something that the client did not say.
pub fn answer_upstream(core: &Rc<Core>, bound: Option<&Arc<Bound>>, answer: Vec<u8>) {
    // Every core has the same endpoints; the binding's address says which session it is for.
    let Some(bound) = bound.cloned() else { return };
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let Some(endpoint) = core.endpoints.get(bound.route).cloned() else { return };
        if let Err(error) = upstream::tell(&endpoint, &bound.address, answer).await {
            tracing::info!(%error, "an answer did not reach the upstream");
        }
    });
}

/// An upstream's answer that is still coming.
pub struct Relay {
    core: Rc<Core>,
    /// None when it has ended.
    body: Option<AnswerBody>,
    pieces: VecDeque<Bytes>,
    events: Option<Events>,
    on_disconnect: OnDisconnect,
    _in_flight: Option<InFlight>,
}

/// What an event stream needs beyond its bytes.
struct Events {
    decoder: SseDecoder,
    translate: Translate,
    bound: Option<Arc<Bound>>,
    request: Option<Box<str>>,
    /// The response has gone by.
    answered: bool,
    /// The upstream gave an event id, so that the client can come back for the rest.
    resumable: bool,
    heartbeat: Option<Pin<Box<Sleep>>>,
    until: Instant,
}

impl Relay {
    fn size_hint(&self) -> SizeHint {
        match (&self.events, self.body.as_ref().and_then(|body| body.size_hint().exact())) {
            (None, Some(rest)) => {
                let here: usize = self.pieces.iter().map(Bytes::len).sum();
                SizeHint::with_exact(here as u64 + rest)
            }
            _ => SizeHint::default(),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(events) = &mut self.events {
                match events.decoder.next_frame() {
                    Ok(Some(frame)) => {
                        self.pieces.extend(events.outward(&self.core, &frame));
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        return self
                            .fail(&error, Fault::AnswerTooLarge(self.core.app.config.limits.event_bytes));
                    }
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match body.poll_chunk(cx) {
                Poll::Ready(Some(Ok(chunk))) => match &mut self.events {
                    Some(events) => events.decoder.push(chunk),
                    None => return Poll::Ready(Some(Ok(chunk))),
                },
                Poll::Ready(Some(Err(error))) => return self.fail(&error, Fault::MayHaveExecuted),
                Poll::Ready(None) => {
                    self.body = None;
                    let open = self
                        .events
                        .as_ref()
                        .is_some_and(|e| !e.answered && !e.resumable && e.request.is_some());
                    if open {
                        return self.fail(&"stream ended without a response", Fault::MayHaveExecuted);
                    }
                }
                Poll::Pending => {
                    let Some(events) = &mut self.events else { return Poll::Pending };
                    if Instant::now() >= events.until {
                        return self.fail(&"call took too long", Fault::UpstreamTimeout);
                    }
                    return events.poll_heartbeat(cx).map(|()| Some(Ok(Bytes::from_static(sse::HEARTBEAT))));
                }
            }
        }
    }

    /// Trouble after the headers have gone out: said in the stream where there is one, else the connection is cut.
    fn fail(&mut self, error: &dyn std::fmt::Display, fault: Fault) -> Poll<Option<Result<Bytes, CutOff>>> {
        tracing::warn!(%error, "upstream answer broke off");
        self.body = None;
        let Some(events) = &mut self.events else { return Poll::Ready(Some(Err(CutOff))) };
        if events.answered {
            return Poll::Ready(None);
        }
        events.answered = true;
        Poll::Ready(Some(Ok(sse::event(&fault.body(events.request.as_deref()), None))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let unfinished = !body.is_end() && self.events.as_ref().is_none_or(|events| !events.answered);
        if unfinished && self.on_disconnect == OnDisconnect::KeepReading {
            let in_flight = self._in_flight.take();
            let core = Rc::clone(&self.core);
            detach(&core.app, core.app.config.timeouts.call, async move {
                let _held = in_flight;
                let _ = read_whole(body, Vec::new(), usize::MAX).await;
            });
        }
    }
}

impl Events {
    /// The frame as the client gets it.
    fn outward(&mut self, core: &Rc<Core>, frame: &sse::Frame) -> Option<Bytes> {
        let id = match (&self.translate, frame.id()) {
            (Translate::Tagged(tagger), Some(id)) if !id.is_empty() => {
                self.resumable = true;
                Some(tagger.event_id(id))
            }
            (Translate::AsIs, Some(_)) => None,
            // Nobody can resume a stream of a session that is not the client's.
            (_, Some(_)) => Some(String::new()),
            (_, None) => None,
        };
        let id = match &id {
            Some(id) if id.is_empty() => IdEdit::Remove,
            Some(id) => IdEdit::Set(id.as_bytes()),
            None => IdEdit::Keep,
        };
        let data = frame.data().filter(|_| frame.is_message());
        let outward = match &data {
            None => Outward::Keep,
            Some(data) => {
                let outward = match &self.translate {
                    Translate::AsIs => Outward::Keep,
                    Translate::Tagged(tagger) => tagger.outward(data),
                    Translate::Renamed(renamed) => renamed.outward(data),
                    Translate::Alone => translate::unasked(data),
                };
                // A response under somebody else's id is dropped, and answers nothing.
                self.answered |= !matches!(outward, Outward::Drop) && is_response(data);
                outward
            }
        };
        match outward {
            Outward::Keep if matches!(id, IdEdit::Keep) => Some(frame.raw().clone()),
            Outward::Keep => Some(frame.rewrite(None, id)),
            Outward::Replace(data) => Some(frame.rewrite(Some(&data), id)),
            Outward::Drop => None,
            Outward::Answer(answer) => {
                answer_upstream(core, self.bound.as_ref(), answer);
                None
            }
        }
    }

    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let heartbeat = self.heartbeat.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEARTBEAT)));
        let due = heartbeat.as_mut().poll(cx);
        if due.is_ready() {
            heartbeat.as_mut().reset(Instant::now() + HEARTBEAT);
        }
        due
    }
}

fn is_response(data: &[u8]) -> bool {
    matches!(
        Envelope::parse(data, &Limits::default()).map(|envelope| envelope.message),
        Ok(Message::Response { .. })
    )
}

/// Lets work go on whose client has gone, up to a number and a time.
pub fn detach(app: &App, limit: Duration, work: impl Future<Output = ()> + 'static) {
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let count = Count(Arc::clone(&app.detached));
    if count.0.fetch_add(1, Ordering::Relaxed) >= MAX_DETACHED {
        tracing::warn!("too many calls go on without their client; one was dropped");
        return;
    }
    tokio::task::spawn_local(async move {
        let _count = count;
        let _ = tokio::time::timeout(limit, work).await;
    });
}

/// A future that goes on when it is dropped before it is ready.
pub struct GoesOn<F: Future + 'static> {
    work: Option<Pin<Box<F>>>,
    app: Arc<App>,
}

impl<F: Future + 'static> GoesOn<F> {
    /// Wraps the work.
    pub fn new(app: &Arc<App>, work: F) -> Self {
        GoesOn { work: Some(Box::pin(work)), app: Arc::clone(app) }
    }
}

impl<F: Future + 'static> Future for GoesOn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let output = work.as_mut().poll(cx);
        if output.is_ready() {
            self.work = None;
        }
        output
    }
}

impl<F: Future + 'static> Drop for GoesOn<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            detach(&self.app, self.app.config.timeouts.call, async move {
                work.await;
            });
        }
    }
}

/// What a service that always has a reply fails with.
pub type Never = Infallible;
