//! Routes with a profile: what their clients see of tools, names and large results, and what the server gets.

use serde_json::{Value, json};

use crate::harness::{Answers, Gw, Session, Upstream, call, json as answer, lines, request, rpc_error, sse};

const PROFILE: &str =
    "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nprofile = \"copilot-studio\"\n";
const LONG: &str = "a_tool_whose_name_is_longer_than_the_clients_of_this_kind_can_take/of_course";

/// A server with two pages of tools.
fn paged(upstream: &Upstream, first: &'static str) {
    upstream.script(move |request, _| {
        if request.rpc() != "tools/list" {
            return None;
        }
        let next = request.json()["params"]["cursor"].is_string();
        let tool = |name: &str| {
            json!({ "name": name, "inputSchema": {
                "type": "object",
                "properties": { "to": { "$ref": "#/$defs/To" }, "size": { "type": ["integer", "null"] } },
                "$defs": { "To": { "type": "string", "enum": ["a", "b"] } },
            } })
        };
        let result = match next {
            false => {
                json!({ "tools": [tool(first), tool(LONG)], "nextCursor": "2", "_meta": { "kept": 1.5 } })
            }
            true => json!({ "tools": (0..200).map(|n| tool(&format!("more{n}"))).collect::<Vec<_>>() }),
        };
        Some(answer(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())))
    });
}

fn names(list: &Value) -> Vec<&str> {
    list["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[test]
fn the_list_is_whole_and_plain_and_the_log_says_what_was_changed() {
    let upstream = Upstream::start();
    paged(&upstream, "said-once");
    let gateway = Gw::start_file(&upstream, PROFILE);
    let listed = gateway.client().post(request("\"2\"", "tools/list", "{}"));
    assert_eq!((listed.status, listed.headers.get("content-type")), (200, Some("application/json")));
    let list = listed.json();
    assert_eq!((&list["id"], &list["result"]["_meta"]), (&json!("2"), &json!({ "kept": 1.5 })));
    assert!(list["result"].get("nextCursor").is_none());
    let shown = names(&list);
    assert_eq!((shown.len(), shown[0], shown[2]), (128, "said-once", "more0"));
    assert!(shown[1].len() <= 64 && shown[1].starts_with("a_tool_whose"), "{}", shown[1]);
    assert_eq!(
        list["result"]["tools"][0]["inputSchema"],
        json!({ "type": "object", "properties": {
            "to": { "type": "string", "enum": ["a", "b"], "description": "Allowed values: a, b." },
            "size": { "type": "integer", "nullable": true },
        } })
    );
    let _ = gateway.client().post(request("1", "tools/list", "{}"));
    let rewritten = lines("a tool list was rewritten");
    let mine: Vec<_> = rewritten.iter().filter(|line| line.contains("said-once")).collect();
    assert_eq!(mine.len(), 1, "{mine:?}");
    let changes = "128 $ref inlined, 128 type lists made single, 128 enums described, 1 names shortened";
    assert!(mine[0].contains(changes) && mine[0].contains("and 108 more"), "{}", mine[0]);
    let left_out = lines("tools are not shown");
    let mine = |line: &String| line.contains("more126 (the list is full)") && line.contains("and 54 more");
    assert!(left_out.iter().any(mine), "{left_out:?}");
}

#[test]
fn short_names_are_the_servers_own_again_in_calls() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        paged(&upstream, "count");
        let mut gateway = Gw::start_file(&upstream, PROFILE);
        let list = gateway.client().post(request("1", "tools/list", "{}")).json();
        let short = names(&list)[1].to_owned();
        let arguments = r#"{"name":"SHORT","arguments":{"to":  5.0,"to":null}}"#;
        let body = request("7", "tools/call", &arguments.replace("SHORT", &short));
        let called = gateway.client().post(&body);
        assert_eq!((called.status, &called.json()["id"]), (200, &json!(7)), "{}", called.text());
        // The list is known no more; the name is found all the same.
        gateway.restart(|_| {});
        assert_eq!(gateway.client().post(&body).status, 200);
        let session = Session::open(&gateway.client());
        assert_eq!(session.post(&body).status, 200);
        let calls = upstream.of("tools/call");
        assert_eq!(calls.len(), 3);
        for sent in calls {
            assert_eq!(sent.tool(), LONG);
            assert!(
                sent.text().contains(r#""arguments":{"to":  5.0,"to":null}"#),
                "as they came: {}",
                sent.text()
            );
        }
    }
}

#[test]
fn what_is_not_selected_is_neither_seen_nor_called() {
    for (answers, profile) in [(Answers::Sse, ""), (Answers::Json, "profile = \"copilot-studio\"\n")] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        upstream.script(move |request, _| {
            let list = r#"{"tools":[{"name":"count","x":1.50},{"name":"secret"},{"name":"other"}],"nextCursor":"n"}"#;
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{list}}}"#, request.id());
            let first = request.rpc() == "tools/list" && request.json()["params"].get("cursor").is_none();
            first.then(|| if answers == Answers::Sse { sse(200, &body) } else { answer(200, body) })
        });
        let text = format!(
            "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\n{profile}tools.allow = [\"c*\", \"secret\"]\ntools.deny = [\"secret\"]\n"
        );
        let gateway = Gw::start_file(&upstream, &text);
        let list = gateway.client().post(request("1", "tools/list", "{}")).json();
        // Without a profile pages stay pages.
        assert_eq!(list["result"].get("nextCursor").is_some(), profile.is_empty(), "{list}");
        assert_eq!(names(&list)[0], "count");
        assert!(!list.to_string().contains("secret") && !list.to_string().contains("other"));
        for denied in ["secret", "other", "s\\u0065cret"] {
            let refused = gateway.client().post(call("\"x\"", denied));
            assert_eq!((refused.status, refused.code(), &refused.json()["id"]), (200, -32602, &json!("x")));
        }
        assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
        assert_eq!(upstream.count("tools/call"), 1);
    }
}

#[test]
fn a_large_result_is_cut_and_says_so() {
    let upstream = Upstream::start();
    let text = "x".repeat(700_000);
    upstream.script(move |request, _| {
        let result = json!({ "content": [{ "type": "text", "text": text }] });
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id());
        (request.tool() == "large").then(|| answer(200, body))
    });
    let gateway = Gw::start_file(&upstream, PROFILE);
    let large = gateway.client().post(call("1", "large"));
    assert!(large.body.len() <= 500_000 && large.body.len() > 490_000, "{}", large.body.len());
    let notice = large.json()["result"]["content"][1]["text"].as_str().unwrap().to_owned();
    assert!(notice.starts_with("[Cut by the gateway: this result has 7000"), "{notice}");
    // Without the profile it passes whole.
    let plain = Gw::start(&upstream);
    assert!(plain.client().post(call("1", "large")).body.len() > 700_000);
}

#[test]
fn failures_reach_the_maker_as_the_tools() {
    let mut upstream = Upstream::start();
    upstream.script(|request, _| {
        let broken = || answer(500, rpc_error(&request.id(), -32000, "disk full"));
        match request.tool().as_str() {
            "broken" => Some(broken()),
            "down" => Some(crate::harness::refused(503, "text/html", "<h1>no</h1>")),
            "login" => {
                Some(crate::harness::refused(401, "text/plain", "").with("www-authenticate", "Bearer"))
            }
            _ => None,
        }
    });
    let text = format!("{PROFILE}[timeouts]\nconnect = \"100ms\"\n");
    let gateway = Gw::start_file(&upstream, &text);
    let client = gateway.client();
    let broken = client.post(call("1", "broken"));
    assert_eq!((broken.status, &broken.json()["error"]["message"]), (200, &json!("disk full")));
    let down = client.post(call("1", "down"));
    assert_eq!((down.status, &down.json()["result"]["isError"]), (200, &json!(true)));
    assert_eq!(down.tool_text(), "The server behind the gateway answered with HTTP status 503");
    // For the connector, which has to log in.
    assert_eq!(client.post(call("1", "login")).status, 401);
    upstream.go_away();
    let away = client.post(call("\"9\"", "count"));
    assert_eq!((away.status, &away.json()["id"]), (200, &json!("9")));
    assert!(
        away.tool_text().contains("cannot be reached; the call was not executed"),
        "{}",
        away.tool_text()
    );
    // Where there is no profile, a failure is one.
    assert_eq!(
        Gw::start_with(&upstream, |c| c.timeouts.connect = std::time::Duration::from_millis(100))
            .client()
            .post(call("1", "count"))
            .status,
        502
    );
}
