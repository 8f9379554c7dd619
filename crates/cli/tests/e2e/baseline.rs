//! The servers and clients with no gateway in between: what the other tests take for granted, and what a
//! client meets where there is no gateway.

use serde_json::json;

use crate::harness::{Client, Mcp, Upstream, over_each_upstream};

over_each_upstream!(a_server_counts_and_forgets, a_server_asks_and_notifies);

fn a_server_counts_and_forgets(mut upstream: Upstream) {
    let client = Mcp::connected(upstream.url());
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);
    let before = client.call("session", json!({}));
    assert_eq!((&before["initializes"], &before["initialized"]), (&json!(1), &json!(1)), "{before}");
    assert_eq!(before["session"], json!(client.session));

    upstream.drop_sessions();
    assert_eq!(client.try_call("increment", json!({})).status, 404);
    let another = Mcp::connected(upstream.url());
    assert_eq!(another.increment(), 1);
    assert_eq!(another.call("total", json!({})), json!({"total": 3}));

    upstream.restart();
    assert_eq!(another.try_call("increment", json!({})).status, 404);
    let after = Mcp::connected(upstream.url()).call("session", json!({}));
    assert_eq!(after["initializes"], 1);
    assert_ne!(after["instance"], before["instance"]);
}

fn a_server_asks_and_notifies(upstream: Upstream) {
    let client = Mcp::connected_with(upstream.url(), json!({"elicitation": {}}));
    let stream = client.listen();
    client.call("log", json!({"text": "hello"}));
    assert_eq!(stream.next_with_method("notifications/message")["params"]["data"], "hello");

    let asked = client.start_call("ask", json!({}));
    let question = asked.next_with_method("elicitation/create");
    let reply = json!({"action": "accept", "content": {"answer": "sheep"}});
    client.reply(&question["id"], reply.clone());
    assert_eq!(asked.next_response()["result"]["structuredContent"], reply);
}

#[test]
fn the_official_clients_do_not_recover_by_themselves() {
    for sdk in ["mcp1", "mcp2"] {
        let mut upstream = Upstream::rmcp();
        let mut client = Client::connect(sdk, &upstream.url(), &[]);
        assert_eq!(client.increment(), 1);
        upstream.restart();
        let lost = client.try_run(json!({"do": "call", "name": "increment", "arguments": {}}));
        assert!(lost.get("failed").is_some(), "{sdk}: {lost}");
    }
}
