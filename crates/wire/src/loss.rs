//! How a lost session looks: the one table of it.
//!
//! The specification asks for 404 (2025-11-25, Transports, "Session Management"); what servers send is in
//! the table of [`verdict`]. No row keys on a JSON-RPC code alone: -32001 is a lost session here and a
//! time-out there.

mod words;

use crate::era::is_modern_code;
use crate::peek::{Body, ErrorPart};
use words::{Claim, Reading};

const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const UNKNOWN_SESSION: i64 = -32004;

/// The beginning of an upstream's answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The value of `Content-Type`, if there was one.
    pub content_type: Option<&'a str>,
    /// Whether the answer carried `WWW-Authenticate`.
    pub www_authenticate: bool,
    /// The first 4 KiB of the body, or the data of the first SSE event. It may end anywhere.
    pub head: &'a [u8],
    /// Whether the request carried an `Mcp-Session-Id` of the upstream.
    pub session_sent: bool,
}

/// What an answer says of the upstream's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the answer is the client's.
    Alive,
    /// It is lost and the request was not executed. Recover at once.
    Lost(Sign),
    /// It looks lost, but a live session could answer so too. Ask with a `ping` in the session first, and
    /// judge that with [`ping_says_alive`].
    Suspected(Sign),
}

/// By what a lost session was recognised: the row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sign {
    /// 404, and the body names a session that is gone, missing or terminated.
    SessionNotFound,
    /// 404 with an error object outside of a JSON-RPC envelope (the Java SDK).
    BareError,
    /// 404 with any other body, or none.
    UnexplainedNotFound,
    /// 400: no valid session id, session id missing or required, server not initialized.
    IdRefused,
    /// 422: an `initialize` request was expected (rmcp).
    InitializeExpected,
    /// 401 that names the session rather than the credentials.
    Unauthorized,
    /// 409 that names a session that is gone.
    Conflict,
    /// 410 that names the session.
    Gone,
    /// 503 that names the session.
    Unavailable,
    /// -32004 with words about the session, whatever the status.
    UnknownSessionCode,
    /// 2xx with a JSON-RPC error (or an `error` string) that names the session.
    ErrorInSuccess,
    /// 2xx with a JSON-RPC error for a request before the handshake (the Go SDK), or for none in it.
    HandshakeInSuccess,
    /// Any other status, with words about the session.
    OtherStatus,
    /// The server that answered speaks another era than the one that the session was made with: it was replaced.
    EraChanged,
    /// No answer: the endpoint that holds it takes no connections, while another endpoint of the upstream does.
    EndpointDown,
}

impl Sign {
    /// The name in logs and metrics. It never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionNotFound => "404-session",
            Self::BareError => "404-bare-error",
            Self::UnexplainedNotFound => "404-unexplained",
            Self::IdRefused => "400-session",
            Self::InitializeExpected => "422-initialize-expected",
            Self::Unauthorized => "401-session",
            Self::Conflict => "409-session",
            Self::Gone => "410-session",
            Self::Unavailable => "503-session",
            Self::UnknownSessionCode => "code-32004",
            Self::ErrorInSuccess => "200-error",
            Self::HandshakeInSuccess => "200-handshake",
            Self::OtherStatus => "other-status",
            Self::EraChanged => "era-changed",
            Self::EndpointDown => "endpoint-down",
        }
    }
}

/// Judges an answer.
///
/// | Status | Body | Verdict |
/// |---|---|---|
/// | any | a JSON-RPC result, request or notification | alive: results are never examined |
/// | any | an error -32020, -32021 or -32022, which is of another era | suspected |
/// | 400 | a JSON-RPC error -32602 that misses `_meta`, likewise | suspected |
/// | any | a JSON-RPC error -32602 | alive: a tool or resource is unknown, a parameter wrong |
/// | any but 400 | a JSON-RPC error -32601 | alive: method not found |
/// | 429, 405, 406, 413, 415, 1xx, 3xx | any | alive |
/// | 404 | names a lost session | lost |
/// | 404 | a JSON-RPC error that says "timed out" | alive |
/// | 404 | anything else, if the request named a session | suspected |
/// | 400 | names a session (id) as missing, invalid, gone or not initialized | lost |
/// | 401 | names a lost session (beside `WWW-Authenticate`, "expired" may mean the login) | suspected |
/// | 2xx | a JSON-RPC error that names a lost session | suspected |
/// | other 4xx, 5xx | names a lost session | suspected |
///
/// Where the words could be about some other session ("browser session not found"), lost becomes suspected. A
/// request that named no session can only find out that one is required.
#[must_use]
pub fn verdict(answer: &Answer<'_>) -> Verdict {
    let status = answer.status;
    let body = Body::read(answer.head);
    let (part, in_envelope) = match &body {
        Body::Working => return Verdict::Alive,
        Body::Error(part) => (Some(part), true),
        Body::Bare(part) => (Some(part), false),
        Body::Opaque | Body::Text(_) => (None, false),
    };
    let code = part.filter(|_| in_envelope).and_then(|part| part.code);
    let misses_meta =
        status == 400 && code == Some(INVALID_PARAMS) && part.is_some_and(|part| part.text.contains("_meta"));
    if misses_meta || code.is_some_and(is_modern_code) {
        return Verdict::Suspected(Sign::EraChanged);
    }
    match (status, code) {
        (..=199 | 300..=399 | 405 | 406 | 413 | 415 | 429, _) | (_, Some(INVALID_PARAMS)) => {
            return Verdict::Alive;
        }
        // The Java SDK says -32601 where the session id is missing.
        (status, Some(METHOD_NOT_FOUND)) if status != 400 => return Verdict::Alive,
        _ => {}
    }
    let html = answer.content_type.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"));
    let text = match (&body, part) {
        (_, Some(part)) => part.text.as_str(),
        (Body::Text(text), None) if !html => text,
        _ => "",
    };
    let reading = words::read(text).filter(|reading| answer.session_sent || reading.claim == Claim::Missing);
    match (status, reading) {
        (200..=299, Some(reading)) => in_success(&body, reading),
        (400, Some(reading)) => lost_if(reading.firm, Sign::IdRefused),
        (404, _) => not_found(&body, reading, answer.session_sent),
        (401, Some(reading)) if answer.www_authenticate && reading.claim == Claim::Expired => Verdict::Alive,
        (_, Some(_)) => Verdict::Suspected(match (status, code) {
            (_, Some(UNKNOWN_SESSION)) => Sign::UnknownSessionCode,
            (401, _) => Sign::Unauthorized,
            (409, _) => Sign::Conflict,
            (410, _) => Sign::Gone,
            (422, _) => Sign::InitializeExpected,
            (503, _) => Sign::Unavailable,
            _ => Sign::OtherStatus,
        }),
        (_, None) => Verdict::Alive,
    }
}

/// Judges the answer of a server that speaks 2026-07-28, where there are no sessions: whatever is no answer of such a
/// server makes it likely that it was replaced by another. Errors of the protocol are not shown here.
#[must_use]
pub fn modern_verdict(answer: &Answer<'_>) -> Verdict {
    match answer.status {
        400 | 404 | 405 | 406 | 415 | 422 if !answer.www_authenticate => Verdict::Suspected(Sign::EraChanged),
        _ => Verdict::Alive,
    }
}

/// Judges the answer to the confirming `ping`, which was sent in the session.
///
/// `Some(true)`: the session lives, and the suspicious answer is the client's. `Some(false)`: it is lost.
/// `None`: this does not tell (the upstream failed or wants credentials), so the session must not be given
/// up for it.
#[must_use]
pub fn ping_says_alive(status: u16, head: &[u8]) -> Option<bool> {
    let answer = Answer { status, content_type: None, www_authenticate: false, head, session_sent: true };
    if verdict(&answer) != Verdict::Alive {
        return Some(false);
    }
    match (status, Body::read(head)) {
        (200..=299, Body::Working | Body::Error(ErrorPart { code: Some(_), .. })) => Some(true),
        // A server without `ping` may say so by 404; whether it looked for the session first is not known.
        (404, Body::Error(ErrorPart { code: Some(METHOD_NOT_FOUND), .. })) => None,
        (400 | 404, _) => Some(false),
        _ => None,
    }
}

fn lost_if(firm: bool, sign: Sign) -> Verdict {
    if firm { Verdict::Lost(sign) } else { Verdict::Suspected(sign) }
}

/// A 2xx that carries an error about the session: the request may have been executed, so ask first.
fn in_success(body: &Body, reading: Reading) -> Verdict {
    match body {
        Body::Error(part) if part.code == Some(UNKNOWN_SESSION) => {
            Verdict::Suspected(Sign::UnknownSessionCode)
        }
        Body::Error(_) if reading.claim == Claim::Missing => Verdict::Suspected(Sign::HandshakeInSuccess),
        Body::Error(_) => Verdict::Suspected(Sign::ErrorInSuccess),
        _ => Verdict::Alive,
    }
}

fn not_found(body: &Body, reading: Option<Reading>, session_sent: bool) -> Verdict {
    match (body, reading) {
        (Body::Error(_) | Body::Text(_), Some(reading)) => lost_if(reading.firm, Sign::SessionNotFound),
        (Body::Bare(_), Some(_)) => Verdict::Suspected(Sign::BareError),
        // Without a session the path is wrong, or the thing asked for does not exist.
        (_, None) if !session_sent => Verdict::Alive,
        (Body::Error(part), None) if says_timed_out(&part.text) => Verdict::Alive,
        (Body::Bare(part), None) if part.code.is_some() => Verdict::Suspected(Sign::BareError),
        _ => Verdict::Suspected(Sign::UnexplainedNotFound),
    }
}

fn says_timed_out(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("timed out") || text.contains("timeout")
}
