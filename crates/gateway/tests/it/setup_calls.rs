//! Calls that set a session up, and tools that say of themselves that they may be repeated: as far as the route
//! believes them. And tasks, which belong to the session that they were made in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Answer, Answers, Gw, Session, Upstream, call, json, request, rpc_error};

fn call_with(id: &str, tool: &str, arguments: &str) -> String {
    request(id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#))
}

fn gateway(upstream: &Upstream, options: &str) -> Gw {
    Gw::start_file(upstream, &format!("[upstream]\nurl = \"UPSTREAM\"\n{options}"))
}

/// The calls that arrived in the upstream's newest session.
fn arrived(upstream: &Upstream) -> Vec<String> {
    let newest = upstream.server().given().pop().unwrap();
    let calls = upstream.of("tools/call");
    let calls = calls.iter().filter(|request| request.session() == Some(&newest));
    calls.map(|request| format!("{} {}", request.tool(), request.json()["params"]["arguments"])).collect()
}

#[test]
fn set_up_calls_are_made_again_in_their_order() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let mut gateway = gateway(&upstream, "restore.calls = [\"set_workspace\", \"log_in\"]");
        let mut session = Session::open(&gateway.client());
        session.post(call_with("1", "set_workspace", r#"{"path":"/a"}"#));
        session.post(call_with("1", "log_in", r#"{"as":"me"}"#));
        session.post(call_with("1", "other", r#"{"x":1}"#));
        session.post(call_with("1", "set_workspace", r#"{"path":"/b"}"#));
        upstream.server().lose_sessions();
        assert_eq!(session.post(call_with("9", "other", r#"{"x":2}"#)).json()["id"], 9);
        let expected = [r#"log_in {"as":"me"}"#, r#"set_workspace {"path":"/b"}"#, r#"other {"x":2}"#];
        assert_eq!(arrived(&upstream), expected);

        // They are part of the session's record, sealed, and survive the gateway too.
        let state = gateway.config.state_dir.clone().unwrap();
        gateway.restart(|_| {
            let file = std::fs::read(state.join("store/sessions.redb")).unwrap();
            assert!(!file.windows(4).any(|bytes| bytes == b"\"/b\""), "arguments are not stored in clear");
        });
        upstream.server().lose_sessions();
        session.client = gateway.client().with("mcp-session-id", &session.id);
        session.post(call_with("9", "other", r#"{"x":2}"#));
        assert_eq!(arrived(&upstream), expected);
        assert_eq!(upstream.server().violations(), Vec::<String>::new());
    }
}

#[test]
fn a_set_up_call_that_failed_is_not_made_again() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "restore.calls = [\"log_in\"]");
    let session = Session::open(&gateway.client());
    upstream.script(|request, _| {
        let failure = match request.json()["params"]["arguments"]["as"].as_str() {
            Some("nobody") => r#"{"content":[],"isError":true}"#,
            _ => return None,
        };
        Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{failure}}}"#, request.id())))
    });
    session.post(call_with("1", "log_in", r#"{"as":"me"}"#));
    session.post(call_with("1", "log_in", r#"{"as":"nobody"}"#));
    upstream.server().lose_sessions();
    session.count();
    assert_eq!(arrived(&upstream), [r#"log_in {"as":"me"}"#, "count {}"], "the last that succeeded");
}

#[test]
fn where_a_set_up_call_fails_after_a_loss_the_next_call_is_told() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "restore.calls = [\"log_in\"]");
    let session = Session::open(&gateway.client());
    session.post(call_with("1", "log_in", r#"{"as":"me"}"#));
    upstream.script(|request, _| {
        let result = r#"{"content":[{"type":"text","text":"expired"}],"isError":true}"#;
        let refused = request.tool() == "log_in";
        refused.then(|| json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())))
    });
    upstream.server().lose_sessions();
    let told = session.post(call("1", "count"));
    assert_eq!((told.status, told.code()), (409, -32013));
    assert_eq!(session.count(), "1");
}

/// An upstream whose connection breaks at the first call of each tool, and which says this of its tools.
fn breaking(annotations: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let upstream = Upstream::start();
    let broken = Arc::new(AtomicUsize::new(0));
    let breaks = Arc::clone(&broken);
    upstream.script(move |request, _| match request.rpc().as_str() {
        "tools/call" if breaks.fetch_add(1, Ordering::Relaxed) == 0 => Some(Answer::Reset(Vec::new())),
        "tools/list" if request.json()["params"]["cursor"].is_null() => {
            let page = r#"{"tools":[{"name":"other"}],"nextCursor":"2"}"#;
            Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{page}}}"#, request.id())))
        }
        "tools/list" => {
            let page = format!(r#"{{"tools":[{{"name":"count","annotations":{annotations}}}]}}"#);
            Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{page}}}"#, request.id())))
        }
        _ => None,
    });
    (upstream, broken)
}

#[test]
fn a_tool_that_says_it_may_be_repeated_is_believed_only_where_the_route_says_so() {
    for (annotations, trusted, repeated) in [
        (r#"{"readOnlyHint":true}"#, true, true),
        (r#"{"idempotentHint":true}"#, true, true),
        (r#"{"readOnlyHint":false,"idempotentHint":false}"#, true, false),
        (r#"{"readOnlyHint":"true"}"#, true, false),
        ("{}", true, false),
        (r#"{"readOnlyHint":true}"#, false, false),
    ] {
        let (upstream, calls) = breaking(annotations);
        let gateway = gateway(&upstream, &format!("trust_annotations = {trusted}"));
        let session = Session::open(&gateway.client());
        let answer = session.post(call("1", "count"));
        match repeated {
            true => assert_eq!(answer.tool_text(), "1", "{annotations}"),
            false => assert_eq!((answer.status, answer.code()), (502, -32012), "{annotations}"),
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1 + usize::from(repeated));
        // Asked for when it is needed, in the session itself.
        assert_eq!(upstream.count("tools/list"), if trusted { 2 } else { 0 });
    }
}

#[test]
fn a_trusted_tool_is_repeated_also_when_the_server_died_with_the_session() {
    let (upstream, _) = breaking(r#"{"readOnlyHint":true}"#);
    let gateway = gateway(&upstream, "trust_annotations = true");
    let session = Session::open(&gateway.client());
    session.post(request("1", "resources/subscribe", r#"{"uri":"file:///a"}"#));
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    assert_eq!((upstream.server().executed(), upstream.count("initialize")), (1, 2));
}

#[test]
fn a_task_of_a_lost_session_is_the_servers_to_know() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream, "");
    let session = Session::open_as(&gateway.client(), "2025-11-25", r#"{"tasks":{"list":{}}}"#);
    session.count();
    upstream.script(|request, server| {
        if !request.rpc().starts_with("tasks/") || server.open().is_empty() {
            return None;
        }
        let first = request.session() == server.given().first().map(String::as_str);
        Some(match first {
            true => {
                let task = r#"{"taskId":"t-1","status":"working"}"#;
                json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{task}}}"#, request.id()))
            }
            false => json(200, rpc_error(&request.id(), -32602, "Failed to retrieve task: Task not found")),
        })
    });
    let task = |method: &str| session.post(request("5", method, r#"{"taskId":"t-1"}"#));
    assert_eq!(task("tasks/get").json()["result"]["status"], "working");
    upstream.server().lose_sessions();
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let answer = task(method);
        assert_eq!(
            (answer.status, answer.code(), &answer.json()["id"]),
            (200, -32602, &5.into()),
            "{method}"
        );
    }
    assert_eq!(upstream.count("initialize"), 2, "the session itself goes on");
    assert_eq!(session.count(), "1");
}
