//! A modern server's messages on the answer to a request, as a client with a handshake reads them.

use serde_json::Value;

use super::input::Needed;
use crate::bridge::meta;
use crate::envelope::{Envelope, Limits, Message, Outcome, Span, each_member, member, string_value};
use crate::method;
use crate::splice::{Edit, edit_members, set_member, splice};

const INVALID_PARAMS: i64 = -32602;
/// "Resource not found" of the revisions up to 2025-11-25 (Resources, "Error Handling").
const RESOURCE_NOT_FOUND: &[u8] = b"-32002";

/// The request that is being answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a str,
    /// Raw JSON of the id that the client gave it.
    pub id: &'a str,
}

/// What a message means.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// It passes as it is.
    Keep,
    /// The response, for the client.
    Response(Vec<u8>),
    /// The server needs something from the client first.
    Needs(Needed),
    /// The result is of a kind that nobody asked for, which makes it invalid (2026-07-28, "ResultType").
    Invalid,
    /// It is not for the client: a modern server asks nothing by requests of its own.
    Drop,
}

/// What the server's message means for the client.
#[must_use]
pub fn read(data: &[u8], asked: Asked<'_>) -> Said {
    let limits = Limits::ANY_DEPTH;
    let Ok(Envelope { object, message, .. }) = Envelope::parse(data, &limits) else { return Said::Keep };
    let (id, outcome) = match message {
        Message::Response { id, outcome } => (id.map(|id| id.span()), outcome),
        Message::Request { .. } => return Said::Drop,
        Message::Notification { .. } => return Said::Keep,
    };
    let mut edits = match id {
        Some(id) => vec![Edit::replace(id, asked.id.as_bytes())],
        None => set_member(data, &object, "id", asked.id.as_bytes()).into_iter().collect(),
    };
    match outcome {
        Outcome::Result(span) if data[span.start] == b'{' => {
            let result = &data[span.clone()];
            let kind = member(result, "resultType").ok().flatten();
            match kind.and_then(|kind| string_value(&result[kind])).as_deref() {
                Some("input_required") => return Said::Needs(Needed::read(result)),
                None | Some("complete") => edits.extend(legacy_result(data, &span)),
                Some(_) => return Said::Invalid,
            }
        }
        Outcome::Result(_) => {}
        Outcome::Error(span) => edits.extend(legacy_error(data, &span, asked.method)),
    }
    Said::Response(splice(data, &mut edits))
}

/// Takes out what revisions with a handshake do not have in a result: its type, how long it may be kept, who made it.
fn legacy_result(data: &[u8], at: &Span) -> Vec<Edit<'static>> {
    let mut changes = vec![("resultType", None), ("ttlMs", None), ("cacheScope", None)];
    let mut inside = Vec::new();
    if let Ok(Some(own)) = member(&data[at.clone()], "_meta") {
        let own = at.start + own.start..at.start + own.end;
        match only_reserved(&data[own.clone()], meta::SERVER_INFO) {
            Some(true) => changes.push(("_meta", None)),
            Some(false) => {
                inside = edit_members(data, &own, &[(meta::SERVER_INFO, None)]).unwrap_or_default()
            }
            None => {}
        }
    }
    inside.extend(edit_members(data, at, &changes).unwrap_or_default());
    inside
}

/// Whether a `_meta` has nothing but this member; None where it does not have it.
pub(super) fn only_reserved(own: &[u8], name: &str) -> Option<bool> {
    let (mut found, mut others) = (false, false);
    each_member(own, |member| match member.name(own).as_deref() == Some(name.as_bytes()) {
        true => found = true,
        false => others = true,
    })
    .ok()?;
    found.then_some(!others)
}

/// A missing resource has a code of its own there. That it is missing, and not some parameter wrong, the server says by
/// naming it in `data`, as 2026-07-28 shows it (Resources, "Error Handling"), or in words.
fn legacy_error(data: &[u8], at: &Span, asked: &str) -> Option<Edit<'static>> {
    if asked != method::RESOURCES_READ {
        return None;
    }
    let error = &data[at.clone()];
    let parsed: Value = serde_json::from_slice(error).ok()?;
    let text = parsed["message"].as_str().unwrap_or_default().to_ascii_lowercase();
    let says_so = text.contains("not found") || parsed["data"]["uri"].is_string();
    if parsed["code"] != INVALID_PARAMS || !says_so {
        return None;
    }
    let code = member(error, "code").ok()??;
    Some(Edit::replace(at.start + code.start..at.start + code.end, RESOURCE_NOT_FOUND))
}
