//! A modern server, as the rest of the gateway knows servers: one with a handshake, which is spoken to in a session.
//!
//! What is sent in such a session comes here. Some of it has no counterpart in 2026-07-28 and is answered here (`ping`,
//! the log level, subscriptions); requests are sent with what that revision wants to be told with each, and what comes
//! back is what a server with a handshake would have said. The messages themselves are translated in
//! [`throughline_wire::bridge::to_modern`].

mod call;
mod listen;
pub mod questions;
mod tools;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use throughline_store::{Record, RecordKey};
use throughline_wire::bridge::to_modern::hello::{self, Offers};
use throughline_wire::bridge::to_modern::mirror::Mirror;
use throughline_wire::bridge::to_modern::request::Client;
use throughline_wire::capability::Capabilities;
use throughline_wire::envelope::{self, Envelope, Limits, Message};
use throughline_wire::era::Probe;
use throughline_wire::headers::{MCP_PARAM_PREFIX, encode_value};
use throughline_wire::version::ProtocolVersion;
use throughline_wire::{jsonrpc, method};
use tokio::sync::{Notify, watch};

use super::body::AnswerBody;
use super::http::{Answer, SendError};
use super::{ACCEPT_BOTH, Address, JSON};
use crate::app::{App, Core};
use crate::deadlines::Pulse;
use crate::initialize::InitializeParams;
use crate::restore::MAX_STEP_BYTES;
use crate::session::lock;
use crate::{names, probe};

const INVALID_PARAMS: i32 = -32602;
const METHOD_NOT_FOUND: i32 = -32601;
/// Resources that one session may be subscribed to: the record has to have room for what else is restored after a loss.
const MAX_URIS: usize = 200;
/// Longest URI of one, in bytes.
const MAX_URI: usize = 8 * 1024;
/// How long a client waits for the server to know of its subscriptions.
const FOLLOW: Duration = Duration::from_secs(3);
/// The levels of RFC 5424, as both eras name them.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
/// What a client sees of a server's log if it has not said: servers with a handshake send what they see fit, modern
/// ones nothing.
const USUAL_LEVEL: &str = "info";

/// Which tools have arguments that headers repeat.
type Mirrors = Arc<HashMap<String, Vec<Mirror>>>;

/// What a modern server has to be told of a session's client, and what the client has set up, which with such a server
/// is kept by whoever speaks to it: as the session's record has it, from where it is taken over at every replica.
#[derive(Debug)]
pub struct Modern {
    info: Box<[u8]>,
    capabilities: Box<[u8]>,
    can: Capabilities,
    offers: Offers,
    level: Mutex<Option<String>>,
    /// The resources that it has subscribed to.
    uris: watch::Sender<BTreeSet<String>>,
    /// Those that the server has acknowledged; None while no stream is open here.
    acknowledged: watch::Sender<Option<BTreeSet<String>>>,
    /// None until they are needed, and when they may have changed. Sessions of one kind of client have them in common.
    mirrors: Arc<Mutex<Option<Mirrors>>>,
    /// Requests under way, by the raw JSON of their id.
    calls: Mutex<Vec<(Box<str>, Arc<Notify>)>>,
}

impl Modern {
    /// For a client that announced this to a server that offers that.
    pub fn new(params: &InitializeParams, offers: Offers) -> Arc<Self> {
        Arc::new(Self::of(params, offers))
    }

    fn of(params: &InitializeParams, offers: Offers) -> Self {
        Modern {
            info: params.client().into(),
            capabilities: hello::capabilities(params.raw_capabilities()).into(),
            can: params.capabilities(),
            offers,
            level: Mutex::new(None),
            uris: watch::Sender::default(),
            acknowledged: watch::Sender::default(),
            mirrors: Arc::default(),
            calls: Mutex::default(),
        }
    }

    /// The same server, for a session of its own; `params` are of a client of the same kind.
    pub fn another(&self, params: &InitializeParams) -> Arc<Self> {
        let mut another = Self::of(params, self.offers);
        another.mirrors = Arc::clone(&self.mirrors);
        Arc::new(another)
    }

    /// What the server offers.
    pub fn offers(&self) -> Offers {
        self.offers
    }

    /// Takes over what the client has set up, as its record has it.
    pub fn recall(&self, app: &App, key: RecordKey, record: &Record) {
        let mut uris = BTreeSet::new();
        for step in &record.restore {
            let Some(params) = app.keys.open_secret(&key.0, &step.params) else { continue };
            match step.method.as_str() {
                method::SET_LEVEL => *lock(&self.level) = text(&params, "level"),
                method::SUBSCRIBE => uris.extend(text(&params, "uri")),
                _ => {}
            }
        }
        self.uris.send_if_modified(|before| {
            let changed = *before != uris;
            *before = uris;
            changed
        });
    }

    /// Has `then` write a message that says who the client is.
    fn introduce<T>(&self, then: impl FnOnce(&Client<'_>) -> T) -> T {
        let level = lock(&self.level).clone();
        let usual = self.offers.logging.then_some(USUAL_LEVEL);
        let log_level = level.as_deref().or(usual);
        then(&Client { info: &self.info, capabilities: &self.capabilities, log_level })
    }

    /// Answers `logging/setLevel`. It holds when the record has it.
    fn set_level(&self, id: &str, params: &[u8]) -> Vec<u8> {
        if !self.offers.logging {
            return unknown(id);
        }
        match text(params, "level").filter(|level| LEVELS.contains(&level.as_str())) {
            Some(_) => jsonrpc::result(id, b"{}"),
            None => jsonrpc::error(Some(id), INVALID_PARAMS, "Invalid params: no such log level", None),
        }
    }

    /// Answers `resources/subscribe` and its counterpart. They hold when the record has them.
    fn subscribe(&self, id: &str, params: &[u8], on: bool) -> Vec<u8> {
        if !self.offers.subscribe {
            return unknown(id);
        }
        let short = params.len() <= MAX_STEP_BYTES;
        let Some(uri) = text(params, "uri").filter(|uri| short && uri.len() <= MAX_URI) else {
            let text =
                "Invalid params: uri is missing, or longer than 8 KiB, or what comes with it than 64 KiB";
            return jsonrpc::error(Some(id), INVALID_PARAMS, text, None);
        };
        let uris = self.uris.borrow();
        match on && uris.len() >= MAX_URIS && !uris.contains(&uri) {
            true => jsonrpc::error(Some(id), INVALID_PARAMS, "Too many subscriptions; end some first", None),
            false => jsonrpc::result(id, b"{}"),
        }
    }

    /// Waits until the server knows of everything that the client has subscribed to, if a stream is open here; for a
    /// short time.
    pub async fn followed(&self) {
        let mut acknowledged = self.acknowledged.subscribe();
        let all = acknowledged
            .wait_for(|known| known.as_ref().is_none_or(|known| self.uris.borrow().is_subset(known)));
        let _ = tokio::time::timeout(FOLLOW, all).await;
    }

    /// Ends the request with this id, of which the client wants to hear no more.
    fn cancel(&self, id: &[u8]) {
        for (_, cancelled) in lock(&self.calls).iter().filter(|(known, _)| known.as_bytes() == id) {
            cancelled.notify_one();
        }
    }
}

fn text(params: &[u8], name: &str) -> Option<String> {
    let at = envelope::member(params, name).ok()??;
    envelope::string_value(&params[at]).map(std::borrow::Cow::into_owned)
}

fn unknown(id: &str) -> Vec<u8> {
    jsonrpc::error(Some(id), METHOD_NOT_FOUND, "Method not found", None)
}

/// An answer of the gateway's own.
fn json(body: Vec<u8>) -> Answer {
    let mut answer = empty(StatusCode::OK);
    answer.headers.insert(CONTENT_TYPE, JSON);
    answer.body = AnswerBody::whole(body);
    answer
}

fn empty(status: StatusCode) -> Answer {
    Answer { status, headers: HeaderMap::new(), body: AnswerBody::whole(Bytes::new()) }
}

/// Sends what is meant for a server with a handshake, and answers as one.
pub(super) async fn send(
    core: &Rc<Core>,
    address: &Address,
    modern: &Arc<Modern>,
    (http, headers, body): (Method, HeaderMap, Bytes),
    pulse: Option<Arc<Pulse>>,
) -> Result<Answer, SendError> {
    match http {
        Method::POST => {}
        Method::GET => return listen::open(core, plain(address), modern, headers).await,
        // There is nothing to end.
        _ => return Ok(empty(StatusCode::OK)),
    }
    let limits = Limits::ANY_DEPTH;
    let Ok(Envelope { message, .. }) = Envelope::parse(&body, &limits) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let params = |at: &Option<envelope::Span>| at.clone().map_or(&b"{}"[..], |at| &body[at]);
    match &message {
        Message::Request { id, method, params: at } => Ok(match &**method {
            method::PING => json(jsonrpc::result(id.raw(), b"{}")),
            method::SET_LEVEL => json(modern.set_level(id.raw(), params(at))),
            method::SUBSCRIBE => json(modern.subscribe(id.raw(), params(at), true)),
            method::UNSUBSCRIBE => json(modern.subscribe(id.raw(), params(at), false)),
            method => {
                let (id, method) = (id.raw().into(), method.into());
                let call = call::Call::new(core, plain(address), modern, (id, method), headers, &body, pulse);
                return call.begin().await;
            }
        }),
        Message::Notification { method, params: at, .. } => {
            if method == method::CANCELLED
                && let Ok(Some(id)) = envelope::member(params(at), "requestId")
            {
                modern.cancel(&params(at)[id]);
            }
            Ok(empty(StatusCode::ACCEPTED))
        }
        Message::Response { .. } => {
            questions::reply(core, &body).await;
            Ok(empty(StatusCode::ACCEPTED))
        }
    }
}

/// Answers a `ping` of the gateway's own, which is to show whether this server is still the one that the session was
/// made with: it is, if it still speaks the revision.
pub(super) async fn ping(core: &Rc<Core>, address: &Address) -> Result<Answer, SendError> {
    Ok(match probe::discover(core, &plain(address)).await?.0 {
        Probe::Modern => json(jsonrpc::result("\"throughline-ping\"", b"{}")),
        Probe::Legacy => empty(StatusCode::BAD_REQUEST),
        Probe::Inconclusive => empty(StatusCode::SERVICE_UNAVAILABLE),
    })
}

/// The server itself, with nothing in between.
fn plain(address: &Address) -> Address {
    Address { modern: None, ..address.clone() }
}

/// The headers of a modern request, from those of a request in a session.
fn headers(mut from: HeaderMap, method: &str, name: Option<&str>) -> HeaderMap {
    let foreign: Vec<_> =
        from.keys().filter(|name| name.as_str().starts_with(MCP_PARAM_PREFIX)).cloned().collect();
    for gone in foreign.iter().chain([&names::SESSION_ID, &names::LAST_EVENT_ID, &names::NAME]) {
        from.remove(gone);
    }
    from.insert(ACCEPT, ACCEPT_BOTH);
    from.insert(CONTENT_TYPE, JSON);
    from.insert(names::PROTOCOL_VERSION, HeaderValue::from_static(ProtocolVersion::V2026_07_28.as_str()));
    let encoded = |text: &str| HeaderValue::from_str(&encode_value(text)).ok();
    for (header, text) in [(names::METHOD, Some(method)), (names::NAME, name)] {
        if let Some(value) = text.and_then(encoded) {
            from.insert(header, value);
        }
    }
    from
}
