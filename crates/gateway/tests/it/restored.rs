//! What a session had set up upstream is set up again after a loss; where that fails, a caller is told.

use crate::harness::{Answers, Gw, Session, Upstream, call, json, request, rpc_error};
use throughline_gateway::config::UnsafeAfterLoss;

fn level(session: &Session, level: &str) {
    let answer = session.post(request("1", "logging/setLevel", &format!(r#"{{"level":"{level}"}}"#)));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn subscribe(session: &Session, verb: &str, uri: &str) {
    let answer = session.post(request("1", &format!("resources/{verb}"), &format!(r#"{{"uri":"{uri}"}}"#)));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What the upstream's newest session was set up with.
fn setup(upstream: &Upstream) -> Vec<String> {
    upstream.server().setup(&upstream.server().given().pop().unwrap())
}

#[test]
fn log_level_and_subscriptions_are_restored_in_their_order() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let gateway = Gw::start(&upstream);
        let session = Session::open(&gateway.client());
        level(&session, "debug");
        subscribe(&session, "subscribe", "file:///a");
        subscribe(&session, "subscribe", "file:///b");
        subscribe(&session, "subscribe", "file:///c");
        subscribe(&session, "unsubscribe", "file:///a");
        level(&session, "warning");
        for _ in 0..2 {
            upstream.server().lose_sessions();
            assert_eq!(session.count(), "1");
            assert_eq!(
                setup(&upstream),
                [
                    r#"resources/subscribe {"uri":"file:///b"}"#,
                    r#"resources/subscribe {"uri":"file:///c"}"#,
                    r#"logging/setLevel {"level":"warning"}"#,
                ]
            );
        }
        assert_eq!(upstream.server().violations(), Vec::<String>::new());
    }
}

#[test]
fn what_failed_is_not_restored() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    upstream.script(|request, _| {
        let refused = request.rpc() == "resources/subscribe";
        refused.then(|| json(200, rpc_error(&request.id(), -32002, "Resource not found")))
    });
    session.post(request("1", "resources/subscribe", r#"{"uri":"file:///a"}"#));
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    assert_eq!(setup(&upstream), Vec::<String>::new());
}

#[test]
fn it_survives_the_loss_of_both_sides() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let mut session = Session::open(&gateway.client());
    level(&session, "debug");
    subscribe(&session, "subscribe", "file:///a");
    gateway.restart(|_| {});
    upstream.server().lose_sessions();
    session.client = gateway.client().with("mcp-session-id", &session.id);
    assert_eq!(session.count(), "1");
    assert_eq!(
        setup(&upstream),
        [r#"logging/setLevel {"level":"debug"}"#, r#"resources/subscribe {"uri":"file:///a"}"#]
    );
}

#[test]
fn it_is_restored_when_an_idle_session_is_opened_again() {
    let upstream = Upstream::start();
    let gateway =
        Gw::start_with(&upstream, |config| config.sessions.idle = std::time::Duration::from_millis(300));
    let session = Session::open(&gateway.client());
    level(&session, "debug");
    upstream.wait_until("the session is released", |server| server.open().is_empty());
    assert_eq!(session.count(), "1");
    assert_eq!(setup(&upstream), [r#"logging/setLevel {"level":"debug"}"#]);
}

fn assert_state_lost(session: &Session, upstream: &Upstream) {
    let before = upstream.server().executed();
    let answer = session.post(call("\"c\"", "count"));
    assert_eq!((answer.status, answer.code()), (409, -32013), "{}", answer.text());
    assert_eq!(answer.json()["id"], "c");
    assert_eq!(
        answer.json()["error"]["data"],
        serde_json::json!({"mayHaveExecuted": false, "stateLost": true})
    );
    assert_eq!(upstream.server().executed(), before);
}

#[test]
fn where_a_step_fails_unsafe_calls_are_told_and_safe_ones_go_through() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    subscribe(&session, "subscribe", "file:///a");
    upstream.script(|request, _| {
        let refused = request.rpc() == "resources/subscribe";
        refused.then(|| json(200, rpc_error(&request.id(), -32002, "Resource not found")))
    });
    upstream.server().lose_sessions();
    assert_state_lost(&session, &upstream);
    assert_eq!(session.count(), "1", "told once, it goes on");

    upstream.server().lose_sessions();
    let list = session.post(request("1", "tools/list", "{}"));
    assert_eq!(list.status, 200, "{}", list.text());
    assert_eq!(upstream.count("initialize"), 3);
}

#[test]
fn a_route_can_refuse_every_unsafe_call_that_meets_a_loss() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].unsafe_after_loss = UnsafeAfterLoss::Refuse;
    });
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    assert_state_lost(&session, &upstream);
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    assert_eq!(session.post(request("1", "tools/list", "{}")).status, 200);
}

#[test]
fn all_calls_that_met_the_loss_are_told() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].unsafe_after_loss = UnsafeAfterLoss::Refuse;
    });
    let session = Session::open(&gateway.client());
    session.count();
    let gate = std::sync::Arc::new(crate::harness::Gate::default());
    let held = std::sync::Arc::clone(&gate);
    upstream.script(move |request, server| {
        if request.rpc() == "tools/call" && server.open().is_empty() {
            held.wait();
        }
        None
    });
    upstream.server().lose_sessions();
    let sent: Vec<_> = (0..10).map(|_| session.client.begin("POST", call("1", "count"))).collect();
    upstream.wait_for("tools/call", 11);
    gate.open();
    for sent in sent {
        assert_eq!(sent.answer().whole().code(), -32013);
    }
    assert_eq!((upstream.server().executed(), upstream.count("initialize")), (1, 2));
}

#[test]
fn a_route_that_refuses_tells_also_when_something_else_met_the_loss() {
    let refuse = |config: &mut throughline_gateway::Config| {
        config.routes[0].unsafe_after_loss = UnsafeAfterLoss::Refuse;
    };
    // A safe request.
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, refuse);
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    assert_eq!(session.post(request("1", "tools/list", "{}")).status, 200);
    assert_state_lost(&session, &upstream);
    assert_eq!(session.count(), "1");

    // The gateway itself, which had released the session.
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        refuse(config);
        config.sessions.idle = std::time::Duration::from_millis(300);
    });
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    upstream.wait_until("the session is released", |server| server.open().is_empty());
    assert_state_lost(&session, &upstream);
    assert_eq!(session.count(), "1");
}
