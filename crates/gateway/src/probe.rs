//! Which era an upstream speaks: asked once, kept, and asked again when it seems to have changed.

use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use throughline_store::Millis;
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome};
use throughline_wire::era::{self, Probe};
use throughline_wire::version::ProtocolVersion;
use throughline_wire::{jsonrpc, method};

use crate::app::{Core, Route};
use crate::classify::Arrived;
use crate::error::Fault;
use crate::names;
use crate::session::lock;
use crate::upstream::{self, Address, Looked, http::SendError};

/// How long "speaks legacy revisions only" is believed: after an update of the upstream, modern clients are passed
/// on within this time.
const LEGACY_MS: u64 = 30_000;
/// How long the answer to `server/discover` may take; requests wait for it.
const ASKED: Duration = Duration::from_secs(60);
/// How long "speaks modern revisions" is believed without a sign of the contrary.
const MODERN_MS: u64 = 600_000;

/// What is known of an upstream's eras: of all its endpoints alike, which are taken for copies of one server.
#[derive(Default)]
pub struct EraCache(Mutex<Eras>);

/// Whether it speaks each, and until when that is believed.
#[derive(Default)]
struct Eras {
    modern: Option<(bool, Millis)>,
    legacy: Option<(bool, Millis)>,
}

fn fresh(known: Option<(bool, Millis)>, now: Millis) -> Option<bool> {
    known.filter(|(_, until)| now < *until).map(|(speaks, _)| speaks)
}

impl EraCache {
    /// Whether it speaks modern revisions, as far as that is known.
    pub fn speaks_modern(&self, now: Millis) -> Option<bool> {
        fresh(lock(&self.0).modern, now)
    }

    /// Whether it is known to speak modern revisions, and to refuse a handshake.
    pub fn is_modern_only(&self, now: Millis) -> bool {
        let eras = lock(&self.0);
        (fresh(eras.modern, now), fresh(eras.legacy, now)) == (Some(true), Some(false))
    }

    /// In a word, for people.
    pub fn known(&self, now: Millis) -> &'static str {
        match self.speaks_modern(now) {
            Some(true) => "modern",
            Some(false) => "legacy",
            None => "not asked",
        }
    }

    /// Takes the answer to `server/discover` into account.
    pub fn learn(&self, probe: Probe, now: Millis) {
        let (speaks, lasts) = match probe {
            Probe::Modern => (true, MODERN_MS),
            Probe::Legacy => (false, LEGACY_MS),
            // Nothing was learnt.
            Probe::Inconclusive => return,
        };
        lock(&self.0).modern = Some((speaks, Millis(now.0 + lasts)));
    }

    /// Takes the answer to `initialize` into account.
    pub fn learn_legacy(&self, speaks: bool, now: Millis) {
        lock(&self.0).legacy = Some((speaks, Millis(now.0 + MODERN_MS)));
    }

    /// Something does not fit what was believed: the next request asks again.
    pub fn forget(&self) {
        *lock(&self.0) = Eras::default();
    }
}

/// Whether the upstream speaks the era of a modern request.
pub async fn speaks_modern(core: &Rc<Core>, arrived: &Arrived) -> Result<bool, Fault> {
    let now = core.app.effects.now();
    let speaks = match arrived.route.era.speaks_modern(now) {
        Some(speaks) => speaks,
        None => {
            let address = Address::anywhere(&arrived.route.fleet).on_behalf(&arrived.caller.credentials);
            let (probe, _) = discover(core, &address).await.map_err(upstream::fault_of)?;
            arrived.route.era.learn(probe, now);
            // An upstream that answered nothing conclusive (401, 503) is left to answer for itself.
            probe != Probe::Legacy
        }
    };
    Ok(speaks)
}

/// Whether the server that an answer came from is one of another era than the one that the session was made with.
/// Nothing is believed of it any more then.
pub async fn has_changed(core: &Rc<Core>, route: &Route, address: &Address) -> bool {
    // A server of both eras may refuse a client's header, and keep its session.
    if upstream::ping(core, address).await == Some(true) {
        return false;
    }
    let anywhere = Address { modern: None, session_id: None, ..address.clone() };
    let now = match discover(core, &anywhere).await {
        Ok((Probe::Modern, _)) => true,
        Ok((Probe::Legacy, _)) => false,
        Ok((Probe::Inconclusive, _)) | Err(_) => return false,
    };
    let changed = address.modern.is_some() != now;
    if changed {
        route.era.forget();
    }
    changed
}

/// Asks with a request of the gateway's own: a client's call might be executed by a legacy server. With what a modern
/// server says of itself, raw JSON of the result.
pub async fn discover(core: &Rc<Core>, address: &Address) -> Result<(Probe, Option<Bytes>), SendError> {
    tokio::time::timeout(ASKED, ask(core, address)).await.unwrap_or(Ok((Probe::Inconclusive, None)))
}

async fn ask(core: &Rc<Core>, address: &Address) -> Result<(Probe, Option<Bytes>), SendError> {
    const ID: &str = "\"throughline-discover\"";
    let version = ProtocolVersion::V2026_07_28.as_str();
    let params = format!(
        r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"throughline","version":"{}"}}}}}}"#,
        env!("CARGO_PKG_VERSION"),
    );
    let body = jsonrpc::request(ID, method::DISCOVER, Some(params.as_bytes()));
    let mut headers: HeaderMap = address.headers();
    headers.insert(names::PROTOCOL_VERSION, HeaderValue::from_static(version));
    headers.insert(names::METHOD, HeaderValue::from_static(method::DISCOVER));
    let answer = upstream::send_plain(core, address, http::Method::POST, headers, body.into(), None).await?;
    let looked = Looked::at(answer, core.app.config.limits.event_bytes).await?;
    let status = looked.status.as_u16();
    let limit = core.app.config.limits.answer_bytes;
    let Ok(body) = looked.response(None, limit, |_| {}).await else { return Ok((Probe::Inconclusive, None)) };
    let result = match Envelope::parse(&body, &Limits::ANY_DEPTH).map(|envelope| envelope.message) {
        // Copied: what is kept of it would hold on to the buffer that it was read into.
        Ok(Message::Response { outcome: Outcome::Result(at), .. }) => Some(Bytes::copy_from_slice(&body[at])),
        _ => None,
    };
    Ok((era::discover(status, &body), result))
}
