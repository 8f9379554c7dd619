//! Which era an upstream speaks: asked once, kept, and asked again when it seems to have changed.

use std::rc::Rc;
use std::sync::Mutex;

use http::header::{HeaderMap, HeaderValue};
use throughline_store::Millis;
use throughline_wire::era::{Probe, discover};
use throughline_wire::version::ProtocolVersion;
use throughline_wire::{jsonrpc, method};

use crate::app::{Core, Route};
use crate::classify::Arrived;
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::names;
use crate::session::lock;
use crate::upstream::{self, Address, Looked, http::SendError};

/// How long "speaks legacy revisions only" is believed: after an update of the upstream, modern clients are passed
/// on within this time.
const LEGACY_MS: u64 = 30_000;
/// How long "speaks modern revisions" is believed without a sign of the contrary.
const MODERN_MS: u64 = 600_000;

/// What is known of an upstream's eras: of all its endpoints alike, which are taken for copies of one server.
#[derive(Default)]
pub struct EraCache(Mutex<Option<(Probe, Millis)>>);

impl EraCache {
    fn get(&self, now: Millis) -> Option<Probe> {
        lock(&self.0).as_ref().filter(|(_, until)| now < *until).map(|(probe, _)| *probe)
    }

    /// In a word, for people.
    pub fn known(&self, now: Millis) -> &'static str {
        match self.get(now) {
            Some(Probe::Modern) => "modern",
            Some(Probe::Legacy) => "legacy",
            Some(Probe::Inconclusive) | None => "not asked",
        }
    }

    fn set(&self, probe: Probe, now: Millis) {
        let lasts = match probe {
            Probe::Modern => MODERN_MS,
            Probe::Legacy => LEGACY_MS,
            // Nothing was learnt.
            Probe::Inconclusive => return,
        };
        *lock(&self.0) = Some((probe, Millis(now.0 + lasts)));
    }

    /// Something does not fit what was believed: the next request asks again.
    pub fn forget(&self) {
        *lock(&self.0) = None;
    }
}

/// Whether the upstream speaks the era of a modern request.
pub async fn speaks_modern(core: &Rc<Core>, arrived: &Arrived) -> Result<bool, Fault> {
    let now = core.app.effects.now();
    let probe = match arrived.route.era.get(now) {
        Some(probe) => probe,
        None => {
            let probe =
                ask(core, &arrived.route, &arrived.caller.credentials).await.map_err(upstream::fault_of)?;
            arrived.route.era.set(probe, now);
            probe
        }
    };
    // An upstream that answered nothing conclusive (401, 503) is left to answer for itself.
    Ok(probe != Probe::Legacy)
}

/// Asks with a request of the gateway's own: a client's call might be executed by a legacy server.
async fn ask(core: &Core, route: &Route, credentials: &Credentials) -> Result<Probe, SendError> {
    const ID: &str = "\"throughline-discover\"";
    let version = ProtocolVersion::V2026_07_28.as_str();
    let params = format!(
        r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{{"name":"throughline","version":"{}"}}}}}}"#,
        env!("CARGO_PKG_VERSION"),
    );
    let body = jsonrpc::request(ID, method::DISCOVER, Some(params.as_bytes()));
    let anywhere = Address::anywhere(&route.fleet);
    let mut headers: HeaderMap = anywhere.on_behalf(credentials).headers();
    headers.insert(names::PROTOCOL_VERSION, HeaderValue::from_static(version));
    headers.insert(names::METHOD, HeaderValue::from_static(method::DISCOVER));
    let answer = upstream::send(core, &anywhere, http::Method::POST, headers, body.into()).await?;
    let looked = Looked::at(answer, core.app.config.limits.event_bytes).await?;
    let status = looked.status.as_u16();
    let limit = core.app.config.limits.answer_bytes;
    Ok(match looked.response(None, limit, |_| {}).await {
        Ok(body) => discover(status, &body),
        Err(_) => Probe::Inconclusive,
    })
}
