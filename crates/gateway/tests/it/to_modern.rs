//! Clients with a handshake in front of a server of 2026-07-28, which is strict: what a modern request must have is
//! checked of each.

mod eras;
mod listening;
mod questions;
mod tools;

use serde_json::{Value, json};
use throughline_wire::headers::decode_value;

use crate::harness::{
    Answer, Gate, Gw, Request, Session, Upstream, call, initialize_body, json as answer, request, rpc_error,
    until,
};
use crate::replicas::{Shared, at};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LEVEL: &str = "io.modelcontextprotocol/logLevel";
const RICH: &str = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{},"tasks":{"list":{}}}"#;

/// What such a server says of itself.
fn discovered() -> Value {
    json!({
        "resultType": "complete", "ttlMs": 1000, "cacheScope": "public",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {
            "logging": {}, "tools": { "listChanged": true }, "prompts": {},
            "resources": { "subscribe": true, "listChanged": true },
        },
        "instructions": "Be kind.",
        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "modern", "version": "3" } },
    })
}

fn result(request: &Request, result: Value) -> Answer {
    let id: Value = serde_json::from_str(&request.id()).unwrap();
    answer(200, json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string())
}

fn text(request: &Request, text: &str) -> Answer {
    result(
        request,
        json!({
            "resultType": "complete", "content": [{ "type": "text", "text": text }],
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "modern", "version": "3" }, "mine": 1 },
        }),
    )
}

/// Why a modern server would refuse this, if it would: the code.
fn refusal(request: &Request) -> Option<i64> {
    let (message, header) = (request.json(), |name| request.headers.get(name));
    let params = &message["params"];
    if message["method"] == "initialize" || header("mcp-protocol-version") != Some("2026-07-28") {
        return Some(-32022);
    }
    let meta = &params["_meta"];
    if !meta[CAPABILITIES].is_object() || meta[VERSION].is_null() {
        return Some(-32602);
    }
    let name = match message["method"].as_str().unwrap_or_default() {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        _ => None,
    };
    let decoded = header("mcp-name").map(|value| decode_value(value).unwrap().into_owned());
    let fits = meta[VERSION] == "2026-07-28"
        && header("mcp-method") == message["method"].as_str()
        && decoded.as_deref() == name
        && header("mcp-session-id").is_none();
    (!fits).then_some(-32020)
}

/// A server that speaks nothing else, and answers requests with this.
fn modern(upstream: &Upstream, serve: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
    upstream.script(move |request, _| {
        if request.method != "POST" {
            return Some(crate::harness::refused(405, "text/plain", ""));
        }
        if let Some(code) = refusal(request) {
            let id = request.id();
            let data = r#"{"supported":["2026-07-28"]}"#;
            return Some(answer(
                400,
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"Unsupported","data":{data}}}}}"#
                ),
            ));
        }
        Some(match request.rpc().as_str() {
            "server/discover" => result(request, discovered()),
            _ => serve(request),
        })
    });
}

fn session(gateway: &Gw) -> Session {
    Session::open_as(&gateway.client(), "2025-11-25", RICH)
}

#[test]
fn initialize_is_answered_from_what_the_server_says_of_itself() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| text(request, "1"));
    for (asked, told) in
        [("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("1999-01-01", "2025-11-25")]
    {
        let welcome = gateway.client().post(initialize_body(asked, RICH)).json();
        let wanted = json!({
            "protocolVersion": told, "capabilities": discovered()["capabilities"],
            "serverInfo": { "name": "modern", "version": "3" }, "instructions": "Be kind.",
        });
        assert_eq!(welcome["result"], wanted, "{asked}");
    }
    // Once it is known, nobody asks for a handshake any more.
    assert_eq!(upstream.methods(), ["initialize", "server/discover", "server/discover", "server/discover"]);
}

#[test]
fn a_request_says_what_the_handshake_said_and_its_result_is_of_the_clients_era() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| text(request, "1"));
    let session = session(&gateway);
    let answer = session.post(
        r#"{"jsonrpc":"2.0","id":"mine","method":"tools/call","params":{"name":"zählen","arguments":{"n":1.0},"_meta":{"progressToken":7}}}"#,
    );
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (
            200,
            r#"{"jsonrpc":"2.0","id":"mine","result":{"content":[{"type":"text","text":"1"}],"_meta":{"mine":1}}}"#
        )
    );
    let sent = upstream.of("tools/call").pop().unwrap();
    assert!(sent.text().contains(r#""arguments":{"n":1.0}"#), "{}", sent.text());
    let meta = &sent.json()["params"]["_meta"];
    assert_eq!(meta["progressToken"], 7);
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"], json!({ "name": "test", "version": "1" }));
    assert_eq!(meta[CAPABILITIES], json!({ "roots": {}, "sampling": {}, "elicitation": {} }));
    assert_eq!(meta[LEVEL], "info", "servers with a handshake send their log unasked");
    assert_eq!(sent.headers.get("mcp-name"), Some("=?base64?esOkaGxlbg==?="));
}

#[test]
fn what_the_modern_era_does_not_have_is_answered_here() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    modern(&upstream, |request| text(request, "1"));
    let open = session(&gateway);
    open.post(call("1", "a"));
    upstream.forget();
    assert_eq!(open.post(request("1", "ping", "{}")).json()["result"], json!({}));
    let level = |level: &str| request("1", "logging/setLevel", &format!(r#"{{"level":"{level}"}}"#));
    assert_eq!(open.post(level("loud")).code(), -32602);
    assert_eq!(open.post(level("debug")).json()["result"], json!({}));
    let told = open.post(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#);
    assert_eq!((told.status, upstream.log().len()), (202, 0));
    open.post(call("1", "a"));
    // What was set up is kept with the session, here as in any other.
    gateway.restart(|_| {});
    let client = gateway.client().with("mcp-session-id", &open.id).with("mcp-protocol-version", "2025-11-25");
    client.post(call("1", "a"));
    let levels: Vec<_> =
        upstream.of("tools/call").iter().map(|sent| sent.json()["params"]["_meta"][LEVEL].clone()).collect();
    assert_eq!(levels, ["debug", "debug"]);
    assert_eq!(upstream.count("initialize") + upstream.count("server/discover"), 0, "the binding is kept");
}

#[test]
fn what_is_set_up_at_one_replica_counts_at_the_others() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    modern(&upstream, |request| text(request, "1"));
    let here = Session::open_as(&one.client(), "2025-06-18", RICH);
    let there = at(&here, &other);
    let level = |level: &str| request("1", "logging/setLevel", &format!(r#"{{"level":"{level}"}}"#));
    let sent = |session: &Session| {
        session.post(call("1", "a"));
        upstream.of("tools/call").pop().expect("a call").json()["params"]["_meta"][LEVEL].clone()
    };
    assert_eq!((sent(&here), sent(&there)), (json!("info"), json!("info")));
    for (setter, reader, word) in
        [(&here, &there, "debug"), (&there, &here, "error"), (&there, &there, "alert")]
    {
        assert_eq!(setter.post(level(word)).json()["result"], json!({}));
        assert_eq!(sent(setter), word);
        until("the other replica hears of it", || sent(reader) == word);
    }
}

#[test]
fn errors_are_those_of_the_clients_era() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| {
        let error = |status, code, message: &str| answer(status, rpc_error(&request.id(), code, message));
        match (request.rpc().as_str(), request.json()["params"]["uri"].as_str()) {
            ("resources/read", Some("file:///none")) => error(400, -32602, "Resource not found"),
            ("resources/read", _) => error(400, -32602, "uri is no URI"),
            ("tools/call", _) => error(400, -32602, "Tool not found"),
            ("prompts/get", _) => error(500, -32603, "oops"),
            _ => error(404, -32601, "Method not found"),
        }
    });
    let session = session(&gateway);
    let read = |uri: &str| request("5", "resources/read", &format!(r#"{{"uri":"{uri}"}}"#));
    for (body, status, code) in [
        (read("file:///none"), 200, -32002),
        (read("?"), 200, -32602),
        (call("5", "none"), 200, -32602),
        (request("5", "prompts/get", r#"{"name":"x"}"#), 500, -32603),
        (request("5", "tasks/list", "{}"), 200, -32601),
    ] {
        let answer = session.post(&body);
        assert_eq!((answer.status, answer.code()), (status, code), "{body}: {}", answer.text());
        assert_eq!(answer.json()["id"], 5, "{body}");
    }
    assert_eq!(upstream.count("server/discover"), 1, "none of it looks like another server");
}

#[test]
fn messages_before_the_response_pass_on_its_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| {
        let id = request.id();
        Answer::Stream(Box::new(move |events| {
            events.write(": hello\n\n");
            events.message(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1.0}}"#);
            events.message(r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#);
            events.message(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[]}}}}"#
            ));
        }))
    });
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("9", "slow"));
    assert_eq!(stream.headers.get("content-type"), Some("text/event-stream"));
    assert_eq!(
        stream.message().data,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1.0}}"#
    );
    assert_eq!(stream.message().data, r#"{"jsonrpc":"2.0","id":9,"result":{"content":[]}}"#);
}

#[test]
fn callers_without_an_id_and_rest_are_served_too() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| text(request, &request.tool()));
    for id in ["1", "\"x\""] {
        let answer = gateway.client().post(call(id, "a"));
        assert_eq!((answer.tool_text().as_str(), answer.json()["id"].to_string().as_str()), ("a", id));
    }
    let rest = gateway.client().without("accept").at("/rest/tools/b").post("{}");
    assert_eq!((rest.status, rest.text().as_str()), (200, r#"{"text":"b"}"#));
    assert_eq!(upstream.of("tools/call")[0].json()["params"]["_meta"][CAPABILITIES], json!({}));
}

#[test]
fn a_cancelled_call_is_let_go_upstream_and_one_whose_client_leaves_is_not() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let closed = std::sync::Arc::new(Gate::default());
    let seen = std::sync::Arc::clone(&closed);
    modern(&upstream, move |_| {
        let seen = std::sync::Arc::clone(&seen);
        Answer::Stream(Box::new(move |events| {
            events.message(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#);
            events.wait_for_close();
            seen.open();
        }))
    });
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("3", "slow"));
    stream.message();
    drop(stream);
    assert_eq!(session.post(request("4", "ping", "{}")).status, 200);
    assert!(!closed.is_open());
    session.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#);
    closed.wait();
}

#[test]
fn a_stream_that_breaks_is_made_anew_only_where_that_is_safe() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let sent = std::sync::atomic::AtomicUsize::new(0);
    modern(&upstream, move |request| {
        if sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2 == 1 {
            return text(request, "1");
        }
        Answer::Stream(Box::new(|events| {
            events.message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#);
            events.reset();
        }))
    });
    let session = session(&gateway);
    let list = session.post(request("1", "prompts/list", "{}"));
    assert_eq!((list.json()["id"].clone(), upstream.count("prompts/list")), (json!(1), 2));
    let ids: Vec<_> = upstream.of("prompts/list").iter().map(|sent| sent.id()).collect();
    assert_ne!(ids[0], ids[1], "each is a request of its own");
    assert!(list.json()["result"].is_object(), "{}", list.text());
    let call = session.post(call("2", "pay"));
    assert_eq!((call.code(), upstream.count("tools/call")), (-32012, 1), "{}", call.text());
}
