//! Promise: a maker whose client cannot hold a session points it at the gateway and forgets it. A replay of what Copilot
//! Studio sends, in both of its forms, for twenty users at once.

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Upstream};

const USERS: usize = 20;
/// `printf %s of-the-connector | sha256sum`.
const DIGEST: &str = "9a584aa936c04348dbc07c099b4210cfd86ce605853a8f030342feaf1aab08e1";

fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    Gateway::with_config(&format!(
        "[upstream]\nurl = \"{}\"\nprofile = \"copilot-studio\"\n{more}\n[callers.keys.power]\nsha256 = \"{DIGEST}\"\nkind = \"connector\"\n[callers.conversation]\nheaders = [\"conversation-id\"]\n",
        upstream.url()
    ))
}

/// A user of the connector, as the connector speaks for them.
fn user(gateway: &Gateway, number: usize) -> Mcp {
    Mcp::new(gateway.url())
        .with_header("Accept", "application/json,text/event-stream")
        .with_header("Content-Type", "application/json; charset=utf-8")
        .with_header("x-api-key", "of-the-connector")
        .with_header("x-ms-client-tenant-id", "contoso")
        .with_header("x-ms-client-object-id", &format!("user-{number}"))
}

fn request(id: &str, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// One turn of a conversation, as captured; `hold` keeps the session id as some agents do. What the counter says.
fn turn(studio: &mut Mcp, hold: bool) -> Value {
    if studio.session.is_none() {
        let params = json!({
            "protocolVersion": "2024-11-05",
            "capabilities": {},
            "clientInfo": {"name": "mcs", "version": "1.0.0"},
            "sessionContext": {},
        });
        let hello = studio.post(&request("1", "initialize", params));
        assert_eq!(hello.message()["result"]["protocolVersion"], "2024-11-05", "{hello:?}");
        if hold {
            studio.session = Some(hello.header("mcp-session-id").expect("an id").to_owned());
        }
        let noted =
            studio.post(&json!({"jsonrpc": "2.0", "id": null, "method": "notifications/initialized"}));
        assert_eq!((noted.status, noted.body.as_str()), (202, ""));
    }
    let tools = studio.post(&request("2", "tools/list", json!({})));
    assert_eq!(tools.header("content-type"), Some("application/json"));
    for tool in tools.message()["result"]["tools"].as_array().expect("tools") {
        assert!(
            tool["inputSchema"]["properties"].is_object() && !tool.to_string().contains("$ref"),
            "{tool}"
        );
    }
    let called = studio.post(&request("3", "tools/call", json!({"name": "increment", "arguments": {}})));
    let message = called.message();
    assert_eq!((called.status, &message["id"]), (200, &json!("3")), "{called:?}");
    message["result"]["structuredContent"]["value"].clone()
}

fn users(gateway: &Gateway) -> Vec<Mcp> {
    (0..USERS).map(|number| user(gateway, number)).collect()
}

/// Twenty users take turns all at once, three each; then `between`; then two more each. Each user's counts.
fn turns(users: Vec<Mcp>, hold: bool, between: impl FnOnce()) -> Vec<Vec<Value>> {
    let barriers: Arc<[Barrier; 2]> = Arc::new([Barrier::new(USERS + 1), Barrier::new(USERS + 1)]);
    let users: Vec<_> = users
        .into_iter()
        .map(|mut studio| {
            let barriers = Arc::clone(&barriers);
            thread::spawn(move || {
                let mut counts: Vec<Value> = (0..3).map(|_| turn(&mut studio, hold)).collect();
                barriers[0].wait();
                barriers[1].wait();
                counts.extend((0..2).map(|_| turn(&mut studio, hold)));
                counts
            })
        })
        .collect();
    barriers[0].wait();
    between();
    barriers[1].wait();
    users.into_iter().map(|user| user.join().expect("a user's turns")).collect()
}

#[test]
fn twenty_users_each_have_their_count_and_the_gateway_may_die() {
    for hold in [false, true] {
        let upstream = Upstream::rmcp();
        let mut gateway = gateway(&upstream, "");
        let users = users(&gateway);
        let counts = turns(users, hold, || gateway.restart());
        assert!(counts.iter().all(|counts| *counts == [1, 2, 3, 4, 5]), "hold {hold}: {counts:?}");
    }
}

#[test]
fn twenty_users_go_on_when_the_server_is_killed() {
    for hold in [false, true] {
        let mut upstream = Upstream::rmcp();
        let gateway = gateway(&upstream, "");
        let counts = turns(users(&gateway), hold, || upstream.restart());
        // The server kept it in memory: it begins again, for each by itself.
        assert!(counts.iter().all(|counts| *counts == [1, 2, 3, 1, 2]), "hold {hold}: {counts:?}");
    }
}

#[test]
fn a_set_up_call_is_made_again_for_each_of_twenty_users() {
    for hold in [false, true] {
        let mut upstream = Upstream::rmcp();
        let gateway = gateway(&upstream, "restore.calls = [\"increment\"]");
        let counts = turns(users(&gateway), hold, || upstream.restart());
        // The last call that set the session up was made again: the count was 1 before the next turn.
        assert!(counts.iter().all(|counts| *counts == [1, 2, 3, 2, 3]), "hold {hold}: {counts:?}");
    }
}

#[test]
fn two_conversations_of_one_user_are_apart() {
    let upstream = Upstream::rmcp();
    let gateway = gateway(&upstream, "");
    let mut conversations = ["one", "two"].map(|name| user(&gateway, 1).with_header("conversation-id", name));
    for count in 1..=3 {
        for conversation in &mut conversations {
            assert_eq!(turn(conversation, false), count);
        }
    }
}

/// The dead end of two actions, `initialize` and `message`, whose maker cannot carry a response header from one to the
/// other: at the server itself the second fails; through the gateway it works, with the id or without.
#[test]
fn separate_actions_are_no_dead_end() {
    let upstream = Upstream::rmcp();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "maker", "version": "1"}}});
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}});

    let direct = Mcp::new(upstream.url());
    assert_eq!(direct.post(&hello).status, 200);
    let refused = direct.post(&list);
    assert!(
        (400..500).contains(&refused.status),
        "the server wants the id that the maker cannot send: {refused:?}"
    );

    let gateway = Gateway::start(&upstream.url(), &[]);
    for (initialize, message) in [("/mcp", "/mcp"), ("/rest/message", "/rest/message")] {
        assert_eq!(Mcp::new(gateway.at(initialize)).post(&hello).status, 200);
        let listed = Mcp::new(gateway.at(message)).post(&list);
        assert!(listed.message()["result"]["tools"].is_array(), "{listed:?}");
    }
    let begun = Mcp::new(gateway.at("/rest/initialize")).post(&json!({}));
    let session = serde_json::from_str::<Value>(&begun.body).expect("JSON")["sessionId"].clone();
    let mut held = list;
    held["sessionId"] = session;
    let listed = Mcp::new(gateway.at("/rest/message")).post(&held);
    assert!(listed.message()["result"]["tools"].is_array(), "{listed:?}");
}
