//! Every way a request can fail in the gateway itself, and the one table that says how the client hears of it.
//!
//! What an upstream answers is not here: it passes. Internal detail (addresses, I/O errors) goes to the log,
//! where `Fault` is built; the client gets the table's text, which says what happened, why, and what to do.

mod modern;

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use throughline_wire::envelope::EnvelopeError;

pub use modern::Modern;

use crate::classify::Misstated;
use crate::upstream::Refusal;

/// A failure of the gateway's own, as the client will see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The request names no host, or different ones.
    NoHost,
    /// A header that there may be one of came twice.
    Repeated,
    /// The request has more headers than the limit.
    TooManyHeaders,
    /// The Host header names no host of this gateway (DNS rebinding).
    BadHost,
    /// The Origin is not allowed, or the browser says that the request is cross-site.
    BadOrigin,
    /// No route has this path.
    NoRoute,
    /// The method cannot be used here; the value for `Allow`.
    Method(&'static str),
    /// The body's content type is not JSON.
    ContentType,
    /// A stream was asked for by a client that does not accept one.
    NotAcceptable,
    /// The body is longer than the limit, in bytes.
    BodyTooLarge(usize),
    /// The body did not arrive whole.
    BodyBroken,
    /// The body is no JSON-RPC message.
    Envelope(EnvelopeError),
    /// `initialize` without the parameters that it needs.
    InitializeParams,
    /// What a request of 2026-07-28 states about itself is not whole, or contradicts itself.
    Misstated(Misstated),
    /// The request for the REST face lacks something; what.
    Rest(&'static str),
    /// The session id is unknown: never issued, expired, deleted, or somebody else's. All the same to the caller.
    SessionUnknown,
    /// The caller did not prove who it is, or not enough; where it can read how, as a URL.
    Unauthorized(Denied, Option<Arc<str>>),
    /// There is no token for the upstream to be had.
    NoToken,
    /// Whether a token is good cannot be told: its issuer's keys are not to be had.
    KeysAway,
    /// The event that a client wants to resume after is of a stream that is not kept any more.
    StreamGone,
    /// The call whose result is asked for is not kept: never begun, somebody else's, cancelled, or too long ago.
    CallUnknown,
    /// The client has cancelled its request.
    Cancelled,
    /// No more sessions can be opened now.
    TooManySessions,
    /// As many requests are under way as the limit allows, for this caller or for all.
    TooManyRequests,
    /// The upstream cannot be reached, and the request was certainly not sent.
    UpstreamAway,
    /// The connection broke after the request was sent. It may have been executed.
    MayHaveExecuted,
    /// No answer came in time. It may have been executed.
    UpstreamTimeout,
    /// The upstream's answer is longer than can be held, in bytes, and it had to be held.
    AnswerTooLarge(usize),
    /// The upstream answered something that is not the protocol.
    UpstreamGarbled,
    /// The upstream would not open a session; its HTTP status.
    InitializeRefused(u16),
    /// The upstream wants credentials, or better ones; its answer, which the client gets.
    Challenged(Arc<Refusal>),
    /// The upstream says nothing of how to log in to it.
    NoMetadata,
    /// The upstream lost the session again right after it was restored.
    LostAgain,
    /// No upstream session could be opened for the call.
    NotBound,
    /// The session was restored, but what the server kept in it is gone, and the route forbids going on silently.
    StateLost,
    /// What only requests of 2026-07-28 can meet.
    Modern(Modern),
    /// The store is away, and the route does not go on without it.
    StoreAway,
    /// The server needs something of the client that it did not announce; by which methods it would ask.
    CannotAsk(String),
    /// The server asked for too much at a time, or for something once more after too many rounds of it.
    TooManyRounds,
    /// The gateway is stopping.
    Stopping,
}

/// A row of the table.
struct Row {
    status: StatusCode,
    code: i32,
    text: String,
    data: Option<Value>,
}

/// JSON-RPC codes of the gateway's own. The range that JSON-RPC leaves to implementations.
mod code {
    pub(super) const INVALID_REQUEST: i32 = -32600;
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
    pub(super) const INVALID_PARAMS: i32 = -32602;
    pub(super) const SERVER: i32 = -32000;
    pub(super) const SESSION_NOT_FOUND: i32 = -32001;
    pub(super) const UPSTREAM_AWAY: i32 = -32010;
    pub(super) const UPSTREAM_TIMEOUT: i32 = -32011;
    pub(super) const MAY_HAVE_EXECUTED: i32 = -32012;
    pub(super) const STATE_LOST: i32 = -32013;
    pub(super) const UPSTREAM_FAULT: i32 = -32014;
    pub(super) const BUSY: i32 = -32015;
    /// These are defined by revision 2026-07-28, section "Error codes".
    pub(super) const HEADER_MISMATCH: i32 = -32020;
    pub(super) const MISSING_CAPABILITY: i32 = -32021;
    pub(super) const UNSUPPORTED_VERSION: i32 = -32022;
}

impl Fault {
    /// HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// JSON-RPC code of the answer.
    pub fn code(&self) -> i32 {
        self.row().code
    }

    /// The JSON-RPC error response; `id` is raw JSON and left out where the request's is not known.
    pub fn body(&self, id: Option<&str>) -> Vec<u8> {
        let row = self.row();
        throughline_wire::jsonrpc::error(id, row.code, &row.text, row.data.as_ref())
    }

    /// Seconds for `Retry-After`, where trying again helps.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Fault::TooManySessions | Fault::Stopping => Some(5),
            Fault::TooManyRequests => Some(1),
            Fault::UpstreamAway | Fault::NotBound | Fault::StoreAway | Fault::KeysAway => Some(2),
            _ => None,
        }
    }

    /// Value for `Allow`, of a 405.
    pub fn allow(&self) -> Option<&'static str> {
        match self {
            Fault::Method(allow) => Some(allow),
            _ => None,
        }
    }

    /// What the upstream answered, where the client gets that instead of the table's row.
    pub fn of_upstream(&self) -> Option<&Refusal> {
        match self {
            Fault::Challenged(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Value for `WWW-Authenticate`, of a 401 of the gateway's own.
    pub fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Fault::Unauthorized(denied, metadata) => Some(denied.challenge(metadata.as_deref())),
            _ => None,
        }
    }

    fn row(&self) -> Row {
        let row = |status, code, text: &str| Row { status, code, text: text.to_owned(), data: None };
        match self {
            Fault::NoHost
            | Fault::Repeated
            | Fault::TooManyHeaders
            | Fault::BadHost
            | Fault::BadOrigin
            | Fault::NoRoute
            | Fault::NoMetadata
            | Fault::Method(_)
            | Fault::ContentType
            | Fault::NotAcceptable
            | Fault::BodyTooLarge(_)
            | Fault::BodyBroken
            | Fault::Envelope(_)
            | Fault::Rest(_)
            | Fault::InitializeParams => self.bad_request(),
            Fault::Misstated(how) => row(StatusCode::BAD_REQUEST, how.code(), &how.text()),
            Fault::SessionUnknown => row(
                StatusCode::NOT_FOUND,
                code::SESSION_NOT_FOUND,
                "Session not found: it was ended, has expired, or is not yours; send initialize to open a new one",
            ),
            Fault::StreamGone => row(
                StatusCode::BAD_REQUEST,
                code::SERVER,
                "Stream not found: what it said is not kept any more; open a new one without Last-Event-ID, and check the \
                 effect of a call before you repeat it",
            ),
            Fault::CallUnknown => row(
                StatusCode::NOT_FOUND,
                code::SERVER,
                "Call not found: it is not yours, was cancelled, or its result is not kept any more",
            ),
            Fault::Cancelled => {
                row(StatusCode::BAD_REQUEST, code::SERVER, "Cancelled: the client cancelled this request")
            }
            Fault::TooManySessions => row(
                StatusCode::TOO_MANY_REQUESTS,
                code::BUSY,
                "Too many sessions are open; end some, or try again later",
            ),
            Fault::TooManyRequests => row(
                StatusCode::TOO_MANY_REQUESTS,
                code::BUSY,
                "Too many requests under way; wait for some to end, then try again",
            ),
            Fault::Unauthorized(denied, _) => row(denied.status(), code::SERVER, &denied.text()),
            Fault::NoToken => Row {
                data: Some(json!({ "mayHaveExecuted": false })),
                ..row(
                    StatusCode::BAD_GATEWAY,
                    code::UPSTREAM_FAULT,
                    "No token for the server behind the gateway was given; the call was not executed; the gateway's log \
                     says why",
                )
            },
            Fault::KeysAway => row(
                StatusCode::SERVICE_UNAVAILABLE,
                code::BUSY,
                "The keys that tokens are checked with cannot be read now; the call was not executed, try again",
            ),
            Fault::Stopping => row(
                StatusCode::SERVICE_UNAVAILABLE,
                code::BUSY,
                "The gateway is stopping; try again, another instance or its successor will answer",
            ),
            Fault::StoreAway => row(
                StatusCode::SERVICE_UNAVAILABLE,
                code::BUSY,
                "The session store cannot be reached, and this gateway does not go on without it; the call was not \
                 executed, try again",
            ),
            Fault::Modern(modern) => modern.row(),
            Fault::CannotAsk(_) | Fault::TooManyRounds => self.given_up(),
            _ => self.bad_gateway(),
        }
    }

    /// The rows that say what is wrong with the request.
    fn bad_request(&self) -> Row {
        let (status, code, text) = match self {
            Fault::NoHost => (
                StatusCode::BAD_REQUEST,
                code::INVALID_REQUEST,
                "The request does not say which host it is for; send one Host header".into(),
            ),
            Fault::Repeated => (
                StatusCode::BAD_REQUEST,
                code::INVALID_REQUEST,
                "A header that may come once came twice, such as Mcp-Session-Id; send it once".into(),
            ),
            Fault::TooManyHeaders => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                code::INVALID_REQUEST,
                "The request has too many headers; send fewer".into(),
            ),
            Fault::BadHost => (
                StatusCode::FORBIDDEN,
                code::SERVER,
                "Host not allowed: this gateway does not answer for that name; add it to allowed_hosts".into(),
            ),
            Fault::BadOrigin => (
                StatusCode::FORBIDDEN,
                code::SERVER,
                "Origin not allowed: pages of that origin may not call this gateway; add it to allowed_origins".into(),
            ),
            Fault::NoRoute => (
                StatusCode::NOT_FOUND,
                code::SERVER,
                "Not found: no MCP endpoint at this path; the default is /mcp".into(),
            ),
            Fault::NoMetadata => (
                StatusCode::NOT_FOUND,
                code::SERVER,
                "Not found: the server behind the gateway says nothing of how to log in to it".into(),
            ),
            Fault::Method(allow) => (
                StatusCode::METHOD_NOT_ALLOWED,
                code::SERVER,
                format!("Method not allowed: there is nothing to listen to or to end here; use {allow}"),
            ),
            Fault::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                code::SERVER,
                "Unsupported media type: send the message with content-type application/json, not compressed".into(),
            ),
            Fault::NotAcceptable => (
                StatusCode::NOT_ACCEPTABLE,
                code::SERVER,
                "Not acceptable: a GET opens an event stream; accept text/event-stream".into(),
            ),
            Fault::BodyTooLarge(limit) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                code::INVALID_REQUEST,
                format!("Message too large: the limit is {limit} bytes"),
            ),
            Fault::BodyBroken => (
                StatusCode::BAD_REQUEST,
                code::INVALID_REQUEST,
                "The message did not arrive whole; send it again".into(),
            ),
            Fault::Rest(text) => (StatusCode::BAD_REQUEST, code::INVALID_REQUEST, format!("Bad request: {text}")),
            Fault::Envelope(error) => (StatusCode::BAD_REQUEST, error.json_rpc_code(), error.to_string()),
            _ => (
                StatusCode::BAD_REQUEST,
                code::INVALID_PARAMS,
                "initialize needs params.protocolVersion, params.capabilities and params.clientInfo".into(),
            ),
        };
        Row { status, code, text, data: None }
    }

    /// The rows of calls whose server wanted something before it went on. They stand in the place of its answer.
    fn given_up(&self) -> Row {
        let text = match self {
            Fault::CannotAsk(methods) => format!(
                "The server needs an answer to {methods} to go on with this call, and this client did not announce that \
                 it can be asked; use a client that announces the capability in initialize"
            ),
            _ => "The server asked too much, or too often, instead of answering; the call was given up"
                .to_owned(),
        };
        Row { status: StatusCode::OK, code: code::UPSTREAM_FAULT, text, data: None }
    }

    /// The rows that say what went wrong behind the gateway.
    fn bad_gateway(&self) -> Row {
        let executed = |known: bool| Some(json!({ "mayHaveExecuted": known }));
        let (status, code, text, data) = match self {
            Fault::UpstreamAway => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_AWAY,
                "The server behind the gateway cannot be reached; the call was not executed, try again".into(),
                executed(false),
            ),
            Fault::UpstreamTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                code::UPSTREAM_TIMEOUT,
                "The server behind the gateway did not answer in time; the call may have been executed".into(),
                executed(true),
            ),
            Fault::MayHaveExecuted => (
                StatusCode::BAD_GATEWAY,
                code::MAY_HAVE_EXECUTED,
                "The connection to the server broke during the call; it may have been executed, so it was not \
                 repeated; check its effect before you call again"
                    .into(),
                executed(true),
            ),
            Fault::AnswerTooLarge(limit) => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_FAULT,
                format!("The server's answer is larger than the limit of {limit} bytes; the call was executed"),
                executed(true),
            ),
            Fault::InitializeRefused(status) => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_FAULT,
                format!(
                    "The server behind the gateway refused to open a session (it answered {status} to \
                     initialize); check that its URL is an MCP endpoint, down to the slash at its end"
                ),
                executed(false),
            ),
            Fault::Challenged(refusal) => (
                refusal.status,
                code::SERVER,
                "Unauthorized: the server behind the gateway wants credentials".into(),
                executed(false),
            ),
            Fault::NotBound => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_FAULT,
                "The server behind the gateway did not open a session; the call was not executed, try again".into(),
                executed(false),
            ),
            Fault::LostAgain => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_FAULT,
                "The server lost the session again right after it was restored; the call was not executed, try \
                 again; if it goes on, several servers share the address without sharing sessions"
                    .into(),
                executed(false),
            ),
            Fault::StateLost => (
                StatusCode::CONFLICT,
                code::STATE_LOST,
                "The server was restarted and what it kept in this session is lost; the session goes on, but \
                 this call was not executed, since it may depend on that state; set it up again, then repeat"
                    .into(),
                Some(json!({ "mayHaveExecuted": false, "stateLost": true })),
            ),
            _ => (
                StatusCode::BAD_GATEWAY,
                code::UPSTREAM_FAULT,
                "The server behind the gateway answered something that is not the protocol; the call may have \
                 been executed"
                    .into(),
                executed(true),
            ),
        };
        Row { status, code, text, data }
    }
}

/// What was missing in a caller's proof of who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Denied {
    /// Any, or the right one.
    Key,
    /// The token is not good; why.
    Token(&'static str),
    /// The token does not permit enough; the scopes of which one is needed, separated by spaces.
    Scope(String),
}

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Denied::Key | Denied::Token(_) => StatusCode::UNAUTHORIZED,
            Denied::Scope(_) => StatusCode::FORBIDDEN,
        }
    }

    fn text(&self) -> String {
        match self {
            Denied::Key => {
                "Unauthorized: send an API key of this gateway, as x-api-key or as Authorization: Bearer"
                    .to_owned()
            }
            Denied::Token(why) => format!("Unauthorized: {why}"),
            Denied::Scope(scopes) => format!("Forbidden: the token permits none of these scopes: {scopes}"),
        }
    }

    /// RFC 6750, section 3, and RFC 9728, section 5.1.
    fn challenge(&self, metadata: Option<&str>) -> HeaderValue {
        let mut text = "Bearer realm=\"throughline\"".to_owned();
        match self {
            Denied::Key => {}
            Denied::Token(why) => text += &format!(", error=\"invalid_token\", error_description=\"{why}\""),
            Denied::Scope(scopes) => text += &format!(", error=\"insufficient_scope\", scope=\"{scopes}\""),
        }
        if let Some(metadata) = metadata {
            text += &format!(", resource_metadata=\"{metadata}\"");
        }
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer realm=\"throughline\""))
    }
}

impl Misstated {
    fn code(self) -> i32 {
        match self {
            Misstated::NotInMeta(_) => code::INVALID_PARAMS,
            Misstated::NoHeader(_) | Misstated::HeaderDiffers(_) => code::HEADER_MISMATCH,
        }
    }

    fn text(self) -> String {
        match self {
            Misstated::NotInMeta(member) => {
                format!("Invalid params: every request of this revision needs {member} in params._meta")
            }
            Misstated::NoHeader(header) => {
                format!("Header mismatch: {header} is missing; send it with what the body says")
            }
            Misstated::HeaderDiffers(header) => {
                format!("Header mismatch: {header} does not say what the body says, or cannot be read")
            }
        }
    }
}

impl Fault {
    /// A caller that did not prove enough.
    pub fn unauthorized(denied: Denied) -> Self {
        Fault::Unauthorized(denied, None)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.row().text)
    }
}

impl From<EnvelopeError> for Fault {
    fn from(error: EnvelopeError) -> Self {
        Fault::Envelope(error)
    }
}
