//! A client that echoes its id keeps its session, however the upstream loses its own.

use crate::harness::{
    Answer, Answers, Gw, Request, Session, Upstream, call, initialize_body, json, parse, refused, request,
    rpc_error, sse,
};

#[test]
fn an_id_is_short_and_made_of_lower_case_letters_digits_and_dashes() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let first = Session::open(&gateway.client());
    let second = Session::open(&gateway.client());
    for id in [&first.id, &second.id] {
        assert!((1..=128).contains(&id.len()), "{id}");
        assert!(id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{id}");
    }
    assert_ne!(first.id, second.id);
    assert_eq!(first.count(), "1");
    assert_eq!(second.count(), "1", "a session of its own upstream");
    assert_eq!(first.count(), "2");
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

type Reply = fn(&Request) -> Answer;

/// How a server says that it does not know the session, and whether that is unambiguous.
struct Row {
    name: &'static str,
    certain: bool,
    answer: Reply,
}

const fn certain(name: &'static str, answer: Reply) -> Row {
    Row { name, certain: true, answer }
}

const fn suspected(name: &'static str, answer: Reply) -> Row {
    Row { name, certain: false, answer }
}

fn under_null(code: i64, message: &str) -> String {
    rpc_error("null", code, message)
}

const LOST: &[Row] = &[
    certain("TypeScript", |_| json(404, under_null(-32001, "Session not found"))),
    certain("Python", |_| json(404, rpc_error("\"server-error\"", -32600, "Session not found"))),
    certain("Python, terminated", |_| {
        json(404, rpc_error("\"server-error\"", -32600, "Not Found: Session has been terminated"))
    }),
    certain("rmcp", |_| refused(404, "text/plain", "Not Found: Session not found")),
    certain("C#", |r| json(404, rpc_error(&r.id(), -32001, "Session not found"))),
    certain("Go", |_| refused(404, "text/plain; charset=utf-8", "session not found\n")),
    certain("-32000 with 404", |r| json(404, rpc_error(&r.id(), -32000, "Unknown Mcp-Session-Id header"))),
    certain("400, no valid id", |_| {
        json(400, under_null(-32000, "Bad Request: No valid session ID provided"))
    }),
    certain("400, not initialized", |_| json(400, under_null(-32000, "Bad Request: Server not initialized"))),
    certain("400, missing id", |_| {
        json(400, rpc_error("\"server-error\"", -32600, "Bad Request: Missing session ID"))
    }),
    certain("rmcp, 400 text", |_| refused(400, "text/plain", "Bad Request: Session ID is required")),
    suspected("Java", |_| {
        json(404, r#"{"code":-32603,"message":"Session not found: 0f8fad5b","data":null}"#)
    }),
    suspected("404 without a word", |_| refused(404, "text/plain", "")),
    suspected("404, a page", |_| {
        refused(404, "text/html", "<html><body><h1>404 Not Found</h1></body></html>")
    }),
    suspected("rmcp, 422", |_| refused(422, "text/plain", "Unexpected message, expect initialize request")),
    suspected("401", |_| refused(401, "text/plain", "Unauthorized: Session not found")),
    suspected("409", |r| json(409, rpc_error(&r.id(), -32000, "Session expired (server restarted)."))),
    suspected("410", |_| refused(410, "text/plain", "Session terminated")),
    suspected("503", |r| {
        json(
            503,
            rpc_error(&r.id(), -32001, "Service Unavailable: MCP session is unknown on this API instance"),
        )
    }),
    suspected("-32004", |r| json(200, rpc_error(&r.id(), -32004, "Unknown session"))),
    suspected("200, JSON", |r| json(200, rpc_error(&r.id(), -32001, "Session not found"))),
    suspected("200, a stream", |r| sse(200, &rpc_error(&r.id(), -32001, "Session not found"))),
    suspected("200, a stream that stays open", |r| {
        let error = rpc_error(&r.id(), -32001, "Session not found");
        Answer::Stream(Box::new(move |events| {
            events.write(": welcome\n\nid: 1\ndata:\n\n");
            events.message(&error);
            events.wait_for_close();
        }))
    }),
    suspected("Go, 200", |r| {
        json(200, rpc_error(&r.id(), 0, "method \"tools/call\" is invalid during session initialization"))
    }),
];

#[test]
fn a_lost_session_is_recovered_once_whatever_it_looks_like() {
    for row in LOST {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        upstream.server().when_lost(row.answer);
        let session = Session::open(&gateway.client());
        assert_eq!(session.count(), "1", "{}", row.name);
        assert_eq!(session.count(), "2", "{}", row.name);
        upstream.server().lose_sessions();
        let before = upstream.log().len();

        let answer = session.post(call("\"after\"", "count"));

        assert_eq!((answer.status, answer.json()["id"].as_str()), (200, Some("after")), "{}", row.name);
        assert_eq!(answer.tool_text(), "1", "{}: executed once, in a new session", row.name);
        let since = upstream.log().split_off(before);
        let methods: Vec<_> = since.iter().map(|request| request.rpc()).collect();
        let expected: &[&str] = match row.certain {
            true => &["tools/call", "initialize", "notifications/initialized", "tools/call"],
            false => &["tools/call", "ping", "initialize", "notifications/initialized", "tools/call"],
        };
        assert_eq!(methods, expected, "{}", row.name);
        let initialize = since.iter().find(|request| request.rpc() == "initialize").unwrap();
        assert_eq!(initialize.session(), None, "{}", row.name);
        let params = parse(initialize_body("2025-06-18", "{}"))["params"].clone();
        assert_eq!(initialize.json()["params"]["clientInfo"], params["clientInfo"], "{}", row.name);
        assert!(initialize.json()["params"]["capabilities"]["elicitation"].is_object(), "{}", row.name);
        let given = upstream.server().given();
        for later in since.iter().rev().take(2) {
            assert_eq!(later.session(), given.last().map(String::as_str), "{}", row.name);
        }
        assert_eq!(since.last().unwrap().text(), call("\"after\"", "count"), "{}: the same bytes", row.name);
        assert_eq!(session.count(), "2", "{}", row.name);
        assert_eq!(upstream.server().violations(), Vec::<String>::new(), "{}", row.name);
        gateway.assert_well();
    }
}

/// What a live session answers to one call, and what may be taken for a loss.
const ALIVE: &[(&str, Reply)] = &[
    ("a tool's own 503", |r| json(503, rpc_error(&r.id(), -32000, "the database is unavailable"))),
    ("a 503 without words", |_| refused(503, "text/plain", "no healthy upstream")),
    ("a time-out under the code of a lost session", |r| {
        json(200, rpc_error(&r.id(), -32001, "Request timed out"))
    }),
    ("a time-out with 404", |r| json(404, rpc_error(&r.id(), -32001, "Request timed out"))),
    ("an unknown method with 404", |r| json(404, rpc_error(&r.id(), -32601, "Method not found"))),
    ("429", |_| refused(429, "text/plain", "Too many requests: session not found")),
    ("an unknown tool", |r| json(200, rpc_error(&r.id(), -32602, "Unknown tool: session not found"))),
    ("a result that mentions a session", |r| {
        json(
            200,
            format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"Session not found"}}],"isError":true}}}}"#,
                r.id()
            ),
        )
    }),
    ("403", |_| refused(403, "text/plain", "Forbidden")),
    ("500", |_| refused(500, "text/plain", "Internal Server Error")),
];

#[test]
fn an_answer_that_only_resembles_a_loss_passes_unchanged() {
    for (name, odd) in ALIVE {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        upstream.script(|request, _| (request.tool() == "odd").then(|| odd(request)));
        let session = Session::open(&gateway.client());
        assert_eq!(session.count(), "1", "{name}");

        let answer = session.post(call("7", "odd"));

        let odd_request = upstream.of("tools/call").pop().unwrap();
        let Answer::Reply { status, headers, body } = odd(&odd_request) else { panic!("{name}") };
        // A 404 would be taken for the end of the session by the client, which lives: only that is changed.
        let status = if status == 404 { 200 } else { status };
        assert_eq!((answer.status, answer.text()), (status, String::from_utf8(body).unwrap()), "{name}");
        assert_eq!(answer.headers.get("content-type"), Some(headers[0].1.as_str()), "{name}");
        assert_eq!(upstream.count("initialize"), 1, "{name}");
        assert_eq!(upstream.of("tools/call").len(), 2, "{name}: sent once");
        assert_eq!(session.count(), "2", "{name}: the session is still there");
    }
}

#[test]
fn a_suspicion_that_a_ping_refutes_passes_unchanged() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "odd")
            .then(|| json(404, rpc_error(&request.id(), -32000, "Browser session not found")))
    });
    let session = Session::open(&gateway.client());
    let answer = session.post(call("7", "odd"));
    assert_eq!((answer.status, answer.text()), (200, rpc_error("7", -32000, "Browser session not found")));
    assert_eq!((upstream.count("ping"), upstream.count("initialize")), (1, 1));
    assert_eq!(upstream.of("ping")[0].session(), Some(upstream.server().given()[0].as_str()));
}

#[test]
fn a_suspicion_that_a_ping_cannot_settle_is_not_told_to_the_client_as_404() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| match request.rpc().as_str() {
        "tools/call" => Some(refused(404, "text/plain", "")),
        "ping" => Some(refused(503, "text/plain", "overloaded")),
        _ => None,
    });
    let session = Session::open(&gateway.client());
    let answer = session.post(call("7", "odd"));
    assert_eq!((answer.status, upstream.count("initialize")), (502, 1), "{}", answer.text());
}

#[test]
fn a_session_that_is_lost_again_at_once_is_given_up_after_one_recovery() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.rpc() == "tools/call")
            .then(|| json(404, rpc_error(&request.id(), -32001, "Session not found")))
    });
    let session = Session::open(&gateway.client());
    let answer = session.post(call("7", "count"));
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], false);
    assert_eq!((upstream.count("tools/call"), upstream.count("initialize")), (2, 2));
}

#[test]
fn a_challenge_passes_with_its_header_on_initialize_and_on_a_call() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let challenge = r#"Bearer resource_metadata="https://example.com/.well-known/oauth-protected-resource""#;
    let refuse =
        move |id: &str| json(401, rpc_error(id, -32000, "Unauthorized")).with("www-authenticate", challenge);
    upstream.script(move |request, _| (request.rpc() == "initialize").then(|| refuse(&request.id())));
    let answer = gateway.client().post(initialize_body("2025-06-18", "{}"));
    assert_eq!((answer.status, answer.headers.get("www-authenticate")), (401, Some(challenge)));
    assert_eq!(answer.text(), rpc_error("0", -32000, "Unauthorized"), "under the client's id");
    assert_eq!(answer.headers.get("mcp-session-id"), None);

    upstream.script(move |request, _| (request.rpc() == "tools/call").then(|| refuse(&request.id())));
    let session = Session::open(&gateway.client());
    let answer = session.post(call("7", "count"));
    assert_eq!((answer.status, answer.headers.get("www-authenticate")), (401, Some(challenge)));
    assert_eq!(answer.text(), rpc_error("7", -32000, "Unauthorized"));
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn a_challenge_reaches_a_client_that_never_initialised() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.rpc() == "initialize")
            .then(|| refused(401, "text/plain", "").with("www-authenticate", "Bearer"))
    });
    let answer = gateway.client().post(call("7", "count"));
    assert_eq!((answer.status, answer.headers.get("www-authenticate")), (401, Some("Bearer")));
}

#[test]
fn the_upstreams_id_never_reaches_the_client_and_ours_never_the_upstream() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let gateway = Gw::start(&upstream);
        upstream.script(|request, server| {
            // A server may repeat its id with every answer.
            let given = server.given();
            (request.rpc() == "tools/list").then(|| {
                json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id()))
                    .with("mcp-session-id", given.last().unwrap())
            })
        });
        let session = Session::open(&gateway.client());
        let answer = session.post(request("1", "tools/list", "{}"));
        assert_eq!(answer.headers.get("mcp-session-id"), None);
        session.count();
        assert!(upstream.log().iter().all(|request| request.session() != Some(session.id.as_str())));
    }
}

#[test]
fn a_version_that_the_gateway_does_not_know_passes() {
    for version in ["2024-10-07", "2025-11-25-draft", "DRAFT-2026-v1"] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let session = Session::open_as(&gateway.client(), version, "{}");
        let answer = session.post(call("1", "count"));
        assert_eq!((answer.status, version), (200, version), "{}", answer.text());
    }
}

#[test]
fn an_upstream_that_negotiates_another_version_after_a_loss_ends_the_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    upstream.server().negotiate("2024-11-05");
    let answer = session.post(call("1", "count"));
    assert_eq!((answer.status, answer.code()), (404, -32001), "so that the client begins anew");
    upstream.wait_for("DELETE", 1);
}

#[test]
fn an_upstream_without_sessions_is_initialised_and_told_so_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        Some(match request.rpc().as_str() {
            "initialize" => json(
                200,
                format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-06-18","capabilities":{{}},"serverInfo":{{"name":"x","version":"1"}}}}}}"#,
                    request.id()
                ),
            ),
            method if method.starts_with("notifications/") => refused(202, "text/plain", ""),
            _ => json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id())),
        })
    });
    let sessions: Vec<_> = (0..3).map(|_| Session::open(&gateway.client())).collect();
    for session in &sessions {
        assert_eq!(session.post(request("1", "tools/list", "{}")).status, 200);
    }
    assert_eq!(
        upstream.methods(),
        ["initialize", "notifications/initialized", "tools/list", "tools/list", "tools/list"]
    );
    assert!(upstream.log().iter().all(|request| request.session().is_none()));
}

#[test]
fn an_upstream_killed_and_started_again_is_a_slower_answer() {
    let mut upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.go_away();
    upstream.server().lose_sessions();
    let waiting = session.client.begin("POST", call("1", "count"));
    upstream.come_back();
    assert_eq!(waiting.answer().whole().tool_text(), "1");
    assert_eq!(upstream.count("initialize"), 2);
}

#[test]
fn a_warm_session_that_died_meanwhile_is_replaced() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    assert_eq!(upstream.count("initialize"), 2);
    assert_eq!(upstream.server().executed(), 1);
}

#[test]
fn the_answer_to_initialize_is_asked_for_once_by_fifty_clients_at_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.rpc() == "initialize");
    let client = gateway.client();
    let sent: Vec<_> = (0..50).map(|_| client.begin("POST", initialize_body("2025-06-18", "{}"))).collect();
    upstream.wait_for("initialize", 1);
    gate.open();
    let ids: std::collections::HashSet<_> = sent
        .into_iter()
        .map(|sent| sent.answer().whole().headers.get("mcp-session-id").unwrap().to_owned())
        .collect();
    assert_eq!((ids.len(), upstream.count("initialize")), (50, 1));
}
