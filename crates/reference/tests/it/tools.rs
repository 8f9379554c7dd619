//! The stateless server's tools, resources and prompt.

use std::time::Duration;

use serde_json::{Value, json};
use throughline_reference::stateless::StatelessConfig;

use crate::mcp::Mcp;
use crate::server::{Stateless, call_with, content, failure, modern, modern_with, modernised, named, quick};

const KEY: &str = "a-key-of-at-least-thirty-two-bytes-for-tests";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn tools(client: &Mcp) -> Vec<Value> {
    let list = modern(client, "tools/list", json!({})).message()["result"]["tools"].clone();
    list.as_array().expect("tools").clone()
}

#[test]
fn the_tools_say_what_they_take_and_give() {
    let server = Stateless::start(quick());
    let tools = tools(&server.client());
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["compute_primes", "echo", "lookup_fact", "reset_tally", "tally", "whoami"]);
    for tool in &tools {
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        assert!(tool["inputSchema"]["properties"].is_object(), "{tool}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{tool}");
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool}");
        // What makes some clients drop a tool, or take half of its arguments.
        let text = tool.to_string();
        for unreadable in ["$ref", "anyOf", "oneOf", r#""type":["#] {
            assert!(!text.contains(unreadable), "{unreadable} in {tool}");
        }
    }
    let primes = &tools[0]["inputSchema"];
    assert_eq!(primes["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let limit = &primes["properties"]["limit"];
    assert_eq!(
        (&limit["minimum"], &limit["maximum"], &limit["default"]),
        (&json!(2), &json!(1_000_000_000), &json!(5000))
    );
}

#[test]
fn arguments_are_held_to_the_schema() {
    let server = Stateless::start(quick());
    let client = server.client();
    for (tool, arguments, complaint) in [
        ("echo", json!({}), "\"message\" is a required property"),
        ("echo", json!({"message": 7}), "/message: value is not of type \"string\""),
        ("echo", json!({"message": "x".repeat(10_001)}), "/message: value is longer than 10000"),
        ("echo", json!({"message": "a", "more": 1}), "'more' was unexpected"),
        ("compute_primes", json!({"limit": 1}), "/limit: value is less than the minimum of 2"),
        ("compute_primes", json!({"limit": 1_000_000_001}), "/limit: value is greater than the maximum"),
        ("compute_primes", json!({"limit": 2.5}), "/limit: value is not of type \"integer\""),
        ("tally", json!({"handle": null}), "/handle: value is not of type \"string\""),
        ("lookup_fact", json!({"topic": ""}), "/topic: value is shorter than 1"),
    ] {
        let said = failure(&client, tool, arguments.clone());
        assert!(said.contains(complaint), "{tool} {arguments:.60}: {said}");
        assert!(said.len() < 300, "the value is not repeated: {said}");
    }
    let unknown = modern(&client, "tools/call", json!({"name": "nothing", "arguments": {}}));
    assert_eq!((unknown.status, unknown.error_code()), (200, Some(-32602)), "{unknown:?}");
}

#[test]
fn whoami_names_the_instance_and_the_trace() {
    let server = Stateless::start(named("one-of-three", KEY));
    let client = server.client();

    let who = content(&client, "whoami", json!({}));
    assert_eq!((&who["instance"], &who["pid"]), (&json!("one-of-three"), &json!(std::process::id())));
    assert_eq!((&who["protocolVersion"], &who["callerKnown"]), (&json!("2026-07-28"), &json!(false)));
    assert_eq!(who.get("trace"), None);
    assert_eq!(
        content(&client, "echo", json!({"message": "hi"})),
        json!({"message": "hi", "instance": "one-of-three"})
    );
    assert_eq!(client.bare("GET").header("throughline-instance"), Some("one-of-three"));

    let in_headers = format!("00-{TRACE}-b7ad6b7169203331-00");
    let tracing = client.clone().with_header("traceparent", &in_headers);
    let who = content(&tracing, "whoami", json!({}));
    let trace = |parent: &str, sampled: bool, source: &str| json!({"traceId": TRACE, "parentId": parent, "sampled": sampled, "source": source});
    assert_eq!(who["trace"], trace("b7ad6b7169203331", false, "headers"));
    // What the MCP client says itself counts for more than what HTTP says of it.
    let in_meta = json!({"traceparent": format!("00-{TRACE}-00f067aa0ba902b7-01")});
    let who = call_with(&tracing, "whoami", json!({}), in_meta);
    assert_eq!(who["structuredContent"]["trace"], trace("00f067aa0ba902b7", true, "_meta"));
    let who = call_with(&tracing, "whoami", json!({}), json!({"traceparent": "nonsense"}));
    assert_eq!(who["structuredContent"]["trace"]["source"], "headers");
}

#[test]
fn facts_are_there_as_a_tool_as_resources_and_in_a_prompt() {
    let server = Stateless::start(quick());
    let client = server.client();
    let fact = content(&client, "lookup_fact", json!({"topic": " MCP "}));
    assert_eq!((&fact["topic"], &fact["uri"]), (&json!("mcp"), &json!("fact://mcp")));
    let unknown = failure(&client, "lookup_fact", json!({"topic": "weather"}));
    assert!(unknown.contains("there are facts about app-service, "), "{unknown}");

    let listed = modern(&client, "resources/list", json!({})).message()["result"]["resources"].clone();
    let uris: Vec<_> = listed.as_array().unwrap().iter().map(|resource| resource["uri"].clone()).collect();
    assert_eq!(uris.len(), 8, "{uris:?}");
    assert!(uris.contains(&fact["uri"]), "{uris:?}");
    let read = modern(&client, "resources/read", json!({"uri": "fact://mcp"})).message()["result"].clone();
    assert_eq!(read["contents"][0]["text"], fact["fact"]);
    let templates = modern(&client, "resources/templates/list", json!({})).message();
    assert_eq!(templates["result"]["resourceTemplates"][0]["uriTemplate"], "fact://{topic}");

    let prompt = json!({"name": "explain_fact", "arguments": {"topic": "mcp"}});
    let prompt = modern(&client, "prompts/get", prompt).message()["result"]["messages"][0].clone();
    assert!(prompt["content"]["text"].as_str().unwrap().contains(fact["fact"].as_str().unwrap()), "{prompt}");
    for wrong in [json!({"name": "other"}), json!({"name": "explain_fact"})] {
        assert_eq!(modern(&client, "prompts/get", wrong).error_code(), Some(-32602));
    }
}

#[test]
fn a_missing_resource_is_an_invalid_parameter() {
    let server = Stateless::start(quick());
    let missing = json!({"uri": "fact://weather"});
    let answer = modern(&server.client(), "resources/read", missing.clone());
    let error = &answer.message()["error"];
    assert_eq!((answer.status, &error["code"], &error["data"]), (200, &json!(-32602), &missing));
    // The revisions before have a code of their own for it.
    let answer = server.client().request("resources/read", missing.clone());
    assert_eq!((answer.error_code(), &answer.message()["error"]["data"]), (Some(-32002), &missing));
}

#[test]
fn primes_are_counted_with_progress() {
    let server = Stateless::start(quick());
    let client = server.client();
    let counted = content(&client, "compute_primes", json!({}));
    assert_eq!(
        (&counted["limit"], &counted["primeCount"], &counted["largest"]),
        (&json!(5000), &json!(669), &json!(4999))
    );

    let params = json!({"name": "compute_primes", "arguments": {"limit": 40_000_000}});
    let messages = modern_with(&client, "tools/call", params, json!({"progressToken": "p"})).messages();
    let told: Vec<f64> = messages
        .iter()
        .filter(|message| message["method"] == "notifications/progress")
        .map(|message| {
            assert_eq!(message["params"]["progressToken"], "p");
            assert_eq!(message["params"]["total"], 40_000_000.0);
            message["params"]["progress"].as_f64().unwrap()
        })
        .collect();
    assert!(told.is_sorted_by(|before, after| before < after), "{told:?}");
    let result = &messages.last().unwrap()["result"];
    assert_eq!(result["structuredContent"]["primeCount"], 2_433_654);
    assert_eq!(told.last(), Some(&40_000_000.0));
}

#[test]
fn a_computation_ends_with_its_caller() {
    let server = Stateless::start(StatelessConfig { computations: 1, ..quick() });
    let client = server.client();
    let params = json!({"name": "compute_primes", "arguments": {"limit": 1_000_000_000}});
    let (caller, params) = modernised(&client, "tools/call", params, json!({"progressToken": 1}));
    let message = json!({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": params});
    let long = caller.open(&message);
    assert_eq!(long.next()["method"], "notifications/progress");
    let computations = || content(&client, "whoami", json!({}))["computations"].clone();
    assert_eq!(computations(), json!({"running": 1, "finished": 0, "abandoned": 0}));

    drop(long);
    // There is one place, so this waits until that is free.
    assert_eq!(content(&client, "compute_primes", json!({"limit": 10}))["primeCount"], 4);
    assert_eq!(computations(), json!({"running": 0, "finished": 1, "abandoned": 1}));
}

#[test]
fn the_clock_tells_its_subscribers_that_it_ticks() {
    let mut server = Stateless::start(StatelessConfig { clock_tick: Duration::from_millis(50), ..quick() });
    let client = server.client();
    let asked = json!({"notifications": {
        "toolsListChanged": true,
        "resourceSubscriptions": ["clock://now", "fact://mcp"],
    }});
    let (caller, params) = modernised(&client, "subscriptions/listen", asked, json!({}));
    let message = json!({"jsonrpc": "2.0", "id": "sub", "method": "subscriptions/listen", "params": params});
    let stream = caller.open(&message);

    let acknowledged = stream.next();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    // Of what was asked for, only the clock ever changes.
    assert_eq!(acknowledged["params"]["notifications"], json!({"resourceSubscriptions": ["clock://now"]}));
    for _ in 0..2 {
        let tick = stream.next();
        assert_eq!(tick["method"], "notifications/resources/updated");
        assert_eq!(tick["params"]["uri"], "clock://now");
        assert_eq!(tick["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    }
    let now = modern(&client, "resources/read", json!({"uri": "clock://now"})).message()["result"].clone();
    assert_eq!(now["ttlMs"], 0);
    let now: Value = serde_json::from_str(now["contents"][0]["text"].as_str().unwrap()).unwrap();
    assert!(now["unixSeconds"].as_u64().unwrap() > 1_700_000_000, "{now}");

    server.stop();
    let ended = stream.next_response();
    assert_eq!(
        (&ended["id"], &ended["result"]["resultType"]),
        (&json!("sub"), &json!("complete")),
        "{ended}"
    );
    stream.wait_for_its_end();
}
