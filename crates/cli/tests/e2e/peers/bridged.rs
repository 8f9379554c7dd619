//! Clients of the modern era in front of servers that speak older revisions only: the gateway is a legacy client for
//! them, keeps their state, and brings them what the servers ask.

use serde_json::json;

use super::modern::CLIENTS;
use crate::harness::{Client, Gateway, MODERN, Upstream};

fn servers() -> [Upstream; 3] {
    [Upstream::rmcp(), Upstream::typescript1(), Upstream::python1()]
}

#[test]
fn they_count_on_in_the_modern_era_through_kills() {
    for mut upstream in servers() {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        for (name, arguments) in CLIENTS {
            let mut client = Client::connect(name, &gateway.url(), arguments);
            for round in 1..=10 {
                assert_eq!(client.increment(), round, "{name}");
            }
            let line = client.run(json!({"do": "list"}));
            assert_eq!(line["session"], json!(null), "{name} holds no session: {line}");
            gateway.restart();
            assert_eq!(client.increment(), 11, "{name} after the gateway");
            upstream.restart();
            assert_eq!(
                client.increment(),
                1,
                "{name} after the upstream: its counter is gone, the client is not"
            );
        }
        let log = gateway.log();
        assert!(log.contains(r#""era":"modern","kind":"bridged""#), "{log}");
        assert!(!log.contains(r#""method":"initialize""#), "nobody fell back: {log}");
    }
}

#[test]
fn they_are_asked_by_a_result_for_what_a_server_asks_by_a_request() {
    for mut upstream in servers() {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        for (name, arguments) in CLIENTS {
            let mut client =
                Client::connect(name, &gateway.url(), &[arguments, &["--answer", "sheep"]].concat());
            for disaster in ["nothing", "upstream", "gateway"] {
                match disaster {
                    "upstream" => upstream.restart(),
                    "gateway" => gateway.restart(),
                    _ => {}
                }
                let answer = client.call("ask", json!({"question": disaster}));
                assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name} after {disaster}");
                assert_eq!(client.event("elicitation/create")["message"], disaster, "{name}");
            }
        }
    }
}

#[test]
fn they_are_asked_for_what_a_server_asks_on_its_sessions_stream() {
    let mut upstream = Upstream::typescript1();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for (name, arguments) in CLIENTS {
        let mut client = Client::connect(name, &gateway.url(), &[arguments, &["--answer", "sheep"]].concat());
        for disaster in ["nothing", "upstream", "gateway", "nothing"] {
            match disaster {
                "upstream" => upstream.restart(),
                "gateway" => gateway.restart(),
                _ => {}
            }
            let answer = client.call("ask", json!({"question": disaster, "aside": true}));
            assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name} after {disaster}");
        }
    }
}

#[test]
fn their_models_are_asked_too() {
    let upstream = Upstream::conformance_of("legacy");
    let gateway = Gateway::start(&upstream.url(), &[]);
    // FastMCP's client declares what its callbacks can do in another way.
    for (name, arguments) in CLIENTS.into_iter().filter(|(name, _)| *name != "fastmcp") {
        let mut client = Client::connect(name, &gateway.url(), &[arguments, &["--answer", "Paris"]].concat());
        let arguments = json!({"prompt": "What is the capital of France?"});
        let line = client.run(json!({"do": "call", "name": "test_sampling", "arguments": arguments}));
        assert_eq!(line["done"]["content"][0]["text"], "LLM response: Paris", "{name}: {line}");
        client.event("sampling/createMessage");
    }
    assert!(gateway.log().contains(MODERN) || gateway.log().contains(r#""era":"modern""#));
}
