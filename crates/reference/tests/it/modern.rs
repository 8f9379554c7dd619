//! How the stateless server speaks the revisions: with 2026-07-28 and its headers, and with those before, without
//! their sessions.

use serde_json::json;
use throughline_reference::stateless::{Era, StandardHeaders, StatelessConfig};

use crate::mcp::{LEGACY, MODERN, Mcp};
use crate::server::{Stateless, modern, quick};

#[test]
fn results_say_what_they_are_and_how_long_they_keep() {
    let (one, other) = (Stateless::start(quick()), Stateless::start(quick()));
    let found = modern(&one.client(), "server/discover", json!({})).message()["result"].clone();
    assert!(found["supportedVersions"].as_array().unwrap().contains(&json!(MODERN)), "{found}");
    assert_eq!(found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "throughline-reference");
    assert_eq!(found["capabilities"], json!({"tools": {}, "prompts": {}, "resources": {"subscribe": true}}));

    for method in
        ["server/discover", "tools/list", "resources/list", "resources/templates/list", "prompts/list"]
    {
        let lists = [&one, &one, &other].map(|server| modern(&server.client(), method, json!({})));
        let [first, second, elsewhere] = lists.map(|answer| answer.message()["result"].clone());
        assert_eq!(first["resultType"], "complete", "{method}");
        assert_eq!((&first["ttlMs"], &first["cacheScope"]), (&json!(300_000), &json!("public")), "{method}");
        // The very same text: order counts, for caches and for what models have been shown before.
        assert_eq!(first.to_string(), second.to_string(), "{method}");
        assert_eq!(first.to_string(), elsewhere.to_string(), "{method}");
        if method != "server/discover" {
            let paged = modern(&one.client(), method, json!({"cursor": "from-elsewhere"}));
            assert_eq!(paged.error_code(), Some(-32602), "{method}");
        }
    }
    assert_eq!(modern(&one.client(), "completion/complete", json!({
        "ref": {"type": "ref/prompt", "name": "explain_fact"}, "argument": {"name": "topic", "value": "m"},
    })).status, 404);
}

#[test]
fn legacy_clients_need_no_session() {
    let server = Stateless::start(quick());
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY] {
        let hello = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}});
        let answer = server.client().request("initialize", hello);
        assert_eq!(answer.header("mcp-session-id"), None);
        let result = answer.message()["result"].clone();
        assert_eq!(result["protocolVersion"], version);
        assert_eq!(
            result["capabilities"]["resources"],
            json!({}),
            "subscriptions need a session before 2026-07-28"
        );
        assert_eq!(result.get("resultType"), None);
    }
    let client = server.client();
    client.initialized();
    let list = client.request("tools/list", json!({})).message()["result"].clone();
    assert_eq!(list["tools"].as_array().map(Vec::len), Some(6));
    assert_eq!((list.get("ttlMs"), list.get("resultType")), (None, None));
    assert_eq!(client.call("echo", json!({"message": "hi"}))["message"], "hi");
    assert_eq!(
        client.request("resources/subscribe", json!({"uri": "clock://now"})).error_code(),
        Some(-32601)
    );

    // Ids that another server gave out are of no concern.
    let mut stray = server.client();
    stray.session = Some("from-elsewhere".to_owned());
    assert_eq!(stray.call("echo", json!({"message": "hi"}))["message"], "hi");
    for method in ["GET", "DELETE"] {
        let answer = stray.bare(method);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(Mcp::new(format!("{}/sse", server.base)).bare("GET").status, 404);
    assert_eq!(
        Mcp::new(format!("{}/mcp/", server.base)).call("echo", json!({"message": "hi"}))["message"],
        "hi"
    );
}

#[test]
fn each_era_refuses_the_others() {
    let only = |era| Stateless::start(StatelessConfig { era, ..quick() });
    let legacy = only(Era::Legacy);
    let refused = modern(&legacy.client(), "tools/list", json!({}));
    assert_eq!((refused.status, refused.error_code()), (400, Some(-32022)), "{refused:?}");
    legacy.client().initialize();

    let new = only(Era::Modern);
    assert_eq!(modern(&new.client(), "tools/list", json!({})).status, 200);
    let hello =
        json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}});
    let refused = new.client().request("initialize", hello);
    assert_eq!(refused.error_code(), Some(-32022), "{refused:?}");
    assert_eq!(refused.message()["error"]["data"]["supported"], json!([MODERN]));
    let refused = new.client().request("tools/list", json!({}));
    assert_eq!((refused.status, refused.error_code()), (400, Some(-32020)), "{refused:?}");
}

/// A call of `echo` by 2026-07-28, with these for `Mcp-Method` and `Mcp-Name`.
fn echo(server: &Stateless, method: Option<&str>, name: Option<&str>) -> (u16, Option<i64>) {
    let mut client = server.client().with_header("MCP-Protocol-Version", MODERN);
    for (header, value) in [("Mcp-Method", method), ("Mcp-Name", name)] {
        if let Some(value) = value {
            client = client.with_header(header, value);
        }
    }
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "echo", "arguments": {"message": "hi"}, "_meta": meta});
    let answer = client.request("tools/call", params);
    assert!(answer.status == 400 || answer.message()["result"]["structuredContent"]["message"] == "hi");
    (answer.status, answer.error_code())
}

#[test]
fn the_new_headers_are_demanded_or_not() {
    let lenient = Stateless::start(quick());
    let strict = Stateless::start(StatelessConfig { standard_headers: StandardHeaders::Strict, ..quick() });
    let (served, refused) = ((200, None), (400, Some(-32020)));
    for (method, name, strictly) in [
        (Some("tools/call"), Some("echo"), served),
        (Some("tools/call"), Some("=?base64?ZWNobw==?="), served),
        (None, None, refused),
        (Some("tools/call"), None, refused),
        (None, Some("echo"), refused),
        (Some("tools/list"), Some("echo"), refused),
        (Some("tools/call"), Some("tally"), refused),
    ] {
        assert_eq!(echo(&lenient, method, name), served, "{method:?} {name:?}");
        assert_eq!(echo(&strict, method, name), strictly, "{method:?} {name:?}");
    }
    // The version's header is demanded by either: without it a proxy cannot tell which revision this is.
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for server in [&lenient, &strict] {
        let unversioned = server.client().request("tools/list", json!({"_meta": meta}));
        assert_eq!((unversioned.status, unversioned.error_code()), (400, Some(-32020)));
        // Revisions before have no such headers; but what is there has to be true.
        assert_eq!(server.client().call("echo", json!({"message": "hi"}))["message"], "hi");
    }
    let contradicting = strict.client().with_header("Mcp-Method", "tools/list");
    let answer = contradicting.try_call("echo", json!({"message": "hi"}));
    assert_eq!((answer.status, answer.error_code()), (400, Some(-32020)));
}
