//! The administrator's door: who gets in, what is told of sessions, and what becomes of those that are removed.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use throughline_gateway::config::{AdminAddress, Anonymous, StoreUrl};
use throughline_gateway::{Config, Effects, Gateway};

use crate::harness::{Client, Clock, Gw, Session, Upstream, call, initialize_body, request, until};

fn start(upstream: &Upstream) -> Gw {
    Gw::start_with(upstream, |config| config.admin = Some("127.0.0.1:0".parse().unwrap()))
}

/// All sessions, page by page.
fn sessions(admin: &Client, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = admin.at(&format!("/sessions?limit={limit}{after}")).get();
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= limit);
        all.extend(sessions.iter().cloned());
        match page["next"].as_str() {
            Some(cursor) => after = format!("&after={cursor}"),
            None => return all,
        }
    }
}

fn remove(admin: &Client, session: &Value) -> (u16, Value) {
    let answer = admin.at(&format!("/sessions/{}", session["id"].as_str().unwrap())).delete();
    (answer.status, answer.json())
}

#[test]
fn only_who_has_the_token_gets_in() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let admin = gateway.admin();
    assert_eq!(admin.at("/keys").get().status, 200);
    let token = std::fs::read_to_string(gateway.state().join("admin-token")).unwrap();
    let mode = std::fs::metadata(gateway.state().join("admin-token")).unwrap().permissions().mode();
    assert_eq!((token.trim().len(), mode & 0o777), (64, 0o600));
    let wrong = ["", "Bearer", "Bearer ", "Bearer x", &format!("Bearer {}0", token.trim()), token.trim()];
    for path in ["/sessions", "/sessions/0123456789", "/keys", "/metrics", "/", "/nowhere"] {
        let bare = admin.without("authorization").at(path);
        let clients = wrong.iter().map(|value| bare.with("authorization", value)).chain([bare.clone()]);
        for client in clients {
            let answer = client.get();
            assert_eq!(
                (answer.status, answer.headers.get("www-authenticate")),
                (401, Some("Bearer")),
                "{path}"
            );
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(admin.without("authorization").at(path).get().status, 200);
    }
    assert_eq!(gateway.client().at("/sessions").get().status, 404, "not on the main listener");
}

#[test]
fn web_pages_do_not_get_in_even_with_the_token() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let admin = gateway.admin().at("/sessions");
    assert_eq!(admin.with("host", "localhost:1").get().status, 200);
    for (name, value) in [
        ("host", "evil.example"),
        ("host", ""),
        ("origin", "https://evil.example"),
        ("origin", "http://localhost"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(admin.with(name, value).get().status, 403, "{name}: {value}");
    }
}

#[test]
fn sessions_are_shown_without_their_ids() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let admin = gateway.admin();
    let session = Session::open(&gateway.client());
    session.count();
    gateway.client().post(call("1", "count"));
    let all = sessions(&admin, 1000);
    assert_eq!(all.len(), 2, "{all:?}");
    let of = |kind: &str| all.iter().find(|session| session["kind"] == kind).unwrap();
    for kind in ["issued", "keyed"] {
        let shown = of(kind);
        let id = shown["id"].as_str().unwrap();
        assert_eq!(admin.at(&format!("/sessions/{id}")).get().json(), *shown);
        assert_eq!((&shown["route"], &shown["client"]), (&"/mcp".into(), &"test 1".into()));
        assert_eq!((&shown["bound"], &shown["live"]), (&true.into(), &true.into()));
        assert_eq!((&shown["generation"], &shown["in_flight"]), (&1.into(), &0.into()));
        assert_eq!(id.len(), 10);
    }
    let text = format!("{all:?}");
    assert!(!text.contains(&session.id) && upstream.server().given().iter().all(|id| !text.contains(id)));
    for unknown in ["0123456789", "", "x", "%2e%2e"] {
        let answer = admin.at(&format!("/sessions/{unknown}")).get();
        assert!(answer.status == 404 || unknown.is_empty(), "{unknown}: {}", answer.status);
    }
}

#[test]
fn pages_hold_every_session_once() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let open: Vec<_> = (0..23).map(|_| Session::open(&gateway.client())).collect();
    open.iter().for_each(|session| assert_eq!(session.count(), "1"));
    open[7].client.delete();
    for limit in [1, 5, 22, 23, 1000] {
        let mut ids: Vec<_> =
            sessions(&gateway.admin(), limit).iter().map(|session| session["id"].to_string()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 22, "pages of {limit}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "after=00", "after=zz"] {
        assert_eq!(gateway.admin().at(&format!("/sessions?{query}")).get().status, 400, "{query}");
    }
}

#[test]
fn an_issued_session_that_is_removed_is_gone_for_good() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let session = Session::open(&gateway.client());
    let other = Session::open(&gateway.client());
    session.count();
    other.count();
    let mut stream = session.listen();
    let shown = sessions(&gateway.admin(), 1000);
    let listening = shown.iter().find(|session| session["listening"] == true).unwrap();
    let (status, body) = remove(&gateway.admin(), listening);
    assert_eq!((status, &body["removed"]), (200, &"ended".into()));
    while stream.event().is_some() {}
    upstream.wait_until("the upstream session is ended", |server| server.open().len() == 1);
    assert_eq!(session.post(call("1", "count")).status, 404);
    assert_eq!(remove(&gateway.admin(), listening).0, 404, "it is gone");
    assert_eq!(sessions(&gateway.admin(), 1000).len(), 1);
    gateway.restart(|_| {});
    let again = gateway.client().with("mcp-session-id", &session.id);
    assert_eq!(again.post(call("1", "count")).status, 404);
    let other = gateway.client().with("mcp-session-id", &other.id);
    assert_eq!(other.post(call("1", "count")).tool_text(), "2");
}

#[test]
fn callers_of_a_keyed_session_that_is_removed_begin_anew() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let count = |gateway: &Gw| gateway.client().post(call("1", "count")).tool_text();
    assert_eq!((count(&gateway), count(&gateway)), ("1".into(), "2".into()));
    gateway.client().post(request("1", "logging/setLevel", r#"{"level":"debug"}"#));
    let shown = sessions(&gateway.admin(), 1000);
    assert_eq!((shown.len(), &shown[0]["restores"]), (1, &1.into()));
    let (status, body) = remove(&gateway.admin(), &shown[0]);
    assert_eq!((status, &body["removed"]), (200, &"forgotten".into()));
    upstream.wait_until("the upstream session is ended", |server| server.open().is_empty());
    assert_eq!(upstream.count("logging/setLevel"), 1);
    assert_eq!(count(&gateway), "1", "the callers are not locked out");
    assert_eq!(upstream.count("logging/setLevel"), 1, "nothing is set up again");
    assert_eq!(count(&gateway), "2");
    // The same where only the store has it.
    gateway.restart(|_| {});
    let shown = sessions(&gateway.admin(), 1000);
    assert_eq!((&shown[0]["live"], &shown[0]["bound"]), (&false.into(), &true.into()));
    assert_eq!(remove(&gateway.admin(), &shown[0]).0, 200);
    upstream.wait_until("the upstream session is ended", |server| server.open().is_empty());
    assert_eq!(count(&gateway), "1");
}

#[test]
fn an_issued_session_that_only_the_store_has_is_removed_too() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    gateway.restart(|_| {});
    let shown = sessions(&gateway.admin(), 1000);
    assert_eq!((shown.len(), &shown[0]["live"]), (1, &false.into()));
    assert_eq!(remove(&gateway.admin(), &shown[0]).0, 200);
    upstream.wait_until("the upstream session is ended", |server| server.open().is_empty());
    assert_eq!(gateway.client().with("mcp-session-id", &session.id).post(call("1", "count")).status, 404);
}

#[test]
fn a_keyed_session_is_removed_also_while_a_call_is_under_way() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    (1..=3).for_each(|n| assert_eq!(gateway.client().post(call("1", "count")).tool_text(), n.to_string()));
    let slow = gateway.client().begin("POST", call("1", "slow"));
    upstream.wait_for("tools/call", 4);
    let shown = sessions(&gateway.admin(), 1000);
    assert_eq!(shown[0]["in_flight"], 1);
    assert_eq!(remove(&gateway.admin(), &shown[0]).0, 200);
    gate.open();
    assert_eq!(slow.answer().whole().status, 200);
    // The slow call may have met the end of its session, and then have been sent in the next one.
    let count = gateway.client().post(call("1", "count")).tool_text();
    assert!(["1", "2"].contains(&count.as_str()), "{count}");
}

#[test]
fn idle_time_is_that_of_the_last_use() {
    type Clock9 = Clock<9>;
    let upstream = Upstream::start();
    let mut config = Config::for_upstream(&upstream.url()).unwrap();
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    let gateway = Gw::run(&upstream, config, Clock9::EFFECTS);
    let session = Session::open(&gateway.client());
    session.count();
    Clock9::advance(std::time::Duration::from_secs(100));
    let shown = &sessions(&gateway.admin(), 1000)[0];
    let seconds = |name: &str| shown[name].as_u64().unwrap();
    assert!((100..110).contains(&seconds("idle")) && (100..110).contains(&seconds("age")), "{shown}");
    assert!(seconds("expires_in") <= 7 * 86_400 - 100, "{shown}");
}

#[test]
fn keys_rotate_while_sessions_go_on() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let old = Session::open(&gateway.client());
    assert_eq!(old.count(), "1");
    gateway.client().post(call("1", "count"));
    let keys = gateway.admin().at("/keys");
    assert_eq!(
        keys.get().json(),
        serde_json::json!({"active": 1, "ids": [1], "not_before": 0, "seals_from": 0})
    );
    let rotated = keys.at("/keys/rotate").post("");
    assert_eq!((rotated.status, &rotated.json()["active"]), (200, &2.into()));
    let new = Session::open(&gateway.client());
    assert_eq!((old.count(), new.count()), ("2".into(), "1".into()));
    gateway.restart(|state| {
        let ring = std::fs::read_to_string(state.join("keyring")).unwrap();
        assert!(ring.find("key.2").unwrap() < ring.find("key.1").unwrap());
    });
    for (session, count) in [(&old, "3"), (&new, "2")] {
        let client = gateway.client().with("mcp-session-id", &session.id);
        assert_eq!(client.post(call("1", "count")).tool_text(), count);
    }
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "2", "keyed sessions keep their keys");
    assert_eq!(gateway.admin().at("/keys/rotate").get().status, 404, "GET changes nothing");
}

#[test]
fn keys_rotate_under_load() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let session = Session::open(&gateway.client());
    let calling: Vec<_> = (0..4)
        .map(|_| {
            let client = session.client.clone();
            std::thread::spawn(move || {
                (0..50).for_each(|_| assert_eq!(client.post(call("1", "count")).status, 200));
            })
        })
        .collect();
    // One less than the ring holds: the key that the session is sealed with is still in it.
    for turn in 2..=16 {
        let rotated = gateway.admin().at("/keys/rotate").post("");
        assert_eq!((rotated.status, &rotated.json()["active"]), (200, &turn.into()));
    }
    calling.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(upstream.server().executed(), 200);
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn a_socket_file_is_for_its_owner_and_goes_with_the_gateway() {
    let upstream = Upstream::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    // What a killed gateway leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let gateway = Gw::start_with(&upstream, |config| config.admin = Some(AdminAddress::Unix(path.clone())));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(gateway.state().join("admin-token")).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    let head = "GET /keys HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer";
    write!(stream, "{head} {}\r\n\r\n", token.trim()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200")
            && answer.ends_with(r#"{"active":1,"ids":[1],"not_before":0,"seals_from":0}"#)
    );
    // A second gateway does not take the socket away from the first.
    let mut config = gateway.config.clone();
    config.state_dir = Some(dir.path().join("other"));
    config.store = StoreUrl::Memory;
    let error = Gateway::start(config, Effects::REAL).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("for administration") && error.contains("--admin"), "{error}");
    let mut config = gateway.config.clone();
    config.state_dir = Some(dir.path().join("another"));
    config.store = StoreUrl::Memory;
    let file = dir.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    config.admin = Some(AdminAddress::Unix(file.clone()));
    assert!(Gateway::start(config, Effects::REAL).is_err());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "kept", "what is no socket is not removed");
    drop(gateway);
    assert!(!path.exists());
}

#[test]
fn a_token_can_be_given() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.admin = Some("[::1]:0".parse().unwrap());
        config.admin_token =
            Some(throughline_gateway::config::AdminToken::parse("0123456789abcdef").unwrap());
    });
    assert!(!gateway.state().join("admin-token").exists());
    std::fs::write(gateway.state().join("admin-token"), "0123456789abcdef").unwrap();
    assert_eq!(gateway.admin().at("/metrics").get().status, 200);
}

#[test]
fn sessions_that_have_not_begun_are_not_there_yet() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.admin = Some("127.0.0.1:0".parse().unwrap());
        config.routes[0].anonymous = Anonymous::Isolated;
    });
    gateway.client().post(initialize_body("2025-06-18", "{}"));
    gateway.client().post(call("1", "count"));
    until("the isolated session to end", || upstream.server().open().len() <= 1);
    assert_eq!(sessions(&gateway.admin(), 1000), Vec::<Value>::new());
}
