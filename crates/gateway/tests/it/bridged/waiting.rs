//! Calls that wait for input: whose they are, for how long, how many, and what becomes of them when something fails.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use throughline_gateway::Config;

use super::asker::Asker;
use super::{Modern, accept, keys, state};
use crate::harness::{Clock, Gw, Upstream, parse};
use crate::replicas::Shared;

const KEYS: [&str; 2] = ["key-of-alice-1f8a", "key-of-bob-77c0"];

/// Two principals on one route.
pub(super) fn two_principals(rest: &str) -> String {
    let sha256 = |key: &str| data_encoding::HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref());
    let [alice, bob] = KEYS.map(sha256);
    format!(
        "[upstream]\nurl = \"UPSTREAM\"\n[callers.keys.alice]\nsha256 = \"{alice}\"\nkind = \"user\"\n[callers.keys.bob]\nsha256 = \"{bob}\"\nkind = \"user\"\n{rest}"
    )
}

pub(super) fn principals(gateway: &Gw) -> [Modern; 2] {
    KEYS.map(|key| Modern::of(gateway.client().with("authorization", &format!("Bearer {key}"))))
}

#[test]
fn a_state_is_good_for_its_principal_and_its_request_alone() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &two_principals(""));
    let asker = Asker::at(&upstream);
    let [alice, bob] = principals(&gateway);
    let asked = alice.call("ask.form=a");
    let state = state(&asked);
    let answers = json!({ "a": accept("1") });
    let mut flipped = state.clone().into_bytes();
    flipped[40] = if flipped[40] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    for (what, refused) in [
        ("another principal's", bob.answer("ask.form=a", &state, &answers)),
        ("another request's", alice.answer("ask.form=b", &state, &answers)),
        ("changed", alice.answer("ask.form=a", &flipped, &answers)),
        ("longer", alice.answer("ask.form=a", &format!("{state}-TAMPERED"), &answers)),
        ("empty", alice.answer("ask.form=a", "", &answers)),
        ("huge", alice.answer("ask.form=a", &"A".repeat(40_000), &answers)),
    ] {
        assert_eq!((refused.status, refused.code()), (400, -32602), "{what}: {}", refused.text());
    }
    assert_eq!(asker.answers().len(), 0);
    assert_eq!(alice.answer("ask.form=a", &state, &answers).tool_text(), accept("1").to_string());
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn principals_share_nothing() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &two_principals(""));
    let asker = Asker::at(&upstream);
    let [alice, bob] = principals(&gateway);
    for round in 1..=3 {
        assert_eq!(alice.call("count").tool_text(), round.to_string());
    }
    assert_eq!(bob.call("count").tool_text(), "1");
    let asked = [&alice, &bob].map(|who| who.call("ask.form=a"));
    for (who, asked) in [&alice, &bob].into_iter().zip(&asked) {
        let name = if std::ptr::eq(who, &alice) { "Alice" } else { "Bob" };
        let answer = who.answer("ask.form=a", &state(asked), &json!({ "a": accept(name) }));
        assert_eq!(answer.tool_text(), accept(name).to_string());
    }
    let sessions: Vec<_> = upstream.of("response").iter().map(|r| r.session().map(str::to_owned)).collect();
    assert_ne!(sessions[0], sessions[1]);
    assert_eq!(asker.answers().len(), 2);
}

#[test]
fn a_state_lapses() {
    type Clock13 = Clock<13>;
    let upstream = Upstream::start();
    let config = Config::for_upstream(&upstream.url()).unwrap();
    let gateway = Gw::run(&upstream, config, Clock13::EFFECTS);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let asked = client.call("ask.form=a");
    Clock13::advance(Duration::from_secs(601));
    let late = client.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!((late.status, late.code(), asker.answers().len()), (400, -32602, 0));
}

#[test]
fn a_call_that_nobody_comes_back_for_is_cancelled() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.parked = Duration::from_millis(300));
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    client.call("ask.form=a");
    assert_eq!(upstream.count("notifications/cancelled"), 0, "a call that waits goes on");
    upstream.wait_for("notifications/cancelled", 1);
    let cancelled = upstream.of("notifications/cancelled")[0].json();
    assert_eq!(cancelled["params"]["requestId"], upstream.of("tools/call")[0].json()["id"]);
}

#[test]
fn so_many_calls_wait_of_one_caller_and_in_all() {
    let upstream = Upstream::start();
    let limits = "[limits]\nparked = 3\nparked_per_caller = 2\n";
    let gateway = Gw::start_file(&upstream, &two_principals(limits));
    let _asker = Asker::at(&upstream);
    let [alice, bob] = principals(&gateway);
    let asked = [alice.call("ask.form=a"), alice.call("ask.form=a")];
    for _ in 0..2 {
        let one_too_many = alice.call("ask.form=a");
        assert_eq!((one_too_many.status, one_too_many.code()), (429, -32015), "{}", one_too_many.text());
    }
    upstream.wait_for("notifications/cancelled", 2);
    assert_eq!(keys(&bob.call("ask.form=a")), ["a"]);
    assert_eq!(bob.call("ask.form=a").status, 429);
    let answer = alice.answer("ask.form=a", &state(&asked[0]), &json!({ "a": accept("1") }));
    assert_eq!(answer.tool_text(), accept("1").to_string());
    assert_eq!(keys(&alice.call("ask.form=a")), ["a"], "there is room again");
}

#[test]
fn any_replica_takes_the_answer() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream), shared.replica(&upstream)];
    let asker = Asker::at(&upstream);
    let clients = replicas.each_ref().map(Modern::new);
    let tool = "ask.form=a+form=b.form=c";
    let asked = clients[0].call(tool);
    assert_eq!(keys(&asked), ["a", "b"]);
    let both = json!({ "a": accept("1"), "b": accept("2") });
    let second = clients[1].answer(tool, &state(&asked), &both);
    assert_eq!(keys(&second), ["c"], "{}", second.text());
    let other = clients[2].answer(tool, &state(&asked), &json!({ "a": accept("x"), "b": accept("2") }));
    assert_eq!(other.code(), -32602, "of two replicas one is first");
    let all = [accept("1"), accept("2"), accept("3")].map(|answer| answer.to_string()).join(";");
    for client in [&clients[2], &clients[0], &clients[1]] {
        let answer = client.answer(tool, &state(&second), &json!({ "c": accept("3") }));
        assert_eq!(answer.tool_text(), all);
    }
    assert_eq!((asker.answers().len(), upstream.count("tools/call")), (3, 1));
}

#[test]
fn a_caller_that_is_not_known_can_be_asked_too_at_any_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let isolated = |config: &mut Config| {
        config.routes[0].anonymous = throughline_gateway::config::Anonymous::Isolated;
    };
    let replicas = [shared.replica_with(&upstream, isolated), shared.replica_with(&upstream, isolated)];
    let _asker = Asker::at(&upstream);
    let [one, other] = replicas.each_ref().map(Modern::new);
    let asked = one.call("ask.form=a");
    assert_eq!(upstream.server().deleted().len(), 0, "its session lives for as long as the call waits");
    let answer = other.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(answer.tool_text(), accept("1").to_string());
    upstream.wait_for("DELETE", 1);
}

#[test]
fn a_call_whose_server_died_meanwhile_may_have_executed() {
    let mut upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let asked = client.call("ask.form=a");
    upstream.go_away();
    upstream.server().lose_sessions();
    upstream.come_back();
    let answer = client.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(answer.code(), -32012, "{}", answer.text());
    assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], true);
    assert_eq!(upstream.count("tools/call"), 1, "and is not repeated");
}

#[test]
fn a_call_whose_gateway_died_meanwhile_may_have_executed() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let asked = Modern::new(&gateway).call("ask.form=a");
    gateway.restart(|_| {});
    let client = Modern::new(&gateway);
    let answer = client.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(answer.code(), -32012, "{}", answer.text());
    assert_eq!(parse(answer.message())["error"]["data"]["mayHaveExecuted"], true);
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn a_state_does_not_grow_with_what_was_answered() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "ask.form=a.form=b.form=c.form=d.form=e.form=f.form=g.form=h";
    let mut asked = client.call(tool);
    let mut lengths = Vec::new();
    for key in ["a", "b", "c", "d", "e", "f", "g"] {
        asked = client.answer(tool, &state(&asked), &json!({ key: accept("1") }));
        lengths.push(state(&asked).len());
    }
    assert!(lengths[6] <= lengths[0] + 16, "{lengths:?}");
}

#[test]
fn who_comes_twice_at_once_is_asked_twice() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let asked = client.call("ask.form=a");
    let more = format!(r#","requestState":"{}","inputResponses":{{}}"#, state(&asked));
    let at_once = [(); 3].map(|()| {
        client.headers("tools/call", Some("ask.form=a")).begin("POST", client.call_body("ask.form=a", &more))
    });
    for sent in at_once {
        assert_eq!(keys(&sent.answer().whole()), ["a"]);
    }
    let answer = client.answer("ask.form=a", &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(answer.tool_text(), accept("1").to_string());
}
