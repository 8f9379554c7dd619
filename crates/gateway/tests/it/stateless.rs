//! `--stateless`: no session ids given or read, every request on its own.

use crate::harness::{Client, Gw, Upstream, call, initialize_body, request};
use throughline_gateway::config::Overrides;

fn start(upstream: &Upstream) -> Gw {
    Gw::start_with(upstream, |config| config.apply(Overrides { stateless: true, ..Overrides::default() }))
}

#[test]
fn no_answer_carries_a_session_id_and_none_that_comes_is_read() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let sessions = Gw::start(&upstream);
    let valid = crate::harness::Session::open(&sessions.client());
    let client = gateway.client();
    let with_id = |id: &str| client.with("mcp-session-id", id);
    let clients: [Client; 4] = [client.clone(), with_id("garbage"), with_id(&valid.id), with_id("")];
    for client in &clients {
        for body in [
            initialize_body("2025-06-18", "{}"),
            call("1", "count"),
            request("1", "tools/list", "{}"),
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
            r#"{"jsonrpc":"2.0","id":5,"result":{}}"#.to_owned(),
        ] {
            let answer = client.post(&body);
            assert!(matches!(answer.status, 200 | 202), "{body}: {} {}", answer.status, answer.text());
            assert_eq!(answer.headers.get("mcp-session-id"), None, "{body}");
        }
    }
    assert!(upstream.of("initialize").iter().all(|request| request.session().is_none()));
}

#[test]
fn each_request_is_on_its_own_and_leaves_nothing_upstream() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for _ in 0..3 {
        assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
        upstream.wait_until("the session is ended", |server| server.open().is_empty());
    }
    assert_eq!((upstream.count("initialize"), upstream.count("DELETE")), (3, 3));
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn a_warm_session_that_nobody_takes_is_ended() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.apply(Overrides { stateless: true, ..Overrides::default() });
        config.sessions.warm = std::time::Duration::from_millis(200);
    });
    assert_eq!(gateway.client().post(initialize_body("2025-06-18", "{}")).status, 200);
    upstream.wait_until("the session is ended", |server| server.open().is_empty());
    drop(gateway);
    assert_eq!(upstream.count("DELETE"), 1);
}

#[test]
fn warm_sessions_are_ended_when_the_gateway_stops() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    assert_eq!(gateway.client().post(initialize_body("2025-06-18", "{}")).status, 200);
    drop(gateway);
    assert_eq!(upstream.server().open(), Vec::<String>::new());
}

#[test]
fn there_is_no_stream_and_nothing_to_end() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    for client in [gateway.client(), gateway.client().with("mcp-session-id", "x")] {
        for answer in [client.get(), client.delete()] {
            assert_eq!((answer.status, answer.headers.get("allow")), (405, Some("POST")));
        }
    }
    for path in ["/sse", "/message", "/other", "/other/mcp", "/mcp/x"] {
        let client = gateway.client().at(path);
        assert_eq!((client.get().status, client.post("{}").status), (404, 404), "{path}");
    }
    assert_eq!(gateway.client().at("/mcp/").post(call("1", "count")).tool_text(), "1");
}
