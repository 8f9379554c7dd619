//! The log level of a session that many requests share: the most verbose that one of them has asked for. Each hears only
//! what it asked for itself.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use throughline_wire::bridge::to_legacy::discover;
use throughline_wire::bridge::to_legacy::notice::Level;
use throughline_wire::{envelope, jsonrpc, method};

use crate::app::Core;
use crate::call;
use crate::classify::{Arrived, Held};
use crate::reply::{self, Asked};
use crate::session::Session;

/// How often it is set again because another request set a less verbose one meanwhile.
const ATTEMPTS: usize = 3;
/// Longest answer to it, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Sees that the server says as much in this session as this request wants to hear. Where it will not, the request goes
/// on all the same.
pub(super) async fn raise(core: &Rc<Core>, arrived: &Arrived, session: &Arc<Session>, level: Level) {
    let said = arrived.route.initialize.last();
    if said.is_some_and(|said| !discover::has(&said, "logging")) {
        return;
    }
    for _ in 0..ATTEMPTS {
        if present(core, session).is_some_and(|present| present <= level)
            || !set(core, arrived, session, level).await
        {
            return;
        }
    }
}

/// What a recovery would set.
fn present(core: &Core, session: &Session) -> Option<Level> {
    let record = session.record();
    let step = record.restore.iter().find(|step| step.method == method::SET_LEVEL)?;
    let params = core.app.keys.open_secret(&session.key.0, &step.params)?;
    Level::parse(&envelope::string_value(&params[envelope::member(&params, "level").ok()??])?)
}

/// Sets it as a client would: what makes it whole again after a loss remembers it. False where nothing came of it.
async fn set(core: &Rc<Core>, arrived: &Arrived, session: &Arc<Session>, level: Level) -> bool {
    let params = format!(r#"{{"level":"{}"}}"#, level.as_str());
    let body = jsonrpc::request(&core.app.unique_id(), method::SET_LEVEL, Some(params.as_bytes()));
    let Ok(held) = Held::request(Bytes::from(body)) else { return false };
    let beside = arrived.in_legacy(held).in_json();
    let Some(held) = beside.held() else { return false };
    let answer = async {
        let answered = call::run(core, &beside, held, session).await?;
        let answer = reply::relay(core, answered, &Asked::by(&beside, held)).await?;
        reply::gathered(answer, MAX_ANSWER).await
    };
    match answer.await {
        Ok((response, _)) => response.status().is_success(),
        Err(fault) => {
            tracing::info!(%fault, "a log level was not set");
            false
        }
    }
}
