//! Whose id it is, where, and how long it is good for; and that it outlives the gateway's process.

use std::time::Duration;

use crate::harness::{Client, Clock, Gw, Response, Session, Upstream, call, request};
use throughline_gateway::Config;
use throughline_gateway::config::OnStoreMiss;

fn with_id(client: &Client, id: &str) -> Client {
    client.with("mcp-session-id", id)
}

/// A refusal as bytes, without what names the instance or the time.
fn bytes(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let varying = |name: &str| matches!(name, "date" | "throughline-instance");
    let headers = answer.headers.0.iter().filter(|(name, _)| !varying(name)).cloned().collect();
    (answer.status, headers, answer.text())
}

#[test]
fn an_id_of_another_route_is_as_unknown_as_any() {
    let upstream = Upstream::start();
    let gateway =
        Gw::start_file(&upstream, "[routes.one]\nurl = \"UPSTREAM\"\n\n[routes.two]\nurl = \"UPSTREAM\"\n");
    let (one, two) = (gateway.client().at("/one/mcp"), gateway.client().at("/two/mcp"));
    let session = Session::open(&one);
    assert_eq!(session.count(), "1");
    let never_issued = format!("{}{}", &session.id[..session.id.len() - 4], "aaaa");
    let unknown = bytes(&with_id(&two, &never_issued).post(call("1", "count")));
    assert_eq!(unknown.0, 404);
    for id in
        [session.id.as_str(), "garbage", "", "0f8fad5b-d9cb-469f-a165-70867728950e", "a b", &"a".repeat(5000)]
    {
        let answer = with_id(&two, id).post(call("1", "count"));
        assert_eq!(bytes(&answer), unknown, "{id}");
    }
    for answer in [with_id(&two, &session.id).get(), with_id(&two, &session.id).delete()] {
        assert_eq!((answer.status, answer.code()), (404, -32001));
    }
    for message in
        [r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#]
    {
        assert_eq!(with_id(&two, &session.id).post(message).status, 404);
    }
    assert_eq!(session.count(), "2", "and nothing of that touched it");
}

#[test]
fn no_bit_of_an_id_can_be_changed() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    for at in 0..session.id.len() {
        let mut forged = session.id.clone().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        let forged = String::from_utf8(forged).unwrap();
        if forged != session.id {
            assert_eq!(with_id(&gateway.client(), &forged).post(call("1", "count")).status, 404, "{forged}");
        }
    }
    for forged in [session.id.to_uppercase(), format!("{}a", session.id), session.id[1..].to_owned()] {
        assert_eq!(with_id(&gateway.client(), &forged).post(call("1", "count")).status, 404, "{forged}");
    }
    assert_eq!(upstream.count("initialize"), 1);
}

fn assert_gone(client: &Client, id: &str) {
    let client = with_id(client, id);
    let listening = client.with("accept", "text/event-stream");
    for answer in [
        client.post(call("1", "count")),
        client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        client.post(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#),
        client.post(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        listening.get(),
        client.delete(),
    ] {
        assert_eq!((answer.status, answer.code()), (404, -32001), "{}", answer.text());
    }
}

#[test]
fn a_deleted_session_is_gone_also_after_a_restart() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let used = Session::open(&gateway.client());
    used.count();
    let unused = Session::open(&gateway.client());
    for session in [&used, &unused] {
        let answer = session.client.delete();
        assert_eq!((answer.status, answer.body.len()), (200, 0));
    }
    assert_gone(&gateway.client(), &used.id);
    assert_gone(&gateway.client(), &unused.id);
    let crashed = gateway.after_a_crash();
    assert_gone(&crashed.client(), &used.id);
    assert_gone(&crashed.client(), &unused.id);
    gateway.restart(|_| {});
    assert_gone(&gateway.client(), &used.id);
    assert_gone(&gateway.client(), &unused.id);
    assert_eq!(upstream.server().executed(), 1);
}

#[test]
fn an_expired_id_is_gone_and_an_idle_one_is_not() {
    type Clock2 = Clock<2>;
    let upstream = Upstream::start();
    let config = Config::for_upstream(&upstream.url()).unwrap();
    let mut gateway = Gw::run(&upstream, config, Clock2::EFFECTS);
    let session = Session::open(&gateway.client());
    session.count();
    Clock2::advance(Duration::from_secs(6 * 86400));
    assert_eq!(session.post(request("1", "tools/list", "{}")).status, 200);
    let idless = gateway.client();
    assert_eq!(idless.post(call("1", "count")).status, 200);
    Clock2::advance(Duration::from_secs(86400 + 2));
    assert_gone(&gateway.client(), &session.id);
    gateway.restart(|_| {});
    assert_gone(&gateway.client(), &session.id);
    // A client that never had an id goes on without one.
    Clock2::advance(Duration::from_secs(8 * 86400));
    let answer = gateway.client().post(call("1", "count"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_session_survives_a_restart_of_the_gateway_with_its_state() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
    gateway.restart(|_| {});
    assert_eq!(with_id(&gateway.client(), &session.id).post(call("1", "count")).tool_text(), "2");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "2");
    let (methods, open) = (upstream.methods(), upstream.server().open());
    assert_eq!((upstream.count("initialize"), open.len()), (2, 2), "{methods:?}");
}

#[test]
fn what_was_answered_for_survives_a_crash_of_the_gateway() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for n in 1..=5 {
        let session = Session::open(&gateway.client());
        assert_eq!(session.count(), "1");
        let crashed = gateway.after_a_crash();
        let client = with_id(&crashed.client(), &session.id);
        assert_eq!(client.post(call("1", "count")).tool_text(), "2", "the same upstream session");
        upstream.server().lose_sessions();
        assert_eq!(client.post(call("1", "count")).tool_text(), "1");
        assert_eq!(client.post(call("1", "count")).tool_text(), "2");
        assert!(upstream.count("initialize") <= 2 * n, "{n}");
    }
}

#[test]
fn a_client_that_has_only_initialised_can_go_on_after_a_restart() {
    for on_store_miss in [OnStoreMiss::Rebuild, OnStoreMiss::NotFound] {
        let upstream = Upstream::start();
        let mut gateway = Gw::start_with(&upstream, |config| config.routes[0].on_store_miss = on_store_miss);
        let session = Session::open(&gateway.client());
        gateway.restart(|_| {});
        let answer = with_id(&gateway.client(), &session.id).post(call("1", "count"));
        assert_eq!(answer.tool_text(), "1");
        let params = upstream.of("initialize").pop().unwrap().json()["params"].clone();
        assert_eq!(params["clientInfo"]["name"], "test", "with its own parameters");
    }
}

#[test]
fn without_its_record_an_id_is_rebuilt_or_unknown_as_the_route_says() {
    for (on_store_miss, status) in [(OnStoreMiss::Rebuild, 200), (OnStoreMiss::NotFound, 404)] {
        let upstream = Upstream::start();
        let mut gateway = Gw::start_with(&upstream, |config| config.routes[0].on_store_miss = on_store_miss);
        let session = Session::open(&gateway.client());
        session.count();
        gateway.restart(|state| std::fs::remove_dir_all(state.join("store")).unwrap());
        let client = with_id(&gateway.client(), &session.id);
        let answer = client.post(call("1", "count"));
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 200 {
            assert_eq!(answer.tool_text(), "1");
            assert_eq!(client.post(call("1", "count")).tool_text(), "2");
            let params = upstream.of("initialize").pop().unwrap().json()["params"].clone();
            assert_eq!(params["protocolVersion"], "2025-06-18");
            assert!(
                params["capabilities"]["elicitation"].is_object()
                    && params["capabilities"]["sampling"].is_object()
            );
        } else {
            assert_gone(&gateway.client(), &session.id);
        }
    }
}

#[test]
fn another_key_ring_makes_every_id_unknown() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    gateway.restart(|state| std::fs::remove_file(state.join("keyring")).unwrap());
    assert_gone(&gateway.client(), &session.id);
    assert_eq!(Session::open(&gateway.client()).count(), "1");
}

#[test]
fn more_sessions_than_fit_into_memory_are_kept_all_the_same() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.limits.sessions = 3);
    let sessions: Vec<_> = (0..10).map(|_| Session::open(&gateway.client())).collect();
    for turn in 1..=3 {
        for session in &sessions {
            assert_eq!(session.count(), turn.to_string());
        }
    }
    assert_eq!(upstream.count("initialize"), 10);
}

#[test]
fn the_answer_says_whether_the_session_was_kept() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let said = || session.post(call("1", "count")).headers.get("throughline-session").map(str::to_owned);
    assert_eq!(said().as_deref(), Some("new;generation=1"));
    assert_eq!(said().as_deref(), Some("resumed;generation=1"));
    upstream.server().lose_sessions();
    assert_eq!(said().as_deref(), Some("restored;generation=2"));
    assert_eq!(said().as_deref(), Some("resumed;generation=2"));
}
