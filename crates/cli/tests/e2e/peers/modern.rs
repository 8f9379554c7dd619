//! Clients that ask for the modern era first, in front of servers that speak it.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream};

/// How each of them is told to ask.
pub(super) const CLIENTS: [(&str, &[&str]); 3] =
    [("fastmcp", &["--mode", "auto"]), ("typescript2", &["--mode", "auto"]), ("mcp2", &["--mode", "auto"])];

#[test]
fn they_find_it_and_lose_nothing_in_kills() {
    for mut upstream in [Upstream::typescript2(), Upstream::python2()] {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        for (name, arguments) in CLIENTS {
            let mut client = Client::connect(name, &gateway.url(), arguments);
            assert_eq!(
                (client.increment(), client.increment()),
                (1, 1),
                "{name}: no session in the modern era"
            );
            upstream.restart();
            assert_eq!(client.increment(), 1, "{name} after the upstream");
            gateway.restart();
            assert_eq!(client.increment(), 1, "{name} after the gateway");
        }
    }
}

#[test]
fn they_are_asked_by_a_result() {
    let mut upstream = Upstream::typescript2();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for (name, arguments) in CLIENTS {
        let mut client = Client::connect(name, &gateway.url(), &[arguments, &["--answer", "sheep"]].concat());
        for disaster in ["nothing", "upstream", "gateway"] {
            match disaster {
                "upstream" => upstream.restart(),
                "gateway" => gateway.restart(),
                _ => {}
            }
            let answer = client.call("ask", json!({"question": disaster}));
            assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name} after {disaster}");
        }
    }
}
