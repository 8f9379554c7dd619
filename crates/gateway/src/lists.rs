//! Lists that need not be asked for again: for as long as the upstream says (2026-07-28, Caching), or the route.
//!
//! What is kept is a result as its client got it, under method, parameters and revision; of one caller, unless all may
//! see it. When the upstream says that a list changed, all are asked for again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::AGE;
use http::{Response, StatusCode};
use memchr::memmem;
use throughline_store::Millis;
use throughline_wire::bridge::meta;
use throughline_wire::envelope::{self, Envelope, Limits, Message, Outcome};
use throughline_wire::splice::{Edit, remove_member, splice};
use throughline_wire::sse::SseDecoder;
use throughline_wire::{jsonrpc, method};

use crate::app::Core;
use crate::classify::{Arrived, Held};
use crate::config::Cache;
use crate::error::Fault;
use crate::principal::Continuity;
use crate::reply::{self, ReplyBody};
use crate::session::{Holding, Kind, lock, millis};
use crate::upstream::{JSON, is_event_stream};

/// Lists of a route, and their bytes, at most; where one more does not fit, all go.
const MAX_LISTS: usize = 1024;
const MAX_BYTES: usize = 8 << 20;
/// The longest list that is kept, in bytes.
const MAX_LIST: usize = 1 << 20;
/// The longest that an upstream's word counts, in milliseconds.
const MAX_TTL: u64 = 86_400_000;

/// The longest notification that a list changed, in bytes.
const MAX_NOTICE: usize = 4096;

type Key = [u8; 32];

/// What a route keeps.
#[derive(Default)]
pub struct Lists {
    shelf: Mutex<Shelf>,
    /// Counted up with every change that the upstream tells of: what was asked for before is not kept after.
    changes: AtomicU64,
}

#[derive(Default)]
struct Shelf {
    lists: HashMap<Key, Kept>,
    bytes: usize,
}

struct Kept {
    result: Bytes,
    since: Millis,
    until: Millis,
}

impl Lists {
    /// Takes note of a message of the upstream's.
    pub fn heard(&self, message: &[u8]) {
        if message.len() <= MAX_NOTICE && memmem::find(message, b"list_changed").is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
            *lock(&self.shelf) = Shelf::default();
        }
    }

    fn get(&self, key: &Key, now: Millis) -> Option<(Bytes, Millis, Millis)> {
        let shelf = lock(&self.shelf);
        let kept = shelf.lists.get(key).filter(|kept| now < kept.until)?;
        Some((kept.result.clone(), kept.since, kept.until))
    }

    fn put(&self, key: Key, kept: Kept, now: Millis) {
        let mut shelf = lock(&self.shelf);
        if shelf.lists.len() >= MAX_LISTS || shelf.bytes + kept.result.len() > MAX_BYTES {
            shelf.lists.retain(|_, kept| now < kept.until);
            shelf.bytes = shelf.lists.values().map(|kept| kept.result.len()).sum();
        }
        if shelf.lists.len() >= MAX_LISTS || shelf.bytes + kept.result.len() > MAX_BYTES {
            *shelf = Shelf::default();
        }
        shelf.bytes += kept.result.len();
        if let Some(before) = shelf.lists.insert(key, kept) {
            shelf.bytes -= before.result.len();
        }
    }
}

/// A list that is asked for, on a route or by a client that lets it be kept.
struct Wanted<'a> {
    core: &'a Core,
    arrived: &'a Arrived,
    id: &'a str,
    /// As this caller's, and as everybody's.
    own: Option<Key>,
    all: Key,
    changes: u64,
}

impl<'a> Wanted<'a> {
    /// None where it is no list, or is never kept.
    fn of(core: &'a Core, arrived: &'a Arrived, held: &'a Held, holding: &Holding) -> Option<Self> {
        let modern = !matches!(holding, Holding::Session(_));
        match &*held.method {
            method::TOOLS_LIST | method::PROMPTS_LIST | method::RESOURCES_LIST | method::TEMPLATES_LIST => {}
            method::DISCOVER if modern => {}
            _ => return None,
        }
        let Cache { lists, .. } = arrived.route.config.cache;
        // Only modern servers say for themselves how long their lists are good.
        if lists.map_or(!modern, |lists| lists.is_zero()) {
            return None;
        }
        let params = salient(held)?;
        let owner: Option<Vec<u8>> = match (holding, arrived.caller.continuity) {
            (Holding::Session(session), _) if session.kind == Kind::Isolated => None,
            (Holding::Session(session), _) => Some(session.key.0.to_vec()),
            (Holding::Sessionless, _) => Some(arrived.caller.principal.to_vec()),
            // What a server with sessions offers may depend on what is announced to it.
            (Holding::Bridged, Continuity::Keyed(key)) => {
                let capabilities = held.param(&["_meta", meta::CLIENT_CAPABILITIES]).ok().flatten();
                Some([&key.0[..], capabilities.map_or(&b""[..], |at| &held.body[at])].concat())
            }
            (Holding::Bridged, Continuity::Isolated) => None,
        };
        let version = arrived.version.as_ref().map_or(&b""[..], |version| version.as_bytes());
        let app = &core.app;
        let key = |whose: &[u8]| {
            let parts = [
                &arrived.route.digest[..],
                held.method.as_bytes(),
                &params,
                version,
                &[modern.into()],
                whose,
            ];
            app.keys.digest("list", &parts)
        };
        Some(Wanted {
            core,
            arrived,
            id: held.raw_id().unwrap_or("null"),
            own: owner.as_deref().map(&key),
            all: key(b"all"),
            changes: arrived.route.lists.changes.load(Ordering::Relaxed),
        })
    }

    /// The answer, where it is kept and still good.
    fn kept(&self) -> Option<Response<ReplyBody>> {
        let (lists, now) = (&self.arrived.route.lists, self.core.app.effects.now());
        let own = self.own.as_ref().and_then(|own| lists.get(own, now));
        let (result, since, until) = own.or_else(|| lists.get(&self.all, now))?;
        let result = match member(&result, "ttlMs") {
            // For whoever keeps it as well.
            Some(at) => splice(&result, &mut [Edit::replace(at, (until.0 - now.0).to_string().as_bytes())]),
            None => result.to_vec(),
        };
        let body = jsonrpc::result(self.id, &result);
        let mut response = reply::whole(&self.core.app, StatusCode::OK, JSON, body);
        response.headers_mut().insert(AGE, (now.0.saturating_sub(since.0) / 1000).into());
        Some(response)
    }

    /// Passes an answer on, and keeps the list that it brings.
    async fn keep(self, response: Response<ReplyBody>) -> Result<Response<ReplyBody>, Fault> {
        let streams = is_event_stream(response.headers());
        // A stream that is not here whole may have more to say than the list.
        let is_here = matches!(response.body(), ReplyBody::Whole(Some(_)));
        if response.status() != StatusCode::OK || (streams && !is_here) {
            return Ok(response);
        }
        let (head, body) = reply::gathered(response, self.core.app.config.limits.answer_bytes).await?;
        let message = if streams { last_message(body.clone()) } else { Some(body.clone()) };
        if let Some(message) = message {
            self.put(&message);
        }
        Ok(reply::with_body(head, body))
    }

    fn put(&self, message: &[u8]) {
        let Ok(Message::Response { outcome: Outcome::Result(span), .. }) =
            Envelope::parse(message, &Limits::ANY_DEPTH).map(|envelope| envelope.message)
        else {
            return;
        };
        let (result, lists) = (&message[span], &self.arrived.route.lists);
        let Cache { lists: kept_for, shared } = self.arrived.route.config.cache;
        let (ttl, shared) = match kept_for {
            Some(kept_for) => (millis(kept_for), shared),
            None => {
                let says = |name| member(result, name).map(|at| &result[at]);
                let ttl = says("ttlMs").and_then(|ttl| std::str::from_utf8(ttl).ok()?.parse().ok());
                (ttl.unwrap_or(0).min(MAX_TTL), says("cacheScope") == Some(br#""public""#))
            }
        };
        let key = if shared { Some(self.all) } else { self.own };
        let Some(key) = key.filter(|_| ttl > 0 && result.len() <= MAX_LIST) else { return };
        if lists.changes.load(Ordering::Relaxed) != self.changes {
            return;
        }
        let now = self.core.app.effects.now();
        let (result, until) = (Bytes::copy_from_slice(result), Millis(now.0.saturating_add(ttl)));
        lists.put(key, Kept { result, since: now, until }, now);
    }
}

/// The list, where it is kept; else the answer that is asked for, which is kept if it may be.
///
/// # Errors
/// Those of the answer.
pub async fn kept_or(
    core: &Core,
    arrived: &Arrived,
    held: &Held,
    holding: Holding,
    ask: impl AsyncFnOnce(Holding) -> Result<Response<ReplyBody>, Fault>,
) -> Result<Response<ReplyBody>, Fault> {
    let Some(list) = Wanted::of(core, arrived, held, &holding) else { return ask(holding).await };
    match list.kept() {
        Some(kept) => Ok(kept),
        None => list.keep(ask(holding).await?).await,
    }
}

/// The parameters that an answer depends on; None for a request that brings answers, which are in no key.
fn salient(held: &Held) -> Option<Vec<u8>> {
    let Some(params) = held.raw_params() else { return Some(Vec::new()) };
    let brings = |name| member(params, name).is_some();
    if params.first() != Some(&b'{') || brings("inputResponses") || brings("requestState") {
        return None;
    }
    let without = remove_member(params, &(0..params.len()), "_meta").ok()?;
    let salient = splice(params, &mut without.into_iter().collect::<Vec<_>>());
    // Nothing but `_meta` is nothing.
    Some(if salient.trim_ascii() == b"{}" { Vec::new() } else { salient })
}

fn member(object: &[u8], name: &str) -> Option<envelope::Span> {
    envelope::member(object, name).ok()?
}

fn last_message(body: Bytes) -> Option<Bytes> {
    let mut decoder = SseDecoder::new(body.len());
    decoder.push(body);
    let mut last = None;
    while let Ok(Some(frame)) = decoder.next_frame() {
        if let Some(data) = frame.data().filter(|_| frame.is_message()) {
            last = Some(Bytes::copy_from_slice(&data));
        }
    }
    last
}
