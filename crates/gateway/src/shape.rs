//! What a route's profile and selection change for its clients: the tool list, the names in calls, what is too large.
//! Arguments go to the server as they came. Routes without either never get here.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome};
use throughline_wire::profile::list::{Listed, Selection, list};
use throughline_wire::profile::{Changes, Profile, UNCHANGED, names, results};
use throughline_wire::splice::{Edit, set_member, splice};
use throughline_wire::{jsonrpc, method};

use crate::app::{Core, first};
use crate::classify::{Arrived, Held};
use crate::config;
use crate::error::Fault;
use crate::exchange::carry;
use crate::reply::{self, ReplyBody};
use crate::session::lock;
use crate::tally::shown;
use crate::upstream::{JSON, is_event_stream};

/// Pages of a tool list that are put together, and the most tools in them.
const MAX_PAGES: usize = 64;
const MAX_TOOLS: usize = 4096;
/// Short names that are remembered for a route.
const MAX_NAMES: usize = 4096;
/// Tool lists of which the log was told.
const MAX_TOLD: usize = 32;
/// Tools that a line in the log names.
const MAX_SHOWN: usize = 20;

/// JSON-RPC 2.0, section 5.1.
const INVALID_PARAMS: i32 = -32602;

/// What a route changes.
pub struct Shape {
    profile: &'static Profile,
    selection: Selection,
    /// Short names, and what they stand for.
    names: Mutex<HashMap<String, String>>,
    told: Mutex<VecDeque<[u8; 16]>>,
}

impl Shape {
    /// Of a route; None where it changes nothing.
    pub fn of(route: &config::Route) -> Option<Self> {
        if route.profile.is_none() && route.tools.is_open() {
            return None;
        }
        Some(Shape {
            profile: route.profile.unwrap_or(&UNCHANGED),
            selection: route.tools.clone(),
            names: Mutex::default(),
            told: Mutex::default(),
        })
    }

    fn remember(&self, renamed: &[(String, String)]) {
        let mut names = lock(&self.names);
        for (short, name) in renamed {
            if names.len() >= MAX_NAMES && !names.contains_key(short) {
                names.clear();
            }
            names.insert(short.clone(), name.clone());
        }
    }

    /// Says once for each tool list what became of it.
    fn tell(&self, path: &str, digest: [u8; 16], listed: &Listed) {
        {
            let mut told = lock(&self.told);
            if told.contains(&digest) {
                return;
            }
            if told.len() >= MAX_TOLD {
                told.pop_front();
            }
            told.push_back(digest);
        }
        let profile = self.profile.name;
        let mut all = Changes::default();
        for (name, changes) in &listed.changed {
            all.add(changes);
            tracing::debug!(route = path, profile, tool = shown(name), %changes, "a tool was rewritten");
        }
        let names = listed.changed.iter().map(|(name, _)| shown(name));
        tracing::info!(
            route = path,
            profile,
            tools = listed.tools.len(),
            changed = in_short(names),
            changes = %all,
            "a tool list was rewritten"
        );
        if !listed.left_out.is_empty() {
            let names =
                listed.left_out.iter().map(|(name, why)| format!("{} ({})", shown(name), why.as_str()));
            tracing::warn!(
                route = path,
                profile,
                left_out = in_short(names),
                "tools are not shown to clients; choose with tools.allow and tools.deny"
            );
        }
    }
}

/// Some of these names, and how many there are beside.
fn in_short(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_SHOWN);
    let some: Vec<String> = names.take(MAX_SHOWN).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    some.join(", ") + &more
}

/// Answers a request on a route that changes something.
pub async fn request(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    shape: &Shape,
) -> Result<Response<ReplyBody>, Fault> {
    let limit = core.app.config.limits.answer_bytes;
    match &*held.method {
        method::TOOLS_LIST => tools_list(core, arrived, held, shape).await,
        method::TOOLS_CALL => {
            let answered = tools_call(core, arrived, held, shape).await;
            // Later revisions say with the status what their clients have to do.
            if !shape.profile.plain_answers || arrived.is_modern() {
                return answered;
            }
            plain(core, held, answered, limit).await
        }
        _ => {
            let answered = carry(core, arrived, held).await?;
            fitting(held, shape, answered, limit).await
        }
    }
}

/// Carries a message in the place of the one that arrived, whose line in the access log tells of both.
async fn carry_for(
    core: &Rc<Core>,
    arrived: &Arrived,
    sibling: &Arrived,
    held: &Held,
) -> Result<Response<ReplyBody>, Fault> {
    let answered = carry(core, sibling, held).await;
    arrived.seen.take(&sibling.seen);
    answered
}

/// The tool list, rewritten; whole where the profile says how long it may be.
async fn tools_list(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    shape: &Shape,
) -> Result<Response<ReplyBody>, Fault> {
    let limit = core.app.config.limits.answer_bytes;
    let sibling = arrived.with_message(held.body.clone(), None)?.in_json();
    let answered = carry_for(core, arrived, &sibling, held).await?;
    let (response, body) = reply::gathered(answered, limit).await?;
    let Some((tools, mut result)) = page(&body) else {
        // An error passes. A list that cannot be read does not: what is denied may be in it.
        return if result_of(&body).is_some() {
            Err(Fault::UpstreamGarbled)
        } else {
            Ok(reply::with_body(response, body))
        };
    };
    let tools = if shape.profile.tools.is_some() {
        let cursor = result.shift_remove("nextCursor");
        further(core, arrived, held.raw_params(), (tools, body.len()), cursor).await?
    } else {
        tools
    };
    let digest = first(&core.app.keys.digest("tools", &[result_of(&body).unwrap_or_default()]));
    let listed = list(shape.profile, &shape.selection, tools);
    shape.remember(&listed.renamed);
    shape.tell(&arrived.route.config.path, digest, &listed);
    result.insert("tools".to_owned(), listed.tools.into());
    let result = serde_json::to_vec(&result).map_err(|_| Fault::UpstreamGarbled)?;
    Ok(reply::with_body(response, jsonrpc::result(held.raw_id().unwrap_or("null"), &result).into()))
}

/// The tools in a response to `tools/list`, and its result without them.
fn page(body: &[u8]) -> Option<(Vec<Value>, Map<String, Value>)> {
    let result = result_of(body)?;
    let mut result: Map<String, Value> = serde_json::from_slice(result).ok()?;
    match result.shift_remove("tools")? {
        Value::Array(tools) => Some((tools, result)),
        _ => None,
    }
}

fn result_of(body: &[u8]) -> Option<&[u8]> {
    match Envelope::parse(body, &Limits::ANY_DEPTH).ok()?.message {
        Message::Response { outcome: Outcome::Result(at), .. } => Some(&body[at]),
        _ => None,
    }
}

/// These tools, and those of the pages that follow.
async fn further(
    core: &Rc<Core>,
    arrived: &Arrived,
    params: Option<&[u8]>,
    (mut tools, mut read): (Vec<Value>, usize),
    mut cursor: Option<Value>,
) -> Result<Vec<Value>, Fault> {
    let limit = core.app.config.limits.answer_bytes;
    for _ in 1..MAX_PAGES {
        let more = tools.len() < MAX_TOOLS && read < limit;
        let Some(at) = cursor.filter(|cursor| cursor.is_string() && more) else { break };
        let params = params.unwrap_or(b"{}");
        let at = at.to_string();
        let edit = set_member(params, &(0..params.len()), "cursor", at.as_bytes())?;
        let params = splice(params, &mut [edit]);
        let sibling = arrived.beside(core.app.unique_id(), method::TOOLS_LIST, &params)?;
        let Some(held) = sibling.held() else { break };
        let answered = carry(core, &sibling, held).await?;
        let (_, body) = reply::gathered(answered, limit).await?;
        read += body.len();
        // A page that is not to be had leaves the list short, which is better than none.
        let Some((more, mut result)) = page(&body) else { break };
        tools.extend(more);
        cursor = result.shift_remove("nextCursor");
    }
    Ok(tools)
}

/// A call, under the server's own name for the tool.
async fn tools_call(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    shape: &Shape,
) -> Result<Response<ReplyBody>, Fault> {
    let limit = core.app.config.limits.answer_bytes;
    let at = held.param(&["name"])?;
    let called =
        at.clone().and_then(|at| envelope::string_value(&held.body[at]).map(|name| name.into_owned()));
    let (Some(at), Some(called)) = (at, called) else { return carry(core, arrived, held).await };
    let name = match shape.profile.name_length {
        Some(_) if names::may_be_short(&called) => full_name(core, arrived, held, shape, &called).await?,
        _ => None,
    };
    if !shape.selection.admits(name.as_deref().unwrap_or(&called)) {
        let text = format!("Unknown tool: {}", shown(&called));
        let body = jsonrpc::error(held.raw_id(), INVALID_PARAMS, &text, None);
        return Ok(reply::whole(&core.app, StatusCode::OK, JSON, body));
    }
    let answered = match name {
        None => carry(core, arrived, held).await?,
        Some(name) => {
            let quoted = Value::from(name.as_str()).to_string();
            let body = splice(&held.body, &mut [Edit::replace(at, quoted.as_bytes())]);
            let sibling = arrived.with_message(body.into(), Some(&name))?;
            let Some(held) = sibling.held() else { return Err(Fault::UpstreamGarbled) };
            carry_for(core, arrived, &sibling, held).await?
        }
    };
    fitting(held, shape, answered, limit).await
}

/// What a short name stands for; None where it stands for itself. Another replica may have given it out, so the list is
/// asked for if it is not known here.
async fn full_name(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    shape: &Shape,
    called: &str,
) -> Result<Option<String>, Fault> {
    let known = || lock(&shape.names).get(called).cloned();
    if let Some(name) = known() {
        return Ok(Some(name));
    }
    let meta = held.param(&["_meta"])?;
    let params = meta.map_or_else(|| b"{}".to_vec(), |at| [b"{\"_meta\":", &held.body[at], b"}"].concat());
    let sibling = arrived.beside(core.app.unique_id(), method::TOOLS_LIST, &params)?;
    if let Some(held) = sibling.held() {
        Box::pin(tools_list(core, &sibling, held, shape)).await?;
    }
    Ok(known())
}

/// An answer that is not larger than the client takes.
async fn fitting(
    held: &Held,
    shape: &Shape,
    answered: Response<ReplyBody>,
    limit: usize,
) -> Result<Response<ReplyBody>, Fault> {
    let Some(most) = shape.profile.answer_bytes.filter(|_| !is_event_stream(answered.headers())) else {
        return Ok(answered);
    };
    let (response, body) = reply::gathered(answered, limit).await?;
    if body.len() <= most {
        return Ok(reply::with_body(response, body));
    }
    tracing::info!(method = shown(&held.method), bytes = body.len(), most, "an answer was cut");
    let cut = results::shortened(&body, most).map(Bytes::from);
    Ok(reply::with_body(
        response,
        cut.unwrap_or_else(|| Fault::AnswerTooLarge(most).body(held.raw_id()).into()),
    ))
}

/// An answer to a call that its caller can read whatever went wrong: HTTP status 200, and the failure as the tool's.
/// What asks for credentials, or to come again later, keeps its status: it is for the connector, not for its user.
async fn plain(
    core: &Rc<Core>,
    held: &Held,
    answered: Result<Response<ReplyBody>, Fault>,
    limit: usize,
) -> Result<Response<ReplyBody>, Fault> {
    let failed = |text: &str| {
        let result = json!({ "content": [{ "type": "text", "text": text }], "isError": true }).to_string();
        let body = jsonrpc::result(held.raw_id().unwrap_or("null"), result.as_bytes());
        reply::whole(&core.app, StatusCode::OK, JSON, body)
    };
    let response = match answered {
        Ok(response) => response,
        Err(fault) if fault.of_upstream().is_none() && is_for_people(fault.status()) => {
            tracing::info!(%fault, "a failure was answered as the tool's");
            return Ok(failed(&fault.to_string()));
        }
        Err(fault) => return Err(fault),
    };
    if !is_for_people(response.status()) {
        return Ok(response);
    }
    let status = response.status();
    let (mut response, body) = reply::gathered(response, limit).await?;
    let is_message = Envelope::parse(&body, &Limits::ANY_DEPTH)
        .is_ok_and(|envelope| matches!(envelope.message, Message::Response { id: Some(_), .. }));
    if !is_message {
        return Ok(failed(&format!(
            "The server behind the gateway answered with HTTP status {}",
            status.as_u16()
        )));
    }
    *response.status_mut() = StatusCode::OK;
    Ok(reply::with_body(response, body))
}

/// Whether the user is to hear of a failure with this status.
fn is_for_people(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::BAD_REQUEST | StatusCode::CONFLICT)
}
