//! JSON-RPC messages in the gateway's own words.
//!
//! Ids, params and results are raw JSON and are copied as they are: whoever passes them has them from a
//! parsed [`Envelope`](crate::envelope::Envelope) or has written them.

use serde_json::Value;

/// `text` as a JSON string, with its quotes.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A response with this result. `id` is raw JSON, as in [`Id::raw`](crate::envelope::Id::raw).
pub fn result(id: &str, result: &[u8]) -> Vec<u8> {
    object(&[("id", id.as_bytes()), ("result", result)])
}

/// An error response. `id` is raw JSON; when it is not known the member is left out, never null: MCP has no
/// null ids, and clients that check the schema throw away a response that has one.
pub fn error(id: Option<&str>, code: i32, message: &str, data: Option<&Value>) -> Vec<u8> {
    let mut error = format!(r#"{{"code":{code},"message":{}"#, quoted(message));
    if let Some(data) = data {
        error.push_str(r#","data":"#);
        error.push_str(&data.to_string());
    }
    error.push('}');
    match id {
        Some(id) => object(&[("id", id.as_bytes()), ("error", error.as_bytes())]),
        None => object(&[("error", error.as_bytes())]),
    }
}

/// A request. `id` and `params` are raw JSON.
pub fn request(id: &str, method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let method = quoted(method);
    match params {
        Some(params) => object(&[("id", id.as_bytes()), ("method", method.as_bytes()), ("params", params)]),
        None => object(&[("id", id.as_bytes()), ("method", method.as_bytes())]),
    }
}

/// A notification. `params` are raw JSON.
pub fn notification(method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let method = quoted(method);
    match params {
        Some(params) => object(&[("method", method.as_bytes()), ("params", params)]),
        None => object(&[("method", method.as_bytes())]),
    }
}

/// A message object with these members, whose names need no escapes, after `jsonrpc`.
fn object(members: &[(&str, &[u8])]) -> Vec<u8> {
    const HEAD: &[u8] = br#"{"jsonrpc":"2.0""#;
    let length: usize = members.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut message = Vec::with_capacity(HEAD.len() + length + 1);
    message.extend_from_slice(HEAD);
    for (name, value) in members {
        message.extend_from_slice(b",\"");
        message.extend_from_slice(name.as_bytes());
        message.extend_from_slice(b"\":");
        message.extend_from_slice(value);
    }
    message.push(b'}');
    message
}
