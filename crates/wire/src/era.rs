//! Which era a request speaks, and which era a server answers in.
//!
//! Specification 2026-07-28, Versioning, "Backward Compatibility".

use serde_json::Value;

use crate::peek;
use crate::version::{Era, ProtocolVersion};

/// The modern error code for headers that contradict the body.
pub const HEADER_MISMATCH: i64 = -32020;
/// The modern error code for a client capability that a request would need.
pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
/// The modern error code for a protocol version that the server does not speak.
pub const UNSUPPORTED_VERSION: i64 = -32022;

const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// The era of a request, from its `MCP-Protocol-Version` header and its `_meta` version.
///
/// A modern version in either makes it modern, and nothing else in the headers does: `Mcp-Method` is sent by
/// legacy clients too. A version is modern if it is a date from 2026-07-28 on, known here or not, so that a
/// client of a later revision gets a modern answer (-32022) that it understands. In `_meta`, where only modern
/// requests name one, so is whatever names no legacy revision.
#[must_use]
pub fn request_era(header_version: Option<&str>, meta_version: Option<&str>) -> Era {
    let is_legacy = |version: &str| ProtocolVersion::LEGACY.iter().any(|known| known.as_str() == version);
    match header_version.is_some_and(is_modern) || meta_version.is_some_and(|version| !is_legacy(version)) {
        true => Era::Modern,
        false => Era::Legacy,
    }
}

/// What the answer to a `server/discover` request says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It speaks a modern version (and may speak legacy ones as well).
    Modern,
    /// It answered, and speaks no modern version.
    Legacy,
    /// It did not answer the question; ask again rather than keep this.
    Inconclusive,
}

/// Judges the answer to a `server/discover` request: its HTTP status and its body, JSON or SSE.
///
/// Over stdio the status is 200. Modern is only a server that says so: by a modern version among the
/// `supportedVersions`, or by an error that only a modern server sends. -32022 alone is not one: servers on
/// the C# and Go SDKs send it although they speak legacy versions only.
#[must_use]
pub fn discover(status: u16, body: &[u8]) -> Probe {
    match status {
        200..=299 | 400 | 402 | 404..=407 | 409..=424 | 426..=428 | 430..=499 => {}
        // Authentication, overload, redirects and failures come from whatever stands in front.
        _ => return Probe::Inconclusive,
    }
    let body = peek::json(body);
    // Judged by hand: a derived struct would read a JSON array as the members in order.
    let message = serde_json::from_slice::<Value>(&body).unwrap_or(Value::Null);
    if let Some(result) = message.get("result") {
        return modern_if(lists_modern(result.get("supportedVersions")));
    }
    match message.get("error") {
        Some(error) => modern_if(is_modern_error(error)),
        // A 4xx that is no JSON-RPC came from a server that does not know such requests.
        None if status >= 400 => Probe::Legacy,
        None => Probe::Inconclusive,
    }
}

/// Whether a refusal of `initialize` may come from a server that speaks modern revisions only, and `server/discover` is
/// worth a try (2026-07-28, Versioning, "Backward Compatibility"). What asks for credentials, or for patience, does not.
#[must_use]
pub fn may_be_modern(status: u16, body: &[u8]) -> bool {
    const INVALID: [i64; 3] = [-32600, METHOD_NOT_FOUND, INVALID_PARAMS];
    let message = serde_json::from_slice::<Value>(&peek::json(body)).unwrap_or(Value::Null);
    let code = message.pointer("/error/code").and_then(Value::as_i64);
    match status {
        200..=299 => code.is_some_and(|code| INVALID.contains(&code) || is_modern_code(code)),
        400 | 404 | 405 | 406 | 415 | 422 => true,
        _ => code.is_some_and(is_modern_code),
    }
}

/// Whether a refusal of `initialize` says that there are no handshakes, whoever asks: another may be due to what this client
/// announced.
#[must_use]
pub fn knows_no_handshake(body: &[u8]) -> bool {
    let message = serde_json::from_slice::<Value>(&peek::json(body)).unwrap_or(Value::Null);
    let text = message.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
    match message.pointer("/error/code").and_then(Value::as_i64) {
        Some(METHOD_NOT_FOUND) => true,
        Some(INVALID_PARAMS) => text.contains("_meta"),
        code => code.is_some_and(is_modern_code),
    }
}

/// Codes that revision 2026-07-28 defines ("Error Codes").
pub(crate) fn is_modern_code(code: i64) -> bool {
    matches!(code, HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY | UNSUPPORTED_VERSION)
}

/// Whether this names a modern version: a well-formed date, 2026-07-28 or later.
#[must_use]
pub fn is_modern(version: &str) -> bool {
    let bytes = version.as_bytes();
    let well_formed = bytes.len() == 10
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
        && ("01"..="12").contains(&&version[5..7])
        && ("01"..="31").contains(&&version[8..10]);
    // Dates of one form compare as text.
    well_formed && version >= ProtocolVersion::V2026_07_28.as_str()
}

fn modern_if(modern: bool) -> Probe {
    if modern { Probe::Modern } else { Probe::Legacy }
}

fn lists_modern(versions: Option<&Value>) -> bool {
    let versions = versions.and_then(Value::as_array);
    versions.is_some_and(|list| list.iter().filter_map(Value::as_str).any(is_modern))
}

fn is_modern_error(error: &Value) -> bool {
    if !error.get("message").is_some_and(Value::is_string) {
        return false;
    }
    match error.get("code").and_then(Value::as_i64) {
        Some(HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY) => true,
        Some(UNSUPPORTED_VERSION) => lists_modern(error.pointer("/data/supported")),
        _ => false,
    }
}
