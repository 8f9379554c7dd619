//! Plain REST: for clients that speak HTTP and JSON but no MCP, or that cannot hold a session. See docs/rest.md.
//!
//! A request becomes the message that an MCP client would have sent, in the session that it would have had, and what
//! comes of it becomes plain JSON.

mod describe;
mod later;
mod page;
mod plain;
mod read;

use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use throughline_wire::method;
use throughline_wire::splice::{set_member, splice};

use crate::app::{App, Core, Route};
use crate::classify::{Arrived, Held, What};
use crate::error::Fault;
use crate::exchange::outcome;
use crate::initialize::{self, Welcome};
use crate::peer::Peer;
use crate::reply::{self, GoesOn, ReplyBody};
use crate::upstream::JSON;
use crate::{call, metadata, room, session, tally};
pub use later::Running;
use plain::Plain;
use read::{Call, Wanted};

/// Pages of a list that are put together.
const MAX_PAGES: usize = 64;
/// Longest list, in entries.
const MAX_ENTRIES: usize = 10_000;

/// A request for the REST face of a route: what its path says behind `/rest`.
pub struct Asked {
    route: std::sync::Arc<Route>,
    below: String,
}

/// Whether a request is for the REST face of a route that has one.
pub fn asked(app: &App, path: &str) -> Option<Asked> {
    let (name, below) = match path.strip_prefix("/rest") {
        Some(below) => ("", below),
        None => path.strip_prefix('/')?.split_once("/rest")?,
    };
    if !below.is_empty() && !below.starts_with('/') {
        return None;
    }
    let route = app.routes.iter().find(|route| route.config.name == name && route.config.rest.enabled)?;
    Some(Asked { route: std::sync::Arc::clone(route), below: below.to_owned() })
}

/// Answers it.
pub async fn answer(
    core: Rc<Core>,
    peer: Peer,
    asked: Asked,
    parts: Parts,
    mut body: Incoming,
) -> Response<ReplyBody> {
    if let Some(shown) = page::page(&core.app, &asked, &parts.method) {
        return shown;
    }
    match read::read(&core, peer, asked, parts, &mut body).await {
        Err(fault) => {
            room::linger(body, &fault);
            tally::refused(&core, finished(Plain::fault(&fault), reply::empty(&core.app, StatusCode::OK)))
        }
        Ok(call) => {
            let app = std::sync::Arc::clone(&core.app);
            // As for every client of these revisions, to go away is not to cancel.
            GoesOn::new(&app, run(core, call)).await
        }
    }
}

async fn run(core: Rc<Core>, mut call: Call) -> Response<ReplyBody> {
    let present = tally::enter(&core, &mut call.arrived);
    let plain = wanted(&core, &call).await.unwrap_or_else(|fault| Plain::fault(&fault));
    let mut response = finished(plain, reply::empty(&core.app, StatusCode::OK));
    metadata::localise(&core.app, &call.arrived, &mut response);
    tally::answered(present, call.arrived, response)
}

/// An answer as it goes out; `signed` has the headers that all answers have.
fn finished(plain: Plain, signed: Response<ReplyBody>) -> Response<ReplyBody> {
    let (mut parts, _) = signed.into_parts();
    parts.status = plain.status;
    for (name, value) in &plain.headers {
        if [RETRY_AFTER, WWW_AUTHENTICATE, ALLOW, LOCATION].contains(name) {
            parts.headers.append(name, value.clone());
        }
    }
    parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if plain.body.is_empty() {
        return Response::from_parts(parts, ReplyBody::Empty);
    }
    parts.headers.insert(http::header::CONTENT_TYPE, JSON);
    Response::from_parts(parts, ReplyBody::Whole(Some(plain.body)))
}

async fn wanted(core: &Rc<Core>, call: &Call) -> Result<Plain, Fault> {
    let arrived = &call.arrived;
    let rest = &arrived.route.config.rest;
    match &call.wanted {
        Wanted::Later(wait) => later::begin(core, arrived, *wait).await,
        Wanted::Outcome(id) => later::look(core, arrived, id).await,
        Wanted::Cancel(id) => later::cancel(core, arrived, id).await,
        Wanted::Tool => Ok(plain::tool(sent(core, arrived).await?, rest.tool_errors)),
        Wanted::Result => Ok(plain::result(sent(core, arrived).await?)),
        Wanted::List(member) => match list(core, arrived, member).await? {
            Ok(entries) => {
                let mut body = Map::new();
                body.insert((*member).to_owned(), entries.into());
                Ok(Plain::ok(&body.into()))
            }
            Err(refused) => Ok(plain::result(refused)),
        },
        Wanted::Document(document) => match list(core, arrived, "tools").await? {
            Ok(tools) => Ok(Plain::ok(&describe::document(&core.app, arrived, *document, tools))),
            Err(refused) => Ok(plain::result(refused)),
        },
        Wanted::Initialize => begin(core, arrived).await,
        Wanted::Message => message(core, arrived).await,
        Wanted::End => {
            session::close(core, arrived).await?;
            Ok(Plain::empty(StatusCode::NO_CONTENT))
        }
    }
}

/// An upstream's answer, whole.
struct Answered {
    head: Response<()>,
    body: Bytes,
}

async fn sent(core: &Rc<Core>, arrived: &Arrived) -> Result<Answered, Fault> {
    let response = outcome(core, arrived).await?;
    let (head, body) = reply::gathered(response, core.app.config.limits.answer_bytes).await?;
    Ok(Answered { head, body })
}

/// All pages of a list; `Ok(Err(..))` is an answer that is none.
async fn list(
    core: &Rc<Core>,
    arrived: &Arrived,
    member: &str,
) -> Result<Result<Vec<Value>, Answered>, Fault> {
    let mut page = sent(core, arrived).await?;
    let (mut entries, mut read) = (Vec::new(), 0);
    for turn in 0..MAX_PAGES {
        read += page.body.len();
        let Some(mut result) = plain::result_of(&page) else {
            // Of a list that has begun, what is there is better than nothing.
            return Ok(if turn == 0 { Err(page) } else { Ok(entries) });
        };
        if let Some(Value::Array(more)) = result.shift_remove(member) {
            entries.extend(more);
        }
        let cursor = result.shift_remove("nextCursor").filter(Value::is_string);
        let (Some(cursor), Some(held)) = (cursor, arrived.held()) else { break };
        if entries.len() >= MAX_ENTRIES || read >= core.app.config.limits.answer_bytes {
            break;
        }
        let params = json!({ "cursor": cursor }).to_string();
        let next = arrived.beside(core.app.unique_id(), &held.method, params.as_bytes())?;
        page = sent(core, &next).await?;
    }
    Ok(Ok(entries))
}

/// `POST /rest/initialize`: a session for a client that wants to hold it itself, with its id where it can read it.
async fn begin(core: &Rc<Core>, arrived: &Arrived) -> Result<Plain, Fault> {
    let What::Initialize(held) = &arrived.what else { return Err(Fault::InitializeParams) };
    let (body, session_id) = match initialize::answer(core, arrived, held).await? {
        Welcome::Result { body, session_id } => (body, session_id),
        Welcome::Refused { refusal, .. } => return Err(initialize::refused(refusal.as_ref().clone())),
    };
    let mut answer = Map::new();
    if let Some(id) = &session_id {
        let session = session::issued(core, arrived, id).await?;
        // Nobody tells a REST client to say so.
        call::notify(core, arrived, &Held::notification(method::INITIALIZED), &session).await;
        answer.insert("sessionId".to_owned(), id.to_str().unwrap_or_default().into());
    }
    let welcomed = Answered { head: Response::new(()), body: body.into() };
    answer.extend(plain::result_of(&welcomed).ok_or(Fault::UpstreamGarbled)?);
    Ok(Plain::ok(&answer.into()))
}

/// `POST /rest/message`: a message of the protocol as it is, and its answer in JSON.
async fn message(core: &Rc<Core>, arrived: &Arrived) -> Result<Plain, Fault> {
    let Answered { head, body } = sent(core, arrived).await?;
    let id = head.headers().get(throughline_wire::headers::MCP_SESSION_ID).and_then(|id| id.to_str().ok());
    let body = match id.filter(|_| !body.is_empty()) {
        Some(id) => {
            let quoted = Value::from(id).to_string();
            let edit = set_member(&body, &(0..body.len()), "sessionId", quoted.as_bytes())?;
            splice(&body, &mut [edit]).into()
        }
        None => body,
    };
    Ok(Plain { status: head.status(), headers: head.headers().clone(), body })
}
