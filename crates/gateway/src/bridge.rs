//! Modern requests for a server that speaks older revisions only: carried as those of a legacy client, whose answers and
//! questions become what a modern client reads. What is said in each era is in `wire`'s
//! [`to_legacy`](throughline_wire::bridge::to_legacy); who asks whom, and when, is here.
//!
//! The server has sessions, the client has none: [`session::bridged`] says which is whose. A request goes through
//! [`call`] like a legacy client's, so that recovery, resumption and at-most-once are the same for both.

mod asking;
mod conversation;
mod front;
mod handle;
mod kept;
mod level;
pub mod parked;
mod reading;
mod state;
pub mod subscriptions;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use throughline_store::RecordKey;
use throughline_wire::bridge::to_legacy::answer::Caching;
use throughline_wire::bridge::to_legacy::discover;
use throughline_wire::bridge::to_legacy::notice::Hears;
use throughline_wire::bridge::to_legacy::request::{Asking, legacy_params};
use throughline_wire::bridge::to_legacy::state::{State, Waits};
use throughline_wire::version::ProtocolVersion;
use throughline_wire::{jsonrpc, method};

use crate::app::{Core, Route};
use crate::call;
use crate::classify::{Arrived, Held};
use crate::config::Cache;
use crate::error::{Fault, Modern};
use crate::initialize::{self, InitializeParams};
use crate::outlet::EventId;
use crate::reply::{self, Asked, ReplyBody};
use crate::session::{self, Kind, Session};
use crate::upstream::{self, JSON};

use conversation::{Conversation, Source};
use handle::Handle;
use state::Sealing;

/// Longest version that is repeated in a refusal, in characters.
const MAX_VERSION: usize = 32;
/// Longest answer to a request of the bridge's own, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Answers a modern request with what a legacy server says.
///
/// # Errors
/// As where a legacy client's request is carried, and [`Fault::Modern`].
pub async fn carry(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Response<ReplyBody>, Fault> {
    let version = arrived.modern_version().unwrap_or_default();
    if version != ProtocolVersion::V2026_07_28.as_str() {
        return Err(Fault::Modern(Modern::Version(version.chars().take(MAX_VERSION).collect())));
    }
    let asking = Asking::read(held.raw_params()).map_err(|bad| params(&bad))?;
    match &*held.method {
        method::DISCOVER => discovered(core, arrived, held, &asking).await,
        method::LISTEN => subscriptions::listen(core, arrived, held, &asking).await,
        name if is_removed(name) => Err(Fault::Modern(Modern::Method)),
        _ => converse(core, arrived, held, &asking).await,
    }
}

/// What the modern era does not have any more, though the server behind may.
fn is_removed(method: &str) -> bool {
    matches!(
        method,
        method::INITIALIZE
            | method::PING
            | method::SET_LEVEL
            | method::SUBSCRIBE
            | method::UNSUBSCRIBE
            | method::TASKS_GET
            | method::TASKS_RESULT
            | method::TASKS_LIST
            | method::TASKS_CANCEL
    )
}

/// Makes a request of the bridge's own in a session, as its client would: a recovery knows of it. False where it does not
/// succeed.
async fn beside(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: &Arc<Session>,
    method: &str,
    params: &Value,
) -> bool {
    let params = params.to_string();
    let body = jsonrpc::request(&core.app.unique_id(), method, Some(params.as_bytes()));
    let Ok(held) = Held::request(Bytes::from(body)) else { return false };
    let beside = arrived.in_legacy(held).in_json();
    let Some(held) = beside.held() else { return false };
    let answer = async {
        let answered = call::run(core, &beside, held, session).await?;
        let answer = reply::relay(core, answered, &Asked::by(&beside, held)).await?;
        reply::gathered(answer, MAX_ANSWER).await
    };
    match answer.await {
        Ok((response, body)) => response.status().is_success() && upstream::is_result(&body),
        Err(fault) => {
            tracing::info!(%fault, method, "a request of the bridge's own failed");
            false
        }
    }
}

/// For how long a client may keep what this method answers, as the route has it.
fn caching(route: &Route, method: &str) -> Caching {
    let Cache { lists, shared } = route.config.cache;
    match lists {
        // What stands in a resource is nobody's to say.
        Some(lists) if method != method::RESOURCES_READ => {
            Caching { ttl_ms: session::millis(lists), public: shared && !lists.is_zero() }
        }
        _ => Caching::default(),
    }
}

fn params(why: &impl std::fmt::Display) -> Fault {
    Fault::Modern(Modern::Params(why.to_string()))
}

async fn discovered(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    asking: &Asking<'_>,
) -> Result<Response<ReplyBody>, Fault> {
    let params = Arc::new(InitializeParams::read(&asking.initialize_params())?);
    let said = initialize::result(core, &arrived.route, &arrived.caller, &params).await?;
    let result = discover::result(&said, caching(&arrived.route, method::DISCOVER))
        .map_err(|_| Fault::UpstreamGarbled)?;
    let body = jsonrpc::result(held.raw_id().unwrap_or("null"), &result);
    Ok(reply::whole(&core.app, StatusCode::OK, JSON, body))
}

/// What a request goes on with.
struct Found {
    session: Arc<Session>,
    /// The id of the call toward the server, raw JSON.
    id: String,
    source: Source,
    /// Of the questions that were asked: which are answered, which have which key, and behind which of those that stand in
    /// no stream of the call's one is open.
    answered: BTreeSet<String>,
    known: BTreeMap<String, String>,
    aside: Option<u64>,
}

impl Found {
    /// For a call that is made now.
    fn new(core: &Core, session: Arc<Session>) -> Self {
        Found {
            session,
            id: core.app.unique_id(),
            source: Source::Call,
            answered: BTreeSet::new(),
            known: BTreeMap::new(),
            aside: None,
        }
    }
}

/// The call that waits for this request, or the session for a new one.
async fn find(
    core: &Rc<Core>,
    arrived: &Arrived,
    asking: &Asking<'_>,
    state: Option<State>,
    handle: Option<&Handle>,
) -> Result<Found, Fault> {
    let questions = match state {
        Some(State {
            waits: Waits::Call { session, event, id, once, answered }, questions, aside, ..
        }) => {
            let session = session::rejoined(core, arrived, RecordKey(session), once).await?;
            let event = EventId::parse(&core.app, session.key, &event);
            let source = Source::Waiting(event.ok_or(Fault::Modern(Modern::Gone))?);
            let known = questions.into_iter().map(|(key, id)| (id, key)).collect();
            let answered = answered.into_iter().collect();
            return Ok(Found { session, id, source, answered, known, aside });
        }
        Some(State { waits: Waits::Nothing, questions, .. }) => questions,
        None => Vec::new(),
    };
    state::all_accepted(&questions, &asking.responses)?;
    let params = InitializeParams::read(&asking.initialize_params())?;
    let session = match handle {
        Some(handle) => session::opened(core, arrived, Kind::Bridged, handle.key, &params).await?,
        None => session::bridged(core, arrived, &params).await?,
    };
    Ok(Found::new(core, session))
}

async fn converse(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    asking: &Asking<'_>,
) -> Result<Response<ReplyBody>, Fault> {
    let sealing = Sealing::of(core, arrived, held);
    let opened = |text: &Cow<'_, str>| {
        let why = "requestState was not given to this caller for this request, or has lapsed";
        sealing.open(core, text).ok_or_else(|| params(&why))
    };
    let state = asking.state.as_ref().map(opened).transpose()?;
    let (held, handle) = Handle::of(core, arrived, held)?;
    let Found { session, id, source, answered, known, aside } =
        find(core, arrived, asking, state, handle.as_ref()).await?;
    arrived.seen.session(&session);
    // A session of the request's own lasts from here on.
    let in_use = session.begin(core, &arrived.caller, None);
    let legacy = Rc::new(as_legacy(arrived, &held, &id)?);
    if let (Source::Call, Some(level)) = (&source, asking.level) {
        level::raise(core, &legacy, &session, level).await;
    }
    let token = |theirs| (id.clone(), String::from_utf8_lossy(theirs).into_owned());
    let conversation = Conversation {
        core: Rc::clone(core),
        arrived: Rc::clone(&legacy),
        hears: Hears { level: asking.level, progress: asking.progress.map(token) },
        id,
        theirs: held.raw_id().unwrap_or("null").to_owned(),
        responses: asking.responses.iter().map(|(key, raw)| (key.clone(), raw.to_vec())).collect(),
        capabilities: asking.capabilities.map(<[u8]>::to_vec),
        sealing,
        handle: handle.map(|handle| handle.naming(&session)),
        source,
        answered,
        known,
        shelved: aside,
        open_behind: None,
        ear: None,
        _in_use: in_use,
        questions: Vec::new(),
        begins: None,
        seen: None,
        session,
    };
    let answered = front::answer(core, conversation, arrived.accepts).await;
    arrived.seen.take(&legacy.seen);
    answered
}

/// The request as a legacy client would have made it, under this id (raw JSON).
fn as_legacy(arrived: &Arrived, held: &Held, id: &str) -> Result<Arrived, Fault> {
    let params = held.raw_params().map(|params| legacy_params(params, id)).transpose()?;
    let body = jsonrpc::request(id, &held.method, params.as_deref());
    Ok(arrived.in_legacy(Held::request(Bytes::from(body))?))
}
