//! Promise 4: a modern request passes to an upstream that speaks its era; toward another it gets an error
//! that says so.

use serde_json::json;

use crate::harness::{Gateway, MODERN, Mcp, Upstream};

#[test]
fn a_legacy_upstream_refuses_clearly() {
    for upstream in [Upstream::rmcp(), Upstream::python1()] {
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::new(gateway.url());
        let requests =
            [("tools/list", json!({})), ("tools/call", json!({"name": "increment", "arguments": {}}))];
        for (method, params) in requests {
            let refused = client.modern_request(method, params);
            assert_eq!((refused.status, refused.error_code()), (400, Some(-32022)), "{refused:?}");
            assert_eq!(refused.message()["id"], refused.request_id);
            let supported = &refused.message()["error"]["data"]["supported"];
            assert!(supported.as_array().is_some_and(|all| !all.contains(&json!(MODERN))), "{refused:?}");
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
