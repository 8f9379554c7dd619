//! The log level of a session that many requests share: the most verbose that one of them has asked for. Each hears only
//! what it asked for itself.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::json;
use throughline_wire::bridge::to_legacy::discover;
use throughline_wire::bridge::to_legacy::notice::Level;
use throughline_wire::{envelope, method};

use super::beside;
use crate::app::Core;
use crate::classify::Arrived;
use crate::session::Session;

/// How often it is set again because another request set a less verbose one meanwhile.
const ATTEMPTS: usize = 3;

/// Sees that the server says as much in this session as this request wants to hear. Where it will not, the request goes
/// on all the same.
pub(super) async fn raise(core: &Rc<Core>, arrived: &Arrived, session: &Arc<Session>, level: Level) {
    let said = arrived.route.initialize.last();
    if said.is_some_and(|said| !discover::has(&said, "logging")) {
        return;
    }
    for _ in 0..ATTEMPTS {
        if present(core, session).is_some_and(|present| present <= level)
            || !beside(core, arrived, session, method::SET_LEVEL, &json!({ "level": level.as_str() })).await
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
