//! `initialize`: what clients announce, what the upstream answers, and how many of the first cost one of the second.
//!
//! The first `initialize` of its kind asks the upstream. The answer is kept for a while and given to all later
//! ones; the upstream session that it made is kept warm for the first request that needs one.

mod cache;
mod params;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use throughline_store::{Millis, RecordKey};
use throughline_wire::bridge::to_modern::hello::{self, Offers};
use throughline_wire::envelope;
use throughline_wire::era::{Probe, knows_no_handshake, may_be_modern};
use throughline_wire::seal::SessionToken;
use throughline_wire::version::ProtocolVersion;
use throughline_wire::{jsonrpc, method};
use tokio::sync::watch;
use tokio::time::Instant;

pub use cache::InitializeCache;
use cache::{Answer, Known, Lookup, NoAnswer, Outcome};
pub use params::InitializeParams;

use crate::app::{Core, Route};
use crate::binding::version_header;
use crate::classify::{Arrived, Held};
use crate::config::{Mode, Transport};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::principal::{Caller, Continuity};
use crate::session::{self, Kind, millis};
use crate::upstream::cookies::Jar;
use crate::upstream::fleet::{Place, Seat};
use crate::upstream::modern::Modern;
use crate::upstream::{self, Address, Own, Refusal, older};
use crate::{names, probe};

/// Which lists the server announces changes of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lists {
    /// `notifications/tools/list_changed`.
    pub tools: bool,
    /// `notifications/prompts/list_changed`.
    pub prompts: bool,
    /// `notifications/resources/list_changed`.
    pub resources: bool,
}

impl Lists {
    fn of_result(result: &[u8]) -> Self {
        let Offers { tools, prompts, resources, .. } = Offers::of(result);
        Lists { tools, prompts, resources }
    }
}

/// An upstream session that has just been opened.
pub struct Opened {
    /// What puts requests into it.
    pub address: Address,
    /// Which lists it announces changes of.
    pub lists: Lists,
    /// It was not opened for this request, but kept.
    pub taken: bool,
    /// Nothing was opened: the upstream is known to keep no sessions, and has been told before.
    pub told: bool,
}

impl Opened {
    /// Lets a modern server be told of this very client, which was told this version.
    pub fn introduce(&mut self, params: &InitializeParams, told: Option<ProtocolVersion>) {
        let Some(modern) = &self.address.modern else { return };
        self.address.modern = Some(modern.another(params));
        let told = told.unwrap_or_else(|| hello::told_version(&params.version));
        self.address.version = version_header(told.as_str());
    }
}

/// Opens an upstream session: a warm one if there is one.
pub async fn open_or_take(
    core: &Rc<Core>,
    route: &Arc<Route>,
    principal: &[u8; 16],
    credentials: &Credentials,
    params: &InitializeParams,
) -> Result<Opened, Fault> {
    let digest = params.digest(core, route, principal);
    match route.initialize.take(&digest, core.app.effects.now()) {
        Some(opened) => Ok(opened),
        None => open(core, route, principal, credentials, params).await,
    }
}

/// Opens an upstream session.
pub async fn open(
    core: &Rc<Core>,
    route: &Arc<Route>,
    principal: &[u8; 16],
    credentials: &Credentials,
    params: &InitializeParams,
) -> Result<Opened, Fault> {
    let answer = ask(core, route, credentials, params).await.map_err(|none| match none {
        NoAnswer::Fault(fault) => fault,
        NoAnswer::Refused(refusal) => refused(Refusal::clone(&refusal)),
    })?;
    let lists = Lists::of_result(&answer.result);
    let address = answer.address.clone();
    // A real session says what is true now, whatever was kept.
    let until = Millis(core.app.effects.now().0 + millis(core.app.config.sessions.initialize_cache));
    let digest = params.digest(core, route, principal);
    let displaced = route.initialize.keep(digest, Known { answer: answer.for_others(), until, warm: None });
    end_later(core, displaced);
    Ok(Opened { address, lists, taken: false, told: false })
}

/// How a refusal to open a session is told to a client that was not about to open one.
pub fn refused(refusal: Refusal) -> Fault {
    if refusal.is_challenge() {
        return Fault::Challenged(Arc::new(refusal));
    }
    Fault::InitializeRefused(refusal.status.as_u16())
}

fn end_later(core: &Rc<Core>, addresses: Vec<Address>) {
    for address in addresses {
        upstream::end_later(core, address);
    }
}

/// Asks the upstream: the endpoint with the fewest sessions, and, since nothing is lost by asking twice, the next one
/// where that one is not up to it.
async fn ask(
    core: &Rc<Core>,
    route: &Route,
    credentials: &Credentials,
    params: &InitializeParams,
) -> Result<Answer, NoAnswer> {
    let _turn = route.initialize.turn().await;
    let until = Instant::now() + core.app.config.timeouts.connect;
    let mut tried = Vec::new();
    let mut answer = Err(NoAnswer::Fault(Fault::UpstreamAway));
    while let Some(seat) = route.fleet.seat(core.app.effects.now(), &tried) {
        tried.push(seat.member.id);
        answer = ask_at(core, route, Arc::clone(&seat), credentials, params).await;
        if let Err(NoAnswer::Refused(refusal)) = &answer
            && route.config.transport == Transport::Auto
            && older::is_older(
                core,
                &seat.member,
                &Address::anywhere(&route.fleet).on_behalf(credentials),
                refusal,
            )
            .await
        {
            answer = ask_at(core, route, seat, credentials, params).await;
        }
        let is_up_to_it = match &answer {
            Ok(_) => true,
            Err(NoAnswer::Refused(refusal)) => !upstream::is_ill(refusal.status, &refusal.headers),
            Err(NoAnswer::Fault(Fault::UpstreamAway | Fault::MayHaveExecuted)) => false,
            Err(NoAnswer::Fault(_)) => true,
        };
        if is_up_to_it || Instant::now() >= until {
            break;
        }
    }
    answer
}

async fn ask_at(
    core: &Rc<Core>,
    route: &Route,
    seat: Arc<Seat>,
    credentials: &Credentials,
    params: &InitializeParams,
) -> Result<Answer, NoAnswer> {
    let there = Address::at(Place::At(Arc::clone(&seat))).on_behalf(credentials);
    let discover = || discover(core, route, &there, params);
    if route.era.is_modern_only(core.app.effects.now())
        && let Some(answer) = discover().await.map_err(NoAnswer::Fault)?
    {
        return Ok(answer);
    }
    let answer = shake_hands(core, route, Arc::clone(&seat), credentials, params).await;
    match &answer {
        Ok(_) => route.era.learn_legacy(true, core.app.effects.now()),
        // A server that knows no such request may be one that needs none.
        Err(NoAnswer::Refused(refusal))
            if !refusal.is_challenge() && may_be_modern(refusal.status.as_u16(), &refusal.body) =>
        {
            if let Ok(Some(found)) = discover().await {
                if knows_no_handshake(&refusal.body) {
                    route.era.learn_legacy(false, core.app.effects.now());
                }
                return Ok(found);
            }
        }
        Err(_) => {}
    }
    answer
}

/// Asks a server that may be a modern one what it is, and answers for it. None where it is not.
async fn discover(
    core: &Rc<Core>,
    route: &Route,
    at: &Address,
    params: &InitializeParams,
) -> Result<Option<Answer>, Fault> {
    let (probe, discovered) = probe::discover(core, at).await.map_err(upstream::fault_of)?;
    route.era.learn(probe, core.app.effects.now());
    let Some(discovered) = discovered.filter(|_| probe == Probe::Modern) else { return Ok(None) };
    let told = hello::told_version(&params.version);
    let modern = Modern::new(params, Offers::of(&discovered));
    let version = version_header(told.as_str());
    let address = Address { version, modern: Some(modern), ..Address::anywhere(&route.fleet) };
    Ok(Some(Answer { result: hello::welcome(&discovered, told).into(), address }))
}

async fn shake_hands(
    core: &Rc<Core>,
    route: &Route,
    seat: Arc<Seat>,
    credentials: &Credentials,
    params: &InitializeParams,
) -> Result<Answer, NoAnswer> {
    let id = core.app.unique_id();
    let body = jsonrpc::request(&id, method::INITIALIZE, Some(params.raw.as_bytes()));
    let limit = core.app.config.limits.answer_bytes;
    // No session id goes with it, whatever the client sent: servers take that for a second initialize.
    let cookies = Jar::new(Vec::new());
    let address = Address { cookies: cookies.clone(), ..Address::at(Place::At(seat)) };
    let own = upstream::ask(core, &address.on_behalf(credentials), &id, body, limit).await;
    match own.map_err(NoAnswer::Fault)? {
        Own::Result(result, headers) => {
            let version = envelope::member(&result, "protocolVersion").ok().flatten();
            let version = version.and_then(|span| envelope::string_value(&result[span]));
            let Some(version) = version.and_then(|text| version_header(&text)) else {
                return Err(NoAnswer::Fault(Fault::UpstreamGarbled));
            };
            core.counts(route).opened.up();
            // Copied: a header's value holds on to the buffer that the whole head was read into, for as long as it
            // lives, and this one lives as long as the session.
            let session_id =
                headers.get(&names::SESSION_ID).and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
            // By a cookie, too, a server may keep a session.
            let at = match session_id.is_none() && cookies.cookies().is_empty() {
                true => Place::Anywhere(Arc::clone(&route.fleet)),
                false => address.at,
            };
            let address = Address { session_id, version: Some(version), cookies, ..Address::at(at) };
            Ok(Answer { result, address })
        }
        Own::Refused(refusal) => Err(NoAnswer::Refused(Arc::new(refusal))),
        Own::Down => Err(NoAnswer::Fault(Fault::UpstreamAway)),
    }
}

/// The upstream's answer to such parameters: kept, or asked for once, however many wait for it.
async fn shared(
    core: &Rc<Core>,
    route: &Arc<Route>,
    caller: &Caller,
    params: &Arc<InitializeParams>,
) -> Result<Answer, NoAnswer> {
    let digest = params.digest(core, route, &caller.principal);
    let mut asking = match route.initialize.lookup(digest, core.app.effects.now()) {
        Lookup::Known(answer) => return Ok(answer),
        Lookup::Wait(asking) => asking,
        Lookup::Ask(tell, asking) => {
            let (core, route, params) = (Rc::clone(core), Arc::clone(route), Arc::clone(params));
            let credentials = caller.credentials.clone();
            tokio::task::spawn_local(ask_for_all(core, route, digest, credentials, params, tell));
            asking
        }
    };
    match asking.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(NoAnswer::Fault(Fault::NotBound))),
        Err(_) => Err(NoAnswer::Fault(Fault::NotBound)),
    }
}

async fn ask_for_all(
    core: Rc<Core>,
    route: Arc<Route>,
    digest: [u8; 16],
    credentials: Credentials,
    params: Arc<InitializeParams>,
    tell: watch::Sender<Outcome>,
) {
    let outcome = ask(&core, &route, &credentials, &params).await;
    match &outcome {
        Ok(answer) => {
            let (now, sessions) = (core.app.effects.now().0, &core.app.config.sessions);
            let until = Millis(now + millis(sessions.initialize_cache));
            let warm = Some(Millis(now + millis(sessions.warm)));
            let displaced = route.initialize.keep(digest, Known { answer: answer.clone(), until, warm });
            end_later(&core, displaced);
        }
        Err(_) => {
            route.initialize.give_up(&digest);
        }
    }
    let _ = tell.send(Some(outcome));
}

/// What the upstream answers to such parameters of this caller's: raw JSON of its result.
///
/// # Errors
/// Where it does not answer, or refuses.
pub async fn result(
    core: &Rc<Core>,
    route: &Arc<Route>,
    caller: &Caller,
    params: &Arc<InitializeParams>,
) -> Result<Bytes, Fault> {
    match shared(core, route, caller, params).await {
        Ok(answer) => Ok(answer.result),
        Err(NoAnswer::Fault(fault)) => Err(fault),
        Err(NoAnswer::Refused(refusal)) => Err(refused(Refusal::clone(&refusal))),
    }
}

/// What a client's `initialize` is answered with.
pub enum Welcome {
    /// A result.
    Result {
        /// The JSON-RPC response.
        body: Vec<u8>,
        /// The session id for the client; None on a stateless route.
        session_id: Option<HeaderValue>,
    },
    /// The upstream's refusal.
    Refused {
        /// As it came.
        refusal: Arc<Refusal>,
        /// The client's id, raw JSON.
        id: String,
    },
}

/// Answers a client's `initialize`.
pub async fn answer(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Welcome, Fault> {
    answer_in(core, arrived, held, None).await
}

/// The same for a client that holds its session's id already: the session of this key begins.
///
/// # Errors
/// As [`answer`].
pub async fn answer_in(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    own: Option<RecordKey>,
) -> Result<Welcome, Fault> {
    let app = &core.app;
    let params = Arc::new(InitializeParams::read(held.raw_params().ok_or(Fault::InitializeParams)?)?);
    let id = held.raw_id().unwrap_or("null");
    let answer = match shared(core, &arrived.route, &arrived.caller, &params).await {
        Ok(answer) => answer,
        Err(NoAnswer::Fault(fault)) => return Err(fault),
        // Where it points to, the client could not follow.
        Err(NoAnswer::Refused(refusal)) if refusal.status.is_redirection() => {
            return Err(Fault::InitializeRefused(refusal.status.as_u16()));
        }
        Err(NoAnswer::Refused(refusal)) => {
            return Ok(Welcome::Refused { refusal, id: id.to_owned() });
        }
    };
    let body = jsonrpc::result(id, &answer.result);
    if arrived.route.config.mode == Mode::Stateless {
        return Ok(Welcome::Result { body, session_id: None });
    }
    if let Continuity::Keyed(key) = arrived.caller.continuity {
        // If this client never echoes the id, its requests are recognised by the key alone.
        app.sessions.remember(key, Arc::clone(&params));
        session::announce(core, arrived, Kind::Keyed, key, &params.without_capabilities()).await?;
    }
    let token = SessionToken {
        id: own.map_or_else(|| app.effects.bytes(), |key| key.0),
        route: arrived.route.digest,
        principal: arrived.caller.principal,
        issued_at: u32::try_from(app.effects.now().0 / 1000).unwrap_or(u32::MAX),
        version: answer.version(),
        capabilities: params.capabilities(),
    };
    let key = RecordKey(token.id);
    session::announce(core, arrived, Kind::Issued, key, &params).await?;
    app.sessions.remember(key, params);
    let session_id = app.keys.seal_session(&token, app.effects.bytes());
    Ok(Welcome::Result { body, session_id: HeaderValue::from_str(&session_id).ok() })
}
