//! What the client gets: status, headers, and a body that may still be on its way from the upstream.

mod detach;
mod relay;

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome};
use throughline_wire::splice::{Edit, splice};
use tokio::sync::mpsc;

pub use detach::{Detached, GoesOn};
use relay::Relay;

use crate::app::{App, Core, Route};
use crate::binding::Bound;
use crate::call::{Answered, Translate};
use crate::classify::{Accepts, Arrived, Held, OnDisconnect};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::initialize::Welcome;
use crate::names;
use crate::tally::Counted;
use crate::translate::{self, Outward};
use crate::upstream::{self, Head, JSON, Looked, Refusal};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Which binding a request was carried by.
pub const THROUGHLINE_SESSION: HeaderName = HeaderName::from_static("throughline-session");
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
    /// One of the others, with a tally of the request.
    Counted(Box<Counted>),
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
            ReplyBody::Counted(counted) => counted.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Empty | ReplyBody::Whole(None) => true,
            ReplyBody::Counted(counted) => counted.body().is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Empty | ReplyBody::Whole(None) => SizeHint::with_exact(0),
            ReplyBody::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Relay(relay) => relay.size_hint(),
            ReplyBody::Channel(_) => SizeHint::default(),
            ReplyBody::Counted(counted) => counted.body().size_hint(),
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

/// An answer read to its end, and its body.
///
/// # Errors
/// When it has more than `limit` bytes, or breaks off.
pub async fn gathered(answer: Response<ReplyBody>, limit: usize) -> Result<(Response<()>, Bytes), Fault> {
    let (parts, mut body) = answer.into_parts();
    let (mut pieces, mut len) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|CutOff| Fault::MayHaveExecuted)?.into_data() else { continue };
        len += piece.len();
        if len > limit {
            return Err(Fault::AnswerTooLarge(limit));
        }
        pieces.push(piece);
    }
    let body = if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() };
    Ok((Response::from_parts(parts, ()), body))
}

/// The same answer with this body.
pub fn with_body(answer: Response<()>, body: Bytes) -> Response<ReplyBody> {
    answer.map(|()| if body.is_empty() { ReplyBody::Empty } else { ReplyBody::Whole(Some(body)) })
}

/// Says which binding it was carried by.
pub fn carried(mut response: Response<ReplyBody>, by: Option<HeaderValue>) -> Response<ReplyBody> {
    if let Some(by) = by {
        response.headers_mut().insert(THROUGHLINE_SESSION, by);
    }
    response
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
    if let Some(refusal) = fault.of_upstream() {
        return refused(app, refusal, id);
    }
    let mut response = whole(app, fault.status(), JSON, fault.body(id));
    if let Some(allow) = fault.allow() {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(seconds) = fault.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if let Some(challenge) = fault.challenge() {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// An upstream's refusal, under the id of the client's request.
fn refused(app: &App, refusal: &Refusal, id: Option<&str>) -> Response<ReplyBody> {
    let body = id.map_or_else(|| refusal.body.clone(), |id| under_id(&refusal.body, id));
    let mut response =
        Response::new(if body.is_empty() { ReplyBody::Empty } else { ReplyBody::Whole(Some(body)) });
    *response.status_mut() = refusal.status;
    pass_headers(&refusal.headers, response.headers_mut());
    if upstream::is_event_stream(&refusal.headers) {
        // The message was taken out of its stream.
        response.headers_mut().insert(CONTENT_TYPE, JSON);
    }
    signed(app, response)
}

/// A refusal's body with the client's id in place of ours, where it is a JSON-RPC error.
fn under_id(body: &Bytes, id: &str) -> Bytes {
    match Envelope::parse(body, &Limits::default()).map(|envelope| envelope.message) {
        Ok(Message::Response { id: Some(ours), outcome: Outcome::Error(_) }) => {
            let edit = Edit::replace(ours.span(), id.as_bytes());
            splice(body, &mut [edit]).into()
        }
        _ => body.clone(),
    }
}

/// The answer to `initialize`.
pub fn welcome(app: &App, welcome: Welcome) -> Response<ReplyBody> {
    match welcome {
        Welcome::Result { body, session_id } => {
            let mut response = whole(app, StatusCode::OK, JSON, body);
            if let Some(id) = session_id {
                response.headers_mut().insert(names::SESSION_ID, id);
            }
            response
        }
        Welcome::Refused { refusal, id } => refused(app, &refusal, Some(&id)),
    }
}

/// The upstream's headers that a client gets.
fn pass_headers(from: &HeaderMap, to: &mut HeaderMap) {
    const PASS: [HeaderName; 6] =
        [CONTENT_TYPE, CONTENT_ENCODING, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE, ALLOW];
    for (name, value) in from {
        if PASS.contains(name) {
            to.append(name, value.clone());
        }
    }
}

/// What the reply needs to know of the request.
pub struct Asked<'a> {
    /// Where it came in.
    pub route: &'a Arc<Route>,
    /// Raw JSON of its id.
    pub id: Option<&'a str>,
    /// What it brought for the upstream.
    pub credentials: &'a Credentials,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What the client can read.
    pub accepts: Accepts,
    /// What it means if the client goes away.
    pub on_disconnect: OnDisconnect,
}

impl<'a> Asked<'a> {
    /// Of a message as it came.
    pub fn by(arrived: &'a Arrived, held: &'a Held) -> Self {
        Asked {
            route: &arrived.route,
            id: held.raw_id(),
            credentials: &arrived.caller.credentials,
            headers: &arrived.headers,
            accepts: arrived.accepts,
            on_disconnect: arrived.on_disconnect(),
        }
    }
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
        headers.insert(THROUGHLINE_SESSION, origin.header(bound.generation));
    }
    let status = looked.status;
    let bound = carried.map(|(bound, _)| bound);
    let body = match (&looked.head, asked.accepts, &translate) {
        (Head::Events(..), Accepts::Json, _) | (Head::Plain(_), _, Translate::Renamed(_)) => {
            if looked.is_stream() {
                headers.insert(CONTENT_TYPE, JSON);
            }
            let limit = app.config.limits.answer_bytes;
            ReplyBody::Whole(Some(gather(core, looked, &translate, bound.as_ref(), asked, limit).await?))
        }
        (Head::Plain(_), ..) => Relay::of_bytes(core, looked, asked, in_flight),
        (Head::Events(..), ..) => {
            stream_headers(&mut headers);
            Relay::of_events(core, looked, translate, bound, asked, in_flight).await
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(signed(app, response))
}

/// Reads an answer whole and translates it.
async fn gather(
    core: &Rc<Core>,
    looked: Looked,
    translate: &Translate,
    bound: Option<&Arc<Bound>>,
    asked: &Asked<'_>,
    limit: usize,
) -> Result<Bytes, Fault> {
    let sent = match translate {
        Translate::Renamed(renamed) => Some(renamed.ids().0),
        _ => asked.id,
    };
    let response = looked
        .response(sent, limit, |other| {
            if let Outward::Answer(answer) = translate::unasked(other) {
                answer_upstream(core, bound, asked.credentials, answer);
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
pub fn answer_upstream(
    core: &Rc<Core>,
    bound: Option<&Arc<Bound>>,
    credentials: &Credentials,
    answer: Vec<u8>,
) {
    let Some(bound) = bound.cloned() else { return };
    let address = bound.address.on_behalf(credentials);
    let telling = Rc::clone(core);
    core.tell_later(async move {
        let core = telling;
        if let Err(error) = upstream::tell(&core, &address, answer).await {
            tracing::info!(%error, "an answer did not reach the upstream");
        }
    });
}

/// What a service that always has a reply fails with.
pub type Never = Infallible;
