//! Clients with a handshake, of several SDKs, in front of servers of 2026-07-28 alone.

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Redis, Upstream, run};

const CLIENTS: [&str; 3] = ["mcp1", "typescript1", "mcp2"];

fn text(done: &Value) -> &str {
    done["done"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{done} is no text"))
}

fn call(client: &mut Client, tool: &str, arguments: Value) -> String {
    text(&client.run(json!({ "do": "call", "name": tool, "arguments": arguments }))).to_owned()
}

/// Whatever a client can be asked, round after round.
fn answers_questions(name: &str, client: &mut Client) {
    let said = call(client, "test_elicitation", json!({ "message": "Who?" }));
    assert!(said.contains("action=accept"), "{name}: {said}");
    assert_eq!(client.event("elicitation/create")["message"], "Who?", "{name}");
    if name.starts_with("typescript") {
        let said = call(client, "test_sampling", json!({ "prompt": "Count." }));
        assert_eq!(said, "LLM response: sheep", "{name}");
    }
}

#[test]
fn they_are_asked_what_the_server_needs() {
    let upstream = Upstream::conformance_of("modern");
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for name in CLIENTS {
        let mut client = Client::connect(name, &gateway.url(), &["--answer", "sheep"]);
        answers_questions(name, &mut client);
        gateway.restart();
        answers_questions(name, &mut client);
    }
}

#[test]
fn they_hear_of_progress_logs_and_changes() {
    let upstream = Upstream::conformance_of("modern");
    let gateway = Gateway::start(&upstream.url(), &[]);
    for name in CLIENTS {
        let mut client = Client::connect(name, &gateway.url(), &[]);
        client.run(json!({ "do": "level", "level": "debug" }));
        call(&mut client, "test_tool_with_logging", json!({}));
        client.event("notifications/message");
        call(&mut client, "test_tool_with_progress", json!({}));
        client.event("notifications/progress");
        assert!(!client.run(json!({ "do": "list" }))["done"].as_array().expect("names").is_empty());
    }
}

#[test]
fn their_answers_find_the_call_at_whatever_replica() {
    let (upstream, redis) = (Upstream::conformance_of("modern"), Redis::standalone());
    let ring = tempfile::tempdir().expect("a directory");
    let replicas = Gateway::replicas(3, &upstream.url(), &redis, &ring.path().join("keyring"));
    let balancer =
        crate::harness::Balancer::start(&replicas.iter().map(|replica| replica.at("")).collect::<Vec<_>>());
    let mut client = Client::connect("mcp1", &balancer.url(), &["--answer", "sheep"]);
    for _ in 0..6 {
        answers_questions("mcp1", &mut client);
    }
}

#[test]
fn their_sessions_go_on_when_the_server_changes_its_era() {
    for name in ["mcp1", "typescript1"] {
        let mut upstream = Upstream::conformance_of("legacy");
        let gateway = Gateway::start(&upstream.url(), &[]);
        let mut client = Client::connect(name, &gateway.url(), &["--answer", "sheep"]);
        answers_questions(name, &mut client);
        let session = client.run(json!({ "do": "list" }))["session"].clone();
        for era in ["modern", "legacy", "modern", "dual"] {
            upstream = upstream.replaced_by(era);
            answers_questions(name, &mut client);
        }
        assert_eq!(client.run(json!({ "do": "list" }))["session"], session, "{name}");
        let restored = gateway.log().matches(r#""origin":"restored""#).count();
        assert_eq!(
            restored,
            3,
            "{name}: a server of both eras is still one of the modern: {}",
            gateway.log()
        );
    }
}

#[test]
fn the_bundled_client_is_served_in_either_era() {
    let upstream = Upstream::stateless(&[], &["--era", "modern", "--strict-headers"]);
    let gateway = Gateway::start(&upstream.url(), &[]);
    for era in ["legacy", "modern", "auto"] {
        let called = run(&["call", &gateway.url(), "tally", "{}", "--era", era]);
        assert_eq!(called.code, 0, "{era}: {} {}", called.stdout, called.stderr);
    }
    let listed = run(&["call", &gateway.url(), "--era", "legacy"]);
    assert!(listed.stdout.contains("2025-11-25"), "{}", listed.stdout);
}
