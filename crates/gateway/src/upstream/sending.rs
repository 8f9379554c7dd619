//! To which endpoint a request goes, and for how long it is tried.
//!
//! What is in a session goes to the endpoint that holds it; anything else to the one with the least to do. Where there
//! is one endpoint, it is waited for (`timeouts.connect`). Where there are several, one attempt shows whether an
//! endpoint takes connections: what no session holds goes to the next one, and a session whose endpoint takes none
//! while another does is told so ([`SendError::Down`]). Only while none does they are waited for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use throughline_wire::{jsonrpc, method};
use tokio::time::Instant;

use super::connect::{RETRY_FIRST, RETRY_MAX};
use super::fleet::{Fleet, Member, Place, Seat, Told};
use super::http::{Answer, Endpoint, SendError};
use super::{Address, OWN_MESSAGE, drain, is_event_stream, modern};
use crate::app::Core;
use crate::deadlines::Pulse;

/// Other endpoints that are asked whether they take connections, before a session is moved.
const MAX_ASKED: usize = 3;

/// A request that may go to one endpoint after the other. Its body is shared, not copied.
struct Sending {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
}

/// Sends a request in a session: its cookies go with it, and those that come back are kept.
pub fn send(
    core: &Rc<Core>,
    address: &Address,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> impl Future<Output = Result<Answer, SendError>> {
    send_watched(core, address, method, headers, body, None)
}

/// The same, where each sign of `pulse` gives the upstream as much time again to begin its answer.
pub async fn send_watched(
    core: &Rc<Core>,
    address: &Address,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
) -> Result<Answer, SendError> {
    match &address.modern {
        None => send_plain(core, address, method, headers, body, pulse).await,
        // In a box: the future of a request to a server with a handshake need not have room for it.
        Some(modern) => Box::pin(modern::send(core, address, modern, (method, headers, body), pulse)).await,
    }
}

/// Sends it as it is.
pub(crate) async fn send_plain(
    core: &Core,
    address: &Address,
    method: Method,
    mut headers: HeaderMap,
    body: Bytes,
    pulse: Option<Arc<Pulse>>,
) -> Result<Answer, SendError> {
    address.cookies.apply(&mut headers, || core.app.effects.now());
    if let Some(only) = address.at.fleet().only() {
        let answer = core.endpoint(only).send_watched(method, headers, body, pulse).await?;
        address.cookies.keep(&answer.headers, &only.to, || core.app.effects.now());
        return Ok(answer);
    }
    let request = Sending { method, headers, body, pulse };
    // In boxes: the future of a request to an only endpoint need not have room for it.
    let (answer, from) = match &address.at {
        Place::At(seat) => Box::pin(at_seat(core, seat, request)).await?,
        Place::Anywhere(fleet) => Box::pin(anywhere(core, fleet, request)).await?,
    };
    address.cookies.keep(&answer.headers, &from.to, || core.app.effects.now());
    Ok(answer)
}

/// The same for a message of the gateway's own, to an endpoint that is up now or not at all.
pub(super) async fn send_now(
    core: &Rc<Core>,
    address: &Address,
    method: Method,
    body: Bytes,
) -> Result<Answer, SendError> {
    if address.modern.is_some() {
        // Nothing else is sent so where there is no session to be ended.
        return Box::pin(modern::ping(core, address)).await;
    }
    let mut headers = address.headers();
    address.cookies.apply(&mut headers, || core.app.effects.now());
    let fleet = address.at.fleet();
    if let Some(only) = fleet.only() {
        let answer = core.endpoint(only).send_now(method, headers, body).await?;
        address.cookies.keep(&answer.headers, &only.to, || core.app.effects.now());
        return Ok(answer);
    }
    let member = match &address.at {
        Place::At(seat) => Arc::clone(&seat.member),
        Place::Anywhere(fleet) => fleet.idlest(core.app.effects.now(), &[]).ok_or_else(none_left)?,
    };
    let (answer, from) =
        Box::pin(once(core, member, &Sending { method, headers, body, pulse: None })).await?;
    address.cookies.keep(&answer.headers, &from.to, || core.app.effects.now());
    Ok(answer)
}

fn none_left() -> SendError {
    SendError::NotSent("no endpoint is left to be tried".to_owned())
}

/// Sends to one of several endpoints, once, and takes note of what that says of it.
async fn once(core: &Core, to: Arc<Member>, request: &Sending) -> Result<(Answer, Arc<Member>), SendError> {
    let flight = to.enter();
    let Sending { method, headers, body, pulse } = request;
    let sent =
        core.endpoint(&to).send_once(method.clone(), headers.clone(), body.clone(), pulse.clone()).await;
    to.learn(told(&sent), core.app.effects.now());
    let mut answer = sent?;
    answer.body.carry(flight);
    Ok((answer, to))
}

/// What came of a request, as far as it tells whether the endpoint is well.
fn told(sent: &Result<Answer, SendError>) -> Told {
    match sent {
        Ok(answer) if is_ill(answer.status, &answer.headers) => Told::Ill,
        // The server's own answer, whatever it says.
        Ok(_) => Told::Well,
        Err(SendError::NotSent(_)) => Told::Unreachable,
        Err(SendError::Broken(_)) => Told::Ill,
        // A tool may be slow, and a session's endpoint was judged before.
        Err(SendError::Timeout(_) | SendError::Down(_)) => Told::Nothing,
    }
}

/// Whether an answer comes from something in front of a server that is not there, or can do no more. In JSON it is the
/// server's own.
pub fn is_ill(status: StatusCode, headers: &HeaderMap) -> bool {
    let is_json = || {
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        content_type.trim_start().get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
    };
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        && !is_json()
        && !is_event_stream(headers)
}

/// Pauses that grow, until the time for them is over.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new(core: &Core) -> Self {
        Patience { until: Instant::now() + core.app.config.timeouts.connect, pause: RETRY_FIRST }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits a little. False when the time is over.
    async fn rest(&mut self) -> bool {
        if Instant::now() + self.pause >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        true
    }
}

/// To the endpoint that holds the session, if it takes it.
async fn at_seat(core: &Core, seat: &Seat, request: Sending) -> Result<(Answer, Arc<Member>), SendError> {
    let mut patience = Patience::new(core);
    loop {
        let keeps = seat.fleet.keeps(&seat.member, core.app.effects.now());
        let mut refused = "its endpoint is gone, or answered badly and is spared for a while".to_owned();
        if keeps {
            match once(core, Arc::clone(&seat.member), &request).await {
                Err(SendError::NotSent(error)) => refused = error,
                sent => return sent,
            }
        }
        if is_another_up(core, seat).await {
            return Err(SendError::Down(refused));
        }
        // There is no other: then what holds the session is its best hope, whatever is thought of it.
        if !keeps {
            match once(core, Arc::clone(&seat.member), &request).await {
                Err(SendError::NotSent(error)) => refused = error,
                sent => return sent,
            }
        }
        if !patience.rest().await {
            return Err(SendError::NotSent(refused));
        }
    }
}

/// Whether another endpoint takes connections, where a session could be opened.
async fn is_another_up(core: &Core, seat: &Seat) -> bool {
    let now = core.app.effects.now();
    let others = seat.fleet.candidates(now, &[seat.member.id], Member::sessions);
    for other in others.into_iter().take(MAX_ASKED) {
        match core.endpoint(&other).reach().await {
            Ok(()) => return true,
            Err(error) => {
                tracing::debug!(endpoint = other.name, %error, "an upstream endpoint takes no connection");
                other.learn(Told::Unreachable, core.app.effects.now());
            }
        }
    }
    false
}

/// To the endpoint with the fewest requests under way, or the next one that takes it.
async fn anywhere(core: &Core, fleet: &Fleet, request: Sending) -> Result<(Answer, Arc<Member>), SendError> {
    let mut patience = Patience::new(core);
    let mut tried = Vec::new();
    let mut refused = none_left();
    loop {
        while let Some(member) = fleet.idlest(core.app.effects.now(), &tried) {
            if !tried.is_empty() && patience.is_over() {
                return Err(refused);
            }
            tried.push(member.id);
            match once(core, member, &request).await {
                Err(error @ SendError::NotSent(_)) => refused = error,
                sent => return sent,
            }
        }
        if !patience.rest().await {
            return Err(refused);
        }
        tried.clear();
    }
}

/// Asks an endpoint whether it is well, by a `ping` that belongs to no session: a server that keeps sessions refuses
/// it, and is well.
pub(super) async fn probe(core: &Core, fleet: &Arc<Fleet>, member: Arc<Member>) {
    const ID: &str = "\"throughline-probe\"";
    let body = jsonrpc::request(ID, method::PING, None).into();
    let headers = Address::anywhere(fleet).headers();
    let request = Sending { method: Method::POST, headers, body, pulse: None };
    match tokio::time::timeout(OWN_MESSAGE, once(core, Arc::clone(&member), &request)).await {
        Ok(Ok((answer, _))) => drain(answer.body),
        Ok(Err(error)) => {
            tracing::debug!(endpoint = member.name, %error, "an upstream endpoint did not answer")
        }
        Err(_) => member.learn(Told::Ill, core.app.effects.now()),
    }
}

/// This core's connections to an endpoint for a request that no session holds: to one that is up, if any is.
pub async fn any_endpoint(core: &Core, fleet: &Fleet) -> Option<Rc<Endpoint>> {
    if let Some(only) = fleet.only() {
        return Some(core.endpoint(only));
    }
    let candidates = fleet.candidates(core.app.effects.now(), &[], Member::sessions);
    for candidate in candidates.iter().take(MAX_ASKED) {
        match core.endpoint(candidate).reach().await {
            Ok(()) => return Some(core.endpoint(candidate)),
            Err(_) => candidate.learn(Told::Unreachable, core.app.effects.now()),
        }
    }
    candidates.first().map(|first| core.endpoint(first))
}
