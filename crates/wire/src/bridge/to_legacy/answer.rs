//! A legacy server's response as a modern client reads it.

use super::with_meta;
use crate::bridge::meta;
use crate::envelope::{EnvelopeError, Span, member};
use crate::method;
use crate::splice::{Edit, edit_members, set_member, splice};

/// JSON-RPC: the method is not known.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC: the parameters are wrong; in the modern era also of a resource that is not there (Resources, "Error
/// Handling").
pub const INVALID_PARAMS: i64 = -32602;
/// The legacy era's code of a resource that is not there.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// The legacy era's code of a call that needs visits to URLs first (2025-11-25, Elicitation, "URL Elicitation Required
/// Error").
pub const URL_ELICITATION_REQUIRED: i64 = -32042;

/// For how long a client may keep what the modern era wants a word about (Caching).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    /// Milliseconds; 0: it is stale at once.
    pub ttl_ms: u64,
    /// Whether others may be given it.
    pub public: bool,
}

impl Caching {
    fn scope(self) -> &'static [u8] {
        if self.public { br#""public""# } else { br#""private""# }
    }
}

/// Whether results of this method say how long they may be kept (Caching, "Cacheable Results").
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        method::DISCOVER
            | method::TOOLS_LIST
            | method::PROMPTS_LIST
            | method::RESOURCES_LIST
            | method::TEMPLATES_LIST
            | method::RESOURCES_READ
    )
}

/// A result's raw JSON with what the modern era adds; what the server says itself stays.
///
/// # Errors
/// Where one of these members comes twice, or the result is no object.
pub fn result(
    result: &[u8],
    method: &str,
    caching: Caching,
    server_info: Option<&[u8]>,
) -> Result<Vec<u8>, EnvelopeError> {
    let ttl = caching.ttl_ms.to_string();
    let mut changes: Vec<(&str, Option<&[u8]>)> = Vec::new();
    let mut add = |name, value| -> Result<(), EnvelopeError> {
        if member(result, name)?.is_none() {
            changes.push((name, Some(value)));
        }
        Ok(())
    };
    add("resultType", br#""complete""#)?;
    if is_cacheable(method) {
        add("ttlMs", ttl.as_bytes())?;
        add("cacheScope", caching.scope())?;
    }
    let complete = splice(result, &mut edit_members(result, &(0..result.len()), &changes)?);
    match server_info {
        Some(info) => with_meta(&complete, meta::SERVER_INFO, info),
        None => Ok(complete),
    }
}

/// The response, an object at `object`, with its result or error, at `at`, replaced, under this id: also where it names
/// none, since it is clear by where it came what it answers.
pub fn respond(body: &[u8], object: &Span, id: &str, at: Span, result: &[u8]) -> Vec<u8> {
    let under = set_member(body, object, "id", id.as_bytes()).ok();
    splice(body, &mut under.into_iter().chain([Edit::replace(at, result)]).collect::<Vec<_>>())
}

/// The code of an error's raw JSON.
pub fn code(error: &[u8]) -> Option<i64> {
    let at = member(error, "code").ok()??;
    std::str::from_utf8(&error[at]).ok()?.parse().ok()
}

/// An error's raw JSON under the modern era's code.
pub fn error(error: &[u8]) -> Vec<u8> {
    if code(error) != Some(RESOURCE_NOT_FOUND) {
        return error.to_vec();
    }
    let new = INVALID_PARAMS.to_string();
    match set_member(error, &(0..error.len()), "code", new.as_bytes()) {
        Ok(edit) => splice(error, &mut [edit]),
        Err(_) => error.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_result_is_complete_and_says_how_long_it_lasts() {
        let info = br#"{"name":"s","version":"1"}"#;
        for (method, before, after) in [
            ("tools/call", r#"{ "content":[1.0] }"#, r#"{"resultType":"complete", "content":[1.0] }"#),
            (
                "tools/list",
                r#"{"tools":[]}"#,
                r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[]}"#,
            ),
            ("x", "{}", r#"{"resultType":"complete"}"#),
            (
                "tools/list",
                r#"{"ttlMs":7,"cacheScope":"public","resultType":"complete"}"#,
                r#"{"ttlMs":7,"cacheScope":"public","resultType":"complete"}"#,
            ),
        ] {
            assert_eq!(text(result(before.as_bytes(), method, Caching::default(), None).unwrap()), after);
        }
        assert_eq!(
            text(result(br#"{"_meta":{"a":1}}"#, "x", Caching::default(), Some(info)).unwrap()),
            r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"},"a":1}}"#
        );
        assert_eq!(
            text(result(b"{}", "resources/read", Caching { ttl_ms: 5, public: true }, Some(info)).unwrap()),
            r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"resultType":"complete","ttlMs":5,"cacheScope":"public"}"#
        );
    }

    #[test]
    fn a_missing_resource_has_the_modern_code() {
        let before = br#"{"code":-32002,"message":"Resource not found","data":{"uri":"a:b"}}"#;
        assert_eq!(
            text(error(before)),
            r#"{"code":-32602,"message":"Resource not found","data":{"uri":"a:b"}}"#
        );
        let other = br#"{"code":-32603,"message":"-32002"}"#;
        assert_eq!(error(other), other);
    }
}
