//! Sessions of clients whose era has none, at a server whose era has: the bridge speaks in them as a legacy client.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use throughline_store::{Millis, RecordKey, State};

use super::record::Reading;
use super::{Kind, Session, confirm, make_room, millis, present, read, store_away};
use crate::app::{Core, first};
use crate::classify::Arrived;
use crate::config::{KeptBy, Mode};
use crate::error::{Fault, Modern};
use crate::initialize::InitializeParams;
use crate::principal::Continuity;

/// The session of a modern request whose client announces this: kept for {route, principal, conversation, declared
/// capabilities}, or the request's own where its caller is not known or the route keeps no state.
///
/// # Errors
/// As where a legacy client's session is found.
pub async fn bridged(
    core: &Rc<Core>,
    arrived: &Arrived,
    params: &InitializeParams,
) -> Result<Arc<Session>, Fault> {
    let app = &core.app;
    let config = &arrived.route.config;
    let (kind, key) = match arrived.caller.continuity {
        Continuity::Keyed(key) if config.mode == Mode::Sessions && config.state != KeptBy::Request => {
            // What a server asks, and what it offers, may depend on what its client can do.
            let capabilities = params.raw_capabilities();
            (Kind::Bridged, RecordKey(first(&app.keys.digest("bridged", &[&key.0, capabilities]))))
        }
        _ => (Kind::Once, RecordKey(app.effects.bytes())),
    };
    opened(core, arrived, kind, key, params).await
}

/// The session of this key, or a new one.
///
/// # Errors
/// As where a legacy client's session is found.
pub async fn opened(
    core: &Rc<Core>,
    arrived: &Arrived,
    kind: Kind,
    key: RecordKey,
    params: &InitializeParams,
) -> Result<Arc<Session>, Fault> {
    let app = &core.app;
    if app.store.trouble().is_some() {
        store_away(arrived)?;
    }
    if let Some(session) = present(core, arrived, key).await? {
        return Ok(session);
    }
    make_room(core, &arrived.caller, key)?;
    let reading = Reading::begin(app);
    let stored = if kind == Kind::Once { None } else { read(core, arrived, key).await? };
    let session = match stored {
        Some(stored) if stored.record.state != State::Deleted => {
            Session::stored(app, kind, &arrived.route, key, stored)
        }
        _ => {
            let principal = arrived.caller.principal;
            let session = Session::new(app, kind, &arrived.route, key, principal, params);
            Session { expires: expires(core, kind).unwrap_or(session.expires), ..session }
        }
    };
    Ok(app.sessions.insert(session, &reading))
}

/// How long the record of a session lasts that is kept for one request.
fn expires(core: &Core, kind: Kind) -> Option<Millis> {
    let kept = millis(core.app.config.timeouts.parked).saturating_add(millis(core.app.config.timeouts.call));
    (kind == Kind::Once).then(|| Millis(core.app.effects.now().0.saturating_add(kept)))
}

/// The session that a request waits in for its client, here or at whichever replica; `once`: it is that request's own.
///
/// # Errors
/// Where nothing is known of it any more: what the request came to is not known then.
pub async fn rejoined(
    core: &Rc<Core>,
    arrived: &Arrived,
    key: RecordKey,
    once: bool,
) -> Result<Arc<Session>, Fault> {
    let app = &core.app;
    if let Some(session) = app.sessions.get(&key) {
        confirm(core, arrived, &session).await?;
        return Ok(session);
    }
    let kind = if once { Kind::Once } else { Kind::Bridged };
    make_room(core, &arrived.caller, key)?;
    let reading = Reading::begin(app);
    match read(core, arrived, key).await? {
        Some(stored) if stored.record.state != State::Deleted => {
            let session = Session::stored(app, kind, &arrived.route, key, stored);
            session.kept.store(once, Ordering::Release);
            Ok(app.sessions.insert(session, &reading))
        }
        _ => Err(Fault::Modern(Modern::Gone)),
    }
}
