//! The process: health, stopping, what it logs, and many clients at once while the upstream forgets them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Answers, Clock, Gw, Session, Upstream, call, initialize_body, logged, request};
use throughline_gateway::Config;
use throughline_gateway::config::StoreUrl;

#[test]
fn it_says_that_it_is_well_and_which_instance_it_is() {
    let upstream = Upstream::start();
    let (one, two) = (Gw::start(&upstream), Gw::start(&upstream));
    let instance = |gateway: &Gw| {
        let answers = ["/healthz", "/readyz"].map(|path| gateway.client().at(path).get());
        assert!(answers.iter().all(|answer| answer.status == 200));
        answers[0].headers.get("throughline-instance").unwrap().to_owned()
    };
    assert_ne!(instance(&one), instance(&two));
    let named = one.client().post(call("1", "count"));
    assert_eq!(named.headers.get("throughline-instance").unwrap(), instance(&one));
}

/// A gateway that is going to be stopped: what a busy disk makes of the store's end is not the subject.
fn without_a_disk(upstream: &Upstream) -> Gw {
    Gw::start_with(upstream, |config| config.store = StoreUrl::Memory)
}

#[test]
fn requests_in_flight_end_before_it_stops() {
    let upstream = Upstream::start();
    let mut gateway = without_a_disk(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    let session = Session::open(&gateway.client());
    let slow = session.client.begin("POST", call("1", "slow"));
    upstream.wait_for("tools/call", 1);
    let stopping = gateway.begin_stop();
    gate.open();
    assert_eq!(slow.answer().whole().tool_text(), "{}");
    stopping.join().unwrap();
}

#[test]
fn an_open_stream_does_not_keep_it_from_stopping() {
    let upstream = Upstream::start();
    let mut gateway = without_a_disk(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    let began = tokio::time::Instant::now();
    let stopping = gateway.begin_stop();
    assert!(stream.event().is_none());
    stopping.join().unwrap();
    // What keeps it from stopping is cut then.
    assert!(began.elapsed() < gateway.config.timeouts.shutdown, "{:?}", began.elapsed());
    assert_eq!(upstream.server().open().len(), 1, "the upstream session is kept for the next process");
}

#[test]
fn what_it_logs_is_recorded_here_and_names_a_session_by_a_digest_only() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    session.count();
    session.client.with("mcp-session-id", &format!("{}x", session.id)).post(call("1", "count"));
    session.client.delete();
    // That no id is in it is asserted when the gateway ends, here and in every other test.
    assert!(logged("session bound") && logged("upstream session lost") && logged("404-session"));
}

#[test]
fn the_answer_to_initialize_is_asked_for_again_in_time() {
    type Clock3 = Clock<3>;
    let upstream = Upstream::start();
    let gateway = Gw::run(&upstream, Config::for_upstream(&upstream.url()).unwrap(), Clock3::EFFECTS);
    let initialize = || gateway.client().post(initialize_body("2025-06-18", "{}")).json()["result"].clone();
    let before = initialize();
    upstream.server().announce(r#"{"prompts":{}}"#);
    assert_eq!(initialize(), before);
    Clock3::advance(Duration::from_secs(601));
    assert_ne!(initialize(), before);
    assert_eq!(upstream.count("initialize"), 2);
}

#[test]
fn an_answer_to_initialize_that_a_real_session_contradicts_is_dropped() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open_as(&gateway.client(), "2025-06-18", "{}");
    session.count();
    upstream.server().announce(r#"{"prompts":{}}"#);
    upstream.server().lose_sessions();
    session.count();
    let now = gateway.client().post(initialize_body("2025-06-18", "{}")).json();
    assert_eq!(now["result"]["capabilities"], serde_json::json!({"prompts": {}}));
    assert_eq!(upstream.count("initialize"), 2);
}

#[test]
fn clients_of_different_kinds_get_their_own_answers_to_initialize() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        for capabilities in ["{}", r#"{"sampling":{}}"#] {
            let welcome = gateway.client().post(initialize_body(version, capabilities));
            assert_eq!(welcome.json()["result"]["protocolVersion"], version);
        }
    }
    assert_eq!(upstream.count("initialize"), 8);
}

#[test]
fn many_clients_lose_nothing_while_the_upstream_keeps_forgetting() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let sessions: Vec<_> = (0..4).map(|_| Session::open(&gateway.client())).collect();
    let done = Arc::new(AtomicBool::new(false));
    let forgetting = {
        let (server, done) = (Arc::clone(upstream.server()), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                // Often enough to hit every stage of a recovery, seldom enough that calls get through.
                std::thread::park_timeout(Duration::from_millis(15));
                server.lose_sessions();
            }
        })
    };
    let calling: Vec<_> = (0..8)
        .map(|n| {
            let client = match n {
                0..6 => sessions[n % 4].client.clone(),
                6 => gateway.client(),
                _ => gateway.client().with("via", "x"),
            };
            std::thread::spawn(move || {
                let mut outcomes: HashMap<(u16, i64), usize> = HashMap::new();
                for id in 0..60 {
                    let answer = client.post(call(&id.to_string(), "count"));
                    assert_eq!(answer.json()["id"], id);
                    *outcomes.entry((answer.status, answer.code())).or_default() += 1;
                    assert_eq!(client.post(request("1", "tools/list", "{}")).json()["id"], 1);
                }
                outcomes
            })
        })
        .collect();
    let mut succeeded = 0;
    for outcomes in calling.into_iter().map(|thread| thread.join().unwrap()) {
        for ((status, code), count) in outcomes {
            // Lost again right after the recovery: not executed, and said so.
            assert!(status == 200 || (status, code) == (502, -32014), "{status} {code}");
            succeeded += if status == 200 { count } else { 0 };
        }
    }
    done.store(true, Ordering::Relaxed);
    forgetting.join().unwrap();
    assert_eq!(upstream.server().executed(), succeeded, "each call that was answered ran once, no other ran");
    assert!(succeeded > 240, "{succeeded}");
}

#[test]
fn one_connection_carries_many_requests_also_at_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let post = |id: usize, accept: &str| {
        let body = call(&id.to_string(), "count");
        format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\ncontent-type: application/json\r\nmcp-session-id: {}\r\ncontent-length: {}\r\n\r\n{body}",
            session.id,
            body.len()
        )
    };
    for answers in [Answers::Json, Answers::Sse] {
        upstream.server().answer_with(answers);
        let all: String = (0..20).map(|id| post(id, ["application/json", "*/*"][id % 2])).collect();
        let mut incoming = gateway.client().raw(all.as_bytes()).answer();
        let mut received: Vec<_> = (0..19).map(|_| incoming.advance()).collect();
        received.push(incoming.whole());
        for (id, answer) in received.iter().enumerate() {
            assert_eq!((answer.status, &answer.json()["id"]), (200, &id.into()));
        }
    }
    assert_eq!(session.count(), "41");
}
