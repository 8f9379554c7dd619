//! Plain REST: what becomes of a request that is no message, and of the message that it becomes.

use serde_json::{Value, json};

use crate::harness::{Answers, Client, Gw, Upstream, json as answer, refused, rpc_error};

/// REST clients send what they send, and no more.
fn rest(gateway: &Gw, path: &str) -> Client {
    gateway.client().without("accept").at(path)
}

fn get(gateway: &Gw, path: &str) -> (u16, Value) {
    let answer = rest(gateway, path).without("content-type").get();
    (answer.status, answer.json())
}

/// A server whose tools answer in all the forms there are.
fn varied(upstream: &Upstream) {
    upstream.script(|request, _| {
        let id = request.id();
        let params = request.json()["params"].clone();
        let result = match (request.rpc().as_str(), request.tool().as_str()) {
            ("tools/list", _) => match params["cursor"].as_str() {
                None => json!({ "tools": [
                    { "name": "count", "inputSchema": { "type": "object" } },
                    { "name": "files/read", "title": "Read a file", "description": "Reads.",
                      "inputSchema": { "type": "object", "properties": { "path": { "$ref": "#/$defs/P" } }, "required": ["path"],
                                       "$defs": { "P": { "type": ["string", "null"], "title": "Path" } } },
                      "outputSchema": { "type": "object", "properties": { "size": { "type": "integer" } }, "required": ["size"] } },
                ], "nextCursor": "more" }),
                Some(_) => json!({ "tools": [{ "name": "files read", "inputSchema": { "type": "object" } }] }),
            },
            ("tools/call", "files/read") => json!({ "content": [{ "type": "text", "text": "{\"size\":3}" }], "structuredContent": { "size": 3 } }),
            ("tools/call", "parts") => json!({ "content": [{ "type": "text", "text": "a" }, { "type": "image", "data": "eA==", "mimeType": "image/png" }, { "type": "text", "text": "b" }] }),
            ("tools/call", "fails") => json!({ "content": [{ "type": "text", "text": "disk full" }], "isError": true }),
            ("tools/call", "echo") => json!({ "content": [], "structuredContent": params }),
            ("tools/call", "unknown") => return Some(answer(200, rpc_error(&id, -32602, "Unknown tool: unknown"))),
            ("tools/call", "broken") => return Some(answer(200, rpc_error(&id, -32603, "oops"))),
            ("tools/call", "html") => return Some(refused(503, "text/html", "<p>").with("retry-after", "7")),
            ("resources/read", _) => json!({ "contents": [{ "uri": params["uri"], "text": "hello" }] }),
            ("prompts/get", _) => json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": params.to_string() } }] }),
            ("prompts/list", _) => json!({ "prompts": [{ "name": "greet" }] }),
            ("resources/list", _) => return Some(answer(200, rpc_error(&id, -32601, "Method not found"))),
            _ => return None,
        };
        Some(answer(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)))
    });
}

#[test]
fn tools_are_called_without_any_session_in_sight_and_keep_theirs() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let gateway = Gw::start(&upstream);
        for count in 1..=3 {
            let answer = rest(&gateway, "/rest/tools/count").post("{}");
            assert_eq!((answer.status, answer.text()), (200, format!(r#"{{"text":"{count}"}}"#)));
            assert_eq!(answer.headers.get("cache-control"), Some("no-store"));
        }
        // Without a body, without a content type.
        let bare = rest(&gateway, "/rest/tools/count").without("content-type").post("");
        assert_eq!(bare.json(), json!({ "text": "4" }));
        upstream.server().lose_sessions();
        assert_eq!(rest(&gateway, "/rest/tools/count").post("{}").json(), json!({ "text": "1" }));
        assert_eq!((upstream.count("initialize"), upstream.server().violations()), (2, vec![]));
    }
}

#[test]
fn results_are_plain() {
    let upstream = Upstream::start();
    varied(&upstream);
    let gateway = Gw::start(&upstream);
    let call = |tool: &str, body: &str| {
        let answer = rest(&gateway, &format!("/rest/tools/{tool}")).post(body);
        (answer.status, answer.json())
    };
    assert_eq!(call("files%2Fread", r#"{"path":"a"}"#), (200, json!({ "size": 3 })));
    let image = json!([{ "type": "image", "data": "eA==", "mimeType": "image/png" }]);
    assert_eq!(call("parts", "{}"), (200, json!({ "text": "a\nb", "content": image })));
    assert_eq!(call("fails", "{}"), (200, json!({ "isError": true, "text": "disk full" })));
    assert_eq!(
        call("unknown", "{}"),
        (400, json!({ "error": { "code": -32602, "message": "Unknown tool: unknown" } }))
    );
    assert_eq!(call("broken", "{}"), (502, json!({ "error": { "code": -32603, "message": "oops" } })));
    let down = rest(&gateway, "/rest/tools/html").post("{}");
    assert_eq!((down.status, down.headers.get("retry-after")), (503, Some("7")));
    assert_eq!(
        down.json()["error"]["message"],
        "The server behind the gateway answered with HTTP status 503"
    );
    // Byte for byte, whatever a parser would make of it.
    call("echo", r#" {"a": 1.0, "b":1e400, "a":2} "#);
    assert!(upstream.log().iter().any(|r| r.text().contains(r#""arguments":{"a": 1.0, "b":1e400, "a":2}"#)));

    assert_eq!(
        get(&gateway, "/rest/resources/read?x=1&uri=file%3A%2F%2F%2Fa%20b"),
        (200, json!({ "contents": [{ "uri": "file:///a b", "text": "hello" }] }))
    );
    let read = rest(&gateway, "/rest/resources/read").post(r#"{"uri":"file:///c"}"#);
    assert_eq!(read.json()["contents"][0]["uri"], "file:///c");
    let prompt = rest(&gateway, "/rest/prompts/greet").post(r#"{"who":"you"}"#).json();
    assert_eq!(prompt["messages"][0]["content"]["text"], r#"{"name":"greet","arguments":{"who":"you"}}"#);
    assert_eq!(get(&gateway, "/rest/prompts"), (200, json!({ "prompts": [{ "name": "greet" }] })));
    assert_eq!(get(&gateway, "/rest/resources").0, 404);
    let (status, tools) = get(&gateway, "/rest/tools");
    let names: Vec<_> =
        tools["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!((status, names), (200, vec!["count", "files/read", "files read"]));
}

#[test]
fn a_tools_failure_has_the_status_that_the_route_says() {
    let upstream = Upstream::start();
    varied(&upstream);
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].rest.tool_errors = throughline_gateway::config::ToolErrors::Unprocessable;
    });
    let failed = rest(&gateway, "/rest/tools/fails").post("{}");
    assert_eq!((failed.status, failed.json()), (422, json!({ "isError": true, "text": "disk full" })));
    assert_eq!(rest(&gateway, "/rest/tools/parts").post("{}").status, 200);
}

/// What a maker builds who has one action for `initialize` and one for messages, and can keep what a body says but not
/// what a header says.
#[test]
fn a_session_that_is_held_by_its_id_in_the_body() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let begin = || rest(&gateway, "/rest/initialize").post("{}").json();
    let (one, two) = (begin(), begin());
    assert_eq!(
        (&one["protocolVersion"], &one["serverInfo"]["name"]),
        (&json!("2025-11-25"), &json!("scripted"))
    );
    let id = one["sessionId"].as_str().unwrap().to_owned();
    assert_ne!(id, two["sessionId"].as_str().unwrap());
    let message = |session: &str, method: &str, params: Value| {
        let body =
            json!({ "sessionId": session, "jsonrpc": "2.0", "id": "q", "method": method, "params": params });
        rest(&gateway, "/rest/message").post(body.to_string())
    };
    let count = |session: &str| {
        message(session, "tools/call", json!({ "name": "count", "arguments": {} })).tool_text()
    };
    assert_eq!(
        (count(&id), count(&id), count(two["sessionId"].as_str().unwrap())),
        ("1".into(), "2".into(), "1".into())
    );
    // In a header as well, with tools as well, and nothing of it reaches the server.
    let held = rest(&gateway, "/rest/tools/count").with("mcp-session-id", &id).post("{}");
    assert_eq!(held.json(), json!({ "text": "3" }));
    assert!(upstream.log().iter().all(|request| !request.text().contains("sessionId")));
    // The URL ends up in logs, so not there.
    let query = format!("/rest/tools/count?sessionId={id}");
    assert_eq!(rest(&gateway, &query).post("{}").json(), json!({ "text": "1" }), "another session");
    // Members that the form needs may be left out.
    let short = json!({ "sessionId": id, "method": "tools/call", "params": { "name": "count" } });
    assert_eq!(rest(&gateway, "/rest/message").post(short.to_string()).tool_text(), "4");
    let noted = json!({ "sessionId": id, "method": "notifications/cancelled", "params": { "requestId": 9 } });
    let noted = rest(&gateway, "/rest/message").post(noted.to_string());
    assert_eq!((noted.status, noted.body.len()), (202, 0));

    let ended = rest(&gateway, "/rest/session").with("mcp-session-id", &id).delete();
    assert_eq!((ended.status, ended.body.len()), (204, 0));
    let gone = message(&id, "ping", json!({}));
    assert_eq!((gone.status, gone.code()), (404, -32001));
    let unknown = message("never-issued", "ping", json!({}));
    assert_eq!((unknown.status, unknown.text()), (gone.status, gone.text()));
}

#[test]
fn messages_without_a_session_have_one_all_the_same() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let initialize = json!({ "method": "initialize", "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "flow", "version": "1" } } });
    let welcome = rest(&gateway, "/rest/message").post(initialize.to_string()).json();
    assert!(
        welcome["sessionId"].is_string() && welcome["result"]["protocolVersion"] == "2025-06-18",
        "{welcome}"
    );
    for count in 1..=2 {
        let call = json!({ "method": "tools/call", "params": { "name": "count", "arguments": {} } });
        assert_eq!(rest(&gateway, "/rest/message").post(call.to_string()).tool_text(), count.to_string());
    }
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn a_session_in_the_url_where_the_route_says_so() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.routes[0].rest.session_in_query = true);
    let id = rest(&gateway, "/rest/initialize").post("").json()["sessionId"].as_str().unwrap().to_owned();
    for count in 1..=2 {
        let answer = rest(&gateway, &format!("/rest/tools/count?a=b&sessionId={id}")).post("{}");
        assert_eq!(answer.json(), json!({ "text": count.to_string() }));
    }
}

#[test]
fn what_cannot_be_read_is_refused_in_words() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let post = |path: &str, body: &str| {
        let answer = rest(&gateway, path).post(body);
        (answer.status, answer.json()["error"]["message"].as_str().unwrap().to_owned())
    };
    let object = "Bad request: the body must be one JSON object";
    for body in ["[]", "7", "{", "{} {}", r#"{},"name":"other"#, r#"{}},{"#] {
        assert_eq!(post("/rest/tools/count", body), (400, object.to_owned()), "{body}");
        assert_eq!(post("/rest/message", body).0, 400, "{body}");
        assert_eq!(post("/rest/initialize", body).0, 400, "{body}");
    }
    assert_eq!(post("/rest/message", r#"{"jsonrpc":"1.0","method":"ping"}"#).0, 400);
    assert_eq!(upstream.log().len(), 0);
    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        assert_eq!(
            rest(&gateway, "/rest/tools/count").with("content-type", content_type).post("").status,
            415
        );
    }
    assert_eq!(rest(&gateway, "/rest/tools/count").without("content-type").post("{}").status, 415);
    assert_eq!(rest(&gateway, "/rest/tools/%ff").post("{}").status, 404);
    for (path, allow) in
        [("/rest/tools/count", "POST"), ("/rest/initialize", "POST"), ("/rest/session", "DELETE")]
    {
        let answer = rest(&gateway, path).get();
        assert_eq!((answer.status, answer.headers.get("allow")), (405, Some(allow)), "{path}");
    }
    for path in
        ["/rest/nothing", "/rest/tools/a/b", "/restless", "/other/rest/tools", "/rest/resources/read/x"]
    {
        assert_eq!(rest(&gateway, path).get().status, 404, "{path}");
    }
    assert_eq!(rest(&gateway, "/rest/resources/read").get().status, 400);
    // Of a browser's page that is not this gateway's own.
    assert_eq!(rest(&gateway, "/rest/tools").with("origin", "https://evil.example").get().status, 403);
    gateway.config.routes[0].rest.enabled = false;
    gateway.restart(|_| {});
    assert_eq!(rest(&gateway, "/rest/tools").get().status, 404);
}

#[test]
fn both_descriptions_have_an_operation_for_each_tool() {
    let upstream = Upstream::start();
    varied(&upstream);
    let gateway = Gw::start(&upstream);
    let (_, openapi) = get(&gateway, "/rest/openapi.json");
    let (_, swagger) = get(&gateway, "/rest/swagger.json");
    assert_eq!(openapi["servers"][0]["url"], format!("http://{}/rest", gateway.address));
    assert_eq!(
        (&swagger["host"], &swagger["basePath"], &swagger["schemes"]),
        (&json!(gateway.address.to_string()), &json!("/rest"), &json!(["http"]))
    );
    for document in [&openapi, &swagger] {
        let paths = document["paths"].as_object().unwrap();
        let operations: Vec<_> = paths
            .iter()
            .filter(|(path, _)| path.starts_with("/tools"))
            .map(|(path, item)| {
                let (_, operation) = item.as_object().unwrap().iter().next().unwrap();
                (path.as_str(), operation["operationId"].as_str().unwrap())
            })
            .collect();
        assert_eq!(
            operations,
            [
                ("/tools", "listTools"),
                ("/tools/count", "count"),
                ("/tools/files%2Fread", "files_read"),
                ("/tools/files%20read", "files_read_2")
            ]
        );
        assert!(!document.to_string().contains("#/$defs"));
    }
    let typed = &openapi["paths"]["/tools/files%2Fread"]["post"];
    assert_eq!((&typed["summary"], &typed["requestBody"]["required"]), (&json!("Read a file"), &json!(true)));
    assert_eq!(
        typed["requestBody"]["content"]["application/json"]["schema"]["properties"]["path"]["type"],
        json!(["string", "null"])
    );
    let typed = &swagger["paths"]["/tools/files%2Fread"]["post"]["parameters"][0];
    assert_eq!(
        typed["schema"],
        json!({ "type": "object", "properties": { "path": { "title": "Path", "type": "string", "x-nullable": true, "x-ms-summary": "Path" } }, "required": ["path"] })
    );
    // The host is what the client called it by.
    let named = Gw::start_with(&upstream, |config| config.allowed_hosts = vec!["mcp.example.com".into()]);
    let elsewhere = rest(&named, "/rest/swagger.json").with("host", "mcp.example.com").get().json();
    assert_eq!(elsewhere["host"], "mcp.example.com");
}

#[test]
fn the_page_brings_all_that_it_needs_and_lets_nothing_else_in() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, "[routes.files]\nurl = \"UPSTREAM\"\n");
    for path in ["/files/rest", "/files/rest/"] {
        let page = rest(&gateway, path).get();
        assert_eq!((page.status, page.headers.get("content-type")), (200, Some("text/html; charset=utf-8")));
        let policy = page.headers.get("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = page.text();
        assert!(!text.contains("{{") && !text.contains("http://") && !text.contains("https://"), "{text}");
        for own in ["/files/rest/try.js", "/files/rest/try.css"] {
            assert!(text.contains(own));
            assert_eq!(rest(&gateway, own).get().status, 200);
        }
    }
    assert_eq!(rest(&gateway, "/rest").get().status, 404, "there is no unnamed route");
    assert_eq!(upstream.log().len(), 0);
}
