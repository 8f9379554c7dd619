//! Who is calling, and whether that is enough to go on with a session of theirs.
//!
//! A source address is never part of it: clients behind one address are many, and one client has many addresses.

use http::HeaderMap;
use http::header::{FORWARDED, USER_AGENT, VIA};
use throughline_store::RecordKey;
use throughline_wire::headers::MCP_SESSION_ID;

use crate::app::{App, Route, first};

/// Longest client product that is told apart, in bytes.
const MAX_PRODUCT: usize = 64;

/// The caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Keyed digest of the principal: what sessions are bound to.
    pub principal: [u8; 16],
    /// Whether later requests can be recognised as the same caller's.
    pub continuity: Continuity,
}

/// What a caller that echoes no session id can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// A session of its own, found by this key of {route, principal, conversation, client product}.
    Keyed(RecordKey),
    /// Nothing to recognise the caller by: every request has a session to itself.
    Isolated,
}

/// Recognises the caller of a request on this route.
pub fn identify(app: &App, route: &Route, headers: &HeaderMap) -> Caller {
    let principal = app.anonymous;
    if headers.contains_key(MCP_SESSION_ID) {
        // It holds its session itself: its id says whose it is.
        return Caller { principal, continuity: Continuity::Isolated };
    }
    // Callers that came through a proxy are many, whatever the address they arrive from.
    let continuity = if app.config.anonymous_callers_share(&route.config, is_forwarded(headers)) {
        let conversation: &[u8] = b"";
        let key = app.keys.digest("keyed", &[&route.digest, &principal, conversation, product(headers)]);
        Continuity::Keyed(RecordKey(first(&key)))
    } else {
        Continuity::Isolated
    };
    Caller { principal, continuity }
}

fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == FORWARDED || *name == VIA || name.as_str().starts_with("x-forwarded-"))
}

/// The client's product: the first token of User-Agent, without its version, so that an update keeps the session.
fn product(headers: &HeaderMap) -> &[u8] {
    let agent = headers.get(USER_AGENT).map_or(&b""[..], |value| value.as_bytes());
    let end = agent.iter().position(|byte| matches!(byte, b'/' | b' ')).unwrap_or(agent.len());
    &agent[..end.min(MAX_PRODUCT)]
}
