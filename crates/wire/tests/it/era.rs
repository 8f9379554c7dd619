//! Versions, eras, probes, methods.

use proptest::prelude::*;
use throughline_wire::era::{Probe, discover, is_modern, request_era};
use throughline_wire::method::{self, is_repeatable};
use throughline_wire::version::{ASSUMED, Era, ProtocolVersion};

#[test]
fn versions_have_one_name_one_code_and_the_order_of_their_dates() {
    for version in ProtocolVersion::ALL {
        assert_eq!(ProtocolVersion::parse(version.as_str()), Some(*version));
        assert_eq!(ProtocolVersion::from_code(version.code()), Some(*version));
        assert_eq!(ProtocolVersion::LEGACY.contains(version), version.era() == Era::Legacy);
        assert_eq!(is_modern(version.as_str()), version.era() == Era::Modern);
    }
    assert!(ProtocolVersion::ALL.is_sorted_by(|a, b| a < b && a.as_str() < b.as_str()));
    assert_eq!(ASSUMED.as_str(), "2025-03-26");
    assert_eq!(ProtocolVersion::parse("2025-03-27"), None);
    assert_eq!(ProtocolVersion::from_code(0), None);
}

#[test]
fn a_request_is_modern_by_its_version_only() {
    for (header, meta, era) in [
        (None, None, Era::Legacy),
        (Some("2025-11-25"), None, Era::Legacy),
        (Some("2026-07-28"), None, Era::Modern),
        (None, Some("2026-07-28"), Era::Modern),
        (Some("2025-11-25"), Some("2026-07-28"), Era::Modern),
        (Some("2031-01-01"), None, Era::Modern),
        (Some("2026-07-27"), None, Era::Legacy),
        (Some("1900-01-01"), None, Era::Legacy),
        (Some("2026-13-01"), None, Era::Legacy),
        (Some("2026-07-28 "), None, Era::Legacy),
        (Some("2026-07-2é"), None, Era::Legacy),
        (Some("DRAFT-2026-v1"), None, Era::Legacy),
        (Some("latest"), None, Era::Legacy),
        (None, Some("2025-11-25"), Era::Legacy),
        (Some("2025-11-25"), Some("v999.0.0"), Era::Modern),
        (None, Some(""), Era::Modern),
    ] {
        assert_eq!(request_era(header, meta), era, "{header:?} {meta:?}");
    }
}

#[test]
fn a_server_is_modern_if_it_says_so() {
    for (status, body) in [
        (
            200,
            r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{}}}"#,
        ),
        (200, r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2027-01-01"]}}"#),
        (
            200,
            "id: 1\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{\"supportedVersions\":[\"2026-07-28\"]}}\n\n",
        ),
        (400, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"Header mismatch"}}"#),
        (
            400,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"Missing capability","data":{"requiredCapabilities":{}}}}"#,
        ),
        (
            400,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-09-30"],"requested":"2026-07-28"}}}"#,
        ),
    ] {
        assert_eq!(discover(status, body.as_bytes()), Probe::Modern, "{status} {body}");
    }
}

#[test]
fn a_server_that_answers_otherwise_is_legacy() {
    for (status, body) in [
        (200, r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2025-11-25"]}}"#),
        (200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        (200, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#),
        (
            200,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":0,"message":"method \"server/discover\" is invalid during session initialization"}}"#,
        ),
        // C# and Go.
        (
            400,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2025-11-25","2025-06-18"]}}}"#,
        ),
        (400, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version"}}"#),
        (
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
        ),
        (
            400,
            r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Missing session ID"}}"#,
        ),
        (400, "Bad Request: Session ID is required"),
        (404, "<html>"),
        (405, ""),
        (406, ""),
        (400, r#"{"error":-32020}"#),
    ] {
        assert_eq!(discover(status, body.as_bytes()), Probe::Legacy, "{status} {body}");
    }
}

#[test]
fn what_says_nothing_is_not_kept() {
    let modern = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"Header mismatch"}}"#;
    for (status, body) in [
        (200, ""),
        (202, ""),
        (200, "<html>Sign in</html>"),
        (200, ": keep-alive\n\n"),
        (200, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#),
        (302, ""),
        (401, ""),
        (403, modern),
        (408, ""),
        (429, modern),
        (500, modern),
        (503, "no healthy upstream"),
    ] {
        assert_eq!(discover(status, body.as_bytes()), Probe::Inconclusive, "{status} {body}");
    }
}

#[test]
fn only_what_reads_or_sets_is_repeated() {
    for name in
        [method::PING, method::TOOLS_LIST, method::RESOURCES_READ, method::SET_LEVEL, method::TASKS_RESULT]
    {
        assert!(is_repeatable(name), "{name}");
    }
    for name in
        [method::TOOLS_CALL, method::SAMPLING, method::ELICIT, method::TASKS_CANCEL, "", "vendor/get", "PING"]
    {
        assert!(!is_repeatable(name), "{name}");
    }
}

proptest! {
    #[test]
    fn no_answer_panics(status: u16, body: Vec<u8>) {
        let _ = discover(status, &body);
    }

    #[test]
    fn no_version_panics(version: String) {
        prop_assert_eq!(request_era(Some(&version), None) == Era::Modern, is_modern(&version));
    }
}
