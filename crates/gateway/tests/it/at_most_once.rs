//! A request is repeated only where it was certainly not executed, or may be executed twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{Answer, Gate, Gw, Session, Upstream, call, initialize_body, request, rpc_error};

type Break = fn() -> Answer;

/// Ways for a connection to end after the request was read and before its answer was whole.
const BREAKS: &[(&str, Break)] = &[
    ("closed without an answer", || Answer::Close(Vec::new())),
    ("reset without an answer", || Answer::Reset(Vec::new())),
    ("closed in the status line", || Answer::Close(b"HTTP/1.1 20".to_vec())),
    ("closed in the headers", || Answer::Close(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec())),
    ("closed before the body", || {
        Answer::Close(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n".to_vec(),
        )
    }),
    ("closed in the body", || {
        Answer::Close(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{\"jsonrpc\""
                .to_vec(),
        )
    }),
    ("reset in a chunk", || {
        Answer::Reset(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{\"js".to_vec())
    }),
    ("closed before the first event", || {
        Answer::Close(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\n:\n\n\r\n".to_vec())
    }),
];

#[test]
fn a_call_whose_connection_breaks_is_not_repeated_and_its_caller_is_told() {
    for (name, broken) in BREAKS {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        upstream.script(move |request, _| (request.tool() == "break").then(broken));
        let session = Session::open(&gateway.client());
        for client in [session.client.clone(), gateway.client()] {
            let before = upstream.count("tools/call");
            let answer = client.post(call("\"c\"", "break"));
            assert_eq!((answer.status, answer.code()), (502, -32012), "{name}: {}", answer.text());
            assert_eq!(answer.json()["id"], "c", "{name}");
            assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], true, "{name}");
            assert_eq!(upstream.count("tools/call"), before + 1, "{name}");
        }
        assert_eq!(session.count(), "1", "{name}: the session goes on");
        assert_eq!(upstream.count("initialize"), 2, "{name}");
    }
}

#[test]
fn a_list_whose_connection_breaks_is_repeated_once() {
    for (name, broken) in BREAKS {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let lists = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&lists);
        upstream.script(move |request, _| {
            let list = request.rpc() == "tools/list";
            (list && counted.fetch_add(1, Ordering::Relaxed) % 3 != 1).then(broken)
        });
        let session = Session::open(&gateway.client());
        let answer = session.post(request("1", "tools/list", "{}"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let answer = session.post(request("1", "tools/list", "{}"));
        assert_eq!((answer.status, upstream.count("tools/list")), (502, 4), "{name}: not for ever");
    }
}

#[test]
fn a_request_of_an_unknown_method_is_not_repeated() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| (request.rpc() == "vendor/do").then(|| Answer::Close(Vec::new())));
    let session = Session::open(&gateway.client());
    assert_eq!(session.post(request("1", "vendor/do", "{}")).code(), -32012);
    assert_eq!(upstream.count("vendor/do"), 1);
}

#[test]
fn an_upstream_that_is_away_is_waited_for_and_then_said_to_be_away() {
    let mut upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.connect = Duration::from_millis(300));
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    upstream.go_away();
    let keyed = gateway.client();
    for answer in [
        session.post(call("7", "count")),
        session.post(request("7", "tools/list", "{}")),
        keyed.post(call("7", "count")),
        keyed.with("via", "x").post(call("7", "count")),
    ] {
        assert_eq!((answer.status, answer.code()), (502, -32010), "{}", answer.text());
        assert_eq!(answer.json()["id"], 7);
        assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], false);
        assert!(answer.headers.get("retry-after").is_some());
    }
    let other = initialize_body("2025-03-26", "{}");
    assert_eq!(gateway.client().post(&other).code(), -32010);
    upstream.come_back();
    assert_eq!(session.count(), "2");
    assert_eq!(gateway.client().post(other).status, 200);
    let again = std::iter::repeat_with(|| keyed.post(call("7", "count"))).find(|answer| answer.status == 200);
    assert_eq!(again.unwrap().tool_text(), "1");
}

#[test]
fn a_connection_that_the_upstream_closed_while_it_was_idle_is_never_an_error() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let id = request.id();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // It never said that it would close.
        (request.tool() == "close").then(|| Answer::Close(format!("{head}{body}").into_bytes()))
    });
    let session = Session::open(&gateway.client());
    for n in 0..40 {
        let answer = session.post(call(&n.to_string(), "close"));
        assert_eq!((answer.status, &answer.json()["id"]), (200, &n.into()), "{}", answer.text());
        upstream.wait_for_closed(n + 1);
    }
    assert_eq!(upstream.count("tools/call"), 40);
}

#[test]
fn connections_are_used_again() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.workers = std::num::NonZeroUsize::new(1));
    let session = Session::open(&gateway.client());
    for _ in 0..20 {
        session.count();
    }
    assert!(upstream.connections() <= 6, "{}", upstream.connections());
}

#[test]
fn an_answer_that_does_not_begin_in_time_is_a_timeout() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.first_byte = Duration::from_millis(300));
    let gate = upstream.hold(|request| matches!(request.rpc().as_str(), "tools/call" | "prompts/list"));
    let session = Session::open(&gateway.client());
    for body in [call("7", "count"), request("7", "prompts/list", "{}")] {
        let answer = session.post(body);
        assert_eq!((answer.status, answer.code()), (504, -32011), "{}", answer.text());
        assert_eq!(answer.json()["id"], 7);
        assert_eq!(answer.json()["error"]["data"]["mayHaveExecuted"], true);
    }
    assert_eq!((upstream.count("tools/call"), upstream.count("prompts/list")), (1, 1));
    gate.open();
}

#[test]
fn an_answer_that_begins_and_then_hangs_is_ended_by_the_time_for_a_call() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.call = Duration::from_millis(400));
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    upstream.script(move |request, _| {
        let held = Arc::clone(&held);
        let first = match request.tool().as_str() {
            "progress" => {
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n"
            }
            "quiet" => "",
            _ => return None,
        };
        Some(Answer::Stream(Box::new(move |events| {
            if !first.is_empty() {
                events.write(first);
            }
            held.wait();
        })))
    });
    let session = Session::open(&gateway.client());
    let mut stream = session.client.open("POST", call("7", "progress"));
    assert_eq!(stream.message().json()["method"], "notifications/progress");
    let error = stream.message().json();
    assert_eq!((&error["id"], &error["error"]["code"]), (&7.into(), &(-32011).into()));
    assert!(stream.event().is_none());

    let json_only = session.client.with("accept", "application/json");
    for answer in [json_only.post(call("7", "progress")), session.post(call("7", "quiet"))] {
        assert_eq!((answer.status, answer.code()), (504, -32011), "{}", answer.text());
        assert_eq!(answer.json()["id"], 7);
    }
    gate.open();
}

#[test]
fn trouble_after_the_headers_is_said_in_the_stream() {
    type Trouble = fn(&mut crate::harness::Events<'_>);
    let troubles: [(&str, Trouble); 3] = [
        ("reset", |events| events.reset()),
        ("ended without a response", |_| {}),
        ("ended in an event", |events| {
            events.write("data: {\"jsonrpc\":\"2.0\",\"id\":");
        }),
    ];
    for (name, trouble) in troubles {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        upstream.script(move |request, _| {
            (request.tool() == "break").then(|| {
                Answer::Stream(Box::new(move |events| {
                    events.message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#);
                    trouble(events);
                }))
            })
        });
        let session = Session::open(&gateway.client());
        for client in [session.client.clone(), gateway.client(), gateway.client().with("via", "x")] {
            let mut stream = client.open("POST", call("\"c\"", "break"));
            assert_eq!(stream.status, 200, "{name}");
            assert_eq!(stream.message().json()["method"], "notifications/message", "{name}");
            let error = stream.message().json();
            assert_eq!((&error["id"], &error["error"]["code"]), (&"c".into(), &(-32012).into()), "{name}");
            assert_eq!(error["error"]["data"]["mayHaveExecuted"], true, "{name}");
            assert!(stream.event().is_none(), "{name}");
        }
        assert_eq!(upstream.count("tools/call"), 3, "{name}");
        let json_only = session.client.with("accept", "application/json").post(call("\"c\"", "break"));
        assert_eq!((json_only.status, json_only.code()), (502, -32012), "{name}: {}", json_only.text());
    }
}

#[test]
fn a_long_answer_that_breaks_off_is_cut_off_rather_than_completed() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let mut answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n".to_vec();
        answer.extend(vec![b' '; 50_000]);
        (request.tool() == "break").then(|| Answer::Close(answer))
    });
    let session = Session::open(&gateway.client());
    let answer = session.client.open("POST", call("1", "break"));
    assert_eq!(answer.status, 200);
    assert!(answer.try_whole().is_err());
    let keyed = gateway.client().post(call("1", "break"));
    assert_eq!((keyed.status, keyed.code()), (502, -32012), "held whole, so that it can be said");
    gateway.assert_well();
}

#[test]
fn an_answer_beyond_the_limit_is_refused_where_it_must_be_held() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.limits.answer_bytes = 20_000;
        config.limits.event_bytes = 20_000;
    });
    upstream.script(|request, _| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":"{}"}}"#, request.id(), "x".repeat(40_000));
        match request.tool().as_str() {
            "json" => Some(crate::harness::json(200, body)),
            "sse" => Some(crate::harness::sse(200, &body)),
            _ => None,
        }
    });
    let session = Session::open(&gateway.client());
    assert_eq!(session.post(call("1", "json")).status, 200, "what only streams through has no limit");
    let keyed = gateway.client().post(call("1", "json"));
    assert_eq!((keyed.status, keyed.code()), (502, -32014), "{}", keyed.text());
    assert_eq!(keyed.json()["error"]["data"]["mayHaveExecuted"], true);
    for client in [session.client.clone(), gateway.client()] {
        let answer = client.post(call("1", "sse"));
        assert_eq!(answer.json()["id"], 1, "{}", answer.text());
        assert!(answer.code() < 0, "{}", answer.text());
    }
}

#[test]
fn after_a_loss_a_call_that_breaks_is_still_not_repeated() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    upstream.script(|request, server| {
        let in_new = request.tool() == "count" && !server.open().is_empty();
        in_new.then(|| Answer::Close(Vec::new()))
    });
    let answer = session.post(call("1", "count"));
    assert_eq!((answer.status, answer.code()), (502, -32012));
    assert_eq!(upstream.count("tools/call"), 3, "one before, one that found the session lost, one replayed");
}

#[test]
fn a_loss_that_shows_late_in_a_stream_is_not_recovered_behind_the_clients_back() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let id = request.id();
        (request.tool() == "late").then(|| {
            Answer::Stream(Box::new(move |events| {
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#);
                events.message(&rpc_error(&id, -32001, "Session not found"));
            }))
        })
    });
    let session = Session::open(&gateway.client());
    let answer = session.post(call("1", "late"));
    assert_eq!(answer.message(), rpc_error("1", -32001, "Session not found"));
    assert_eq!((upstream.count("tools/call"), upstream.count("initialize")), (1, 1));
}
