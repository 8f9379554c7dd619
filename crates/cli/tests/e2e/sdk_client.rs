//! The official Python client, in both versions, through the gateway while either side is killed.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream, over_each_upstream, until};

over_each_upstream!(it_keeps_its_session_through_kills, it_hears_and_answers_through_kills,);

const SDKS: [&str; 2] = ["mcp1", "mcp2"];

fn it_keeps_its_session_through_kills(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        let mut client = Client::connect(sdk, &gateway.url(), &[]);
        assert_eq!(client.increment(), 1, "{sdk}");
        let session = client.run(json!({"do": "list"}))["session"].clone();
        assert!(session.is_string(), "{sdk}");

        upstream.restart();
        assert_eq!(client.increment(), 1, "{sdk}: a new count in the same session");
        gateway.restart();
        assert_eq!(client.increment(), 2, "{sdk}: the upstream session is the same");
        let closed = client.run(json!({"do": "list"}));
        assert_eq!(closed["session"], session, "{sdk}");
        client.run(json!({"do": "close"}));
    }
}

fn it_hears_and_answers_through_kills(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        let mut client = Client::connect(sdk, &gateway.url(), &["--answer", "sheep"]);
        for disaster in ["nothing", "upstream", "gateway"] {
            match disaster {
                "upstream" => upstream.restart(),
                "gateway" => gateway.restart(),
                _ => {}
            }
            let answer = client.call("ask", json!({"question": disaster}));
            assert_eq!(answer["content"], json!({"answer": "sheep"}), "{sdk} after {disaster}");
            assert_eq!(client.event("elicitation/create")["message"], disaster, "{sdk}");
            client.call("sleep", json!({"ms": 150}));
            assert_eq!(client.event("notifications/progress")["progress"], 100.0, "{sdk} after {disaster}");
        }
    }
}

#[test]
fn it_hears_log_messages_behind_a_recovery() {
    let mut upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        let mut client = Client::connect(sdk, &gateway.url(), &[]);
        client.run(json!({"do": "level", "level": "info"}));
        client.call("log", json!({"text": "before"}));
        assert_eq!(client.event("notifications/message")["data"], "before", "{sdk}");
        upstream.restart();
        until("a log message behind the recovery", || {
            client.call("log", json!({"text": "behind"}));
            client.event_within_a_second("notifications/message")
        });
    }
}

#[test]
fn in_its_default_mode_it_finds_the_era_by_itself() {
    let legacy = Upstream::rmcp();
    let gateway = Gateway::start(&legacy.url(), &[]);
    let mut client = Client::connect("mcp2", &gateway.url(), &["--mode", "auto"]);
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2, "a session, by falling back to the handshake");

    let modern = Upstream::python2();
    let gateway = Gateway::start(&modern.url(), &[]);
    let mut client = Client::connect("mcp2", &gateway.url(), &["--mode", "auto"]);
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 1, "no session in the modern era");
}
