//! Promise 4: a modern request passes to an upstream that speaks its era, and is bridged to another.

use serde_json::json;

use crate::harness::{Gateway, MODERN, Mcp, Upstream};

#[test]
fn at_a_legacy_upstream_a_modern_client_has_a_session_without_knowing() {
    for mut upstream in [Upstream::rmcp(), Upstream::python1()] {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::new(gateway.url());
        let found = client.modern_request("server/discover", json!({}));
        assert_eq!(found.message()["result"]["supportedVersions"], json!([MODERN]), "{found:?}");
        let count = || {
            let counted = client.modern_request("tools/call", json!({"name": "increment", "arguments": {}}));
            assert_eq!(counted.header("mcp-session-id"), None);
            counted.message()["result"].clone()
        };
        for expected in 1..=10 {
            let counted = count();
            assert_eq!(counted["structuredContent"], json!({"value": expected}), "{counted}");
            assert_eq!(counted["resultType"], "complete", "{counted}");
            if expected == 5 {
                gateway.restart();
            }
        }
        upstream.restart();
        assert_eq!(count()["structuredContent"], json!({"value": 1}), "a new session of the server's");
        assert_eq!(Mcp::connected(gateway.url()).increment(), 1, "legacy clients have sessions of their own");
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
