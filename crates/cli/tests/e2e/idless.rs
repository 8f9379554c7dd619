//! Promise 2: a client that never sends a session id has a continuing session all the same.

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Upstream, over_each_upstream};

over_each_upstream!(
    plain_calls_share_a_session,
    many_initializes_cost_one,
    the_turns_of_copilot_studio,
    through_the_death_of_either_side,
    callers_that_cannot_be_told_apart_are_isolated,
);

fn plain_calls_share_a_session(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let caller = Mcp::new(gateway.url());
    let tools = caller.request("tools/list", json!({}));
    assert!(tools.message()["result"]["tools"].is_array(), "{tools:?}");
    for count in 1..=3 {
        assert_eq!(caller.increment(), count);
    }
    assert_eq!(caller.call("session", json!({}))["initializes"], 1);

    let plain = caller.clone().with_header("Accept", "application/json").try_call("increment", json!({}));
    assert_eq!(plain.header("content-type"), Some("application/json"), "{plain:?}");
    assert_eq!(plain.message()["result"]["structuredContent"], json!({"value": 4}));

    let stream = caller.bare("GET");
    assert_eq!(stream.status, 405, "there is no stream to get without an id");
    assert!(stream.header("allow").is_some());
}

fn many_initializes_cost_one(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    // It is given an id each time and never sends one.
    let caller = Mcp::new(gateway.url());
    for count in 1..=5 {
        caller.initialize();
        caller.initialized();
        assert_eq!(caller.increment(), count);
    }
    let session = caller.call("session", json!({}));
    assert_eq!(session["initializes"], 1, "{session}");
    assert_eq!(session["initialized"], 1, "{session}");
}

/// As captured: string ids, version 2024-11-05, members that nobody defined, a null id on a notification.
fn the_turns_of_copilot_studio(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let studio = Mcp::new(gateway.url())
        .with_header("Accept", "application/json,text/event-stream")
        .with_header("Content-Type", "application/json; charset=utf-8");
    for turn in 1..=3 {
        let params = json!({
            "protocolVersion": "2024-11-05",
            "capabilities": {},
            "clientInfo": {"name": "mcs", "version": "1.0.0"},
            "sessionContext": {},
        });
        let hello = studio.post(&request("1", "initialize", params)).message();
        assert_eq!((&hello["id"], &hello["result"]["protocolVersion"]), (&json!("1"), &json!("2024-11-05")));

        let noted =
            studio.post(&json!({"jsonrpc": "2.0", "id": null, "method": "notifications/initialized"}));
        assert_eq!((noted.status, noted.body.as_str()), (202, ""));

        let tools = studio.post(&request("2", "tools/list", json!({}))).message();
        assert!(tools["result"]["tools"].is_array(), "{tools}");

        let call = json!({"name": "increment", "arguments": {}});
        let counted = studio.post(&request("3", "tools/call", call)).message();
        assert_eq!(counted["id"], "3");
        assert_eq!(counted["result"]["structuredContent"], json!({"value": turn}));
    }
    assert_eq!(studio.call("session", json!({}))["initializes"], 1);
}

fn request(id: &str, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn through_the_death_of_either_side(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let caller = Mcp::new(gateway.url());
    assert_eq!(caller.increment(), 1);
    assert_eq!(caller.increment(), 2);

    gateway.restart();
    assert_eq!(caller.increment(), 3, "the upstream session is the same");
    upstream.restart();
    assert_eq!(caller.increment(), 1);
    assert_eq!(caller.increment(), 2);
}

/// Behind another proxy many callers look like one: none may count with another's session.
fn callers_that_cannot_be_told_apart_are_isolated(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let headers =
        [("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "192.0.2.1"), ("Via", "1.1 proxy.example")];
    for (name, value) in headers {
        let caller = Mcp::new(gateway.url()).with_header(name, value);
        assert_eq!(caller.increment(), 1, "{name}");
        assert_eq!(caller.increment(), 1, "{name}");
    }
}
