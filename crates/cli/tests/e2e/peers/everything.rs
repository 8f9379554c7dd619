//! `@modelcontextprotocol/server-everything`: state in sessions, tools that appear with a client's capabilities,
//! questions of every kind. It answers a session that it does not know with 400.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Mcp, Upstream};
use crate::resumed::is_asked;

const DISASTERS: [&str; 3] = ["nothing", "upstream", "gateway"];

fn strike(disaster: &str, upstream: &mut Upstream, gateway: &mut Gateway) {
    match disaster {
        "upstream" => upstream.restart(),
        "gateway" => gateway.restart(),
        _ => {}
    }
}

fn text(answer: &Value) -> &str {
    answer["content"][0]["text"].as_str().unwrap_or_default()
}

#[test]
fn what_a_session_holds_lives_as_long_as_the_upstream() {
    let mut upstream = Upstream::everything();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    let kept = json!({"uri": "demo://resource/session/kept.gz"});
    let file = json!({"name": "kept.gz", "data": "data:text/plain,sheep", "outputType": "resourceLink"});
    assert_eq!(client.try_call("gzip-file-as-resource", file).status, 200);
    let before = client.request("resources/read", kept.clone()).message();
    assert!(before["result"]["contents"][0]["blob"].is_string(), "{before}");

    gateway.restart();
    let after = client.request("resources/read", kept.clone()).message();
    assert_eq!(after["result"], before["result"], "the upstream session is the same");
    upstream.restart();
    let lost = client.request("resources/read", kept);
    assert_eq!((lost.status, lost.error_code()), (200, Some(-32602)), "{lost:?}");
    assert_eq!(Mcp::connected(gateway.url()).try_call("echo", json!({"message": "sheep"})).status, 200);
}

#[test]
fn tools_that_came_with_the_handshake_come_again() {
    let mut upstream = Upstream::everything();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected_with(gateway.url(), json!({"sampling": {}, "elicitation": {}}));
    for disaster in DISASTERS {
        strike(disaster, &mut upstream, &mut gateway);
        let asked = client.start_call("trigger-sampling-request", json!({"prompt": "sheep", "maxTokens": 9}));
        let question = asked.next_with_method("sampling/createMessage");
        let content = json!({"type": "text", "text": disaster});
        client.reply(&question["id"], json!({"role": "assistant", "content": content, "model": "test"}));
        let answer = asked.next_response();
        assert!(text(&answer["result"]).contains(disaster), "{answer}");

        let asked = client.start_call("trigger-elicitation-request", json!({}));
        let question = asked.next_with_method("elicitation/create");
        client.reply(&question["id"], json!({"action": "decline"}));
        assert!(asked.next_response()["result"].is_object(), "after {disaster}");
    }
}

#[test]
fn it_asks_for_roots_again() {
    let mut upstream = Upstream::everything();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected_with(gateway.url(), json!({"roots": {"listChanged": true}}));
    let stream = client.listen();
    for _ in 0..2 {
        // Soon after the handshake, on the standing stream.
        let question = stream.next_with_method("roots/list");
        client.reply(&question["id"], json!({"roots": [{"uri": "file:///sheep"}]}));
        let told = stream.next_with_method("notifications/message");
        assert!(told["params"]["data"].as_str().is_some_and(|data| data.contains("1 root")), "{told}");
        upstream.restart();
        client.request("ping", json!({}));
    }
}

#[test]
fn subscriptions_and_log_level_are_set_again() {
    let mut upstream = Upstream::everything();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    let stream = client.listen();
    let uri = json!({"uri": "demo://resource/dynamic/text/1"});
    assert_eq!(client.request("resources/subscribe", uri.clone()).status, 200);
    assert_eq!(client.request("logging/setLevel", json!({"level": "debug"})).status, 200);
    for restarted in [false, true] {
        if restarted {
            upstream.restart();
        }
        // Each of these sends one message at once.
        assert_eq!(client.try_call("toggle-subscriber-updates", json!({})).status, 200);
        assert_eq!(stream.next_with_method("notifications/resources/updated")["params"], uri);
        assert_eq!(client.try_call("toggle-simulated-logging", json!({})).status, 200);
        stream.next_with_method("notifications/message");
    }
}

#[test]
fn a_long_operation_tells_of_its_progress() {
    let mut upstream = Upstream::everything();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    for disaster in DISASTERS {
        strike(disaster, &mut upstream, &mut gateway);
        let running =
            client.start_call("trigger-long-running-operation", json!({"duration": 0.3, "steps": 3}));
        for step in 1..=3 {
            assert_eq!(running.next_with_method("notifications/progress")["params"]["progress"], step);
        }
        assert!(text(&running.next_response()["result"]).contains("completed"), "after {disaster}");
    }
}

#[test]
fn an_idless_caller_uses_it_too() {
    let mut upstream = Upstream::everything();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let caller = Mcp::new(gateway.url());
    for disaster in DISASTERS {
        strike(disaster, &mut upstream, &mut gateway);
        let echoed = caller.try_call("echo", json!({"message": disaster})).message();
        assert_eq!(text(&echoed["result"]), format!("Echo: {disaster}"), "{echoed}");
    }
}

#[test]
fn it_asks_the_official_clients_for_samples_over_replicas() {
    let upstream = Upstream::everything();
    let arguments = json!({"prompt": "count", "maxTokens": 9});
    let tool = json!({"name": "trigger-sampling-request", "arguments": arguments});
    for name in ["mcp1", "mcp2", "typescript1", "typescript2"] {
        is_asked(name, &upstream, &tool, "sampling/createMessage");
    }
}

#[test]
fn the_official_python_clients_use_it() {
    let mut upstream = Upstream::everything();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in ["mcp1", "mcp2"] {
        let mut client = Client::connect(sdk, &gateway.url(), &["--answer", "sheep"]);
        let session = client.run(json!({"do": "list"}))["session"].clone();
        for disaster in DISASTERS {
            strike(disaster, &mut upstream, &mut gateway);
            let sum = client.run(json!({"do": "call", "name": "get-sum", "arguments": {"a": 2, "b": 3}}));
            assert!(text(&sum["done"]).contains('5'), "{sdk} after {disaster}: {sum}");
            let weather = client.call("get-structured-content", json!({"location": "Chicago"}));
            assert!(weather["temperature"].is_number(), "{sdk} after {disaster}: {weather}");
            let sampling = json!({"prompt": "count", "maxTokens": 9});
            client.call("trigger-sampling-request", sampling);
            client.event("sampling/createMessage");
            client.call("trigger-long-running-operation", json!({"duration": 0.2, "steps": 2}));
            client.event("notifications/progress");
            let read = client.run(json!({"do": "read", "uri": "demo://resource/dynamic/text/1"}));
            assert_eq!(read["done"][0]["mimeType"], "text/plain", "{sdk} after {disaster}: {read}");
            assert_eq!(read["session"], session, "{sdk} after {disaster}");
        }
    }
}
