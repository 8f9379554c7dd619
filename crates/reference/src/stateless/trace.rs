//! W3C Trace Context: which trace a request belongs to, as the client's `_meta` or its HTTP headers say.

use axum::http::HeaderMap;
use rmcp::model::RequestMetaObject;
use schemars::JsonSchema;
use serde::Serialize;

/// The trace that a request is part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct TraceContext {
    /// 32 hexadecimal digits.
    pub(super) trace_id: String,
    /// The caller's span: 16 hexadecimal digits.
    parent_id: String,
    /// Whether the caller records this trace.
    sampled: bool,
    /// Where it was found: `_meta` or `headers`.
    source: String,
}

impl TraceContext {
    /// The context in `_meta`, which the MCP client itself wrote, or else in the headers, which anything on the
    /// way may have written. What is not well-formed is as good as absent: the specification has traces restart
    /// there, not requests fail.
    pub(super) fn of(meta: &RequestMetaObject, headers: Option<&HeaderMap>) -> Option<Self> {
        let in_meta = || parse(meta.get_traceparent()?, "_meta");
        let in_headers = || parse(headers?.get("traceparent")?.to_str().ok()?, "headers");
        in_meta().or_else(in_headers)
    }
}

/// Reads `version-traceid-parentid-flags`. A later version may have more behind the flags.
fn parse(traceparent: &str, source: &str) -> Option<TraceContext> {
    let mut parts = traceparent.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = hexadecimal(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let named = |id: &str| id.bytes().any(|digit| digit != b'0');
    if !known || !hexadecimal(trace_id, 32) || !hexadecimal(parent_id, 16) || !hexadecimal(flags, 2) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (named(trace_id) && named(parent_id)).then(|| TraceContext {
        trace_id: trace_id.to_owned(),
        parent_id: parent_id.to_owned(),
        sampled: flags & 1 == 1,
        source: source.to_owned(),
    })
}

/// Whether this is so many digits, in lower case as the specification has them.
fn hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn only_what_the_specification_allows_is_a_context() {
        let read = |text: &str| parse(text, "headers").map(|trace| (trace.trace_id, trace.sampled));
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-01")), Some((TRACE.to_owned(), true)));
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-02")), Some((TRACE.to_owned(), false)));
        assert_eq!(read(&format!("01-{TRACE}-{SPAN}-01-later")), Some((TRACE.to_owned(), true)));
        let zeros = "0".repeat(32);
        for wrong in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            "nonsense".to_owned(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }
}
