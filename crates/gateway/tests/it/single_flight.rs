//! However many requests need a binding at once, one attempt makes it.

use std::sync::Arc;

use crate::harness::{Answer, Gate, Gw, Session, Upstream, call, json, parse, request, rpc_error};

/// The counter's values, sorted: each call was executed exactly once if they are 1, 2, 3, ...
fn counted(answers: Vec<String>) -> Vec<u32> {
    let mut counted: Vec<u32> = answers.iter().map(|text| text.parse().unwrap()).collect();
    counted.sort_unstable();
    counted
}

fn in_parallel(session: &Session, calls: u32) -> Vec<String> {
    let sent: Vec<_> =
        (0..calls).map(|id| session.client.begin("POST", call(&id.to_string(), "count"))).collect();
    let answers = sent.into_iter().enumerate().map(|(id, sent)| {
        let answer = sent.answer().whole();
        assert_eq!(answer.json()["id"], id, "each gets its own: {}", answer.text());
        answer.tool_text()
    });
    answers.collect()
}

#[test]
fn fifty_parallel_first_calls_make_one_upstream_initialize() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    assert_eq!(counted(in_parallel(&session, 50)), (1..=50).collect::<Vec<_>>());
    assert_eq!(upstream.count("initialize"), 1, "the one that answered the client's");
    assert_eq!(upstream.count("notifications/initialized"), 1);
}

#[test]
fn fifty_parallel_first_calls_of_a_client_without_an_id_make_one_upstream_initialize() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client();
    let sent: Vec<_> = (0..50).map(|_| client.begin("POST", call("1", "count"))).collect();
    let answers = sent.into_iter().map(|sent| sent.answer().whole().tool_text()).collect();
    assert_eq!(counted(answers), (1..=50).collect::<Vec<_>>());
    assert_eq!((upstream.count("initialize"), upstream.count("notifications/initialized")), (1, 1));
}

#[test]
fn fifty_parallel_calls_on_a_lost_session_make_one_initialize_and_run_once_each() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    assert_eq!(counted(in_parallel(&session, 50)), (1..=50).collect::<Vec<_>>());
    assert_eq!(upstream.count("initialize"), 2);
    assert_eq!(upstream.server().executed(), 51);
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn the_client_that_started_a_recovery_can_leave_the_others_with_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    let gate = upstream.hold(|request| request.rpc() == "initialize");
    let first = session.client.begin("POST", request("\"first\"", "tools/list", "{}"));
    upstream.wait_for("initialize", 2);
    let others: Vec<_> =
        (0..5).map(|id| session.client.begin("POST", call(&id.to_string(), "count"))).collect();
    drop(first);
    gate.open();
    let answers = others.into_iter().map(|sent| sent.answer().whole().tool_text()).collect();
    assert_eq!(counted(answers), [1, 2, 3, 4, 5]);
    assert_eq!(upstream.count("initialize"), 2);
}

#[test]
fn a_client_that_leaves_does_not_take_its_call_with_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    let gate = upstream.hold(|request| request.rpc() == "initialize");
    let call = session.client.begin("POST", call("1", "count"));
    upstream.wait_for("initialize", 2);
    drop(call);
    gate.open();
    // For a legacy client going away is no cancellation.
    upstream.wait_for("tools/call", 3);
}

#[test]
fn a_recovery_that_fails_says_so_to_all_and_is_made_again_later() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    upstream.script(|request, _| (request.rpc() == "initialize").then(|| json(500, "{}")));
    let sent: Vec<_> =
        (0..10).map(|id| session.client.begin("POST", call(&id.to_string(), "count"))).collect();
    for answer in sent.into_iter().map(|sent| sent.answer().whole()) {
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], false);
    }
    // Those that came while it was under way share its failure; those after it may have waited for another.
    assert!(upstream.count("initialize") <= 4, "{}", upstream.count("initialize"));
    upstream.script(|_, _| None);
    let recovered = std::iter::repeat_with(|| session.post(call("1", "count"))).find(|a| a.status == 200);
    assert_eq!(recovered.unwrap().tool_text(), "1");
    assert_eq!(upstream.server().executed(), 2);
}

#[test]
fn a_deleted_session_is_not_revived_by_a_recovery_under_way() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    let gate = upstream.hold(|request| request.rpc() == "initialize");
    let call = session.client.begin("POST", call("1", "count"));
    upstream.wait_for("initialize", 2);
    assert_eq!(session.client.delete().status, 200);
    gate.open();
    let answer = call.answer().whole();
    assert_eq!((answer.status, answer.code()), (404, -32001), "{}", answer.text());
    // The upstream session that came too late is given back.
    upstream.wait_until("the session is ended", |server| server.open().is_empty());
}

#[test]
fn a_slow_upstream_does_not_hold_up_the_others() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    upstream.script(move |request, _| {
        (request.tool() == "slow").then(|| {
            held.wait();
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                events.message(&rpc_error(&id, -32000, "late"));
            }))
        })
    });
    let session = Session::open(&gateway.client());
    let slow: Vec<_> = (0..8).map(|_| session.client.begin("POST", call("\"s\"", "slow"))).collect();
    upstream.wait_for("tools/call", 8);
    assert_eq!(session.count(), "1");
    gate.open();
    for slow in slow {
        assert_eq!(parse(slow.answer().whole().message())["error"]["message"], "late");
    }
}
