//! Promise 4: a modern request passes to an upstream that speaks its era; toward another the gateway is a legacy
//! client in its name.

use serde_json::json;

use crate::harness::{Gateway, MODERN, Mcp, Upstream};

#[test]
fn a_legacy_upstream_is_spoken_to_as_its_era_has_it() {
    for upstream in [Upstream::rmcp(), Upstream::python1()] {
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::new(gateway.url());
        let found = client.modern_request("server/discover", json!({}));
        assert_eq!(found.message()["result"]["supportedVersions"], json!([MODERN]), "{found:?}");
        for round in 1..=2 {
            let counted = client.modern_request("tools/call", json!({"name": "increment", "arguments": {}}));
            let result = &counted.message()["result"];
            assert_eq!(result["structuredContent"], json!({"value": round}), "{counted:?}");
            assert_eq!((&result["resultType"], counted.header("mcp-session-id")), (&json!("complete"), None));
        }
        assert_eq!(Mcp::connected(gateway.url()).increment(), 1, "legacy clients are served beside it");
    }
}

#[test]
fn a_modern_upstream_is_passed_through() {
    let upstream = Upstream::python2();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::new(gateway.url());

    let found = client.modern_request("server/discover", json!({}));
    let versions = &found.message()["result"]["supportedVersions"];
    assert!(versions.as_array().is_some_and(|all| all.contains(&json!(MODERN))), "{found:?}");
    for _ in 0..2 {
        let counted = client.modern_request("tools/call", json!({"name": "increment", "arguments": {}}));
        assert_eq!(counted.message()["result"]["structuredContent"], json!({"value": 1}), "{counted:?}");
        assert_eq!(counted.header("mcp-session-id"), None);
        gateway.restart();
    }
    assert_eq!(Mcp::connected(gateway.url()).increment(), 1, "legacy clients are served beside it");
}
