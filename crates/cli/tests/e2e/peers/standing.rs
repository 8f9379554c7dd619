//! Questions that a server asks on the standing stream and not on the call's: the way of the TypeScript SDK,
//! version 2. Without that stream they reach nobody, and the call waits for its answer in vain.

use serde_json::json;

use crate::harness::{Client, Gateway, Mcp, Upstream};

fn upstreams() -> [Upstream; 2] {
    [Upstream::typescript1(), Upstream::typescript2()]
}

#[test]
fn they_reach_a_client_whose_session_was_lost() {
    for mut upstream in upstreams() {
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::connected_with(gateway.url(), json!({"elicitation": {}}));
        let stream = client.listen();
        for disaster in ["nothing", "upstream", "session", "upstream", "session"] {
            match disaster {
                "upstream" => upstream.restart(),
                "session" => upstream.drop_sessions(),
                _ => {}
            }
            let asked = client.start_call("ask", json!({"aside": true}));
            let question = stream.next_with_method("elicitation/create");
            let reply = json!({"action": "accept", "content": {"answer": disaster}});
            client.reply(&question["id"], reply.clone());
            assert_eq!(asked.next_response()["result"]["structuredContent"], reply, "after {disaster}");
        }
    }
}

#[test]
fn they_reach_a_client_that_comes_back_to_another_gateway() {
    for upstream in upstreams() {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::connected_with(gateway.url(), json!({"elicitation": {}}));
        client.listen();
        gateway.restart();
        let stream = client.listen();
        let asked = client.start_call("ask", json!({"aside": true}));
        let question = stream.next_with_method("elicitation/create");
        let reply = json!({"action": "accept", "content": {"answer": "sheep"}});
        client.reply(&question["id"], reply.clone());
        assert_eq!(asked.next_response()["result"]["structuredContent"], reply);
    }
}

#[test]
fn they_reach_the_official_clients() {
    for mut upstream in upstreams() {
        let gateway = Gateway::start(&upstream.url(), &[]);
        for name in ["mcp1", "mcp2", "typescript1", "typescript2"] {
            let mut client = Client::connect(name, &gateway.url(), &["--answer", "sheep"]);
            // It opens its stream behind its first request; a message there shows that it is open.
            crate::sdk_client::wait_until_it_listens(&mut client);
            for _ in 0..2 {
                let answer = client.call("ask", json!({"aside": true}));
                assert_eq!(answer["content"], json!({"answer": "sheep"}), "{name}");
                upstream.restart();
            }
        }
    }
}
