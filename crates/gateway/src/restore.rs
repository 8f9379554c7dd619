//! What a session's client has set up upstream: noted when it succeeds, done again after a loss. And what may be done
//! again at all.

use std::rc::Rc;
use std::sync::Arc;

use throughline_store::{Record, RestoreStep};
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome};
use throughline_wire::loss::Sign;
use throughline_wire::{jsonrpc, method};

use crate::app::Core;
use crate::binding::{Bound, Lost};
use crate::classify::Held;
use crate::credentials::Credentials;
use crate::session::{Kind, Session};
use crate::upstream::{self, Address, Own};

/// Steps kept for one session. Further subscriptions work, but are not restored.
const MAX_STEPS: usize = 256;
/// Longest parameters that are kept, in bytes.
const MAX_STEP_BYTES: usize = 64 * 1024;
/// Pages of a tool list that are looked through for one tool.
const MAX_PAGES: usize = 64;

/// A step that a request may turn out to be.
pub struct Step {
    /// A later step of the same key replaces this one.
    key: String,
    /// None takes the key's step away.
    step: Option<RestoreStep>,
}

/// What this request changes in what a recovery has to restore, if it succeeds.
pub fn step_of(core: &Core, session: &Session, held: &Held) -> Option<Step> {
    if session.kind == Kind::Isolated {
        return None;
    }
    let named = |member: &str| {
        let params = held.raw_params()?;
        envelope::member(params, member).ok()?.and_then(|span| envelope::string_value(&params[span]))
    };
    // A resource's URI may be as secret as what is in it.
    let digest = |text: &str| {
        data_encoding::HEXLOWER.encode(&core.app.keys.digest("restore", &[text.as_bytes()])[..16])
    };
    let key = match &*held.method {
        method::SET_LEVEL => method::SET_LEVEL.to_owned(),
        method::SUBSCRIBE | method::UNSUBSCRIBE => {
            format!("{} {}", method::SUBSCRIBE, digest(&named("uri")?))
        }
        method::TOOLS_CALL => {
            let listed = &session.route.config.restore_calls;
            let tool = if listed.is_empty() { None } else { named("name") }?;
            listed.iter().find(|listed| **listed == tool)?;
            format!("{} {}", method::TOOLS_CALL, digest(&tool))
        }
        _ => return None,
    };
    let params = held.raw_params().filter(|params| params.len() <= MAX_STEP_BYTES)?;
    let step = (&*held.method != method::UNSUBSCRIBE).then(|| RestoreStep {
        key: key.clone(),
        method: held.method.to_string(),
        params: core.app.keys.seal_secret(&session.key.0, params, core.app.effects.bytes()),
    });
    Some(Step { key, step })
}

/// Notes a step, if the upstream answered it with success.
pub async fn remember(core: &Rc<Core>, session: &Session, step: Step, response: &[u8]) {
    if !is_success(response) {
        return;
    }
    let change = |record: &mut Record| {
        record.restore.retain(|known| known.key != step.key);
        if record.restore.len() < MAX_STEPS {
            record.restore.extend(step.step.clone());
        }
        true
    };
    session.update(core, change).await;
}

/// A result, and not one of a tool that failed.
fn is_success(response: &[u8]) -> bool {
    let limits = Limits::ANY_DEPTH;
    match Envelope::parse(response, &limits).map(|envelope| envelope.message) {
        Ok(Message::Response { outcome: Outcome::Result(span), .. }) => {
            !is_true(&response[span], &["isError"])
        }
        _ => false,
    }
}

fn is_true(object: &[u8], path: &[&str]) -> bool {
    matches!(envelope::path(object, path), Ok(Some(span)) if &object[span.clone()] == b"true")
}

/// Does again, in order, what the client had set up. False when a step fails.
pub async fn replay(core: &Rc<Core>, session: &Session, record: &Record, address: &Address) -> bool {
    let app = &core.app;
    let mut whole = true;
    for step in &record.restore {
        let id = app.unique_id();
        let Some(params) = app.keys.open_secret(&session.key.0, &step.params) else {
            whole = false;
            continue;
        };
        let body = jsonrpc::request(&id, &step.method, Some(&params));
        let limit = app.config.limits.answer_bytes;
        let done = upstream::ask(core, address, &id, body, limit).await;
        let succeeded = matches!(&done, Ok(Own::Result(result, _)) if !is_true(result, &["isError"]));
        if !succeeded {
            tracing::warn!(session = app.log_id(&session.key.0), step = step.method, "not restored");
            whole = false;
        }
    }
    whole
}

/// Whether sending this request twice does no more than sending it once: by its method, or, where the route believes
/// such words, by what the tool says of itself.
///
/// `credentials` are those of the request.
pub async fn is_repeatable(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
    bound: &Bound,
    held: &Held,
) -> bool {
    if method::is_repeatable(&held.method) {
        return true;
    }
    if !session.route.config.trust_annotations || &*held.method != method::TOOLS_CALL {
        return false;
    }
    let Ok(Some(name)) = held.param(&["name"]) else { return false };
    // In a box: it is rare, and every call would have to have room for it.
    Box::pin(says_it_is_repeatable(core, session, credentials, bound, &held.body[name]))
        .await
        .unwrap_or(false)
}

/// Looks the tool up in the session's own list, as it is now: what another session was told proves nothing.
async fn says_it_is_repeatable(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
    bound: &Bound,
    name: &[u8],
) -> Option<bool> {
    let app = &core.app;
    let limit = app.config.limits.answer_bytes;
    let name = envelope::string_value(name)?;
    let mut address = bound.address.on_behalf(credentials);
    let mut params = b"{}".to_vec();
    let mut recovered = false;
    for _ in 0..MAX_PAGES {
        let id = app.unique_id();
        let body = jsonrpc::request(&id, method::TOOLS_LIST, Some(&params));
        let asked = upstream::ask(core, &address, &id, body, limit);
        let page = match asked.await.ok()? {
            Own::Result(page, _) => page,
            // The connection broke because the server died, most likely: then the session is lost as well.
            other @ (Own::Refused(_) | Own::Down) if !recovered => {
                recovered = true;
                let is_down = matches!(other, Own::Down);
                let sign = if is_down { Sign::EndpointDown } else { Sign::OtherStatus };
                let lost = Lost { generation: bound.generation, sign };
                let bind = crate::recover::bind(core, session, credentials, Some(lost));
                let (rebound, _) = bind.await.ok()?;
                address = rebound.address.on_behalf(credentials);
                continue;
            }
            Own::Refused(_) | Own::Down => return None,
        };
        let page: serde_json::Value = serde_json::from_slice(&page).ok()?;
        let tool = page["tools"].as_array()?.iter().find(|tool| tool["name"] == *name);
        if let Some(tool) = tool {
            let says = |hint: &str| tool["annotations"][hint] == true;
            return Some(says("readOnlyHint") || says("idempotentHint"));
        }
        let cursor = page.get("nextCursor").filter(|cursor| cursor.is_string())?;
        params = format!("{{\"cursor\":{cursor}}}").into_bytes();
    }
    None
}
