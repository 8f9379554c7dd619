//! `initialize`: what clients announce, what the upstream answers, and how many of the first cost one of the second.
//!
//! The first `initialize` of its kind asks the upstream. The answer is kept for a while and given to all later
//! ones; the upstream session that it made is kept warm for the first request that needs one.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use throughline_store::{Millis, RecordKey};
use throughline_wire::capability::Capabilities;
use throughline_wire::envelope::{self, Envelope, Message, Outcome, Span};
use throughline_wire::headers::MCP_SESSION_ID;
use throughline_wire::seal::SessionToken;
use throughline_wire::splice::{set_member, splice};
use throughline_wire::version::{ASSUMED, ProtocolVersion};
use throughline_wire::{jsonrpc, method};
use tokio::sync::watch;

use crate::app::{Core, Route, first};
use crate::classify::{Arrived, Held};
use crate::config::Mode;
use crate::error::Fault;
use crate::principal::Continuity;
use crate::session::{lock, millis};
use crate::upstream::{self, Address, Own, Refusal};

/// Answers kept for one route; the one that lapses first goes first. What makes them differ comes from clients.
const MAX_CACHED: usize = 1024;

/// What a client announced in `initialize`.
#[derive(Clone, Debug)]
pub struct InitializeParams {
    /// Raw JSON of the parameters, sent upstream as it is.
    pub raw: String,
    /// The requested protocol version, as text: it need not be one that we know.
    pub version: String,
    capabilities: Span,
    client: Span,
}

impl InitializeParams {
    /// Reads raw JSON.
    ///
    /// # Errors
    /// [`Fault::InitializeParams`] where a member that the protocol requires is missing.
    pub fn read(raw: &[u8]) -> Result<Self, Fault> {
        let member = |name: &str| envelope::member(raw, name).map_err(|_| Fault::InitializeParams);
        let version = member("protocolVersion")?.and_then(|span| envelope::string_value(&raw[span]));
        let object = |span: &Span| raw[span.start] == b'{';
        let capabilities = member("capabilities")?.filter(object);
        let client = member("clientInfo")?.filter(object);
        let raw = std::str::from_utf8(raw).map_err(|_| Fault::InitializeParams)?;
        match (version, capabilities, client) {
            (Some(version), Some(capabilities), Some(client)) => Ok(InitializeParams {
                version: version.into_owned(),
                raw: raw.to_owned(),
                capabilities,
                client,
            }),
            _ => Err(Fault::InitializeParams),
        }
    }

    /// For a client whose own parameters are not known.
    pub fn synthetic(version: ProtocolVersion, capabilities: Capabilities) -> Self {
        let capabilities = capabilities.to_json();
        let client = concat!(r#"{"name":"throughline","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
        let before = format!(r#"{{"protocolVersion":"{version}","capabilities":"#);
        let between = r#","clientInfo":"#;
        let start = before.len();
        let client_start = start + capabilities.len() + between.len();
        InitializeParams {
            version: version.as_str().to_owned(),
            capabilities: start..start + capabilities.len(),
            client: client_start..client_start + client.len(),
            raw: format!("{before}{capabilities}{between}{client}}}"),
        }
    }

    /// What the client said that it can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::from_json(self.raw[self.capabilities.clone()].as_bytes())
    }

    /// The same, announcing nothing.
    pub fn without_capabilities(&self) -> Self {
        let raw = self.raw.as_bytes();
        set_member(raw, &(0..raw.len()), "capabilities", b"{}")
            .ok()
            .map(|edit| splice(raw, &mut [edit]))
            .and_then(|raw| Self::read(&raw).ok())
            .unwrap_or_else(|| self.clone())
    }

    /// Names what an upstream's answer may depend on: {route, principal, version, capabilities, client name and
    /// version}. Other members of the parameters differ from call to call (Copilot Studio's `sessionContext`).
    fn digest(&self, core: &Core, route: &Route, principal: &[u8; 16]) -> [u8; 16] {
        let client = self.raw[self.client.clone()].as_bytes();
        let text = |name| match envelope::member(client, name) {
            Ok(Some(span)) => &client[span],
            _ => b"",
        };
        let capabilities = self.raw[self.capabilities.clone()].as_bytes();
        let parts = [
            &route.digest[..],
            principal,
            self.version.as_bytes(),
            capabilities,
            text("name"),
            text("version"),
        ];
        first(&core.app.keys.digest("initialize", &parts))
    }
}

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
        let announces = |list: &str| {
            let found = envelope::path(result, &["capabilities", list, "listChanged"]);
            matches!(found, Ok(Some(span)) if &result[span.clone()] == b"true")
        };
        Lists { tools: announces("tools"), prompts: announces("prompts"), resources: announces("resources") }
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

/// The upstream's answer to `initialize`, as all clients of one kind get it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Raw JSON of the result.
    pub result: Bytes,
    /// What puts requests into the session that it made. The session itself may be somebody's by now.
    address: Address,
}

impl Answer {
    /// The negotiated version.
    fn version(&self) -> ProtocolVersion {
        let version = self.address.version.as_ref().and_then(|version| version.to_str().ok());
        version.and_then(ProtocolVersion::parse).unwrap_or(ASSUMED)
    }
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// The gateway's own reason.
    Fault(Fault),
    /// The upstream's answer is to be passed on.
    Refused(Arc<Refusal>),
}

/// Kept answers of one route.
#[derive(Default)]
pub struct InitializeCache {
    entries: Mutex<HashMap<[u8; 16], Entry>>,
}

enum Entry {
    Asking(watch::Receiver<Option<Result<Answer, NoAnswer>>>),
    Known { answer: Answer, until: Millis, warm_until: Option<Millis> },
}

impl InitializeCache {
    /// Upstream sessions that nobody took in time, and answers that have lapsed, leave.
    pub fn expire(&self, now: Millis) -> Vec<Address> {
        let mut unused = Vec::new();
        lock(&self.entries).retain(|_, entry| {
            let Entry::Known { answer, until, warm_until } = entry else { return true };
            let lapsed = *until <= now;
            if warm_until.is_some_and(|warm| lapsed || warm <= now) {
                *warm_until = None;
                unused.push(answer.address.clone());
            }
            !lapsed
        });
        unused
    }

    /// All warm sessions, at the end of the process.
    pub fn drain(&self) -> Vec<Address> {
        self.expire(Millis(u64::MAX))
    }

    /// Keeps an answer. Returns a warm session that had to leave for it.
    fn keep(&self, digest: [u8; 16], entry: Entry) -> Option<Address> {
        let mut entries = lock(&self.entries);
        let mut displaced = None;
        if entries.len() >= MAX_CACHED && !entries.contains_key(&digest) {
            let lapses = |entry: &Entry| match entry {
                Entry::Known { until, .. } => *until,
                Entry::Asking(_) => Millis(u64::MAX),
            };
            let oldest = entries.iter().min_by_key(|(_, entry)| lapses(entry)).map(|(digest, _)| *digest);
            displaced = oldest.and_then(|oldest| entries.remove(&oldest));
        }
        let replaced = entries.insert(digest, entry).or(displaced)?;
        match replaced {
            Entry::Known { answer, warm_until: Some(_), .. } => Some(answer.address),
            _ => None,
        }
    }

    /// A warm session, or the knowledge that the upstream keeps none.
    fn take(&self, digest: &[u8; 16], now: Millis) -> Option<Opened> {
        let mut entries = lock(&self.entries);
        let Entry::Known { answer, until, warm_until } = entries.get_mut(digest)? else { return None };
        let sessionless = answer.address.session_id.is_none() && warm_until.is_none() && now < *until;
        let warm = warm_until.take().is_some_and(|warm| now < warm);
        (warm || sessionless).then(|| Opened {
            address: answer.address.clone(),
            lists: Lists::of_result(&answer.result),
            taken: true,
            told: sessionless,
        })
    }
}

/// Opens an upstream session: a warm one if there is one.
pub async fn open_or_take(
    core: &Rc<Core>,
    route: &Arc<Route>,
    principal: &[u8; 16],
    params: &InitializeParams,
) -> Result<Opened, Fault> {
    let digest = params.digest(core, route, principal);
    match route.initialize.take(&digest, core.app.effects.now()) {
        Some(opened) => Ok(opened),
        None => open(core, route, principal, params).await,
    }
}

/// Opens an upstream session.
pub async fn open(
    core: &Rc<Core>,
    route: &Arc<Route>,
    principal: &[u8; 16],
    params: &InitializeParams,
) -> Result<Opened, Fault> {
    let answer = ask(core, route, params).await.map_err(|none| match none {
        NoAnswer::Fault(fault) => fault,
        NoAnswer::Refused(refusal) => match refusal.headers.get(WWW_AUTHENTICATE) {
            Some(challenge) if refusal.status == StatusCode::UNAUTHORIZED => {
                Fault::Challenged(challenge.clone())
            }
            _ => Fault::InitializeRefused(refusal.status.as_u16()),
        },
    })?;
    let lists = Lists::of_result(&answer.result);
    let address = answer.address.clone();
    // A real session says what is true now, whatever was kept.
    let until = Millis(core.app.effects.now().0 + millis(core.app.config.sessions.initialize_cache));
    let digest = params.digest(core, route, principal);
    let displaced = route.initialize.keep(digest, Entry::Known { answer, until, warm_until: None });
    end_later(core, route, displaced);
    Ok(Opened { address, lists, taken: false, told: false })
}

fn end_later(core: &Rc<Core>, route: &Arc<Route>, address: Option<Address>) {
    if let Some(address) = address {
        let endpoint = Rc::clone(core.endpoint(route));
        tokio::task::spawn_local(async move { upstream::end(&endpoint, &address).await });
    }
}

/// Asks the upstream.
async fn ask(core: &Rc<Core>, route: &Route, params: &InitializeParams) -> Result<Answer, NoAnswer> {
    let id = core.app.unique_id();
    let body = jsonrpc::request(&id, method::INITIALIZE, Some(params.raw.as_bytes()));
    let limit = core.app.config.limits.answer_bytes;
    // No session id goes with it, whatever the client sent: servers take that for a second initialize.
    let own = upstream::ask(core.endpoint(route), &Address::default(), &id, body, limit).await;
    match own.map_err(NoAnswer::Fault)? {
        Own::Result(result, headers) => {
            let version = envelope::member(&result, "protocolVersion").ok().flatten();
            let version = version.and_then(|span| envelope::string_value(&result[span]));
            let Some(version) = version.and_then(|text| HeaderValue::from_str(&text).ok()) else {
                return Err(NoAnswer::Fault(Fault::UpstreamGarbled));
            };
            let session_id = headers.get(MCP_SESSION_ID).cloned();
            Ok(Answer { result, address: Address { session_id, version: Some(version) } })
        }
        Own::Refused(refusal) => Err(NoAnswer::Refused(Arc::new(refusal))),
    }
}

/// The upstream's answer to such parameters: kept, or asked for once, however many wait for it.
async fn shared(
    core: &Rc<Core>,
    route: &Arc<Route>,
    principal: [u8; 16],
    params: &Arc<InitializeParams>,
) -> Result<Answer, NoAnswer> {
    let digest = params.digest(core, route, &principal);
    let mut asking = {
        let mut entries = lock(&route.initialize.entries);
        match entries.get(&digest) {
            Some(Entry::Known { answer, until, .. }) if core.app.effects.now() < *until => {
                return Ok(answer.clone());
            }
            Some(Entry::Asking(asking)) if asking.has_changed().is_ok() => asking.clone(),
            _ => {
                let (tell, asking) = watch::channel(None);
                entries.insert(digest, Entry::Asking(asking.clone()));
                tokio::task::spawn_local(ask_for_all(
                    Rc::clone(core),
                    Arc::clone(route),
                    digest,
                    Arc::clone(params),
                    tell,
                ));
                asking
            }
        }
    };
    match asking.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(NoAnswer::Fault(Fault::UpstreamGarbled))),
        Err(_) => Err(NoAnswer::Fault(Fault::UpstreamGarbled)),
    }
}

async fn ask_for_all(
    core: Rc<Core>,
    route: Arc<Route>,
    digest: [u8; 16],
    params: Arc<InitializeParams>,
    tell: watch::Sender<Option<Result<Answer, NoAnswer>>>,
) {
    let outcome = ask(&core, &route, &params).await;
    match &outcome {
        Ok(answer) => {
            let (now, sessions) = (core.app.effects.now().0, &core.app.config.sessions);
            let until = Millis(now + millis(sessions.initialize_cache));
            let warm_until = Some(Millis(now + millis(sessions.warm)));
            let displaced =
                route.initialize.keep(digest, Entry::Known { answer: answer.clone(), until, warm_until });
            end_later(&core, &route, displaced);
        }
        Err(_) => {
            lock(&route.initialize.entries).remove(&digest);
        }
    }
    let _ = tell.send(Some(outcome));
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
    /// The upstream's refusal, under the client's id.
    Refused {
        /// The upstream's status.
        status: StatusCode,
        /// The upstream's headers.
        refusal: Arc<Refusal>,
        /// The body.
        body: Bytes,
    },
}

/// Answers a client's `initialize`.
pub async fn answer(core: &Rc<Core>, arrived: &Arrived, held: &Held) -> Result<Welcome, Fault> {
    let app = &core.app;
    let params = Arc::new(InitializeParams::read(held.raw_params().ok_or(Fault::InitializeParams)?)?);
    let id = held.raw_id().unwrap_or("null");
    let answer = match shared(core, &arrived.route, arrived.caller.principal, &params).await {
        Ok(answer) => answer,
        Err(NoAnswer::Fault(fault)) => return Err(fault),
        Err(NoAnswer::Refused(refusal)) => {
            let body = under_id(&refusal.body, id);
            return Ok(Welcome::Refused { status: refusal.status, refusal, body });
        }
    };
    let body = jsonrpc::result(id, &answer.result);
    if arrived.route.config.mode == Mode::Stateless {
        return Ok(Welcome::Result { body, session_id: None });
    }
    if let Continuity::Keyed(key) = arrived.caller.continuity {
        // If this client never echoes the id, its requests are recognised by the key alone.
        app.sessions.remember(key, Arc::clone(&params));
    }
    let token = SessionToken {
        id: app.effects.bytes(),
        route: arrived.route.digest,
        principal: arrived.caller.principal,
        issued_at: u32::try_from(app.effects.now().0 / 1000).unwrap_or(u32::MAX),
        version: answer.version(),
        capabilities: params.capabilities(),
    };
    app.sessions.remember(RecordKey(token.id), params);
    let session_id = app.keys.seal_session(&token, app.effects.bytes());
    Ok(Welcome::Result { body, session_id: HeaderValue::from_str(&session_id).ok() })
}

/// A refusal's body with the client's id in place of ours, where it is a JSON-RPC error.
fn under_id(body: &Bytes, id: &str) -> Bytes {
    match Envelope::parse(body, &envelope::Limits::default()).map(|envelope| envelope.message) {
        Ok(Message::Response { id: Some(ours), outcome: Outcome::Error(_) }) => {
            let edit = throughline_wire::splice::Edit::replace(ours.span(), id.as_bytes());
            splice(body, &mut [edit]).into()
        }
        _ => body.clone(),
    }
}
