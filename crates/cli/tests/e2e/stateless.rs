//! Promise 3: with `--stateless`, no session ids are given or read, and every request is on its own.

use serde_json::json;

use crate::harness::{Gateway, Mcp, Upstream, over_each_upstream};

over_each_upstream!(every_request_is_on_its_own, there_are_no_ids_and_no_streams);

fn every_request_is_on_its_own(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &["--stateless"]);
    let caller = Mcp::new(gateway.url());
    assert_eq!(caller.increment(), 1);
    assert_eq!(caller.increment(), 1);
    upstream.restart();
    assert_eq!(caller.increment(), 1);
    gateway.restart();
    assert_eq!(caller.increment(), 1);
}

fn there_are_no_ids_and_no_streams(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &["--stateless"]);
    let mut client = Mcp::new(gateway.url());
    let hello = client.initialize();
    assert_eq!(hello.header("mcp-session-id"), None);
    client.initialized();

    client.session = Some("left-over-from-somewhere".to_owned());
    let answer = client.try_call("increment", json!({}));
    assert_eq!(answer.message()["result"]["structuredContent"], json!({"value": 1}), "{answer:?}");
    assert_eq!(answer.header("mcp-session-id"), None);

    let stream = client.bare("GET");
    assert_eq!(stream.status, 405);
    assert!(stream.header("allow").is_some_and(|methods| methods.contains("POST")), "{stream:?}");
    assert_eq!(Mcp::new(gateway.at("/sse")).bare("GET").status, 404);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(Mcp::new(gateway.at("/message")).post(&ping).status, 404);
}
