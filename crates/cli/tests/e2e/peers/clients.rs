//! Clients that stay open, through the gateway while either side is killed.

use serde_json::json;

use crate::harness::{Client, Gateway, Upstream};
use crate::resumed::{is_asked_over_replicas, misses_nothing_of_a_call, misses_nothing_over_replicas};
use crate::sdk_client::{
    hears_and_answers_through_kills, hears_log_messages_through_kills, keeps_its_session_through_kills,
};

macro_rules! over_each_client {
    ($($test:ident),+ $(,)?) => {
        over_each_client!(@ ($($test),+) fastmcp "fastmcp");
        over_each_client!(@ ($($test),+) langchain "langchain");
        over_each_client!(@ ($($test),+) mcp_remote "mcp-remote");
        over_each_client!(@ ($($test),+) typescript1 "typescript1");
        over_each_client!(@ ($($test),+) typescript2 "typescript2");
    };
    (@ ($($test:ident),+) $name:ident $client:literal) => {
        mod $name {
            $(#[test] fn $test() { super::$test($client); })+
        }
    };
}

over_each_client!(
    it_keeps_its_session,
    it_hears_and_answers,
    it_hears_log_messages,
    it_is_asked_over_replicas,
);

fn it_keeps_its_session(client: &str) {
    let mut upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    keeps_its_session_through_kills(client, &mut upstream, &mut gateway);
    // Nor did it begin anew by itself, as mcp-remote would.
    let log = gateway.log();
    let (_, behind) = log.split_once(r#""origin":"restored""#).expect("a recovery");
    assert!(!behind.contains(r#""origin":"new""#), "{log}");
}

fn it_hears_and_answers(client: &str) {
    let mut upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    hears_and_answers_through_kills(client, &mut upstream, &mut gateway);
}

fn it_hears_log_messages(client: &str) {
    let mut upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    hears_log_messages_through_kills(client, &mut upstream, &mut gateway);
}

fn it_is_asked_over_replicas(client: &str) {
    is_asked_over_replicas(client);
}

#[test]
fn they_miss_nothing_of_a_call() {
    // By how often they come back for one call: those on the Python SDK once.
    for (name, kills) in [
        ("fastmcp", &[15][..]),
        ("langchain", &[15]),
        ("mcp-remote", &[15, 40]),
        ("typescript1", &[15, 40]),
        ("typescript2", &[15, 40]),
    ] {
        misses_nothing_of_a_call(name, kills);
    }
}

#[test]
fn the_official_typescript_clients_miss_nothing_over_replicas() {
    ["typescript1", "typescript2"].into_iter().for_each(misses_nothing_over_replicas);
}

#[test]
fn without_a_gateway_all_but_one_lose_their_session_for_good() {
    for name in ["fastmcp", "langchain", "mcp-remote", "typescript1", "typescript2"] {
        let mut upstream = Upstream::rmcp();
        let mut client = Client::connect(name, &upstream.url(), &[]);
        assert_eq!(client.increment(), 1, "{name}");
        upstream.restart();
        for _ in 0..2 {
            let outcome = client.try_run(json!({"do": "call", "name": "increment", "arguments": {}}));
            // It shakes hands again by itself, and so begins another session.
            assert_eq!(outcome.get("done").is_some(), name == "mcp-remote", "{name}: {outcome}");
        }
    }
}

/// LangChain's agents open a session for each call and end it: there is no state to be kept, but every call works.
#[test]
fn langchain_with_a_session_for_each_call() {
    let mut upstream = Upstream::rmcp();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let mut client = Client::connect("langchain", &gateway.url(), &["--each-call", "--answer", "sheep"]);
    for disaster in ["nothing", "upstream", "gateway"] {
        match disaster {
            "upstream" => upstream.restart(),
            "gateway" => gateway.restart(),
            _ => {}
        }
        assert_eq!((client.increment(), client.increment()), (1, 1), "after {disaster}");
        let answer = client.call("ask", json!({"question": disaster}));
        assert_eq!(answer["content"], json!({"answer": "sheep"}), "after {disaster}");
    }
}
