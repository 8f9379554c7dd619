//! Who is calling, and whether that is enough to go on with a session of theirs.
//!
//! A source address is never part of it: clients behind one address are many, and one client has many addresses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::{AUTHORIZATION, FORWARDED, USER_AGENT, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use throughline_store::RecordKey;
use throughline_wire::envelope;

use crate::account::{Account, Turn};
use crate::app::{App, Core, Route, first};
use crate::classify::Held;
use crate::config::{CallerProxy, Callers, KeyKind};
use crate::credentials::{self, Credentials};
use crate::error::{Denied, Fault};
use crate::keys::LiveKeys;
use crate::metadata;
use crate::names;
use crate::peer::{Peer, external_base};
use crate::tokens::Verified;

/// Longest client product that is told apart, in bytes.
const MAX_PRODUCT: usize = 64;

/// The caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Keyed digest of the principal: what sessions are bound to.
    pub principal: [u8; 16],
    /// Whether later requests can be recognised as the same caller's.
    pub continuity: Continuity,
    /// What the request brought for the upstream.
    pub credentials: Credentials,
    /// The principal's account, and this request in it; None for anonymous callers.
    pub account: Option<(Arc<Account>, Arc<Turn>)>,
}

/// What a caller that echoes no session id can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// A session of its own, found by this key of {route, principal, conversation, client product}.
    Keyed(RecordKey),
    /// Nothing to recognise the caller by: every request has a session to itself.
    Isolated,
}

/// The principals that the configuration knows.
pub struct Directory {
    anonymous: [u8; 16],
    /// By SHA-256 of the key. What is looked up is a digest of what was presented, so that the time it takes says
    /// nothing about the keys themselves.
    keys: HashMap<[u8; 32], Known>,
    proxy: Option<CallerProxy>,
    refuses_unknown: bool,
}

#[derive(Clone, Copy)]
struct Known {
    principal: [u8; 16],
    kind: KeyKind,
}

impl Known {
    /// Of a connector's key, the user that the connector names: by the one that holds the secret it can be believed.
    fn of_connector(self, app: &App, headers: &HeaderMap) -> Self {
        if self.kind != KeyKind::Connector {
            return self;
        }
        let header =
            |name: &str| headers.get(name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
        let user = header("x-ms-client-object-id").or_else(|| header("x-ms-client-principal-id"));
        match user {
            Some(user) => {
                let tenant = header("x-ms-client-tenant-id").unwrap_or_default();
                let parts = [&self.principal[..], tenant, user];
                let principal = first(&app.keys.digest("connector", &parts));
                Known { principal, kind: KeyKind::User }
            }
            None => Known { kind: KeyKind::Application, ..self },
        }
    }
}

/// Who a caller turned out to be.
#[derive(Clone, Copy)]
enum Identity {
    Anonymous,
    Known(Known),
}

impl Directory {
    /// As configured.
    pub fn new(callers: &Callers, keys: &LiveKeys) -> Self {
        let principal = |kind: &[u8], name: &[u8]| first(&keys.digest("principal", &[kind, name]));
        let known = callers.keys.iter().map(|key| {
            let known = Known { principal: principal(b"key", key.name.as_bytes()), kind: key.kind };
            (key.sha256, known)
        });
        Directory {
            anonymous: first(&keys.digest("principal", &[b"anonymous"])),
            keys: known.collect(),
            proxy: callers.proxy.clone(),
            refuses_unknown: callers.refuses_anonymous(),
        }
    }

    fn identify(
        &self,
        app: &App,
        route: &Route,
        peer: Peer,
        headers: &HeaderMap,
        token: Option<&Verified>,
    ) -> Result<Identity, Fault> {
        if let Some(name) = self.proxy.as_ref().and_then(|proxy| named_by(proxy, peer, headers)) {
            let principal = first(&app.keys.digest("principal", &[b"proxy", name]));
            return Ok(Identity::Known(Known { principal, kind: KeyKind::User }));
        }
        if let Some(token) = token {
            let parts: Vec<&[u8]> = token.subject.iter().map(String::as_bytes).collect();
            let principal = first(&app.keys.digest("subject", &parts));
            let kind = if token.is_application { KeyKind::Application } else { KeyKind::User };
            return Ok(Identity::Known(Known { principal, kind }));
        }
        match api_key(route, headers).filter(|_| !self.keys.is_empty()) {
            // A wrong key is a mistake to be told of, also where no key would do.
            Some(key) => match self.key(key) {
                Some(known) => Ok(Identity::Known(known.of_connector(app, headers))),
                None => Err(Fault::unauthorized(Denied::Key)),
            },
            None if self.refuses_unknown => Err(Fault::unauthorized(Denied::Key)),
            None => Ok(Identity::Anonymous),
        }
    }

    fn key(&self, key: &[u8]) -> Option<Known> {
        let presented: [u8; 32] = digest(&SHA256, key).as_ref().try_into().ok()?;
        self.keys.get(&presented).copied()
    }
}

/// Who the caller is by the word of a proxy that is believed.
fn named_by<'a>(proxy: &CallerProxy, peer: Peer, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let name = headers.get(&proxy.header).filter(|name| !name.is_empty() && peer.trusted)?;
    let secret = digest(&SHA256, headers.get(&proxy.secret_header)?.as_bytes());
    verify_slices_are_equal(secret.as_ref(), &proxy.secret_sha256).ok()?;
    Some(name.as_bytes())
}

/// The key that a caller presents: `x-api-key`, or Authorization with or without `Bearer` (some connectors cannot
/// write it).
/// Where a route passes Authorization on, that is the upstream's: a key of the gateway's must not reach it.
fn api_key<'a>(route: &Route, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    if let Some(key) = headers.get(&names::API_KEY) {
        return Some(key.as_bytes());
    }
    let value = headers.get(AUTHORIZATION).filter(|_| !route.config.forward_authorization)?.as_bytes();
    match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(key.trim_ascii()),
        _ => Some(value),
    }
}

/// Recognises the caller of a request on this route, by its token if it presents one.
///
/// # Errors
/// As where a caller is identified, and [`Fault::KeysAway`].
pub async fn recognise(
    core: &Core,
    route: &Route,
    peer: Peer,
    parts: &Parts,
    held: Option<&Held>,
) -> Result<Caller, Fault> {
    let app = &core.app;
    if app.tokens.is_none() && route.grants.is_none() {
        return identify(app, route, peer, parts, held, None);
    }
    let caller = Box::pin(proven(core, route, peer, parts, held)).await;
    // Where to read how to log in, for who has no token yet, or not a good one.
    caller.map_err(|fault| match fault {
        Fault::Unauthorized(denied, _) => {
            let base = external_base(&app.config, peer, &parts.headers);
            Fault::Unauthorized(denied, Some(metadata::url(&base, route).into()))
        }
        fault => fault,
    })
}

/// The caller, by a token of its own, and with one for the upstream, where there are such.
async fn proven(
    core: &Core,
    route: &Route,
    peer: Peer,
    parts: &Parts,
    held: Option<&Held>,
) -> Result<Caller, Fault> {
    let token = match &core.app.tokens {
        Some(tokens) => tokens.verify(core, &parts.headers).await?,
        None => None,
    };
    let mut caller = identify(&core.app, route, peer, parts, held, token.as_ref())?;
    if let Some(grants) = &route.grants {
        let header = grants.header(core, route, &caller, &parts.headers).await?;
        caller.credentials = caller.credentials.with_authorization(header);
    }
    Ok(caller)
}

/// Recognises the caller of a request on this route, whose token is this one.
///
/// # Errors
/// [`Fault::Unauthorized`] without a valid key where one is needed; [`Fault::TooManyRequests`] beyond the caller's
/// share.
fn identify(
    app: &App,
    route: &Route,
    peer: Peer,
    parts: &Parts,
    held: Option<&Held>,
    token: Option<&Verified>,
) -> Result<Caller, Fault> {
    let identity = app.directory.identify(app, route, peer, &parts.headers, token)?;
    let (principal, account) = match identity {
        Identity::Anonymous => (app.directory.anonymous, None),
        Identity::Known(Known { principal, .. }) => {
            let account = app.accounts.of(&principal);
            let turn = account.begin(app.config.limits.requests_per_caller)?;
            (principal, Some((account, Arc::new(turn))))
        }
    };
    // What the gateway cannot verify tells callers apart that it does not know each by itself.
    let principal = match (identity, credentials::digest(app, route, &parts.headers)) {
        (Identity::Known(Known { kind: KeyKind::User, .. }), _) | (_, None) => principal,
        (_, Some(digest)) => first(&app.keys.digest("principal", &[b"credentials", &principal, &digest])),
    };
    // Who holds a session says so by its id.
    let continuity = match parts.headers.contains_key(&names::SESSION_ID) {
        true => Continuity::Isolated,
        false => continuity(app, route, parts, held, identity, principal)?,
    };
    let credentials = Credentials::of(&route.config, &parts.headers);
    Ok(Caller { principal, continuity, credentials, account })
}

fn continuity(
    app: &App,
    route: &Route,
    parts: &Parts,
    held: Option<&Held>,
    identity: Identity,
    principal: [u8; 16],
) -> Result<Continuity, Fault> {
    let conversation = conversation(&app.config.callers, parts, held)?;
    match identity {
        // Callers that came through a proxy are many, whatever the address they arrive from.
        Identity::Anonymous => {
            if !app.config.anonymous_callers_share(&route.config, is_forwarded(&parts.headers)) {
                return Ok(Continuity::Isolated);
            }
        }
        // One key for all users of an application: only the conversation tells them apart.
        Identity::Known(Known { kind: KeyKind::Application, .. }) if conversation.is_none() => {
            return Ok(Continuity::Isolated);
        }
        Identity::Known(_) => {}
    }
    let conversation = conversation.unwrap_or_default();
    let key = [&route.digest[..], &principal, &conversation, product(&parts.headers)];
    Ok(Continuity::Keyed(RecordKey(first(&app.keys.digest("keyed", &key)))))
}

/// What the caller says that its conversation is: the first hint that is there.
fn conversation<'a>(
    callers: &Callers,
    parts: &'a Parts,
    held: Option<&'a Held>,
) -> Result<Option<Cow<'a, [u8]>>, Fault> {
    let hints = &callers.conversation;
    let header = hints.headers.iter().find_map(|name| parts.headers.get(name));
    if let Some(value) = header {
        return Ok(Some(Cow::Borrowed(value.as_bytes())));
    }
    if let Some((held, meta)) = held.and_then(|held| Some((held, held.param(&["_meta"]).transpose()?))) {
        let meta = &held.body[meta?];
        for name in &hints.meta {
            if let Ok(Some(span)) = envelope::member(meta, name) {
                return Ok(Some(Cow::Borrowed(&meta[span])));
            }
        }
    }
    let Some(name) = &hints.query else { return Ok(None) };
    let query = parts.uri.query().unwrap_or_default();
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| found == name);
    Ok(value.map(|(_, value)| Cow::Borrowed(value.as_bytes())))
}

/// Whether a proxy passed the request on.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == FORWARDED || *name == VIA || name.as_str().starts_with("x-forwarded-"))
}

/// The client's product: the first token of User-Agent, without its version, so that an update keeps the session.
fn product(headers: &HeaderMap) -> &[u8] {
    let agent = headers.get(USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
    let end = agent.iter().position(|byte| matches!(byte, b'/' | b' ')).unwrap_or(agent.len());
    &agent[..end.min(MAX_PRODUCT)]
}
