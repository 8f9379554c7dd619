//! The standing stream: one upstream, one toward the client, and the second does not notice what befalls the first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::harness::{Answer, Gw, Session, Upstream, call, json, refused, request};

fn note(n: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{n}}}}}"#)
}

/// The session that the upstream opened last.
fn inner(upstream: &Upstream) -> String {
    upstream.server().given().pop().unwrap()
}

#[test]
fn events_come_through_as_they_are() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    assert!(stream.headers.get("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!(stream.headers.get("x-accel-buffering"), Some("no"));
    assert_eq!(stream.headers.get("mcp-session-id"), None);
    let odd = r#"{ "method":"notifications/message", "jsonrpc":"2.0", "params":{"data":1e3,"x":[123456789012345678901,"\u00e9"]} }"#;
    upstream.server().push(&inner(&upstream), &format!(": hello\n\nevent: message\ndata: {odd}\n\n"));
    assert_eq!(stream.message().data, odd);
    assert_eq!(upstream.of("GET").len(), 1);
    assert_eq!(upstream.of("GET")[0].session(), Some(inner(&upstream).as_str()));
}

#[test]
fn where_the_upstream_has_no_stream_the_client_is_told_405() {
    // Anything else would be taken for the end of the session by some client.
    for status in [405, 404, 501] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        upstream
            .script(move |request, _| (request.rpc() == "GET").then(|| refused(status, "text/plain", "no")));
        let session = Session::open(&gateway.client());
        let answer = session.client.get();
        assert_eq!((answer.status, answer.headers.get("allow")), (405, Some("POST, DELETE")), "{status}");
        assert_eq!((session.count().as_str(), upstream.count("initialize")), ("1", 1), "{status}");
    }
}

#[test]
fn a_stream_that_was_refused_does_not_keep_the_session_from_idling() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.sessions.idle = Duration::from_millis(400));
    upstream.script(move |request, _| (request.rpc() == "GET").then(|| refused(405, "text/plain", "")));
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    assert_eq!(session.client.get().status, 405);
    upstream.wait_until("the session is released", |server| server.open().is_empty());
    assert_eq!(session.count(), "1", "the id stays good");
}

#[test]
fn a_stream_keeps_the_session_from_idling() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.sessions.idle = Duration::from_millis(200));
    let listening = Session::open(&gateway.client());
    assert_eq!(listening.count(), "1");
    let _stream = listening.listen();
    let quiet = Session::open(&gateway.client());
    quiet.count();
    upstream.wait_until("the quiet session is released", |server| server.open().len() == 1);
    assert_eq!(listening.count(), "2");
}

#[test]
fn every_form_of_line_end_is_read() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for end in ["\n", "\r", "\r\n"] {
        upstream.script(move |request, _| {
            (request.tool() == "odd").then(|| {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id());
                let before = note(1);
                refused(
                    200,
                    "text/event-stream",
                    format!("data: {before}{end}{end}event: message{end}data: {body}{end}{end}"),
                )
            })
        });
        let session = Session::open(&gateway.client());
        for client in [session.client.clone(), gateway.client()] {
            let answer = client.post(call("1", "odd"));
            let expected = format!(
                "data: {}{end}{end}event: message{end}data: {}{end}{end}",
                note(1),
                r#"{"jsonrpc":"2.0","id":1,"result":{}}"#
            );
            assert_eq!((answer.status, answer.text()), (200, expected));
            let plain = client.with("accept", "application/json").post(call("1", "odd"));
            assert_eq!(plain.text(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "{end:?}");
        }
    }
}

#[test]
fn what_comes_behind_the_response_is_not_lost() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(move |request, _| {
        let id = request.id();
        let body = format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\ndata: {}\n\n: bye\n\n",
            note(1)
        );
        match request.tool().as_str() {
            "whole" => Some(refused(200, "text/event-stream", body)),
            "torn" => Some(Answer::Stream(Box::new(move |events| {
                for byte in body.as_bytes() {
                    events.bytes(&[*byte]);
                }
            }))),
            _ => None,
        }
    });
    let session = Session::open(&gateway.client());
    for tool in ["whole", "torn"] {
        for client in [session.client.clone(), gateway.client()] {
            let expected = format!(
                "data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{}}}}\n\ndata: {}\n\n: bye\n\n",
                note(1)
            );
            assert_eq!(client.post(call("1", tool)).text(), expected);
        }
    }
}

#[test]
fn a_client_that_does_not_read_streams_is_refused() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    assert_eq!(session.client.with("accept", "application/json").get().status, 406);
}

#[test]
fn a_broken_stream_is_opened_again_and_the_clients_stays() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    upstream.server().push(&inner(&upstream), &format!("id: five\ndata: {}\n\n", note(1)));
    assert_eq!(stream.message().data, note(1));
    upstream.server().end_stream(&inner(&upstream));
    upstream.wait_for("GET", 2);
    upstream.wait_until("the stream is open", |server| server.has_stream(&inner(&upstream)));
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(2)));
    assert_eq!(stream.message().data, note(2));
    assert_eq!(upstream.of("GET")[0].headers.get("last-event-id"), None);
    assert_eq!(upstream.of("GET")[1].headers.get("last-event-id"), Some("five"));
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn after_a_recovery_the_stream_tells_what_may_have_changed() {
    let upstream = Upstream::start();
    upstream.server().announce(
        r#"{"tools":{"listChanged":true},"prompts":{"listChanged":false},"resources":{"listChanged":true,"subscribe":true}}"#,
    );
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    for uri in ["file:///a", "file:///b"] {
        let subscribe = request("1", "resources/subscribe", &format!(r#"{{"uri":"{uri}"}}"#));
        assert_eq!(session.post(subscribe).status, 200);
    }
    session.post(request("1", "resources/unsubscribe", r#"{"uri":"file:///a"}"#));
    let mut stream = session.listen();
    upstream.server().push(&inner(&upstream), &format!("id: five\ndata: {}\n\n", note(1)));
    stream.message();

    upstream.server().lose_sessions();

    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
    assert_eq!(stream.message().json()["method"], "notifications/resources/list_changed");
    let updated = stream.message().json();
    assert_eq!(
        (&updated["method"], &updated["params"]["uri"]),
        (&"notifications/resources/updated".into(), &"file:///b".into())
    );
    upstream.wait_until("the stream is open", |server| {
        server.given().last().is_some_and(|session| server.has_stream(session))
    });
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(2)));
    assert_eq!(stream.message().data, note(2));
    let last = upstream.of("GET").pop().unwrap();
    assert_eq!(last.headers.get("last-event-id"), None, "an id of the lost session means nothing here");
    assert_eq!((upstream.count("initialize"), session.count().as_str()), (2, "1"));
}

#[test]
fn a_stream_follows_a_recovery_that_a_call_started() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    // The session is lost, but its stream stays open, as when another replica behind one address answers.
    let first = inner(&upstream);
    upstream.script(move |request, _| {
        (request.rpc() != "GET" && request.session() == Some(first.as_str()))
            .then(|| refused(404, "text/plain", "session not found"))
    });
    assert_eq!(session.count(), "1");
    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
    upstream.wait_until("the new session's stream is open", |server| {
        server.given().last().is_some_and(|session| server.has_stream(session))
    });
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(2)));
    assert_eq!(stream.message().data, note(2));
}

#[test]
fn a_call_that_met_the_loss_is_sent_again_once_the_stream_is_back() {
    // A server may ask there what it needs for the call, and what it says without a stream reaches nobody.
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let _stream = session.listen();
    let first = inner(&upstream);
    upstream.script(move |request, _| {
        (request.rpc() != "GET" && request.session() == Some(first.as_str()))
            .then(|| refused(404, "text/plain", "session not found"))
    });
    assert_eq!(session.count(), "1");
    assert!(upstream.methods().ends_with(&["GET".into(), "tools/call".into()]), "{:?}", upstream.methods());
}

#[test]
fn a_recovery_wakes_a_stream_that_rests_between_attempts() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let _stream = session.listen();
    upstream.script(|request, _| (request.rpc() == "GET").then(|| refused(503, "text/plain", "")));
    upstream.server().end_stream(&inner(&upstream));
    // By then the pause is longer than a call waits for the stream.
    upstream.wait_for("GET", 6);
    upstream.script(|_, _| None);
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    assert!(upstream.methods().ends_with(&["GET".into(), "tools/call".into()]), "{:?}", upstream.methods());
}

#[test]
fn a_call_does_not_wait_for_long_for_a_stream_that_stays_away() {
    for answers in [true, false] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let session = Session::open(&gateway.client());
        let _stream = session.listen();
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        upstream.script(move |request, _| {
            (request.rpc() == "GET").then(|| {
                if !answers {
                    let _ = held.lock().unwrap().recv();
                }
                refused(405, "text/plain", "")
            })
        });
        upstream.server().lose_sessions();
        assert_eq!(session.count(), "1");
        drop(release);
    }
}

#[test]
fn a_second_stream_takes_over_and_the_first_stays_open_and_silent() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut first = session.listen();
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(1)));
    assert_eq!(first.message().data, note(1));
    let mut second = session.listen();
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(2)));
    assert_eq!(second.message().data, note(2));
    session.client.delete();
    assert!(second.event().is_none());
    assert!(first.event().is_none(), "and it ends with the session, having said nothing");
}

#[test]
fn deleting_the_session_ends_its_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    assert_eq!(session.client.delete().status, 200);
    assert!(stream.event().is_none());
    upstream.wait_until("the session is ended", |server| server.deleted().len() == 1);
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn a_stream_that_is_only_being_given_up_elsewhere_is_waited_for() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let conflicts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&conflicts);
    upstream.script(move |request, _| {
        (request.rpc() == "GET" && counted.fetch_add(1, Ordering::Relaxed) < 3).then(|| {
            json(409, r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Conflict: Only one SSE stream is allowed per session"},"id":null}"#)
        })
    });
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(1)));
    assert_eq!(stream.message().data, note(1));
    assert_eq!((conflicts.load(Ordering::Relaxed), upstream.count("initialize")), (4, 1));
}

#[test]
fn a_client_that_leaves_frees_the_upstreams_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    drop(session.listen());
    let mut again = session.listen();
    upstream.server().push(&inner(&upstream), &format!("data: {}\n\n", note(1)));
    assert_eq!(again.message().data, note(1));
}
