//! Several gateways with one Redis: a session is one, whichever of them a request reaches.

use std::path::Path;

use tempfile::TempDir;
use throughline_gateway::config::{Config, KeyRingPlace, OnStoreFailure};
use throughline_gateway::{Effects, Gateway, keys};

use crate::harness::{Gw, Redis, Session, Upstream, call, json, parse, request, rpc_error, until};

/// What the gateways of a test share.
pub(crate) struct Shared {
    redis: Redis,
    ring: TempDir,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let ring = TempDir::new().unwrap();
        keys::create(&ring.path().join("keyring"), Effects::REAL).unwrap();
        Shared { redis: Redis::start(), ring }
    }

    fn ring(&self) -> &Path {
        self.ring.path()
    }

    /// One more replica.
    pub(crate) fn replica(&self, upstream: &Upstream) -> Gw {
        self.replica_with(upstream, |_| {})
    }

    /// One that has just stopped hearing what the others change, when this is called.
    pub(crate) fn replica_that_goes_deaf(&self, upstream: &Upstream) -> (Gw, impl Fn()) {
        let url = self.redis.url_of_user("deaf");
        let gateway = self.replica_with(upstream, |config| config.store = url.parse().unwrap());
        (gateway, || self.redis.silence("deaf"))
    }

    pub(crate) fn replica_with(&self, upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Gw {
        Gw::start_with(upstream, |config| {
            config.store = self.redis.url().parse().unwrap();
            config.key_ring = KeyRingPlace::File(self.ring().join("keyring"));
            change(config);
        })
    }
}

/// The same session at another replica.
pub(crate) fn at(session: &Session, gateway: &Gw) -> Session {
    let client = gateway.client().with("mcp-session-id", &session.id);
    Session { client: client.with("mcp-protocol-version", "2025-06-18"), id: session.id.clone() }
}

fn readiness(gateway: &Gw) -> serde_json::Value {
    let answer = gateway.client().at("/readyz").get();
    assert_eq!(answer.status, 200, "ready all the time");
    parse(answer.text())
}

fn is_well(gateway: &Gw) -> bool {
    readiness(gateway)["status"] == "ready"
}

#[test]
fn a_session_is_one_whichever_replica_a_request_reaches() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream), shared.replica(&upstream)];
    let session = Session::open(&replicas[0].client());
    for round in 1..=9 {
        assert_eq!(at(&session, &replicas[round % 3]).count(), round.to_string());
    }
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn what_the_client_announced_is_known_to_the_replica_that_gets_its_first_request() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let welcome = one.client().post(
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"x":1},"clientInfo":{"name":"n","version":"1"},"sessionContext":{"a":[1.0]}}}"#,
    );
    let id = welcome.headers.get("mcp-session-id").unwrap().to_owned();
    let client = other.client().with("mcp-session-id", &id);
    assert_eq!(client.post(call("1", "count")).tool_text(), "1");
    let initializes = upstream.of("initialize");
    assert_eq!(initializes.len(), 2, "the replica that was asked, and the one that was used");
    for initialize in initializes {
        assert!(initialize.text().contains(r#""sessionContext":{"a":[1.0]}"#), "{}", initialize.text());
    }
}

#[test]
fn an_idless_client_finds_its_session_at_every_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    for (round, gateway) in [&one, &other, &one, &other].into_iter().enumerate() {
        assert_eq!(gateway.client().post(call("1", "count")).tool_text(), (round + 1).to_string());
    }
    let ids: Vec<_> = upstream.of("tools/call").iter().map(|request| request.id()).collect();
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "ids of one upstream session are unique over replicas: {ids:?}");
}

#[test]
fn an_established_session_costs_redis_nothing() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream)];
    let session = Session::open(&replicas[0].client());
    for gateway in &replicas {
        at(&session, gateway).count();
    }
    let before = shared.redis.commands();
    for round in 0..100 {
        at(&session, &replicas[round % 2]).count();
    }
    assert_eq!(shared.redis.commands(), before);
}

#[test]
fn a_recovery_at_one_replica_reaches_the_others() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    let opened = upstream.count("initialize");
    // Either the signal has come, or the other finds the session lost and then reads the record.
    assert_eq!(at(&session, &other).count(), "2");
    assert_eq!(upstream.count("initialize"), opened, "the other makes no binding of its own");
}

#[test]
fn of_two_replicas_that_find_a_session_lost_one_makes_the_binding() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream)];
    let session = Session::open(&replicas[0].client());
    for gateway in &replicas {
        at(&session, gateway).count();
    }
    upstream.server().lose_sessions();
    upstream.forget();
    let held = upstream.hold(|request| request.rpc() == "initialize");
    let calls =
        replicas.each_ref().map(|gateway| at(&session, gateway).client.begin("POST", call("1", "count")));
    // Both have found it lost; the one that came second waits for the first's binding.
    upstream.wait_for("tools/call", 2);
    upstream.wait_for("initialize", 1);
    held.open();
    let mut counted = calls.map(|sent| sent.answer().whole().tool_text());
    counted.sort_unstable();
    assert_eq!(counted, ["1", "2"]);
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn a_session_that_was_deleted_at_one_replica_is_gone_at_all() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream), shared.replica(&upstream)];
    let session = Session::open(&replicas[0].client());
    for gateway in &replicas[..2] {
        at(&session, gateway).count();
    }
    let mut stream = at(&session, &replicas[1]).listen();
    assert_eq!(session.client.delete().status, 200);
    // The other hears of it, without being asked; one that never knew the session reads its tombstone.
    while stream.event().is_some() {}
    for gateway in &replicas {
        assert_eq!(at(&session, gateway).post(call("1", "count")).status, 404);
    }
}

#[test]
fn a_session_that_was_deleted_during_a_recovery_elsewhere_is_not_revived() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    session.count();
    upstream.server().lose_sessions();
    upstream.forget();
    let held = upstream.hold(|request| request.rpc() == "initialize");
    let sent = session.client.begin("POST", call("1", "count"));
    upstream.wait_for("initialize", 1);
    assert_eq!(at(&session, &other).client.delete().status, 200);
    held.open();
    assert_eq!(sent.answer().whole().status, 404);
    until("the upstream session that was made in vain to be ended", || {
        upstream
            .of("DELETE")
            .iter()
            .any(|end| end.session() == upstream.server().given().last().map(String::as_str))
    });
}

#[test]
fn while_redis_is_away_sessions_go_on_and_new_ones_begin() {
    let (upstream, mut shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let old = Session::open(&one.client());
    assert_eq!((old.count(), at(&old, &other).count()), ("1".into(), "2".into()));
    shared.redis.kill9();
    until("both to notice", || [&one, &other].iter().all(|gateway| !is_well(gateway)));
    assert_eq!((old.count(), at(&old, &other).count()), ("3".into(), "4".into()));
    let new = Session::open(&one.client());
    assert_eq!(new.count(), "1");
    // At a replica that has never seen it the id is as good; what is set up in it is not there yet.
    assert_eq!(at(&new, &other).count(), "1");
    upstream.server().lose_sessions();
    assert_eq!(old.count(), "1", "recovered without the store");
    shared.redis.start_again();
    until("both to be well", || [&one, &other].iter().all(|gateway| is_well(gateway)));
    // The state has caught up: a replica that knows nothing finds each session as it is.
    let third = shared.replica(&upstream);
    until("the recovered binding to be stored", || at(&old, &third).count() != "1");
    until("one binding to have won", || {
        let [a, b] = [&one, &other].map(|gateway| at(&new, gateway).count().parse::<u32>().unwrap());
        b == a + 1
    });
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn an_end_that_could_not_be_stored_is_stored_later() {
    let (upstream, mut shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    shared.redis.kill9();
    assert_eq!(session.client.delete().status, 200);
    assert_eq!(session.post(call("1", "count")).status, 404, "it holds here");
    shared.redis.start_again();
    until("the end to reach the other", || at(&session, &other).post(call("1", "count")).status == 404);
}

#[test]
fn a_redis_that_hangs_delays_a_request_once_and_loses_nothing() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    shared.redis.hang();
    // What the replicas remember lapses when the signals stop; then they go on without asking for ever.
    until("both to notice", || [&one, &other].iter().all(|gateway| !is_well(gateway)));
    assert_eq!((session.count(), at(&session, &other).count()), ("3".into(), "4".into()));
    shared.redis.go_on();
    until("both to be well", || [&one, &other].iter().all(|gateway| is_well(gateway)));
    assert_eq!((session.count(), at(&session, &other).count()), ("5".into(), "6".into()));
}

#[test]
fn who_prefers_agreement_gets_503_while_redis_is_away() {
    let (upstream, mut shared) = (Upstream::start(), Shared::new());
    let refuse = |config: &mut Config| config.routes[0].on_store_failure = OnStoreFailure::Refuse;
    let gateway = shared.replica_with(&upstream, refuse);
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    shared.redis.kill9();
    until("it to notice", || !is_well(&gateway));
    let refused = session.post(call("7", "count"));
    assert_eq!((refused.status, refused.json()["id"].as_i64()), (503, Some(7)), "{}", refused.text());
    assert_eq!(refused.headers.get("retry-after"), Some("2"));
    shared.redis.start_again();
    until("it to be well", || is_well(&gateway));
    assert_eq!(session.count(), "2");
}

#[test]
fn a_flushed_redis_loses_no_session_that_a_replica_remembers() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    shared.redis.ask("FLUSHALL").unwrap();
    assert_eq!((session.count(), at(&session, &other).count()), ("3".into(), "4".into()));
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    until("the new binding to reach the other", || at(&session, &other).count() != "1");
    // Of a client without any replica that remembers it, the id remains: it gets a new upstream session.
    shared.redis.ask("FLUSHALL").unwrap();
    let third = shared.replica(&upstream);
    assert_eq!(at(&session, &third).post(call("1", "count")).status, 200);
}

#[test]
fn a_redis_that_evicts_loses_no_valid_id() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let one = shared.replica(&upstream);
    let sessions: Vec<_> = (0..50).map(|_| Session::open(&one.client())).collect();
    for session in &sessions {
        session.count();
    }
    for setting in ["maxmemory-policy allkeys-lru", "maxmemory 1mb"] {
        shared.redis.ask(&format!("CONFIG SET {setting}")).unwrap();
    }
    let new = Session::open(&one.client());
    until("records to be evicted", || {
        new.count();
        let stats = shared.redis.ask("INFO stats").unwrap();
        !stats.contains("evicted_keys:0\r")
    });
    // Of a replica that knows nothing: what was evicted is rebuilt from its id.
    let other = shared.replica(&upstream);
    for session in &sessions {
        assert_eq!(at(session, &other).post(call("1", "count")).status, 200);
    }
}

#[test]
fn a_session_that_is_used_elsewhere_keeps_its_upstream_session() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let idle = |config: &mut Config| config.sessions.idle = std::time::Duration::from_secs(1);
    let (one, other) = (shared.replica_with(&upstream, idle), shared.replica_with(&upstream, idle));
    let session = Session::open(&one.client());
    session.count();
    let mut counted = 1;
    // Until the first replica, which is not asked any more, has let go of it.
    until("the first to forget it", || {
        at(&session, &other).count();
        one.client()
            .at("/metrics")
            .get()
            .text()
            .contains("throughline_sessions{route=\"/mcp\",kind=\"issued\"} 0")
    });
    counted += 1;
    assert!(at(&session, &other).count().parse::<u32>().unwrap() > counted);
    assert_eq!(upstream.count("DELETE"), 0);
}

#[test]
fn replicas_need_a_key_ring_that_is_given_to_them() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let mut config = Config::for_upstream(&upstream.url()).unwrap();
    config.store = shared.redis.url().parse().unwrap();
    config.state_dir = Some(shared.ring().to_owned());
    let error = Gateway::start(config, Effects::REAL).err().unwrap().to_string();
    assert!(error.contains("--key-ring") && error.contains("throughline keys new"), "{error}");
}

#[test]
fn keys_are_rotated_under_sessions_that_go_on() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    let file = shared.ring().join("keyring");
    // Both look at the file every two seconds.
    keys::rotate(&file, std::time::Duration::from_secs(6), Effects::REAL).unwrap();
    // Sealed by whichever key: every replica opens it.
    until("a new key to seal", || {
        let new = Session::open(&one.client());
        assert_eq!((new.count(), at(&new, &other).count()), ("1".into(), "2".into()));
        key_of(&new.id) == 2
    });
    assert_eq!((session.count(), at(&session, &other).count()), ("3".into(), "4".into()));
}

/// The id of the key that sealed a session id: its second byte.
fn key_of(id: &str) -> u8 {
    data_encoding::BASE32_NOPAD.decode(id.to_uppercase().as_bytes()).unwrap()[1]
}

#[test]
fn what_was_set_up_at_one_replica_is_restored_by_another() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    let level = request("1", "logging/setLevel", r#"{"level":"debug"}"#);
    assert_eq!(session.post(level).status, 200);
    upstream.server().lose_sessions();
    assert_eq!(at(&session, &other).count(), "1");
    let newest = upstream.server().given().pop().unwrap();
    assert_eq!(upstream.server().setup(&newest), [r#"logging/setLevel {"level":"debug"}"#]);
}

#[test]
fn an_upstream_that_refuses_gives_the_lease_back() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = Session::open(&one.client());
    assert_eq!((session.count(), at(&session, &other).count()), ("1".into(), "2".into()));
    upstream.server().lose_sessions();
    upstream.script(|request, _| {
        (request.rpc() == "initialize").then(|| json(503, rpc_error(&request.id(), -32000, "Not now")))
    });
    assert_eq!(session.post(call("1", "count")).status, 502);
    upstream.script(|_, _| None);
    let began = tokio::time::Instant::now();
    assert_eq!(at(&session, &other).count(), "1");
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "nobody had to wait for a lease to lapse");
}
