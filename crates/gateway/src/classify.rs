//! Says what came: one HTTP request becomes one [`Arrived`], checked, with its era and its caller decided.
//! Nothing behind this asks again.

mod stated;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use throughline_wire::envelope::{self, Envelope, Limits, Message, Span};
use throughline_wire::era::request_era;
use throughline_wire::headers::{MCP_METHOD, MCP_NAME, MCP_PARAM_PREFIX, MCP_PROTOCOL_VERSION, encode_value};
use throughline_wire::version::{ASSUMED, Era, ProtocolVersion};
use throughline_wire::{jsonrpc, method};
use tokio::time::Instant;

use crate::app::{App, Core, Route};
use crate::config::{Answers, Mode};
use crate::error::Fault;
use crate::names;
use crate::peer::{self, Peer};
use crate::principal::{self, Caller};
use crate::tally::Seen;
use crate::upstream::{ACCEPT_BOTH, JSON};
pub use stated::Misstated;

/// The reserved `_meta` member of revision 2026-07-28 that names the version of a request.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A request as everything behind this module sees it.
pub struct Arrived {
    /// Where it came in.
    pub route: Arc<Route>,
    /// The other end of its connection.
    pub peer: Peer,
    /// Who sent it.
    pub caller: Caller,
    /// What it is.
    pub what: What,
    /// Which era the client speaks.
    pub era: Era,
    /// What the client can read.
    pub accepts: Accepts,
    /// The session id that it carries.
    pub session_id: Option<HeaderValue>,
    /// The value of its MCP-Protocol-Version header.
    pub version: Option<HeaderValue>,
    /// All its headers.
    pub headers: HeaderMap,
    /// When it came.
    pub began: Instant,
    /// What becomes of it, for the tally.
    pub seen: Seen,
}

/// The kinds of things that come.
pub enum What {
    /// `initialize`.
    Initialize(Held),
    /// Any other request.
    Request(Held),
    /// A notification.
    Notification(Held),
    /// The client's answer to a question of the server's.
    Response(Held),
    /// GET: a stream to listen to, or to resume after this event.
    Listen(Option<String>),
    /// DELETE: the client ends its session.
    Close,
}

impl What {
    /// The message, where there is one.
    pub fn held(&self) -> Option<&Held> {
        match self {
            What::Initialize(held)
            | What::Request(held)
            | What::Notification(held)
            | What::Response(held) => Some(held),
            What::Listen(_) | What::Close => None,
        }
    }
}

/// A message and the places in it that may have to be changed.
#[derive(Clone)]
pub struct Held {
    /// The body as it came.
    pub body: Bytes,
    /// Raw JSON of the id.
    pub id: Option<Span>,
    /// The method; empty for a response.
    pub method: Box<str>,
    /// The parameters.
    pub params: Option<Span>,
}

impl Held {
    /// A notification that the gateway made; only its method counts.
    pub fn notification(method: &str) -> Self {
        Held { body: Bytes::new(), id: None, method: method.into(), params: None }
    }

    /// A response that the gateway made.
    ///
    /// # Errors
    /// When it is none.
    pub fn response(body: Bytes) -> Result<Self, Fault> {
        match Envelope::parse(&body, &Limits::ANY_DEPTH)?.message {
            Message::Response { id, .. } => {
                let id = id.map(|id| id.span());
                Ok(Held { body, id, method: "".into(), params: None })
            }
            _ => Err(Fault::UpstreamGarbled),
        }
    }

    /// A notification that the gateway made, whole.
    ///
    /// # Errors
    /// When it is none.
    pub fn told(body: Bytes) -> Result<Self, Fault> {
        match Envelope::parse(&body, &Limits::ANY_DEPTH)?.message {
            Message::Notification { method, params, .. } => {
                let method = method.as_ref().into();
                Ok(Held { body, id: None, method, params })
            }
            _ => Err(Fault::UpstreamGarbled),
        }
    }

    /// A request that the gateway made.
    ///
    /// # Errors
    /// When it is none.
    pub fn request(body: Bytes) -> Result<Self, Fault> {
        match Envelope::parse(&body, &Limits::ANY_DEPTH)?.message {
            Message::Request { id, method, params } => {
                let (id, method) = (Some(id.span()), method.as_ref().into());
                Ok(Held { body, id, method, params })
            }
            _ => Err(Fault::UpstreamGarbled),
        }
    }

    /// Raw JSON of the id.
    pub fn raw_id(&self) -> Option<&str> {
        self.id.clone().and_then(|span| std::str::from_utf8(&self.body[span]).ok())
    }

    /// Raw JSON of the parameters.
    pub fn raw_params(&self) -> Option<&[u8]> {
        self.params.clone().map(|span| &self.body[span])
    }

    /// The version that it names in its `_meta`.
    fn meta_version(&self) -> Result<Option<Cow<'_, str>>, Fault> {
        let span = self.param(&["_meta", META_VERSION])?;
        Ok(span.and_then(|span| envelope::string_value(&self.body[span])))
    }

    /// Where the value at this path in the parameters stands in the body.
    pub fn param(&self, names: &[&str]) -> Result<Option<Span>, Fault> {
        let Some(params) = self.params.clone() else { return Ok(None) };
        let found = envelope::path(&self.body[params.clone()], names)?;
        Ok(found.map(|span| params.start + span.start..params.start + span.end))
    }
}

/// What the client can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// JSON only: streams are gathered for it.
    Json,
    /// Event streams as well.
    Streams,
    /// The messages themselves, on a stream that it has (2024-11-05, "HTTP with SSE").
    Messages,
}

/// What a client that goes away means by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// It cancels its request (2026-07-28, "Cancellation").
    Cancel,
    /// Nothing: the request goes on (2025-11-25, "Sending Messages to the Server").
    KeepReading,
}

impl Arrived {
    /// What it means if the client goes away now.
    pub fn on_disconnect(&self) -> OnDisconnect {
        match (self.era, &self.what) {
            (Era::Modern, _) | (_, What::Listen(_)) => OnDisconnect::Cancel,
            // Many clients say good-bye, or answer a question, and are gone before they hear that it arrived.
            (Era::Legacy, _) => OnDisconnect::KeepReading,
        }
    }

    /// Scheme and authority at which the client reached the gateway.
    pub fn external_base(&self, app: &App) -> String {
        peer::external_base(&app.config, self.peer, &self.headers)
    }

    /// The same client's, about something else.
    pub fn about(&self, what: What) -> Self {
        self.with(what, self.headers.clone())
    }

    fn with(&self, what: What, headers: HeaderMap) -> Self {
        Arrived {
            route: Arc::clone(&self.route),
            peer: self.peer,
            caller: self.caller.clone(),
            what,
            era: self.era,
            accepts: self.accepts,
            session_id: self.session_id.clone(),
            version: self.version.clone(),
            headers,
            began: self.began,
            seen: Seen::default(),
        }
    }

    /// The same client's, with another message in its place: this body, which calls the tool of this name.
    ///
    /// # Errors
    /// When the body is no request.
    pub fn with_message(&self, body: Bytes, name: Option<&str>) -> Result<Self, Fault> {
        let held = Held::request(body)?;
        let same = self.held().is_some_and(|own| own.method == held.method);
        let headers = if same && name.is_none() {
            self.headers.clone()
        } else {
            headers_for(&self.headers, &held.method, name)
        };
        Ok(self.with(What::Request(held), headers))
    }

    /// A request of the gateway's own in the same client's name, answered in JSON. `id` and `params` are raw JSON.
    ///
    /// # Errors
    /// When they are not.
    pub fn beside(&self, id: String, method: &str, params: &[u8]) -> Result<Self, Fault> {
        let body = jsonrpc::request(&id, method, Some(params));
        Ok(self.with_message(body.into(), None)?.in_json())
    }

    /// Another message in the same client's name, as one of the legacy era would send it: without a session id, and
    /// without headers that repeat a modern message.
    pub fn in_legacy(&self, held: Held) -> Self {
        let repeats = |name: &str| {
            [MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION].contains(&name) || name.starts_with(MCP_PARAM_PREFIX)
        };
        let headers = self.headers.iter().filter(|(name, _)| !repeats(name.as_str()));
        let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        Arrived {
            era: Era::Legacy,
            accepts: Accepts::Streams,
            session_id: None,
            version: None,
            ..self.with(What::Request(held), headers)
        }
    }

    /// Answered in JSON.
    #[must_use]
    pub fn in_json(self) -> Self {
        Arrived { accepts: Accepts::Json, ..self }
    }

    /// Whether the client speaks a revision without sessions; for counts and logs.
    pub fn is_modern(&self) -> bool {
        self.era == Era::Modern
    }

    /// The version by which a request is modern, as it names it: in its `_meta`, else in its header.
    pub fn modern_version(&self) -> Option<Cow<'_, str>> {
        let meta = self.held().and_then(|held| held.meta_version().ok()?);
        let header = self.version.as_ref().and_then(|version| version.to_str().ok()).map(Cow::Borrowed);
        meta.into_iter().chain(header).find(|version| request_era(None, Some(version)) == Era::Modern)
    }

    /// The message, where there is one.
    pub fn held(&self) -> Option<&Held> {
        match &self.what {
            What::Initialize(held)
            | What::Request(held)
            | What::Notification(held)
            | What::Response(held) => Some(held),
            What::Listen(_) | What::Close => None,
        }
    }
}

/// A request that was refused here; the id, where it was understood that far.
pub struct Refused {
    /// Why.
    pub fault: Fault,
    /// Raw JSON of the request's id.
    pub id: Option<String>,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Refused { fault, id: None }
    }
}

/// Reads and checks one HTTP request.
pub async fn classify(
    core: &Core,
    peer: Peer,
    mut parts: Parts,
    body: &mut Incoming,
) -> Result<Arrived, Refused> {
    let app = &core.app;
    let began = Instant::now();
    let route = Arc::clone(app.route(parts.uri.path()).ok_or(Fault::NoRoute)?);
    let headers = &parts.headers;
    let what = match parts.method {
        Method::POST => message(core, headers, body).await?,
        Method::GET => What::Listen(text(headers, &names::LAST_EVENT_ID).map(str::to_owned)),
        Method::DELETE => What::Close,
        _ => return Err(Fault::Method("GET, POST, DELETE").into()),
    };
    let version = headers.get(&names::PROTOCOL_VERSION).cloned();
    let era = era_of(&what, version.as_ref().and_then(|version| version.to_str().ok()))?;
    let what = match (what, era) {
        // Only a name there: the modern era has no such method, which is for the upstream to say.
        (What::Initialize(held), Era::Modern) => What::Request(held),
        (what, _) => what,
    };
    let listens = matches!(what, What::Listen(_) | What::Close);
    if listens && (era == Era::Modern || route.config.mode == Mode::Stateless) {
        return Err(Fault::Method("POST").into());
    }
    let refused = |fault| Refused { fault, id: what.held().and_then(Held::raw_id).map(str::to_owned) };
    if let (What::Request(held), Era::Modern) = (&what, era) {
        stated::check(route.config.strict_headers, &mut parts.headers, held).map_err(refused)?;
    }
    let accepts = accepts(&route, &parts.headers);
    let caller = principal::recognise(core, &route, peer, &parts, what.held()).await.map_err(refused)?;
    let headers = parts.headers;
    Ok(Arrived {
        peer,
        caller,
        session_id: headers.get(&names::SESSION_ID).cloned(),
        route,
        what,
        era,
        accepts,
        version,
        headers,
        began,
        seen: Seen::default(),
    })
}

/// A message that the gateway made of a request in another form, of a client that can be asked nothing and reads JSON.
///
/// # Errors
/// As for [`principal::recognise`].
pub async fn made(
    core: &Core,
    route: Arc<Route>,
    peer: Peer,
    parts: Parts,
    what: What,
) -> Result<Arrived, Fault> {
    let caller = principal::recognise(core, &route, peer, &parts, what.held()).await?;
    Ok(Arrived {
        peer,
        caller,
        session_id: parts.headers.get(&names::SESSION_ID).cloned(),
        route,
        what,
        era: Era::Legacy,
        accepts: Accepts::Json,
        version: None,
        headers: parts.headers,
        began: Instant::now(),
        seen: Seen::default(),
    })
}

/// The one decision about a request's era.
fn era_of(what: &What, header: Option<&str>) -> Result<Era, Fault> {
    let (held, header) = match what {
        What::Request(held) | What::Notification(held) => (held, header),
        // It is what legacy means, even from clients that name their newest version in the headers of all they send.
        What::Initialize(held) => (held, None),
        // A response has no `_meta` of its own.
        What::Response(_) | What::Listen(_) | What::Close => return Ok(request_era(header, None)),
    };
    Ok(request_era(header, held.meta_version()?.as_deref()))
}

async fn message(core: &Core, headers: &HeaderMap, body: &mut Incoming) -> Result<What, Refused> {
    if !is_plain_json(headers) {
        return Err(Fault::ContentType.into());
    }
    let body = read_within(core, body).await?;
    Ok(what(&core.app, body)?)
}

/// A request's body, of the size and in the time that it may have.
///
/// # Errors
/// Where it has more, or takes longer.
pub async fn read_within(core: &Core, body: &mut Incoming) -> Result<Bytes, Fault> {
    // A client that dribbles holds a connection and memory; what it may take for the head is enough for the rest.
    let config = &core.app.config;
    let read = read_body(body, config.limits.body_bytes);
    core.deadlines.within(config.timeouts.request_read, read).await.map_err(|_| Fault::BodyBroken)?
}

/// What a body is.
///
/// # Errors
/// Where it is no message.
pub fn what(app: &App, body: Bytes) -> Result<What, Fault> {
    let limits = Limits { max_depth: app.config.limits.json_depth };
    let body = unwrapped(body, &limits)?;
    let envelope = Envelope::parse(&body, &limits).map_err(Fault::Envelope)?;
    let held = |id: Option<Span>, method: &str, params: Option<Span>, body: &Bytes| Held {
        body: body.clone(),
        id,
        method: method.into(),
        params,
    };
    Ok(match envelope.message {
        Message::Request { id, method, params } => {
            let held = held(Some(id.span()), &method, params, &body);
            if &*held.method == method::INITIALIZE { What::Initialize(held) } else { What::Request(held) }
        }
        // Copilot Studio sends `"id": null` with its notifications.
        Message::Notification { method, params, .. } => {
            What::Notification(held(None, &method, params, &body))
        }
        Message::Response { id, .. } => What::Response(held(id.map(|id| id.span()), "", None, &body)),
    })
}

/// The message, taken out of an array if it is the only element: hardly any server reads arrays.
fn unwrapped(body: Bytes, limits: &Limits) -> Result<Bytes, Fault> {
    if body.trim_ascii_start().first() != Some(&b'[') {
        return Ok(body);
    }
    let object = Envelope::parse(&body, limits).map_err(Fault::Envelope)?.object;
    Ok(body.slice(object))
}

async fn read_body(body: &mut Incoming, limit: usize) -> Result<Bytes, Fault> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Fault::BodyTooLarge(limit));
    }
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::BodyBroken)?;
        let Ok(piece) = frame.into_data() else { continue };
        len += piece.len();
        if len > limit {
            return Err(Fault::BodyTooLarge(limit));
        }
        pieces.push(piece);
    }
    Ok(match pieces.len() {
        1 => pieces.remove(0),
        _ => pieces.concat().into(),
    })
}

/// The headers of a client's message, as they are for another in its place: what they say of the message is true of that.
fn headers_for(headers: &HeaderMap, method: &str, name: Option<&str>) -> HeaderMap {
    let mut headers = headers.clone();
    for (header, value) in [(MCP_METHOD, Some(method)), (MCP_NAME, name)] {
        let value = value.and_then(|value| HeaderValue::from_str(&encode_value(value)).ok());
        if let (Some(_), Some(value)) = (headers.remove(header), value) {
            headers.insert(HeaderName::from_static(header), value);
        }
    }
    if name.is_none() {
        let params = headers.keys().filter(|name| name.as_str().starts_with(MCP_PARAM_PREFIX));
        for name in params.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    headers
}

/// The header's value, where it is text.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the headers say that the body is JSON, not compressed.
pub fn is_plain_json(headers: &HeaderMap) -> bool {
    is_json(headers) && !is_encoded(headers)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    if *value == JSON {
        return true;
    }
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity")
}

fn accepts(route: &Route, headers: &HeaderMap) -> Accepts {
    match route.config.answers {
        Answers::AsUpstream if reads_streams(headers) => Accepts::Streams,
        _ => Accepts::Json,
    }
}

/// Whether the client reads event streams.
pub fn reads_streams(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        // What nearly all clients say.
        if *value == ACCEPT_BOTH {
            return true;
        }
        value.to_str().unwrap_or_default().split(',').any(|range| {
            let range = range.split(';').next().unwrap_or_default().trim();
            ["text/event-stream", "text/*", "*/*"].iter().any(|known| range.eq_ignore_ascii_case(known))
        })
    })
}

/// The version that the client's header names, or the one that a missing header means.
pub fn version_of(header: Option<&HeaderValue>) -> ProtocolVersion {
    header.and_then(|value| value.to_str().ok()).and_then(ProtocolVersion::parse).unwrap_or(ASSUMED)
}
