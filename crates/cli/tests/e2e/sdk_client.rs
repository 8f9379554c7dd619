//! The official Python client, in both versions, through the gateway while either side is killed.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream, over_each_upstream, until};

over_each_upstream!(it_keeps_its_session_through_kills, it_hears_and_answers_through_kills,);

const SDKS: [&str; 2] = ["mcp1", "mcp2"];

fn it_keeps_its_session_through_kills(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        keeps_its_session_through_kills(sdk, &mut upstream, &mut gateway);
    }
}

pub(crate) fn keeps_its_session_through_kills(name: &str, upstream: &mut Upstream, gateway: &mut Gateway) {
    let mut client = Client::connect(name, &gateway.url(), &[]);
    assert_eq!(client.increment(), 1, "{name}");
    let session = client.run(json!({"do": "list"}))["session"].clone();
    // What is driven over stdio does not say which session it holds.
    assert_eq!(session.is_string(), name != "mcp-remote", "{name}");

    upstream.restart();
    assert_eq!(client.increment(), 1, "{name}: a new count in the same session");
    gateway.restart();
    assert_eq!(client.increment(), 2, "{name}: the upstream session is the same");
    let closed = client.run(json!({"do": "list"}));
    assert_eq!(closed["session"], session, "{name}");
    client.run(json!({"do": "close"}));
}

fn it_hears_and_answers_through_kills(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        hears_and_answers_through_kills(sdk, &mut upstream, &mut gateway);
    }
}

pub(crate) fn hears_and_answers_through_kills(name: &str, upstream: &mut Upstream, gateway: &mut Gateway) {
    let mut client = Client::connect(name, &gateway.url(), &["--answer", "sheep"]);
    for disaster in ["nothing", "upstream", "gateway"] {
        match disaster {
            "upstream" => upstream.restart(),
            "gateway" => gateway.restart(),
            _ => {}
        }
        let answer = client.call("ask", json!({"question": disaster}));
        assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name} after {disaster}");
        assert_eq!(client.event("elicitation/create")["message"], disaster, "{name}");
        client.call("sleep", json!({"ms": 150}));
        let progress = client.event("notifications/progress")["progress"].as_f64();
        assert_eq!(progress, Some(100.0), "{name} after {disaster}");
    }
}

#[test]
fn it_hears_log_messages_through_kills() {
    let mut upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for sdk in SDKS {
        hears_log_messages_through_kills(sdk, &mut upstream, &mut gateway);
    }
}

pub(crate) fn hears_log_messages_through_kills(name: &str, upstream: &mut Upstream, gateway: &mut Gateway) {
    let mut client = Client::connect(name, &gateway.url(), &[]);
    client.run(json!({"do": "level", "level": "info"}));
    wait_until_it_listens(&mut client);
    upstream.restart();
    client.call("log", json!({"text": "behind the recovery"}));
    assert_eq!(client.event("notifications/message")["data"], "behind the recovery", "{name}");
    gateway.restart();
    wait_until_it_listens(&mut client);
}

/// Clients open their stream beside their first request, and again some time after it broke; what a server says
/// before reaches nobody.
pub(crate) fn wait_until_it_listens(client: &mut Client) {
    let text = "listening?";
    until("a log message", || {
        client.call("log", json!({"text": text}));
        client.event_within_a_second("notifications/message").filter(|params| params["data"] == text)
    });
    client.forget_events();
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
