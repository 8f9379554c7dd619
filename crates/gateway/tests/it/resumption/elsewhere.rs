//! Streams that are resumed at another replica than the one that reads the upstream.

use std::time::Duration;

use throughline_gateway::config::Config;

use super::{data, event, newest, note, rest, result, resume, tap};
use crate::harness::{Answer, Client, Gw, Session, Upstream, call};
use crate::replicas::Shared;

/// The session's client at another replica.
fn at(session: &Session, gateway: &Gw) -> Client {
    gateway.client().with("mcp-session-id", &session.id).with("mcp-protocol-version", "2025-11-25")
}

#[test]
fn a_call_goes_on_at_another_replica_while_it_runs() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = newest(&one);
    let say = tap(&upstream);
    say.send(event(&note(0))).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    let mut last = stream.event().unwrap().id.unwrap();
    assert_eq!(stream.event().unwrap().data, note(0));
    drop(stream);
    let mut stream = resume(&at(&session, &other), &last);
    assert_eq!(stream.event().unwrap().data, note(0));
    for n in 1..20 {
        say.send(event(&note(n))).unwrap();
        let seen = stream.event().unwrap();
        assert_eq!(seen.data, note(n));
        last = seen.id.unwrap();
        if n % 4 == 0 {
            drop(stream);
            stream = resume(&at(&session, if n % 8 == 0 { &one } else { &other }), &last);
        }
    }
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(data(&rest(stream)), [result("7")]);
    assert_eq!(data(&rest(resume(&at(&session, &other), &last))), [result("7")]);
    assert_eq!((upstream.count("tools/call"), upstream.count("GET")), (1, 0));
}

#[test]
fn an_answer_to_a_question_may_reach_any_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = newest(&one);
    let say = tap(&upstream);
    let question = r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{"message":"sure?"}}"#;
    say.send(event(question)).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    stream.event().unwrap();
    let asked = stream.message().json();
    let reply = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"accept"}}}}"#, asked["id"]);
    assert_eq!(at(&session, &other).post(&reply).status, 202);
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].json()["id"], 0);
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(stream.message().data, result("7"));
}

#[test]
fn an_answer_reaches_its_question_at_a_replica_that_has_not_heard_of_the_binding() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let one = shared.replica(&upstream);
    let (other, go_deaf) = shared.replica_that_goes_deaf(&upstream);
    let session = newest(&one);
    let count = |gateway: &Gw| at(&session, gateway).post(call("1", "count")).tool_text();
    assert_eq!((count(&one), count(&other)), ("1".to_owned(), "2".to_owned()));
    go_deaf();
    upstream.server().lose_sessions();
    assert_eq!(count(&one), "1");
    let say = tap(&upstream);
    let question = r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{"message":"sure?"}}"#;
    say.send(event(question)).unwrap();
    let mut stream = session.client.open("POST", call("7", "work"));
    stream.event().unwrap();
    let asked = stream.message().json();
    let reply = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"action":"accept"}}}}"#, asked["id"]);
    assert_eq!(at(&session, &other).post(&reply).status, 202);
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].json()["id"], 0);
    say.send(event(&result("7"))).unwrap();
    drop(say);
    assert_eq!(stream.message().data, result("7"));
}

#[test]
fn a_call_whose_replica_died_is_taken_over() {
    for (upstream_id, last) in [("", "error"), ("id: up\n", "result")] {
        let (upstream, shared) = (Upstream::start(), Shared::new());
        let short = |config: &mut Config| config.timeouts.shutdown = Duration::from_secs(1);
        let (mut one, other) = (shared.replica_with(&upstream, short), shared.replica(&upstream));
        let session = newest(&one);
        upstream.script(move |request, _| match request.rpc().as_str() {
            "tools/call" => Some(Answer::Stream(Box::new(move |events| {
                events.write(&format!("{upstream_id}{}", event(&note(1))));
                events.wait_for_close();
            }))),
            "GET" => Some(Answer::Stream(Box::new(move |events| {
                events.write(&event(&result("7")));
            }))),
            _ => None,
        });
        let mut stream = session.client.open("POST", call("7", "work"));
        stream.event().unwrap();
        let id = stream.event().unwrap().id.unwrap();
        drop(stream);
        // It is cut off in the middle of the call, and says nothing.
        one.begin_stop().join().unwrap();
        let mut seen = rest(resume(&at(&session, &other), &id));
        if seen.is_empty() {
            // It was thought alive; the client comes back.
            seen = rest(resume(&at(&session, &other), &id));
        }
        assert_eq!(seen.len(), 1);
        assert!(seen[0].json().get(last).is_some(), "{}", seen[0].data);
        assert_eq!(seen[0].json()["id"], 7);
    }
}

#[test]
fn a_standing_stream_goes_on_at_another_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (mut one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = newest(&one);
    let mut stream = session.listen();
    let mut last = stream.event().unwrap().id.unwrap();
    let inner = upstream.server().given().pop().unwrap();
    let push = |n| upstream.server().push(&inner, &event(&note(n)));
    for n in 0..6 {
        drop(stream);
        stream = resume(&at(&session, if n % 2 == 0 { &other } else { &one }), &last);
        push(n);
        let seen = stream.event().unwrap();
        assert_eq!(seen.data, note(n));
        last = seen.id.unwrap();
    }
    assert_eq!(upstream.count("GET"), 1, "one replica reads, whichever the client is at");
    // A replica that stops gives it up at once.
    drop(stream);
    one.begin_stop().join().unwrap();
    let mut stream = resume(&at(&session, &other), &last);
    upstream.wait_for("GET", 2);
    upstream.wait_until("the stream is open", |server| server.has_stream(&inner));
    push(6);
    assert_eq!(stream.event().unwrap().data, note(6));
}

#[test]
fn a_new_stream_at_another_replica_takes_over() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (mut one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let session = newest(&one);
    let mut first = session.listen();
    first.event().unwrap();
    let inner = upstream.server().given().pop().unwrap();
    let push = |n| upstream.server().push(&inner, &event(&note(n)));
    push(0);
    assert_eq!(first.event().unwrap().data, note(0));
    let mut second = at(&session, &other).with("accept", "text/event-stream").open("GET", "");
    assert_eq!(second.status, 200);
    let primed = second.event().unwrap();
    assert_eq!(primed.data, "");
    // It is handed over while the first goes on: what comes until then is the first's.
    let mut last = primed.id.unwrap();
    let (say, said) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        while let Some(event) = second.event() {
            if say.send(event).is_err() {
                return;
            }
        }
    });
    let mut next = 1;
    let mut seen = loop {
        push(next);
        next += 1;
        if let Ok(event) = said.recv_timeout(Duration::from_millis(100)) {
            break event;
        }
        assert!(next < 100, "nothing comes on the new stream");
    };
    for n in next..next + 3 {
        assert_eq!(seen.data, note(n - 1));
        last = seen.id.unwrap();
        push(n);
        seen = said.recv_timeout(crate::harness::PATIENCE).unwrap();
    }
    last = seen.id.unwrap_or(last);
    assert_eq!(upstream.count("GET"), 1, "one replica reads");
    // The replica that reads goes: the client comes back to the other, which reads from then on.
    drop(first);
    one.begin_stop().join().unwrap();
    reading.join().unwrap();
    assert!(said.recv().is_err(), "nothing else came");
    let mut second = resume(&at(&session, &other), &last);
    upstream.wait_until("the stream is open", |server| server.has_stream(&inner));
    push(1000);
    assert_eq!(second.message().data, note(1000));
    assert_eq!(upstream.count("GET"), 2);
}
