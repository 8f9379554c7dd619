//! Answers of the protocol as plain JSON.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use throughline_wire::envelope::{Envelope, Limits, Message, Outcome};

use super::Answered;
use crate::config::ToolErrors;
use crate::error::Fault;

/// An answer.
pub(super) struct Plain {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Plain {
    pub(super) fn ok(body: &Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    fn new(status: StatusCode, body: &Value) -> Self {
        Plain { status, headers: HeaderMap::new(), body: body.to_string().into() }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Plain { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A failure of the gateway's own, or an upstream's challenge.
    pub(super) fn fault(fault: &Fault) -> Self {
        let mut plain = match fault.of_upstream() {
            Some(refusal) => {
                Plain { headers: refusal.headers.clone(), ..error_of(refusal.status, &refusal.body) }
            }
            None => error_of(fault.status(), &fault.body(None)),
        };
        if let Some(seconds) = fault.retry_after() {
            plain.headers.insert(http::header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = fault.allow() {
            plain.headers.insert(http::header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(challenge) = fault.challenge() {
            plain.headers.insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        plain
    }
}

/// The result of an answer, where it has one that is an object.
pub(super) fn result_of(answered: &Answered) -> Option<Map<String, Value>> {
    match Envelope::parse(&answered.body, &Limits::ANY_DEPTH).ok()?.message {
        Message::Response { outcome: Outcome::Result(at), .. } if answered.head.status().is_success() => {
            serde_json::from_slice(&answered.body[at]).ok()
        }
        _ => None,
    }
}

/// The result as it is.
pub(super) fn result(answered: Answered) -> Plain {
    match result_of(&answered) {
        Some(result) => Plain::ok(&result.into()),
        None => refused(answered),
    }
}

/// What a tool said: its structured content where it has some, else its text.
pub(super) fn tool(answered: Answered, errors: ToolErrors) -> Plain {
    let Some(mut result) = result_of(&answered) else { return refused(answered) };
    let failed = result.get("isError") == Some(&Value::Bool(true));
    if !failed && let Some(structured) = result.shift_remove("structuredContent") {
        return Plain::ok(&structured);
    }
    let parts = match result.shift_remove("content") {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    let (texts, others): (Vec<Value>, Vec<Value>) =
        parts.into_iter().partition(|part| part["type"] == "text" && part["text"].is_string());
    let texts: Vec<&str> = texts.iter().filter_map(|part| part["text"].as_str()).collect();
    let mut body = Map::new();
    if failed {
        body.insert("isError".to_owned(), true.into());
    }
    body.insert("text".to_owned(), texts.join("\n").into());
    if !others.is_empty() {
        body.insert("content".to_owned(), others.into());
    }
    let status = match errors {
        ToolErrors::Unprocessable if failed => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::OK,
    };
    Plain::new(status, &body.into())
}

/// An answer that is no result.
fn refused(answered: Answered) -> Plain {
    let status = answered.head.status();
    let plain = error_of(status, &answered.body);
    Plain { headers: answered.head.headers().clone(), ..plain }
}

/// `{"error": {"code", "message"}}`, with a status that says as much: connectors show their users the message of it.
fn error_of(status: StatusCode, body: &[u8]) -> Plain {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = match message.get("error") {
        Some(Value::Object(error)) => error.clone(),
        _ => {
            let text = format!("The server behind the gateway answered with HTTP status {}", status.as_u16());
            let Value::Object(error) = json!({ "code": 0, "message": text }) else {
                return Plain::empty(status);
            };
            error
        }
    };
    let status = match (status.is_success(), error.get("code").and_then(Value::as_i64)) {
        (false, _) => status,
        // Of JSON-RPC 2.0, and resources that are not there (2025-11-25, "Resources").
        (true, Some(-32600 | -32602)) => StatusCode::BAD_REQUEST,
        (true, Some(-32601 | -32002)) => StatusCode::NOT_FOUND,
        (true, _) => StatusCode::BAD_GATEWAY,
    };
    Plain::new(status, &json!({ "error": error }))
}
