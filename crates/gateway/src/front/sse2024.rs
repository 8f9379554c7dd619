//! HTTP with SSE, the transport of revision 2024-11-05 (Transports, "HTTP with SSE"), for clients that know no other.
//!
//! `GET /sse` opens a channel: an event stream that first names the endpoint for the client's messages. What is posted
//! there is carried as if it had come to the MCP endpoint, in a session of the channel's own, and what comes of it goes
//! out on the stream. The session ends with the stream: such clients cannot come back to one, they begin another.

mod channel;
mod work;

use std::rc::Rc;
use std::sync::Arc;

use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use throughline_store::RecordKey;
use throughline_wire::headers::{LAST_EVENT_ID, MCP_METHOD, MCP_NAME};
use throughline_wire::seal::SessionToken;
use throughline_wire::version::ProtocolVersion;

pub use channel::Channels;

use crate::app::{App, Core, Route};
use crate::classify::{self, Accepts, Arrived, Refused, What};
use crate::config::Mode;
use crate::error::Fault;
use crate::peer::Peer;
use crate::reply::{self, GoesOn, ReplyBody};
use crate::{names, room, session, tally, urls};

/// The parameter of the endpoint that names the channel.
const SESSION_ID: &str = "sessionId";

/// A request for the transport of a route.
pub struct Asked {
    route: Arc<Route>,
    of: Of,
}

/// What it is about.
#[derive(Clone, Copy)]
enum Of {
    /// `/sse`: the stream.
    Stream,
    /// `/message`: a message of the client's.
    Message,
}

/// Whether a request is for this transport of a route that keeps sessions.
pub fn asked(app: &App, path: &str) -> Option<Asked> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (before, last) = path.rsplit_once('/')?;
    let of = match last {
        "sse" => Of::Stream,
        "message" => Of::Message,
        _ => return None,
    };
    let keeps = |route: &&Arc<Route>| route.config.mode == Mode::Sessions;
    let route = app.routes.iter().find(|route| base(route) == before).filter(keeps)?;
    Some(Asked { route: Arc::clone(route), of })
}

/// What stands before `/sse` and `/message`.
fn base(route: &Route) -> &str {
    route.config.path.strip_suffix("/mcp").unwrap_or_default()
}

/// Answers it.
pub async fn answer(
    core: Rc<Core>,
    peer: Peer,
    asked: Asked,
    parts: Parts,
    mut body: Incoming,
) -> Response<ReplyBody> {
    let answered = match (asked.of, &parts.method) {
        (Of::Stream, &Method::GET) => open(&core, peer, asked.route, parts).await.map_err(Refused::from),
        (Of::Stream, _) => Err(Fault::Method("GET").into()),
        (Of::Message, &Method::POST) => match read(&core, peer, asked.route, parts, &mut body).await {
            // What was read is the session's, whether or not its client waits to hear that it arrived.
            Ok(posted) => return GoesOn::new(&Arc::clone(&core.app), work::take(core, posted)).await,
            Err(refused) => Err(refused),
        },
        (Of::Message, _) => Err(Fault::Method("POST").into()),
    };
    answered.unwrap_or_else(|refused| {
        room::linger(body, &refused.fault);
        tally::refused(&core, reply::fault(&core.app, &refused.fault, refused.id.as_deref()))
    })
}

/// Opens a channel.
async fn open(
    core: &Rc<Core>,
    peer: Peer,
    route: Arc<Route>,
    mut parts: Parts,
) -> Result<Response<ReplyBody>, Fault> {
    let app = &core.app;
    if app.is_stopping() {
        return Err(Fault::Stopping);
    }
    if !classify::reads_streams(&parts.headers) {
        return Err(Fault::NotAcceptable);
    }
    parts.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    parts.headers.remove(names::SESSION_ID);
    let arrived = arrived(core, peer, route, parts, What::Listen(None)).await?;
    let token = SessionToken {
        id: app.effects.bytes(),
        route: arrived.route.digest,
        principal: arrived.caller.principal,
        issued_at: u32::try_from(app.effects.now().0 / 1000).unwrap_or(u32::MAX),
        // What the client speaks it says in `initialize`, and is told there.
        version: ProtocolVersion::V2024_11_05,
        capabilities: Default::default(),
    };
    let id = app.keys.seal_session(&token, app.effects.bytes());
    let endpoint = format!("{}/message?{SESSION_ID}={id}", base(&arrived.route));
    let session_id = HeaderValue::from_str(&id).ok();
    let arrived = Arrived { session_id, ..arrived };
    Ok(channel::open(core, arrived, RecordKey(token.id), &endpoint).await)
}

/// A client's message, and where its answer goes.
struct Posted {
    arrived: Arrived,
    key: RecordKey,
    to: channel::Line,
}

/// Reads a message.
async fn read(
    core: &Rc<Core>,
    peer: Peer,
    route: Arc<Route>,
    mut parts: Parts,
    body: &mut Incoming,
) -> Result<Posted, Refused> {
    if !classify::is_plain_json(&parts.headers) {
        return Err(Fault::ContentType.into());
    }
    let id = urls::parameter(parts.uri.query().unwrap_or_default(), SESSION_ID);
    let id = id.and_then(|id| HeaderValue::from_str(&id).ok()).ok_or(Fault::SessionUnknown)?;
    parts.headers.insert(names::SESSION_ID, id.clone());
    let body = classify::read_within(core, body).await?;
    let what = classify::what(&core.app, body)?;
    let arrived = arrived(core, peer, route, parts, what).await?;
    let key = session::key_of(&core.app, &arrived, &id).ok_or(Fault::SessionUnknown)?;
    let to = channel::find(core, key).await?;
    Ok(Posted { arrived, key, to })
}

async fn arrived(
    core: &Core,
    peer: Peer,
    route: Arc<Route>,
    mut parts: Parts,
    what: What,
) -> Result<Arrived, Fault> {
    // What newer revisions say there is not said of these messages.
    for name in [MCP_METHOD, MCP_NAME, LAST_EVENT_ID] {
        parts.headers.remove(HeaderName::from_static(name));
    }
    let version = parts.headers.get(&names::PROTOCOL_VERSION).cloned();
    let arrived = classify::made(core, route, peer, parts, what).await?;
    Ok(Arrived { accepts: Accepts::Messages, version, ..arrived })
}

/// That a message has arrived.
fn accepted(app: &App) -> Response<ReplyBody> {
    reply::empty(app, StatusCode::ACCEPTED)
}
