//! Cookies: load balancers find the server of a session by them, so each session has its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Clock, Gw, Request, Session, Upstream, call, logged};
use throughline_gateway::Config;

/// Each session gets a cookie of its own with the answer to its `initialize`.
fn balanced(upstream: &Upstream, attributes: &'static str) {
    let nodes = AtomicUsize::new(0);
    upstream.script(move |request, server| {
        (request.rpc() == "initialize").then(|| {
            let node = nodes.fetch_add(1, Ordering::Relaxed);
            let cookie = format!("node=n{node}-7731{attributes}");
            server.answer(request).with("set-cookie", &cookie)
        })
    });
}

fn cookie(request: &Request) -> Option<String> {
    request.headers.get("cookie").map(str::to_owned)
}

fn cookies(upstream: &Upstream, method: &str) -> Vec<Option<String>> {
    upstream.of(method).iter().map(|request| cookie(request)).collect()
}

fn node(n: usize) -> Option<String> {
    Some(format!("node=n{n}-7731"))
}

#[test]
fn each_session_has_its_own_and_the_clients_do_not_pass() {
    let upstream = Upstream::start();
    balanced(&upstream, "; Path=/; HttpOnly; SameSite=Lax");
    let mut gateway = Gw::start(&upstream);
    let client = gateway.client().with("cookie", "client=1");
    let first = Session::open(&client);
    let second = Session::open(&client);
    for (session, count) in [(&first, "1"), (&second, "1"), (&first, "2"), (&second, "2")] {
        assert_eq!(session.count(), count);
    }
    assert_eq!(cookies(&upstream, "tools/call"), [node(0), node(1), node(0), node(1)]);
    assert_eq!(cookies(&upstream, "notifications/initialized"), [node(0), node(1)]);
    assert_eq!(cookies(&upstream, "initialize"), [None, None]);

    // They come back with the session.
    gateway.restart(|_| {});
    let client = gateway.client().with("mcp-session-id", &first.id);
    assert_eq!(client.post(call("1", "count")).tool_text(), "3");
    assert_eq!(cookies(&upstream, "tools/call").pop().unwrap(), node(0));

    // And go with the upstream's session.
    upstream.server().lose_sessions();
    assert_eq!(client.post(call("1", "count")).tool_text(), "1");
    assert_eq!(cookies(&upstream, "initialize").pop().unwrap(), None);
    assert_eq!(cookies(&upstream, "tools/call").pop().unwrap(), node(2));
    assert_eq!(client.delete().status, 200);
    upstream.wait_for("DELETE", 1);
    assert_eq!(cookies(&upstream, "DELETE"), [node(2)]);
    assert!(!logged("-7731"));
}

#[test]
fn callers_without_sessions_never_share_them() {
    let upstream = Upstream::start();
    balanced(&upstream, "");
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].anonymous = throughline_gateway::config::Anonymous::Isolated;
    });
    for _ in 0..3 {
        assert_eq!(gateway.client().post(call("1", "count")).status, 200);
    }
    let sent = cookies(&upstream, "tools/call");
    assert_eq!(sent, [node(0), node(1), node(2)]);
}

#[test]
fn what_was_not_meant_for_this_url_is_not_sent_there() {
    for (attributes, is_sent) in [
        ("; Secure", false),
        ("; Path=/other", false),
        ("; Path=/mcp", true),
        ("; Path=/mc", false),
        ("; Domain=example.com", false),
        ("; Domain=127.0.0.1", true),
        ("; Max-Age=0", false),
        ("; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", true),
        ("; Expires=Thu, 01 Jan 1970 00:00:00 GMT", false),
        ("; Expires=Fri, 01 Jan 2100 00:00:00 GMT", true),
    ] {
        let upstream = Upstream::start();
        balanced(&upstream, attributes);
        let gateway = Gw::start(&upstream);
        assert_eq!(Session::open(&gateway.client()).count(), "1");
        let expected = if is_sent { node(0) } else { None };
        assert_eq!(cookies(&upstream, "tools/call"), [expected], "{attributes}");
    }
}

#[test]
fn they_lapse_are_replaced_and_do_not_pile_up() {
    let upstream = Upstream::start();
    let calls = AtomicUsize::new(0);
    upstream.script(move |request, server| {
        let cookies = match request.rpc().as_str() {
            "initialize" => vec!["a=1; Max-Age=60".to_owned(), "b=1".to_owned()],
            "tools/call" => match calls.fetch_add(1, Ordering::Relaxed) {
                0 => vec!["b=2".to_owned(), "c=3; max-age=1000".to_owned()],
                2 => vec!["b=; Max-Age=0".to_owned()],
                3 => (0..30).map(|n| format!("x{n}={}", "y".repeat(1000))).collect(),
                _ => Vec::new(),
            },
            _ => return None,
        };
        let answer = server.answer(request);
        Some(cookies.iter().fold(answer, |answer, cookie| answer.with("set-cookie", cookie)))
    });
    let mut config = Config::for_upstream(&upstream.url()).unwrap();
    config.sessions.idle = Duration::from_secs(100_000);
    let gateway = Gw::run(&upstream, config, Clock::<14>::EFFECTS);
    let session = Session::open(&gateway.client());
    let count = |expected: &str| assert_eq!(session.count(), expected);
    count("1");
    count("2");
    Clock::<14>::advance(Duration::from_secs(61));
    count("3");
    count("4");
    count("5");
    let sent = cookies(&upstream, "tools/call");
    assert_eq!(sent[0].as_deref(), Some("a=1; b=1"));
    assert_eq!(sent[1].as_deref(), Some("a=1; b=2; c=3"));
    assert_eq!(sent[2].as_deref(), Some("b=2; c=3"));
    assert_eq!(sent[3].as_deref(), Some("c=3"));
    assert!(sent[4].as_ref().is_some_and(|sent| sent.starts_with("c=3; x0=") && sent.len() < 9000));
}
