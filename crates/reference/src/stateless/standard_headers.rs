//! `Mcp-Method` and `Mcp-Name`: what 2026-07-28 has clients repeat of a message in its headers, for those on the way
//! who do not read bodies.
//!
//! rmcp refuses requests of that revision whose headers are missing or wrong, as the revision demands. Clients that
//! are not quite there are let in by writing the headers for them before rmcp sees the request.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use data_encoding::BASE64;
use serde_json::{Value, json};

const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
/// JSON-RPC's code for headers that do not fit the message.
const HEADER_MISMATCH: i64 = -32020;
/// Around the base64 of a name that cannot stand in a header as it is.
const WRAPPED: (&str, &str) = ("=?base64?", "?=");

/// What becomes of requests whose `Mcp-Method` or `Mcp-Name` is missing or wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandardHeaders {
    /// They are served: the message itself counts.
    #[default]
    Lenient,
    /// They are refused with -32020: if one is missing where 2026-07-28 demands it, and if one contradicts the
    /// message, of whatever revision that is.
    Strict,
}

impl StandardHeaders {
    /// Makes `headers` what rmcp wants to see, or says which answer, with status 400, the client gets.
    pub(super) fn check(self, headers: &mut HeaderMap, body: &Bytes) -> Result<(), Value> {
        if self == Self::Strict && !headers.contains_key(MCP_METHOD) && !headers.contains_key(MCP_NAME) {
            return Ok(());
        }
        // What is no JSON-RPC message is rmcp's to refuse.
        let Ok(message) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
        let Some(method) = message.get("method").and_then(Value::as_str) else { return Ok(()) };
        let name = name(method, &message);
        match self {
            Self::Lenient => {
                write(headers, MCP_METHOD, method);
                if let Some(name) = name {
                    write(headers, MCP_NAME, name);
                }
                Ok(())
            }
            Self::Strict => [(MCP_METHOD, Some(method)), (MCP_NAME, name)]
                .into_iter()
                .find(|(header, value)| contradicts(headers, header, *value))
                .map_or(Ok(()), |(header, _)| Err(mismatch(&header, message.get("id")))),
        }
    }
}

/// What `Mcp-Name` is to repeat, for methods that have it.
fn name<'a>(method: &str, message: &'a Value) -> Option<&'a str> {
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        _ => return None,
    };
    message.get("params")?.get(member)?.as_str()
}

/// Sets a header to a text, wrapped where it would not get through.
fn write(headers: &mut HeaderMap, header: HeaderName, text: &str) {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
    let value = if plain && !text.starts_with(WRAPPED.0) {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::from_str(&format!("{}{}{}", WRAPPED.0, BASE64.encode(text.as_bytes()), WRAPPED.1))
    };
    if let Ok(value) = value {
        headers.insert(header, value);
    }
}

/// Whether a header is there, but says something other than `expected`. `None` is for messages that have nothing
/// to say there, with which nothing can disagree.
fn contradicts(headers: &HeaderMap, header: &HeaderName, expected: Option<&str>) -> bool {
    let Some(expected) = expected else { return false };
    headers.get_all(header).iter().any(|value| {
        let Ok(value) = value.to_str() else { return true };
        match value.strip_prefix(WRAPPED.0).and_then(|value| value.strip_suffix(WRAPPED.1)) {
            Some(wrapped) => {
                BASE64.decode(wrapped.as_bytes()).ok().is_none_or(|text| text != expected.as_bytes())
            }
            None => value != expected,
        }
    })
}

fn mismatch(header: &HeaderName, id: Option<&Value>) -> Value {
    let message = format!("the header {header} contradicts the message");
    let mut answer = json!({"jsonrpc": "2.0", "error": {"code": HEADER_MISMATCH, "message": message}});
    // An id that is not known is left out: `null` crashes some clients.
    if let Some(id) = id.filter(|id| !id.is_null()) {
        answer["id"] = id.clone();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(message: &Value) -> Bytes {
        Bytes::from(message.to_string())
    }

    fn call(name: &str) -> Bytes {
        body(&json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name}}))
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn lenient_headers_are_the_messages() {
        let mut given = headers(&[(MCP_METHOD, "tools/list")]);
        StandardHeaders::Lenient.check(&mut given, &call("echo")).unwrap();
        assert_eq!(given, headers(&[(MCP_METHOD, "tools/call"), (MCP_NAME, "echo")]));

        for (name, written) in
            [("größe", "=?base64?Z3LDtsOfZQ==?="), (" x", "=?base64?IHg=?="), ("a b", "a b")]
        {
            let mut given = HeaderMap::new();
            StandardHeaders::Lenient.check(&mut given, &call(name)).unwrap();
            assert_eq!(given[MCP_NAME], written);
            StandardHeaders::Strict.check(&mut given, &call(name)).unwrap();
        }
        let mut given = HeaderMap::new();
        StandardHeaders::Lenient.check(&mut given, &Bytes::from_static(b"no JSON")).unwrap();
        assert!(given.is_empty());
    }

    #[test]
    fn strict_headers_agree_with_the_message() {
        let strict = |pairs: &[(HeaderName, &str)]| {
            StandardHeaders::Strict.check(&mut headers(pairs), &call("echo")).err()
        };
        assert_eq!(strict(&[]), None);
        assert_eq!(strict(&[(MCP_METHOD, "tools/call"), (MCP_NAME, "=?base64?ZWNobw==?=")]), None);
        for wrong in [
            (MCP_METHOD, "tools/list"),
            (MCP_METHOD, "Tools/Call"),
            (MCP_NAME, "tally"),
            (MCP_NAME, "=?base64?!?="),
        ] {
            let refused = strict(&[wrong]).expect("a refusal");
            assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(7), &json!(-32020)));
        }
    }
}
