//! Callers that present a key: who they are, what they share, and how much they may take.

use aws_lc_rs::digest::{SHA256, digest};

use crate::harness::{Client, Gw, Session, Upstream, call, request};

fn config(keys: &[(&str, &str, &str)], rest: &str) -> String {
    let keys = keys.iter().map(|(name, key, kind)| {
        let sha256 = data_encoding::HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref());
        format!("[callers.keys.{name}]\nsha256 = \"{sha256}\"\nkind = \"{kind}\"\n")
    });
    format!("[upstream]\nurl = \"UPSTREAM\"\n{}\n{rest}", keys.collect::<String>())
}

const ALICE: &str = "key-of-alice-1f8a";
const BOB: &str = "key-of-bob-77c0";
const BOT: &str = "key-of-the-bot-03d1";

fn with_key(gateway: &Gw, key: &str) -> Client {
    gateway.client().with("authorization", &format!("Bearer {key}"))
}

fn count(client: &Client) -> String {
    client.post(call("1", "count")).tool_text()
}

#[test]
fn a_key_is_needed_and_taken_in_every_form_that_connectors_can_write() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &config(&[("alice", ALICE, "user")], ""));
    for refused in [
        gateway.client(),
        with_key(&gateway, "wrong"),
        with_key(&gateway, ""),
        gateway.client().with("x-api-key", "wrong"),
    ] {
        let answer = refused.post(call("7", "count"));
        assert_eq!((answer.status, &answer.json()["id"]), (401, &7.into()));
        assert_eq!(answer.headers.get("www-authenticate"), Some("Bearer realm=\"throughline\""));
        assert!(!answer.text().contains("wrong"));
        assert_eq!((refused.get().status, refused.delete().status), (401, 401));
    }
    for (turn, client) in [
        with_key(&gateway, ALICE),
        gateway.client().with("authorization", &format!("bearer {ALICE}")),
        gateway.client().with("authorization", ALICE),
        gateway.client().with("x-api-key", ALICE),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(count(client), (turn + 1).to_string(), "one person's, however it is sent");
    }
    for request in upstream.log() {
        assert_eq!((request.headers.get("authorization"), request.headers.get("x-api-key")), (None, None));
    }
}

#[test]
fn two_keys_never_share_anything() {
    let upstream = Upstream::start();
    let keys = [("alice", ALICE, "user"), ("bob", BOB, "user")];
    let gateway = Gw::start_file(&upstream, &config(&keys, ""));
    let (alice, bob) = (with_key(&gateway, ALICE), with_key(&gateway, BOB));
    assert_eq!((count(&alice), count(&bob), count(&alice)), ("1".into(), "1".into(), "2".into()));

    let held = Session::open(&alice);
    assert_eq!(held.count(), "1");
    let stolen = bob.with("mcp-session-id", &held.id);
    let unknown = bob.with("mcp-session-id", "never-issued");
    for stolen_or_unknown in [&stolen, &unknown] {
        let answer = stolen_or_unknown.post(call("1", "count"));
        assert_eq!((answer.status, answer.code()), (404, -32001));
    }
    assert_eq!(stolen.post(call("1", "count")).text(), unknown.post(call("1", "count")).text());
    assert_eq!(stolen.delete().status, 404);
    assert_eq!(held.count(), "2");
    // What the upstream says of itself may differ by who asks: nothing of it is kept for others.
    let initialized = upstream.count("initialize");
    Session::open(&bob);
    assert_eq!(upstream.count("initialize"), initialized + 1);
}

#[test]
fn a_new_key_under_the_same_name_keeps_the_sessions() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start_file(&upstream, &config(&[("alice", ALICE, "user")], ""));
    let held = Session::open(&with_key(&gateway, ALICE));
    assert_eq!(held.count(), "1");
    assert_eq!(count(&with_key(&gateway, ALICE)), "1");
    let renewed = "another-key-of-alice";
    let sha256 = digest(&SHA256, renewed.as_bytes());
    gateway.config.callers.keys[0].sha256.copy_from_slice(sha256.as_ref());
    gateway.restart(|_| {});
    let alice = with_key(&gateway, renewed);
    assert_eq!(alice.with("mcp-session-id", &held.id).post(call("1", "count")).tool_text(), "2");
    assert_eq!(count(&alice), "2");
    assert_eq!(with_key(&gateway, ALICE).post(call("1", "count")).status, 401);
}

#[test]
fn an_application_shares_only_within_a_conversation() {
    let upstream = Upstream::start();
    let rest = "[callers.conversation]\nheaders = [\"x-chat\"]\nmeta = [\"openai/session\", \"my/chat\"]\nquery = \"chat\"\n";
    let gateway = Gw::start_file(&upstream, &config(&[("bot", BOT, "application")], rest));
    let bot = with_key(&gateway, BOT);
    assert_eq!((count(&bot), count(&bot)), ("1".into(), "1".into()), "nothing tells its users apart");

    let in_meta = |member: &str| {
        let params = format!(r#"{{"name":"count","arguments":{{}},"_meta":{{{member}}}}}"#);
        bot.post(request("1", "tools/call", &params)).tool_text()
    };
    let one = bot.with("x-chat", "one");
    assert_eq!((count(&one), count(&one)), ("1".into(), "2".into()));
    assert_eq!(count(&bot.with("x-chat", "two")), "1");
    assert_eq!(in_meta(r#""openai/session":"v1/abc""#), "1");
    assert_eq!(in_meta(r#""openai/session":"v1/abc""#), "2");
    assert_eq!(in_meta(r#""openai/session":"v1/def""#), "1");
    assert_eq!(in_meta(r#""my/chat":{"id":1}"#), "1");
    assert_eq!(in_meta(r#""my/chat":{"id":1}"#), "2");
    assert_eq!(in_meta(r#""other":1"#), "1");
    assert_eq!(in_meta(r#""other":1"#), "1");
    let by_query = bot.at("/mcp?x=1&chat=three");
    assert_eq!((count(&by_query), count(&by_query)), ("1".into(), "2".into()));
    assert_eq!(count(&bot.at("/mcp?chat=four")), "1");
}

#[test]
fn a_conversation_tells_one_persons_chats_apart_and_never_people() {
    let upstream = Upstream::start();
    let keys = [("alice", ALICE, "user"), ("bob", BOB, "user")];
    let rest = "[callers.conversation]\nheaders = [\"x-chat\"]\n";
    let gateway = Gw::start_file(&upstream, &config(&keys, rest));
    let (alice, bob) = (with_key(&gateway, ALICE), with_key(&gateway, BOB));
    assert_eq!(count(&alice.with("x-chat", "one")), "1");
    assert_eq!(count(&alice.with("x-chat", "two")), "1");
    assert_eq!(count(&bob.with("x-chat", "one")), "1");
    assert_eq!(count(&alice.with("x-chat", "one")), "2");
    // The query is not looked at where the configuration does not name it.
    assert_eq!(count(&alice.at("/mcp?conversation=one")), "1");
    assert_eq!(count(&alice), "2");
}

#[test]
fn anonymous_callers_can_be_let_in_beside_keys_and_refused_without() {
    let upstream = Upstream::start();
    let keys = [("alice", ALICE, "user")];
    let gateway = Gw::start_file(&upstream, &config(&keys, "[callers]\nanonymous = \"allow\"\n"));
    assert_eq!(count(&gateway.client()), "1");
    assert_eq!(count(&gateway.client()), "1", "with a file, anonymous callers are alone");
    assert_eq!(with_key(&gateway, "wrong").post(call("1", "count")).status, 401);

    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &config(&[], "[callers]\nanonymous = \"refuse\"\n"));
    assert_eq!(gateway.client().post(call("1", "count")).status, 401);
}

#[test]
fn a_caller_has_only_so_many_requests_under_way() {
    let upstream = Upstream::start();
    let keys = [("alice", ALICE, "user"), ("bob", BOB, "user")];
    let gateway = Gw::start_file(&upstream, &config(&keys, "[limits]\nrequests_per_caller = 2\n"));
    let (alice, bob) = (with_key(&gateway, ALICE), with_key(&gateway, BOB));
    assert_eq!(count(&alice), "1");
    let gate = upstream.hold(|request| request.tool() == "count" && request.text().contains("slow"));
    let slow =
        || alice.begin("POST", request("1", "tools/call", r#"{"name":"count","arguments":{"slow":1}}"#));
    let (waiting, leaving) = (slow(), slow());
    upstream.wait_for("tools/call", 3);
    // A client that goes away does not give its place back: its call goes on.
    drop(leaving);
    let refused = alice.post(call("9", "count"));
    assert_eq!((refused.status, refused.code(), &refused.json()["id"]), (429, -32015, &9.into()));
    assert_eq!(refused.headers.get("retry-after"), Some("1"));
    assert_eq!(count(&bob), "1", "others are not touched");
    gate.open();
    assert_eq!(waiting.answer().whole().status, 200);
    let again = || alice.post(call("1", "count")).status;
    let deadline = std::time::Duration::from_secs(10);
    let begun = tokio::time::Instant::now();
    while again() != 200 {
        assert!(begun.elapsed() < deadline, "places are given back");
    }
}

#[test]
fn for_one_session_too_many_the_callers_idlest_gives_its_upstream_session_back() {
    let upstream = Upstream::start();
    let keys = [("alice", ALICE, "user"), ("bob", BOB, "user")];
    let gateway = Gw::start_file(&upstream, &config(&keys, "[limits]\nsessions_per_caller = 2\n"));
    let (alice, bob) = (with_key(&gateway, ALICE), with_key(&gateway, BOB));
    let others = Session::open(&bob);
    assert_eq!(others.count(), "1");
    let first = Session::open(&alice);
    assert_eq!(first.count(), "1");
    let given = upstream.server().given().pop().unwrap();
    let second = Session::open(&alice);
    assert_eq!(second.count(), "1");
    let third = Session::open(&alice);
    assert_eq!(third.count(), "1");
    upstream.wait_until("the idlest is given back", |server| server.deleted() == [given.clone()]);
    assert_eq!(first.count(), "1", "its id stays good");
    assert_eq!(others.count(), "2");
}

#[test]
fn a_proxy_that_is_believed_says_who_calls() {
    let proxied = |networks: &str| {
        let sha256 = data_encoding::HEXLOWER.encode(digest(&SHA256, b"between-us").as_ref());
        format!(
            "trusted_proxies = [{networks}]\n[upstream]\nurl = \"UPSTREAM\"\n[callers.proxy]\nheader = \"x-user\"\n\
             secret_header = \"x-secret\"\nsecret_sha256 = \"{sha256}\"\n"
        )
    };
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &proxied("\"127.0.0.0/8\""));
    let proxy = gateway.client().with("x-secret", "between-us").with("x-forwarded-for", "192.0.2.7");
    let (alice, bob) = (proxy.with("x-user", "alice"), proxy.with("x-user", "bob"));
    assert_eq!((count(&alice), count(&bob), count(&alice)), ("1".into(), "1".into(), "2".into()));
    let held = Session::open(&alice);
    assert_eq!(bob.with("mcp-session-id", &held.id).post(call("1", "count")).status, 404);
    for refused in [
        proxy.clone(),
        proxy.with("x-user", ""),
        alice.without("x-secret"),
        alice.with("x-secret", "guessed"),
    ] {
        assert_eq!(refused.post(call("1", "count")).status, 401);
    }
    for request in upstream.log() {
        assert_eq!((request.headers.get("x-user"), request.headers.get("x-secret")), (None, None));
    }

    // The secret alone does not do: it has to come from the proxy's address.
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &proxied("\"192.0.2.1\""));
    let elsewhere = gateway.client().with("x-secret", "between-us").with("x-user", "alice");
    assert_eq!(elsewhere.post(call("1", "count")).status, 401);
}
