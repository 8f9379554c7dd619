//! Answers of calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::{come_back, data, event, newest, note, rest, result, resume, tap};
use crate::harness::{Answer, Gw, Session, Upstream, call, refused, request};

#[test]
fn an_answer_that_is_cut_off_goes_on_where_it_was() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(0))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    assert_eq!(stream.headers.get("content-type"), Some("text/event-stream"));
    let primed = stream.event().unwrap();
    let mut last = primed.id.expect("to come back with");
    assert_eq!(primed.data, "");
    // A cut before, at and behind each event.
    for n in 0..40 {
        if n % 3 == 0 {
            drop(stream);
            stream = resume(&session.client, &last);
        }
        if n > 0 {
            say.send(event(&note(n))).unwrap();
        }
        if n % 3 == 1 {
            drop(stream);
            stream = resume(&session.client, &last);
        }
        let seen = stream.event().unwrap();
        assert_eq!(seen.data, note(n));
        last = seen.id.unwrap();
    }
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(data(&rest(stream)), [result("7")]);
    assert_eq!(data(&rest(resume(&session.client, &last))), [result("7")], "it is still there");
    assert_eq!(upstream.count("tools/call"), 1);
    assert_eq!(upstream.count("GET"), 0);
}

#[test]
fn a_result_waits_for_a_client_that_is_away() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(1))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    let primed = stream.event().unwrap().id.unwrap();
    let first = stream.event().unwrap().id.unwrap();
    drop(stream);
    say.send(event(&note(2)) + &event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(data(&rest(resume(&session.client, &first))), [note(2), result("7")]);
    // Also over a restart of the gateway.
    gateway.restart(|_| {});
    let client = gateway.client().with("mcp-session-id", &session.id);
    assert_eq!(data(&rest(resume(&client, &first))), [note(2), result("7")]);
    let all = rest(resume(&client, &primed));
    assert_eq!(data(&all), [note(1), note(2), result("7")]);
    let last = all.last().unwrap().id.as_deref().unwrap();
    assert_eq!(data(&rest(come_back(&client, last))), Vec::<&str>::new(), "it is over");
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn short_answers_are_neither_primed_nor_logged() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let body = event(&note(1)) + &event(&result("7"));
    upstream.script(move |request, _| {
        (request.tool() == "short").then(|| refused(200, "text/event-stream", body.clone()))
    });
    assert_eq!(session.post(call("7", "short")).text(), event(&note(1)) + &event(&result("7")));
    upstream.server().answer_with(crate::harness::Answers::Sse);
    session.count();
    assert!(!gateway.state().join("store/events.redb").exists(), "the log was not touched");
}

#[test]
fn only_the_newest_legacy_clients_are_primed() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for (version, primed) in [("2025-03-26", false), ("2025-06-18", false), ("2025-11-25", true)] {
        let session = Session::open_as(&gateway.client(), version, "{}");
        let say = tap(&upstream);
        say.send(event(&note(1))).unwrap();
        let mut stream = session.client.open("POST", call("7", "work"));
        let first = stream.event().unwrap();
        assert_eq!(first.data.is_empty(), primed, "{version}");
        let first = if primed { stream.event().unwrap() } else { first };
        drop(stream);
        say.send(event(&result("7"))).unwrap();
        drop(say);
        let connect = if primed { resume } else { come_back };
        assert_eq!(data(&rest(connect(&session.client, &first.id.unwrap()))), [result("7")], "{version}");
    }
}

#[test]
fn a_client_that_comes_back_is_told_how_long_to_wait() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(1))).unwrap();
    say.send(event(&result("7"))).unwrap();
    drop(say);
    let text = session.client.post(call("7", "work")).text();
    let begin = text.lines().take(3).collect::<Vec<_>>();
    assert!(begin[0].starts_with("id: ") && begin[1] == "retry: 1000" && begin[2] == "data:", "{text}");
}

#[test]
fn an_event_id_opens_nothing_but_its_own_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let other = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(1))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    let id = stream.event().unwrap().id.unwrap();
    stream.event().unwrap();
    // To whoever has not got the stream it is as good as none: a new stream, with nothing in it.
    let forged = [id.replacen("0.", "1.", 1), format!("{id}x"), id.to_uppercase(), "1".into(), String::new()];
    for (client, id) in
        [(&other.client, &id)].into_iter().chain(forged.iter().map(|forged| (&session.client, forged)))
    {
        let mut new = come_back(client, id);
        let primed = new.event().unwrap();
        assert_eq!(primed.data, "", "{id}");
        assert_ne!(primed.id.as_ref(), Some(id));
        drop(new);
    }
    // It was nobody's but the connection's that has it.
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(data(&rest(stream)), [result("7")]);
}

#[test]
fn the_connection_that_came_last_gets_the_stream() {
    // The gateway may not have noticed that the one before is dead.
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(1))).unwrap();
    let mut first = session.client.open("POST", call("7", "work"));
    first.event().unwrap();
    let id = first.event().unwrap().id.unwrap();
    let second = resume(&session.client, &id);
    assert!(first.event().is_none(), "it is not to get what the other gets");
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(data(&rest(second)), [result("7")]);
}

#[test]
fn a_stream_that_is_not_kept_any_more_is_said_to_be_gone() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(event(&note(1))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    let id = stream.event().unwrap().id.unwrap();
    say.send(event(&result("7"))).unwrap();
    drop((stream, say));
    gateway.restart(|state| std::fs::remove_file(state.join("store/events.redb")).unwrap());
    let client = gateway.client().with("mcp-session-id", &session.id).with("last-event-id", &id);
    let answer = client.get();
    assert_eq!((answer.status, answer.code()), (400, -32000), "no 404: the session is alive");
}

#[test]
fn the_gateway_asks_an_upstream_for_the_rest_that_closes_its_stream_to_be_polled() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let id = "7";
    upstream.script(move |request, _| match request.rpc().as_str() {
        "tools/call" => Some(Answer::Stream(Box::new(|events| {
            events.write("id: up 1\nretry: 10\ndata:\n\n");
            events.write(&format!("id: up 2\n{}", event(&note(1))));
        }))),
        "GET" if request.headers.get("last-event-id") == Some("up 2") => {
            Some(Answer::Stream(Box::new(|events| {
                events.write(&format!("id: up 3\n{}", event(&note(2))));
            })))
        }
        "GET" if request.headers.get("last-event-id") == Some("up 3") => {
            Some(Answer::Stream(Box::new(move |events| {
                events.write(&format!("id: up 4\n{}", event(&result(id))));
            })))
        }
        _ => None,
    });
    let stream = session.client.open("POST", call(id, "work"));
    let events = rest(stream);
    assert_eq!(data(&events), ["", &note(1), &note(2), &result(id)]);
    assert!(events.iter().all(|event| !event.id.as_ref().unwrap().contains("up")), "the ids are ours");
}

#[test]
fn an_upstream_that_begins_with_the_event_it_is_asked_to_go_on_behind_is_not_repeated() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    upstream.script(move |request, _| match request.rpc().as_str() {
        "tools/call" => Some(Answer::Stream(Box::new(|events| {
            events.write(&format!("id: up 1\nretry: 10\n{}", event(&note(1))));
        }))),
        "GET" => Some(Answer::Stream(Box::new(|events| {
            events.write(&format!("id: up 1\nretry: 10\n{}", event(&note(1))));
            // Only that one: a server may be careless with its ids.
            events.write(&format!("id: up 1\nretry: 10\n{}", event(&note(2))));
            events.write(&format!("id: up 2\n{}", event(&result("7"))));
        }))),
        _ => None,
    });
    let events = rest(session.client.open("POST", call("7", "work")));
    assert_eq!(data(&events), ["", &note(1), &note(2), &result("7")]);
    assert_eq!(upstream.count("GET"), 1);
}

#[test]
fn a_call_that_an_upstream_left_unfinished_ends_with_the_honest_error() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    for (before, after) in [("", 404), ("id: up\n", 404), ("id: up\n", 400)] {
        upstream.script(move |request, _| match request.rpc().as_str() {
            "tools/call" => Some(Answer::Stream(Box::new(move |events| {
                events.write(&format!("{before}{}", event(&note(1))));
                events.reset();
            }))),
            "GET" => Some(refused(after, "text/plain", "unknown")),
            _ => None,
        });
        let stream = session.client.open("POST", call("\"x\"", "work"));
        let events = rest(stream);
        let error = events.last().unwrap().json();
        assert_eq!((&error["id"], &error["error"]["code"]), (&"x".into(), &(-32012).into()));
        assert_eq!(error["error"]["data"]["mayHaveExecuted"], true);
    }
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn a_restarted_gateway_goes_on_with_a_call_where_the_upstream_can() {
    for (upstream_id, last) in [("", "error"), ("id: up\n", "result")] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let session = newest(&gateway);
        let (go, gone) = mpsc::channel::<()>();
        let gone = std::sync::Mutex::new(Some(gone));
        upstream.script(move |request, _| match request.rpc().as_str() {
            "tools/call" => {
                let gone = gone.lock().unwrap().take();
                Some(Answer::Stream(Box::new(move |events| {
                    events.write(&format!("{upstream_id}{}", event(&note(1))));
                    let _ = gone.unwrap().recv();
                })))
            }
            "GET" => {
                assert_eq!(request.headers.get("last-event-id"), Some("up"));
                Some(Answer::Stream(Box::new(move |events| {
                    events.write(&event(&result("7")));
                })))
            }
            _ => None,
        });
        let mut stream = session.client.open("POST", call("7", "work"));
        stream.event().unwrap();
        let id = stream.event().unwrap().id.unwrap();
        // As after a kill: what is on disk at this moment.
        let successor = gateway.after_a_crash();
        let client = successor.client().with("mcp-session-id", &session.id);
        let events = rest(resume(&client, &id));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].json()["id"], 7);
        assert!(events[0].json().get(last).is_some(), "{upstream_id:?}: {}", events[0].data);
        assert_eq!(data(&rest(resume(&client, &id))), data(&events), "said once, and kept");
        drop((go, stream));
    }
}

#[test]
fn a_client_that_has_more_than_the_log_is_told_so() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let say = tap(&upstream);
    say.send(format!("id: up\n{}", event(&note(1)))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    stream.event().unwrap();
    stream.event().unwrap();
    let successor = gateway.after_a_crash();
    // As if the log could not take this.
    say.send(event(&note(2))).unwrap();
    let id = stream.event().unwrap().id.unwrap();
    let client = successor.client().with("mcp-session-id", &session.id).with("last-event-id", &id);
    let answer = client.get();
    assert_eq!((answer.status, answer.code()), (400, -32000));
    assert_eq!(upstream.count("GET"), 0);
    drop(say);
}

#[test]
fn a_cancelled_call_is_let_go() {
    // Many servers do not answer a request any more that was cancelled, and leave its stream open.
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let closed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closed);
    upstream.script(move |request, _| {
        let seen = Arc::clone(&seen);
        (request.tool() == "work").then(|| {
            Answer::Stream(Box::new(move |events| {
                events.write(&event(&note(1)));
                events.wait_for_close();
                seen.store(true, Ordering::Relaxed);
            }))
        })
    });
    let mut stream = session.client.open("POST", call("7", "work"));
    stream.event().unwrap();
    let other = session.client.open("POST", call("8", "work"));
    let cancel = |id: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#)
    };
    assert_eq!(session.post(cancel("\"7\"")).status, 202, "another id");
    assert_eq!(session.post(cancel("7")).status, 202);
    let last = rest(stream).pop().unwrap().json();
    assert_eq!((&last["id"], last["error"]["code"].as_i64()), (&7.into(), Some(-32000)));
    upstream.wait_until("the upstream's stream is closed", |_| closed.load(Ordering::Relaxed));
    assert_eq!(upstream.count("notifications/cancelled"), 2);
    drop(other);
}

#[test]
fn an_upstream_waits_for_a_client_that_is_away_and_nothing_is_lost() {
    const EVENTS: u32 = 6000;
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        // What is on its way to the client counts as taken: more than sockets hold.
        config.streams.events = 100_000;
        config.streams.bytes = 16 << 20;
    });
    let session = newest(&gateway);
    let (told, written) = mpsc::channel();
    let told = std::sync::Mutex::new(told);
    upstream.script(move |request, _| {
        let told = told.lock().unwrap().clone();
        (request.tool() == "work").then(|| {
            Answer::Stream(Box::new(move |events| {
                // Long enough that what the sockets hold is soon full.
                let filler = "x".repeat(8000);
                for n in 0..EVENTS {
                    events.write(&event(&format!(
                        r#"{{"jsonrpc":"2.0","method":"{filler}","params":{{"n":{n}}}}}"#
                    )));
                    let _ = told.send(n);
                }
                events.write(&event(&result("7")));
            }))
        })
    });
    let mut stream = session.client.open("POST", call("7", "work"));
    let mut last = stream.event().unwrap().id.unwrap();
    drop(stream);
    // It says no more for a while: it has been made to wait.
    let mut reached = 0;
    while let Ok(n) = written.recv_timeout(Duration::from_secs(2)) {
        reached = n;
    }
    assert!(reached < EVENTS - 1, "it was let go on");
    let mut count = 0;
    'all: loop {
        let mut stream = resume(&session.client, &last);
        for _ in 0..1700 {
            let event = stream.event().unwrap();
            last = event.id.clone().unwrap();
            if event.json().get("result").is_some() {
                break 'all;
            }
            assert_eq!(event.json()["params"]["n"], count);
            count += 1;
        }
    }
    assert_eq!(count, EVENTS);
}

#[test]
fn a_call_that_is_cancelled_before_its_answer_begins_is_let_go() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    // As many servers do, this one does not answer what was cancelled.
    let gate = upstream.hold(|request| request.tool() == "work");
    let session = newest(&gateway);
    let waiting = session.client.begin("POST", call("7", "work"));
    upstream.wait_for("tools/call", 1);
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(session.post(cancel).status, 202);
    let answer = waiting.answer().whole();
    assert_eq!((answer.status, &answer.json()["id"]), (400, &7.into()));
    assert_eq!(upstream.of("notifications/cancelled")[0].json()["params"]["requestId"], 7);
    gate.open();
    assert_eq!(session.post(request("8", "ping", "{}")).status, 200, "the session goes on");
}
