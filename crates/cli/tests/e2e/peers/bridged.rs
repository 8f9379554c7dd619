//! Clients of one era at servers of the other, on every SDK: they list, count, wait, and are asked, while either side is
//! killed.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream};

/// Clients that speak 2026-07-28 where they find it.
const MODERN: [(&str, &[&str]); 3] =
    [("typescript2", &["--mode", "auto"]), ("mcp2", &["--mode", "auto"]), ("fastmcp", &[])];

/// Clients that do not know it.
const LEGACY: [(&str, &[&str]); 6] = [
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
fn modern_clients_count_on_at_legacy_servers() {
    for mut upstream in [Upstream::typescript1(), Upstream::python1(), Upstream::rmcp()] {
        for (name, arguments) in MODERN {
            let mut gateway = Gateway::start(&upstream.url(), &[]);
            let mut client = connect(name, &gateway, arguments);
            for count in 1..=5 {
                assert_eq!(client.increment(), count, "{name}");
            }
            gateway.restart();
            for count in 6..=10 {
                assert_eq!(client.increment(), count, "{name}: the server's session is the same");
            }
            lists_waits_and_is_asked(&mut client, name);
            upstream.restart();
            assert_eq!(client.increment(), 1, "{name}: a new session of the server's");
            lists_waits_and_is_asked(&mut client, name);
        }
    }
}

#[test]
fn legacy_clients_work_at_modern_servers() {
    let mut upstream = Upstream::typescript_modern();
    for (name, arguments) in LEGACY {
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
