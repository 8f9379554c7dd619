//! HTTP with SSE, the transport of revision 2024-11-05: the SDKs' clients of it, and `server-everything` behind it.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Mcp, Upstream};

const CLIENTS: [&str; 4] = ["mcp1", "mcp2", "typescript1", "typescript2"];

#[test]
fn the_sdks_clients_keep_their_session_while_the_upstream_is_killed() {
    let mut upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    for name in CLIENTS {
        let mut client = Client::connect(name, &gateway.at("/sse"), &["--answer", "sheep"]);
        assert_eq!((client.increment(), client.increment()), (1, 2), "{name}");
        for disaster in ["nothing", "upstream"] {
            if disaster == "upstream" {
                upstream.restart();
                assert_eq!(client.increment(), 1, "{name}: a new count in the same session");
            }
            let answer = client.call("ask", json!({"question": disaster}));
            assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name} after {disaster}");
            assert_eq!(client.event("elicitation/create")["message"], disaster, "{name}");
            client.call("sleep", json!({"ms": 150}));
            let progress = client.event("notifications/progress")["progress"].as_f64();
            assert_eq!(progress, Some(100.0), "{name} after {disaster}");
        }
        client.run(json!({"do": "close"}));
    }
}

#[test]
fn server_everything_is_used_over_its_oldest_transport() {
    let mut upstream = Upstream::everything_over("sse");
    let mut gateway = Gateway::start(&upstream.sse_url(), &[]);
    let text = |answer: &Value| answer["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    let plain = Mcp::connected(gateway.url());
    for (name, url) in [("mcp1", "/mcp"), ("typescript2", "/mcp"), ("mcp2", "/sse"), ("typescript1", "/sse")]
    {
        let mut client = Client::connect(name, &gateway.at(url), &["--answer", "sheep"]);
        for disaster in ["nothing", "upstream", "gateway"] {
            match disaster {
                "upstream" => upstream.restart(),
                // A client of the oldest transport begins anew then, with any server.
                "gateway" if url == "/mcp" => gateway.restart(),
                _ => {}
            }
            let sum = client.run(json!({"do": "call", "name": "get-sum", "arguments": {"a": 2, "b": 3}}));
            assert!(text(&sum["done"]).contains('5'), "{name} after {disaster}: {sum}");
            client.call("trigger-sampling-request", json!({"prompt": "count", "maxTokens": 9}));
            client.event("sampling/createMessage");
            client.call("trigger-long-running-operation", json!({"duration": 0.2, "steps": 2}));
            client.event("notifications/progress");
            let echoed = plain.try_call("echo", json!({"message": disaster})).message();
            assert_eq!(text(&echoed["result"]), format!("Echo: {disaster}"), "{echoed}");
        }
    }
}
