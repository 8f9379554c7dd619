//! Clients of 2026-07-28 at a server that speaks older revisions: the gateway is a legacy client for them.

mod aside;
mod asker;
mod handles;
mod input;
mod listening;
mod waiting;

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Gw, Response, Upstream, json as plain, request, rpc_error, sse};

const EVERYTHING: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;

/// A modern client that declares these capabilities.
#[derive(Clone)]
struct Modern {
    client: Client,
    capabilities: String,
    /// More members of `_meta`.
    meta: String,
}

impl Modern {
    fn new(gateway: &Gw) -> Self {
        Self::of(gateway.client())
    }

    fn of(client: Client) -> Self {
        Modern { client, capabilities: EVERYTHING.to_owned(), meta: String::new() }
    }

    fn declaring(self, capabilities: &str) -> Self {
        Modern { capabilities: capabilities.to_owned(), ..self }
    }

    fn meta(self, members: &str) -> Self {
        Modern { meta: format!(",{members}"), ..self }
    }

    /// The parameters, with what the revision demands; `params` are the members beside.
    fn params(&self, params: &str) -> String {
        let (capabilities, meta) = (&self.capabilities, &self.meta);
        let more = if params.is_empty() { String::new() } else { format!(",{params}") };
        format!(
            r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities},"io.modelcontextprotocol/clientInfo":{{"name":"t","version":"1"}}{meta}}}{more}}}"#
        )
    }

    fn headers(&self, method: &str, name: Option<&str>) -> Client {
        let client = self.client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method);
        name.map_or(client.clone(), |name| client.with("mcp-name", name))
    }

    fn ask(&self, method: &str, params: &str) -> Response {
        self.headers(method, None).post(request("7", method, &self.params(params)))
    }

    /// The message that calls a tool.
    fn call_body(&self, tool: &str, more: &str) -> String {
        let params = format!(r#""name":"{tool}","arguments":{{}}{more}"#);
        request("7", "tools/call", &self.params(&params))
    }

    fn call(&self, tool: &str) -> Response {
        self.call_with(tool, "")
    }

    fn call_with(&self, tool: &str, more: &str) -> Response {
        self.headers("tools/call", Some(tool)).post(self.call_body(tool, more))
    }

    /// Comes back with answers.
    fn answer(&self, tool: &str, state: &str, responses: &Value) -> Response {
        self.call_with(tool, &format!(r#","requestState":"{state}","inputResponses":{responses}"#))
    }
}

/// The state that an incomplete result gives its client.
fn state(answer: &Response) -> String {
    let json = answer.json();
    assert_eq!(json["result"]["resultType"], "input_required", "{} {json}", answer.status);
    json["result"]["requestState"].as_str().expect("a state").to_owned()
}

/// The keys of what it asks for.
fn keys(answer: &Response) -> Vec<String> {
    let json = answer.json();
    let asked = json["result"]["inputRequests"].as_object();
    asked.unwrap_or_else(|| panic!("{json}")).keys().cloned().collect()
}

fn accept(name: &str) -> Value {
    json!({ "action": "accept", "content": { "name": name } })
}

#[test]
fn a_counter_kept_by_session_counts_on() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    for round in 1..=10 {
        let answer = client.call("count");
        assert_eq!((answer.status, answer.tool_text()), (200, round.to_string()));
        let json = answer.json();
        assert_eq!((&json["id"], &json["result"]["resultType"]), (&json!(7), &json!("complete")));
        let info = &json["result"]["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(info["name"], "scripted");
        assert_eq!(answer.headers.get("mcp-session-id"), None);
    }
    assert_eq!(upstream.count("initialize"), 1);
    let announced = upstream.of("initialize")[0].json()["params"].clone();
    assert_eq!(announced["protocolVersion"], "2025-11-25");
    assert_eq!(announced["capabilities"], serde_json::from_str::<Value>(EVERYTHING).unwrap());
    assert_eq!(announced["clientInfo"], json!({ "name": "t", "version": "1" }));
    let ids: std::collections::HashSet<_> = upstream.of("tools/call").iter().map(|call| call.id()).collect();
    assert_eq!(ids.len(), 10, "many requests share the session");
    for call in upstream.of("tools/call") {
        assert_eq!(call.json()["params"], json!({ "name": "count", "arguments": {} }));
        let headers = ["mcp-method", "mcp-name"].map(|name| call.headers.get(name));
        assert_eq!((headers, call.headers.get("mcp-protocol-version")), ([None; 2], Some("2025-11-25")));
    }
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn a_lost_session_is_restored_behind_a_modern_client() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    assert_eq!(
        (client.call("count").tool_text(), client.call("count").tool_text()),
        ("1".into(), "2".into())
    );
    upstream.server().lose_sessions();
    let answer = client.call("count");
    assert_eq!(answer.tool_text(), "1");
    assert_eq!(answer.headers.get("throughline-session"), Some("restored;generation=2"));
}

#[test]
fn sessions_are_kept_by_what_a_client_declares_and_by_request_where_the_route_says_so() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    assert_eq!(
        (client.call("count").tool_text(), client.call("count").tool_text()),
        ("1".into(), "2".into())
    );
    assert_eq!(client.declaring("{}").call("count").tool_text(), "1");

    let file = "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nstate = \"request\"\n";
    let (upstream, isolated) = (Upstream::start(), "[upstream]\nurl = \"UPSTREAM\"\n");
    for file in [file, isolated] {
        upstream.forget();
        let gateway = Gw::start_file(&upstream, file);
        let client = Modern::new(&gateway);
        let before = upstream.server().given().len();
        // Also where the log level is set first.
        let client = client.meta(r#""io.modelcontextprotocol/logLevel":"info""#);
        for round in 1..=3 {
            assert_eq!(client.call("count").tool_text(), "1");
            upstream.wait_for("DELETE", round);
        }
        assert_eq!(upstream.server().given().len() - before, 3);
        upstream.wait_until("all of them are ended", |server| server.open().is_empty());
    }
}

#[test]
fn a_server_is_discovered_from_its_handshake() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    for _ in 0..2 {
        let answer = client.ask("server/discover", "");
        let result = &answer.json()["result"];
        assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!(result["capabilities"]["tools"], json!({ "listChanged": true }));
        assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(0), &json!("private")));
        assert_eq!(result["resultType"], "complete");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "scripted");
    }
    client.call("count");
    assert_eq!(upstream.count("initialize"), 1, "the session that was opened to ask is used");
}

#[test]
fn results_and_errors_are_those_of_the_revision() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    let list = client.ask("tools/list", "").json()["result"].clone();
    assert_eq!((&list["ttlMs"], &list["cacheScope"]), (&json!(0), &json!("private")));
    upstream.script(|request, _| match request.rpc().as_str() {
        "resources/read" => {
            let error = r#"{"code":-32002,"message":"Resource not found","data":{"uri":"a:b"}}"#;
            Some(plain(200, format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, request.id())))
        }
        "prompts/get" => Some(sse(200, &rpc_error(&request.id(), -32602, "no such prompt"))),
        _ => None,
    });
    let read = client.headers("resources/read", Some("a:b"));
    let read = read.post(request("7", "resources/read", &client.params(r#""uri":"a:b""#)));
    assert_eq!((read.code(), &read.json()["error"]["data"]["uri"]), (-32602, &json!("a:b")));
    let get = client.headers("prompts/get", Some("p"));
    let get = get.post(request("7", "prompts/get", &client.params(r#""name":"p""#)));
    assert_eq!((get.status, get.code(), &get.json()["id"]), (200, -32602, &json!(7)));
    upstream.forget();
    for removed in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/get", "no/such"] {
        let answer = client.ask(removed, "");
        assert_eq!((answer.status, answer.code()), (404, -32601), "{removed}");
        assert_eq!(answer.json()["id"], 7);
    }
    assert_eq!(upstream.methods(), ["no/such"], "what was removed never reaches the server");
    let told =
        client.headers("notifications/x", None).post(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
    assert_eq!((told.status, told.body.len()), (202, 0));
    for (params, why) in [
        (r#""inputResponses":null"#, "inputResponses"),
        (r#""inputResponses":[]"#, "inputResponses"),
        (r#""requestState":"garbage""#, "requestState"),
        (r#""requestState":7"#, "requestState"),
    ] {
        let answer = client.call_with("count", &format!(",{params}"));
        assert_eq!((answer.status, answer.code()), (400, -32602), "{params}");
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    assert_eq!(upstream.methods(), ["no/such"]);
}

#[test]
fn a_route_says_for_how_long_lists_may_be_kept() {
    let upstream = Upstream::start();
    let file = "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\ncache.lists = \"60s\"\ncache.shared = true\n";
    let gateway = Gw::start_file(&upstream, file);
    let client = Modern::new(&gateway);
    let list = client.ask("tools/list", "").json()["result"].clone();
    assert_eq!((&list["ttlMs"], &list["cacheScope"]), (&json!(60_000), &json!("public")));
    let again = client.clone().declaring("{}").ask("tools/list", "").json()["result"].clone();
    assert!(again["ttlMs"].as_u64().unwrap() <= 60_000, "{again}");
    assert_eq!(upstream.count("tools/list"), 1);

    let gateway = Gw::start_file(&upstream, &file.replace("cache.shared = true\n", ""));
    let client = Modern::new(&gateway);
    for _ in 0..2 {
        let list = client.ask("tools/list", "").json()["result"].clone();
        assert_eq!(list["cacheScope"], "private");
        client.clone().declaring("{}").ask("tools/list", "");
    }
    assert_eq!(upstream.count("tools/list"), 3, "kept for each that the server may tell apart");
}

#[test]
fn each_request_hears_its_own_progress_and_the_log_messages_that_it_asked_for() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let (is_call, id) = (request.tool() == "work", request.id());
        let token = request.json()["params"]["_meta"]["progressToken"].clone();
        is_call.then(|| {
            Answer::Stream(Box::new(move |events| {
                let progress = |token: &Value| {
                    format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#)
                };
                events.message(&progress(&json!("somebody else's")));
                events.message(&progress(&token));
                for level in ["debug", "info", "error"] {
                    events.message(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#));
                }
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#));
            }))
        })
    });
    let heard = |client: &Modern| -> Vec<Value> {
        let text = client.call("work").text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str::<Value>(data).unwrap()["params"].clone()).collect()
    };
    let client = Modern::new(&gateway);
    assert_eq!(client.call("work").json()["result"]["resultType"], "complete");
    assert_eq!(upstream.count("logging/setLevel"), 0, "nobody asked");
    let informed = client.clone().meta(r#""io.modelcontextprotocol/logLevel":"info","progressToken":1.0"#);
    assert_eq!(
        heard(&informed),
        [
            json!({ "progressToken": 1.0, "progress": 1 }),
            json!({ "level": "info", "data": 1 }),
            json!({ "level": "error", "data": 1 }),
            Value::Null
        ]
    );
    let alarmed = client.clone().meta(r#""io.modelcontextprotocol/logLevel":"error""#);
    assert_eq!(heard(&alarmed), [json!({ "level": "error", "data": 1 }), Value::Null]);
    let curious = client.clone().meta(r#""io.modelcontextprotocol/logLevel":"debug""#);
    assert_eq!(heard(&curious).len(), 4);
    assert_eq!(heard(&informed).len(), 4);
    let session = upstream.server().given().pop().unwrap();
    let levels = [r#"logging/setLevel {"level":"info"}"#, r#"logging/setLevel {"level":"debug"}"#];
    assert_eq!(upstream.server().setup(&session), levels, "only as verbose as need be");
    upstream.server().lose_sessions();
    assert_eq!(informed.call("count").tool_text(), "1");
    let session = upstream.server().given().pop().unwrap();
    assert_eq!(upstream.server().setup(&session), levels[1..], "and restored");
    let refused = upstream.count("logging/setLevel");
    upstream.script(|request, _| {
        let refuse = request.rpc() == "logging/setLevel";
        refuse.then(|| plain(200, rpc_error(&request.id(), -32603, "not now")))
    });
    let other = client.clone().declaring("{}").meta(r#""io.modelcontextprotocol/logLevel":"info""#);
    assert_eq!(other.call("count").tool_text(), "1", "a request goes on without");
    assert_eq!(upstream.count("logging/setLevel"), refused + 1);
    let answer = client.meta(r#""io.modelcontextprotocol/logLevel":"loud""#).call("work");
    assert_eq!((answer.status, answer.code()), (400, -32602));
}

#[test]
fn a_client_that_closes_its_stream_cancels_its_request() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "work").then(|| {
            Answer::Stream(Box::new(|events| {
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#);
                events.wait_for_close();
            }))
        })
    });
    let client = Modern::new(&gateway).meta(r#""io.modelcontextprotocol/logLevel":"info""#);
    let mut stream = client.headers("tools/call", Some("work")).open("POST", client.call_body("work", ""));
    stream.message();
    drop(stream);
    upstream.wait_for("notifications/cancelled", 1);
    let cancelled = upstream.of("notifications/cancelled")[0].json();
    let call = upstream.of("tools/call")[0].json();
    assert_eq!(cancelled["params"]["requestId"], call["id"]);
    // One that has not begun to answer.
    let held = upstream.hold(|request| request.tool() == "work");
    let sent = client.headers("tools/call", Some("work")).begin("POST", client.call_body("work", ""));
    upstream.wait_for("tools/call", 2);
    drop(sent);
    upstream.wait_for("notifications/cancelled", 2);
    held.open();
}

#[test]
fn the_log_level_of_one_request_holds_in_the_session_that_carries_it() {
    let upstream = Upstream::start();
    let file = "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nstate = \"request\"\n";
    let gateway = Gw::start_file(&upstream, file);
    let client = Modern::new(&gateway).meta(r#""io.modelcontextprotocol/logLevel":"info""#);
    assert_eq!(client.call("count").tool_text(), "1");
    upstream.wait_for("DELETE", 1);
    assert_eq!((upstream.count("initialize"), upstream.count("logging/setLevel")), (1, 1));
    let level = upstream.of("logging/setLevel")[0].session().map(str::to_owned);
    assert_eq!(level.as_deref(), upstream.of("tools/call")[0].session());
}

#[test]
fn an_error_that_names_no_request_is_the_answer_to_this_one() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    for id in ["", r#","id":null"#] {
        let error = format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32603,"message":"broken"}}{id}}}"#);
        upstream.script(move |request, _| match request.tool().as_str() {
            "work" => Some(plain(400, error.clone())),
            "stream" => Some(sse(200, &error)),
            _ => None,
        });
        for tool in ["work", "stream"] {
            let answer = client.call(tool);
            assert_eq!((answer.code(), &answer.json()["id"]), (-32603, &json!(7)), "{tool} {id}");
        }
    }
}
