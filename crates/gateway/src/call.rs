//! One request in flight: sent in the session's binding, looked at, and, if the session is lost, sent once more in a
//! new one. At most once: it is repeated only if it was certainly not executed, or is safe to repeat.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method};
use throughline_store::Record;
use throughline_wire::headers::{MCP_METHOD, MCP_NAME, MCP_PARAM_PREFIX, MCP_PROTOCOL_VERSION};
use throughline_wire::loss::{Sign, Verdict};
use throughline_wire::{era, method};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::app::{Core, Route};
use crate::binding::{Bound, Lost, Origin};
use crate::classify::{Arrived, Held};
use crate::credentials::Credentials;
use crate::deadlines::Pulse;
use crate::error::Fault;
use crate::session::{Awaited, Cancellable, InFlight, Kind, Session};
use crate::translate::{Renamed, Tagger};
use crate::upstream::http::SendError;
use crate::upstream::{self, ACCEPT_BOTH, Address, JSON, Looked};
use crate::{listen, names, probe, recover, restore};

/// An answer on its way to the client, with what it has to be translated by.
pub struct Answered {
    /// The answer.
    pub looked: Looked,
    /// What was changed in the request, to be undone.
    pub translate: Translate,
    /// The binding that it came from; None where there are no sessions.
    pub carried: Option<(Arc<Bound>, Origin)>,
    /// Held until the answer has been read.
    pub in_flight: Option<InFlight>,
}

/// How messages from the upstream become messages for this client.
pub enum Translate {
    /// Unchanged.
    AsIs,
    /// The session is the client's own: what the upstream minted is tagged.
    Tagged(Tagger),
    /// The session is shared: the request's id is restored.
    Renamed(Renamed),
    /// The session is this request's alone: nothing to restore, but nobody to ask either.
    Alone,
}

/// Sends a request in a session.
pub async fn run(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    session: &Arc<Session>,
) -> Result<Answered, Fault> {
    let (body, renamed) = match session.kind {
        Kind::Keyed => {
            let (body, renamed) = Renamed::request(held, core.app.unique_id())?;
            (Bytes::from(body), Some(renamed))
        }
        // The bridge has given it an id of its own.
        Kind::Issued | Kind::Isolated | Kind::Bridged | Kind::Once => (held.body.clone(), None),
    };
    let in_flight = session.begin(core, &arrived.caller, renamed.as_ref().map(Renamed::ids));
    let awaited = session.await_progress(held);
    let pulse = awaited.as_ref().map(Awaited::pulse);
    let cancellable = session.cancellable(held);
    let (mut looked, bound, origin) = tokio::select! {
        biased;
        held = hold(core, arrived, held, session, body, pulse) => held?,
        () = cancelled(cancellable.as_ref()) => return Err(Fault::Cancelled),
    };
    drop((awaited, cancellable));
    if let Some(step) = restore::step_of(core, session, held) {
        // Before the client hears of it: what it was told must survive a loss.
        looked.read_on(core.app.config.limits.answer_bytes).await.map_err(upstream::fault_of)?;
        restore::remember(core, session, step, &looked.message()).await;
        if let Some(modern) = &bound.address.modern {
            modern.followed().await;
        }
    }
    let translate = match (session.kind, renamed) {
        (Kind::Issued | Kind::Bridged | Kind::Once, _) => Translate::Tagged(Tagger::new(&core.app, &bound)),
        (_, Some(renamed)) => Translate::Renamed(renamed),
        (_, None) => Translate::Alone,
    };
    Ok(Answered { looked, translate, carried: Some((bound, origin)), in_flight: Some(in_flight) })
}

async fn cancelled(request: Option<&Cancellable>) {
    match request {
        Some(request) => request.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Sends, and sends again in a new binding if the session turns out to be lost.
async fn hold(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    session: &Arc<Session>,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
) -> Result<(Looked, Arc<Bound>, Origin), Fault> {
    let credentials = &arrived.caller.credentials;
    let (mut bound, mut origin) = recover::bind(core, session, credentials, None).await?;
    let mut recovered = false;
    let mut broke = false;
    loop {
        listen::followed(session, &bound).await;
        // Calls that met the loss hear of it, and whoever restored the session, the first that comes after.
        let news = (recovered && bound.lossy) || bound.untold.load(Ordering::Relaxed);
        if news && !restore::is_repeatable(core, session, credentials, &bound, held).await {
            bound.untold.store(false, Ordering::Relaxed);
            return Err(Fault::StateLost);
        }
        let headers = headers(arrived, session.kind, &bound.address);
        let (pulse, hurry) = (pulse.clone(), Some(&session.hurry));
        let sent = send(core, &session.route, &bound.address, headers, body.clone(), pulse, hurry);
        let looked = match sent.await {
            Ok(looked) => looked,
            Err(error @ SendError::Down(_)) if !recovered => {
                tracing::debug!(%error, "the session moves");
                recovered = true;
                let lost = Lost { generation: bound.generation, sign: Sign::EndpointDown };
                (bound, origin) = recover::bind(core, session, credentials, Some(lost)).await?;
                arrived.seen.recovered();
                continue;
            }
            Err(error @ SendError::Broken(_)) if !broke => {
                if !restore::is_repeatable(core, session, credentials, &bound, held).await {
                    return Err(upstream::fault_of(error));
                }
                tracing::debug!(%error, method = &*held.method, "safe to repeat: sent again");
                broke = true;
                continue;
            }
            Err(error) => return Err(upstream::fault_of(error)),
        };
        let lost = match loss_of(core, &session.route, credentials, &bound, &looked).await? {
            None => return Ok((alive(looked), bound, origin)),
            Some(sign) => Lost { generation: bound.generation, sign },
        };
        if recovered {
            return Err(Fault::LostAgain);
        }
        recovered = true;
        // Said once by whoever restores it; here for each of those who find it lost.
        tracing::debug!(
            session = core.app.log_id(&session.key.0),
            sign = lost.sign.as_str(),
            "upstream session lost"
        );
        upstream::discard(looked);
        (bound, origin) = recover::bind(core, session, credentials, Some(lost)).await?;
        arrived.seen.recovered();
    }
}

async fn send(
    core: &Rc<Core>,
    route: &Route,
    address: &Address,
    headers: HeaderMap,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
    hurry: Option<&Notify>,
) -> Result<Looked, SendError> {
    let sent = Instant::now();
    let answer = upstream::send_watched(core, address, Method::POST, headers, body, pulse).await?;
    core.counts(route).upstream.observe(sent.elapsed());
    Looked::soon(answer, core.app.config.limits.event_bytes, hurry).await
}

/// Whether the answer says that the session is lost; where that is not certain, a `ping` in the session tells.
async fn loss_of(
    core: &Rc<Core>,
    route: &Route,
    credentials: &Credentials,
    bound: &Bound,
    looked: &Looked,
) -> Result<Option<Sign>, Fault> {
    match looked.verdict(&bound.address) {
        Verdict::Alive => Ok(None),
        Verdict::Lost(sign) => Ok(Some(sign)),
        Verdict::Suspected(Sign::EraChanged) => {
            let address = bound.address.on_behalf(credentials);
            Ok(Box::pin(probe::has_changed(core, route, &address)).await.then_some(Sign::EraChanged))
        }
        Verdict::Suspected(sign) => {
            let address = bound.address.on_behalf(credentials);
            // In a box: it is rare, and every call would have to have room for it.
            match Box::pin(upstream::ping(core, &address)).await {
                Some(true) => Ok(None),
                Some(false) => Ok(Some(sign)),
                // Not known. A 404 would make the client throw its session away, which may well be alive.
                None if looked.status == http::StatusCode::NOT_FOUND => Err(Fault::UpstreamGarbled),
                None => Ok(None),
            }
        }
    }
}

/// A 404 in a session that lives (an unknown tool, of some servers): clients would take it for the session's end.
fn alive(mut looked: Looked) -> Looked {
    if looked.status == http::StatusCode::NOT_FOUND {
        let is_response = upstream::is_response(&looked.beginning());
        looked.status = if is_response { http::StatusCode::OK } else { http::StatusCode::BAD_GATEWAY };
    }
    looked
}

/// Sends a request, or a notification, where there are no sessions.
pub async fn pass(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Answered, Fault> {
    let repeatable = method::is_repeatable(&held.method);
    let nowhere = Address::anywhere(&arrived.route.fleet);
    let once = || {
        send(
            core,
            &arrived.route,
            &nowhere,
            forwarded(&arrived.headers, &arrived.caller.credentials),
            held.body.clone(),
            None,
            None,
        )
    };
    let mut sent = once().await;
    if matches!(sent, Err(SendError::Broken(_))) && repeatable {
        sent = once().await;
    }
    let looked = sent.map_err(upstream::fault_of)?;
    let (status, beginning) = (looked.status.as_u16(), looked.beginning());
    if looked.status == http::StatusCode::BAD_REQUEST
        && era::discover(status, &beginning) == era::Probe::Legacy
    {
        // The upstream was replaced by one of another era: ask again before the next request.
        arrived.route.era.forget();
    }
    drop(beginning);
    Ok(Answered { looked, translate: Translate::AsIs, carried: None, in_flight: None })
}

/// Passes a client's notification on, if the session is bound. It never binds one: what it is about happened in the
/// binding that is gone.
pub async fn notify(core: &Rc<Core>, arrived: &Arrived, held: &Held, session: &Arc<Session>) {
    let app = &core.app;
    session.touch(app.effects.now());
    if &*held.method == method::INITIALIZED {
        // The client holds its id: from now on the session is to survive this process.
        if session.kind == Kind::Issued && !session.record().initialized {
            let set = |record: &mut Record| !std::mem::replace(&mut record.initialized, true);
            session.update(core, set).await;
        }
        return;
    }
    let Some(bound) = recover::current(session) else { return };
    let tagger = Tagger::new(app, &bound);
    let body = match (session.kind, &*held.method) {
        (Kind::Issued, method::PROGRESS) => tagger.inward_progress(held).map(Bytes::from),
        (Kind::Issued, _) => Some(held.body.clone()),
        (Kind::Keyed, method::CANCELLED) => cancel_unique(session, held).map(Bytes::from),
        (Kind::Keyed | Kind::Bridged | Kind::Once, _) => Some(held.body.clone()),
        (Kind::Isolated, _) => None,
    };
    if let Some(body) = body {
        // It has been logged; nobody waits for what becomes of a notification.
        let _ = deliver(core, arrived, session, &bound, body).await;
    }
    if session.kind != Kind::Keyed && &*held.method == method::CANCELLED {
        cancel(core, session, held);
    }
}

/// Frees what a request holds that its client has cancelled: many servers do not answer it any more.
fn cancel(core: &Rc<Core>, session: &Session, held: &Held) {
    let Ok(Some(at)) = held.param(&["requestId"]) else { return };
    let Ok(request) = std::str::from_utf8(&held.body[at]) else { return };
    session.cancel(request);
    if let Some(outlet) = core.app.outlets.of_request(session.key, request) {
        outlet.cancel();
    }
}

/// Passes a client's answer to a question of the server's on, if the question was asked in the present binding.
///
/// # Errors
/// Where it did not get there, or whether it fits cannot be told now: nothing that was acknowledged is lost.
pub async fn respond(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    session: &Arc<Session>,
) -> Result<(), Fault> {
    session.touch(core.app.effects.now());
    if !matches!(session.kind, Kind::Issued | Kind::Bridged | Kind::Once) {
        return Ok(());
    }
    let fitting = || {
        let bound = recover::current(session)?;
        let body = Tagger::new(&core.app, &bound).inward_response(held)?;
        Some((bound, body))
    };
    let mut found = fitting();
    if found.is_none() {
        // The binding that it was asked in may be so new that this replica has not heard of it.
        session.refresh(core).await.map_err(|_| Fault::StoreAway)?;
        found = fitting();
    }
    let Some((bound, body)) = found else {
        let session = core.app.log_id(&session.key.0);
        tracing::info!(session, "an answer to no question of the present upstream session was dropped");
        return Ok(());
    };
    deliver(core, arrived, session, &bound, body.into()).await.map_err(upstream::fault_of)
}

/// Sends what has no answer. What the upstream does not take is about something that it does not know any more.
async fn deliver(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: &Session,
    bound: &Bound,
    body: Bytes,
) -> Result<(), SendError> {
    let headers = headers(arrived, session.kind, &bound.address);
    let sent = send(core, &session.route, &bound.address, headers, body, None, None).await;
    let looked = sent.inspect_err(|error| {
        tracing::info!(%error, "a notification or response did not reach the upstream");
    })?;
    let status = looked.status.as_u16();
    if !looked.status.is_success() {
        tracing::info!(status, "the upstream did not take a notification or response");
    }
    upstream::discard(looked);
    Ok(())
}

/// `notifications/cancelled` under the id that the upstream knows the request by.
fn cancel_unique(session: &Session, held: &Held) -> Option<Vec<u8>> {
    let at = held.param(&["requestId"]).ok()??;
    let theirs = std::str::from_utf8(&held.body[at.clone()]).ok()?;
    let ours = session.unique_match(theirs)?;
    let edit = throughline_wire::splice::Edit::replace(at, ours.as_bytes());
    Some(throughline_wire::splice::splice(&held.body, &mut [edit]))
}

/// Headers for the upstream: the client's that mean something there, and what puts the request into the session.
fn headers(arrived: &Arrived, kind: Kind, address: &Address) -> HeaderMap {
    let mut headers = forwarded(&arrived.headers, &arrived.caller.credentials);
    address.apply(&mut headers);
    // A client of its own session says itself what it speaks, right or wrong.
    if let Some(own) = arrived.version.as_ref().filter(|_| kind == Kind::Issued) {
        headers.insert(names::PROTOCOL_VERSION, own.clone());
    }
    headers
}

/// The client's headers that an upstream gets. Cookies and addresses are not among them, and credentials only where
/// the route says so.
fn forwarded(from: &HeaderMap, credentials: &Credentials) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    for (name, value) in from {
        let pass = match name.as_str() {
            MCP_PROTOCOL_VERSION | MCP_METHOD | MCP_NAME | "traceparent" | "tracestate" | "baggage" => true,
            other => *name == USER_AGENT || *name == ACCEPT_LANGUAGE || other.starts_with(MCP_PARAM_PREFIX),
        };
        if pass {
            headers.append(name, value.clone());
        }
    }
    headers.insert(ACCEPT, ACCEPT_BOTH);
    headers.insert(CONTENT_TYPE, JSON);
    credentials.apply(&mut headers);
    headers
}

/// What of a client's headers is needed to open streams upstream later on.
pub fn kept_headers(arrived: &HeaderMap) -> HeaderMap {
    forwarded(arrived, &Credentials::NONE)
}

/// Headers for the upstream's standing stream.
pub fn listen_headers(
    arrived: &HeaderMap,
    credentials: &Credentials,
    address: &Address,
    last_event_id: Option<&[u8]>,
) -> HeaderMap {
    let mut headers = forwarded(arrived, credentials);
    headers.remove(CONTENT_TYPE);
    headers.insert(ACCEPT, http::HeaderValue::from_static("text/event-stream"));
    address.apply(&mut headers);
    if let Some(id) = last_event_id.and_then(|id| http::HeaderValue::from_bytes(id).ok()) {
        headers.insert(names::LAST_EVENT_ID, id);
    }
    headers
}
