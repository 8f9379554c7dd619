//! Tools whose arguments headers repeat.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{modern, result, session, text};
use crate::harness::{Gw, Upstream, json as answer, logged, request, rpc_error};

fn tool(name: &str, header: &str) -> Value {
    json!({ "name": name, "inputSchema": { "type": "object", "properties": {
        "where": { "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": header } } },
        "count": { "type": "integer", "x-mcp-header": "Count" },
    } } })
}

fn call(arguments: &Value) -> String {
    request("1", "tools/call", &json!({ "name": "good", "arguments": arguments }).to_string())
}

#[test]
fn annotated_arguments_are_repeated_in_headers_whether_or_not_the_client_has_listed_the_tools() {
    for lists in [false, true] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        modern(&upstream, |request| match request.rpc().as_str() {
            "tools/list" => {
                let tools = [tool("good", "Region"), tool("bad", "a b")];
                result(request, json!({ "resultType": "complete", "tools": tools }))
            }
            _ => text(request, "1"),
        });
        let session = session(&gateway);
        if lists {
            let listed = session.post(request("1", "tools/list", "{}")).json();
            let names: Vec<_> = listed["result"]["tools"]
                .as_array()
                .unwrap()
                .iter()
                .map(|tool| tool["name"].clone())
                .collect();
            assert_eq!(names, ["good"], "the other breaks the rules");
            assert!(logged("x-mcp-header cannot be part of a header's name"));
        }
        session.post(call(&json!({ "where": { "region": "Zürich" }, "count": 42.0 })));
        session.post(call(&json!({ "where": { "region": null } })));
        let sent = upstream.of("tools/call");
        let headers =
            |at: usize| ["mcp-param-region", "mcp-param-count"].map(|name| sent[at].headers.get(name));
        assert_eq!(headers(0), [Some("=?base64?WsO8cmljaA==?="), Some("42")]);
        assert_eq!(headers(1), [None, None]);
        assert_eq!(upstream.count("tools/list"), 1, "asked once");
    }
}

#[test]
fn a_list_that_is_out_of_date_is_read_again() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let lists = AtomicUsize::new(0);
    modern(&upstream, move |request| match request.rpc().as_str() {
        "tools/list" => {
            let header = if lists.fetch_add(1, Ordering::Relaxed) == 0 { "Old" } else { "New" };
            result(request, json!({ "resultType": "complete", "tools": [tool("good", header)] }))
        }
        _ if request.headers.get("mcp-param-new") == Some("eu") => text(request, "1"),
        _ => answer(400, rpc_error(&request.id(), -32020, "Header mismatch")),
    });
    let session = session(&gateway);
    assert_eq!(session.post(call(&json!({ "where": { "region": "eu" } }))).tool_text(), "1");
    assert_eq!((upstream.count("tools/call"), upstream.count("tools/list")), (2, 2));
}

#[test]
fn callers_without_a_session_do_not_ask_for_the_tools_each_time() {
    let upstream = Upstream::start();
    let file = "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"isolated\"\n";
    let gateway = Gw::start_file(&upstream, file);
    modern(&upstream, |request| match request.rpc().as_str() {
        "tools/list" => {
            result(request, json!({ "resultType": "complete", "tools": [tool("good", "Region")] }))
        }
        _ => text(request, request.headers.get("mcp-param-region").unwrap_or("none")),
    });
    for _ in 0..3 {
        let answer = gateway.client().post(call(&json!({ "where": { "region": "eu" } })));
        assert_eq!(answer.tool_text(), "eu");
    }
    assert_eq!((upstream.count("tools/list"), upstream.count("server/discover")), (1, 1));
}
