//! Clients that shake hands, at a server of the era that does not: they list, wait, and are asked, while either side is
//! killed.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream};

/// Those that know nothing else, and those that are told so.
const CLIENTS: [(&str, &[&str]); 6] = [
    ("typescript1", &[]),
    ("typescript2", &["--mode", "legacy"]),
    ("mcp1", &[]),
    ("mcp2", &["--mode", "legacy"]),
    ("mcp-remote", &[]),
    ("langchain", &[]),
];

fn connect(name: &str, gateway: &Gateway, arguments: &[&str]) -> Client {
    Client::connect(name, &gateway.url(), &[arguments, &["--answer", "sheep"]].concat())
}

/// What a client can do in any cell.
fn lists_waits_and_is_asked(client: &mut Client, what: &str) {
    let tools = client.run(json!({"do": "list"}))["done"].clone();
    assert!(tools.as_array().is_some_and(|tools| tools.contains(&json!("increment"))), "{what}: {tools}");
    client.call("sleep", json!({"ms": 150}));
    let progress = client.event("notifications/progress")["progress"].as_f64();
    assert_eq!(progress, Some(100.0), "{what}");
    let answer = client.call("ask", json!({"question": what}));
    assert_eq!(answer["content"], json!({"answer": "sheep"}), "{what}");
    assert_eq!(client.event("elicitation/create")["message"], what);
}

#[test]
fn they_work_at_a_server_without_sessions() {
    let mut upstream = Upstream::typescript_modern();
    for (name, arguments) in CLIENTS {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        let mut client = connect(name, &gateway, arguments);
        assert_eq!((client.increment(), client.increment()), (1, 1), "{name}: no state in the modern era");
        lists_waits_and_is_asked(&mut client, name);
        gateway.restart();
        lists_waits_and_is_asked(&mut client, name);
        upstream.restart();
        lists_waits_and_is_asked(&mut client, name);
    }
}
