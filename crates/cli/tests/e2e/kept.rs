//! Promise 1: a client that sends its session id keeps its session.

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Upstream, over_each_upstream};

over_each_upstream!(
    through_the_death_of_the_upstream,
    through_the_death_of_the_gateway,
    through_the_death_of_both,
    through_the_loss_of_the_upstream_session,
    until_it_is_deleted,
    without_mixing_with_others,
    and_questions_find_their_way_to_it,
    and_no_answer_reaches_another_sessions_question,
    and_a_call_that_may_have_been_executed_is_not_repeated,
);

fn through_the_death_of_the_upstream(mut upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);

    upstream.restart();
    // The call helpers accept 200 and nothing else. The count died with the upstream; the session did not.
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);
    assert_handshakes(&client.call("session", json!({})), 1);

    upstream.restart();
    assert_eq!(client.increment(), 1, "a session is kept more than once");
}

fn through_the_death_of_the_gateway(upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);
    let before = client.call("session", json!({}));

    gateway.restart();
    assert_eq!(client.increment(), 3, "the upstream session is the same");
    assert_eq!(client.call("session", json!({})), before, "without another handshake");
}

fn through_the_death_of_both(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);

    upstream.kill9();
    gateway.restart();
    upstream.start_again();
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);
}

fn through_the_loss_of_the_upstream_session(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);
    assert_eq!(client.increment(), 2);

    upstream.drop_sessions();
    assert_eq!(client.increment(), 1);
    assert_eq!(client.call("total", json!({})), json!({"total": 3}), "each call was executed once");
    assert_handshakes(&client.call("session", json!({})), 2);
}

#[test]
fn through_the_upstreams_expiry_of_the_session() {
    for sdk in ["mcp1", "mcp2"] {
        let upstream = Upstream::python(sdk, &["--idle-timeout", "0.3"]);
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::connected(gateway.url());
        assert_eq!(client.increment(), 1);
        upstream.wait_until_no_session();
        assert_eq!(client.increment(), 1, "{sdk}");
    }
}

#[test]
fn with_json_answers_as_with_event_streams() {
    for sdk in ["mcp1", "mcp2"] {
        let mut upstream = Upstream::python(sdk, &["--json"]);
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::connected(gateway.url());
        assert_eq!(client.increment(), 1);
        let answer = client.try_call("value", json!({}));
        assert_eq!(answer.header("content-type"), Some("application/json"), "{sdk}");
        upstream.restart();
        assert_eq!(client.increment(), 1, "{sdk}");
    }
}

fn until_it_is_deleted(upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);
    let of_upstream = client.call("session", json!({}))["session"].as_str().expect("an id").to_owned();

    let stream = client.listen();
    let deleted = client.bare("DELETE");
    assert!((200..300).contains(&deleted.status), "{deleted:?}");
    stream.wait_for_its_end();
    assert_eq!(client.try_call("increment", json!({})).status, 404);
    gateway.restart();
    assert_eq!(client.try_call("increment", json!({})).status, 404, "nothing revives it");

    let mut left_behind = Mcp::new(upstream.url());
    left_behind.session = Some(of_upstream);
    assert_eq!(left_behind.try_call("value", json!({})).status, 404, "the upstream's session is closed too");
}

fn without_mixing_with_others(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let (one, other) = (Mcp::connected(gateway.url()), Mcp::connected(gateway.url()));
    assert_ne!(one.session, other.session);
    assert_eq!(one.increment(), 1);
    assert_eq!(one.increment(), 2);
    assert_eq!(other.increment(), 1);

    let id = one.session.clone().expect("a session id");
    assert!((1..=128).contains(&id.len()), "{id}");
    assert!(id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{id}");
    assert!(!gateway.log().contains(&id), "ids are not logged");

    let unknown = ["nonsense".to_owned(), id.chars().rev().collect(), flip_last(&id)];
    for id in unknown {
        let mut stranger = Mcp::new(gateway.url());
        stranger.session = Some(id);
        assert_eq!(stranger.try_call("value", json!({})).status, 404);
    }
}

fn flip_last(id: &str) -> String {
    let (rest, last) = id.split_at(id.len() - 1);
    format!("{rest}{}", if last == "a" { "b" } else { "a" })
}

fn and_questions_find_their_way_to_it(mut upstream: Upstream) {
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected_with(gateway.url(), json!({"elicitation": {}}));

    // Before anything is lost, and then after each side was.
    for disaster in ["nothing", "upstream", "gateway"] {
        match disaster {
            "upstream" => upstream.restart(),
            "gateway" => gateway.restart(),
            _ => {}
        }
        let asked = client.start_call("ask", json!({}));
        let question = asked.next_with_method("elicitation/create");
        let reply = json!({"action": "accept", "content": {"answer": disaster}});
        client.reply(&question["id"], reply.clone());
        assert_eq!(asked.next_response()["result"]["structuredContent"], reply, "after {disaster}");
    }
}

fn and_no_answer_reaches_another_sessions_question(mut upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected_with(gateway.url(), json!({"elicitation": {}}));
    let accept = |answer: &str| json!({"action": "accept", "content": {"answer": answer}});

    let asked_before = client.start_call("ask", json!({}));
    let old = asked_before.next_with_method("elicitation/create");
    upstream.restart();

    // The new upstream session numbers its questions from the start again.
    let asked_after = client.start_call("ask", json!({}));
    let new = asked_after.next_with_method("elicitation/create");
    assert_ne!(old["id"], new["id"]);
    client.reply(&old["id"], accept("late"));
    client.reply(&new["id"], accept("in time"));
    assert_eq!(asked_after.next_response()["result"]["structuredContent"], accept("in time"));
}

fn and_a_call_that_may_have_been_executed_is_not_repeated(mut upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());

    let sleeping = client.start_call("sleep", json!({"ms": 20_000}));
    sleeping.next_with_method("notifications/progress");
    upstream.restart();
    let answer = sleeping.next_response();
    assert!(answer["error"]["message"].is_string(), "{answer}");
    assert_eq!(client.increment(), 1, "the session goes on");
}

/// What the `session` tool says of an upstream process that has had so many handshakes, all complete.
fn assert_handshakes(session: &Value, count: u64) {
    assert_eq!(session["initializes"], count, "{session}");
    assert_eq!(session["initialized"], count, "each initialize is followed by notifications/initialized");
}
