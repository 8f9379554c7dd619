//! The stream that a client listens on.

use std::time::Duration;

use super::{data, event, newest, note, resume};
use crate::harness::{Gw, Incoming, Session, Upstream};

/// The session that the upstream opened last.
fn inner(upstream: &Upstream) -> String {
    upstream.server().given().pop().unwrap()
}

fn push(upstream: &Upstream, n: u32) {
    upstream.server().push(&inner(upstream), &event(&note(n)));
}

/// Opens the standing stream; the id that it can be resumed with.
fn listen(session: &Session) -> (Incoming, String) {
    let mut stream = session.listen();
    let primed = stream.event().unwrap();
    assert_eq!(primed.data, "");
    (stream, primed.id.unwrap())
}

#[test]
fn it_goes_on_where_it_was_and_the_upstream_notices_nothing() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut stream, mut last) = listen(&session);
    for n in 0..40 {
        if n % 3 == 0 {
            drop(stream);
            stream = resume(&session.client, &last);
        }
        push(&upstream, n);
        if n % 3 == 1 {
            drop(stream);
            stream = resume(&session.client, &last);
        }
        let seen = stream.event().unwrap();
        assert_eq!(seen.data, note(n));
        last = seen.id.unwrap();
    }
    assert_eq!(upstream.count("GET"), 1);
}

#[test]
fn what_came_while_the_client_was_away_waits_for_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (stream, id) = listen(&session);
    drop(stream);
    for n in 0..5 {
        push(&upstream, n);
    }
    let mut stream = resume(&session.client, &id);
    let events: Vec<_> = (0..5).map(|_| stream.event().unwrap()).collect();
    assert_eq!(data(&events), (0..5).map(note).collect::<Vec<_>>());
    assert_eq!(upstream.count("GET"), 1);
}

#[test]
fn a_client_that_stays_away_frees_the_upstreams_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.streams.away = Duration::from_millis(50));
    let session = newest(&gateway);
    let (stream, id) = listen(&session);
    push(&upstream, 1);
    drop(stream);
    upstream.wait_until("the stream is closed", |server| !server.has_stream(&inner(&upstream)));
    // It can still be resumed.
    let mut stream = resume(&session.client, &id);
    assert_eq!(stream.event().unwrap().data, note(1));
    push(&upstream, 2);
    assert_eq!(stream.event().unwrap().data, note(2));
    assert_eq!(upstream.count("GET"), 2);
}

#[test]
fn a_resumption_does_not_take_the_messages_from_a_stream_that_is_open() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut first, first_id) = listen(&session);
    push(&upstream, 1);
    first.event().unwrap();
    let (mut second, second_id) = listen(&session);
    push(&upstream, 2);
    assert_eq!(second.event().unwrap().data, note(2));
    // The first is resumed, and gets what was its own.
    drop(first);
    let mut first = resume(&session.client, &first_id);
    let missed = first.event().unwrap();
    assert_eq!(missed.data, note(1));
    push(&upstream, 3);
    assert_eq!(second.event().unwrap().data, note(3));
    // Without the second, the first gets the messages; the second has them again when it is back.
    drop(second);
    let at_first = upstream.count("GET");
    let mut second = resume(&session.client, &second_id);
    assert_eq!(second.event().unwrap().data, note(2));
    assert_eq!(second.event().unwrap().data, note(3));
    push(&upstream, 4);
    assert_eq!(second.event().unwrap().data, note(4));
    assert_eq!(upstream.count("GET"), at_first);
    session.client.delete();
    assert!(first.event().is_none() && second.event().is_none());
}

#[test]
fn a_restarted_gateway_goes_on_with_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut stream, id) = listen(&session);
    upstream.server().push(&inner(&upstream), &format!("id: up 1\n{}", event(&note(1))));
    assert_eq!(stream.event().unwrap().data, note(1));
    upstream.server().push(&inner(&upstream), &format!("id: up 2\n{}", event(&note(2))));
    let last = stream.event().unwrap().id.unwrap();

    let successor = gateway.after_a_crash();
    drop((stream, gateway));
    let client = successor.client().with("mcp-session-id", &session.id);
    let mut stream = resume(&client, &id);
    assert_eq!(stream.event().unwrap().data, note(1));
    assert_eq!(stream.event().unwrap().data, note(2));
    assert_eq!(upstream.of("GET").last().unwrap().headers.get("last-event-id"), Some("up 2"));
    // Some servers begin with the very event that they are to go on behind.
    upstream.server().push(&inner(&upstream), &format!("id: up 2\n{}", event(&note(2))));
    push(&upstream, 3);
    let third = stream.event().unwrap();
    assert_eq!(third.data, note(3));
    assert_ne!(third.id.unwrap(), last, "numbers go on");
}

#[test]
fn a_client_that_has_more_than_the_log_gets_what_comes_next() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut stream, _) = listen(&session);
    push(&upstream, 1);
    stream.event().unwrap();
    let successor = gateway.after_a_crash();
    // As if the log could not take these.
    push(&upstream, 2);
    push(&upstream, 3);
    stream.event().unwrap();
    let id = stream.event().unwrap().id.unwrap();
    drop((stream, gateway));
    let client = successor.client().with("mcp-session-id", &session.id);
    let mut stream = resume(&client, &id);
    push(&upstream, 4);
    assert_eq!(stream.event().unwrap().data, note(4));
}

#[test]
fn event_ids_of_an_upstream_session_that_is_gone_are_not_sent_upstream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut stream, id) = listen(&session);
    upstream.server().push(&inner(&upstream), &format!("id: up 1\n{}", event(&note(1))));
    stream.event().unwrap();
    let successor = gateway.after_a_crash();
    drop((stream, gateway));
    upstream.server().lose_sessions();
    let client = successor.client().with("mcp-session-id", &session.id);
    let mut stream = resume(&client, &id);
    assert_eq!(stream.event().unwrap().data, note(1));
    upstream.wait_until("the stream is open", |server| {
        server.given().last().is_some_and(|session| server.has_stream(session))
    });
    assert_eq!(upstream.of("GET").last().unwrap().headers.get("last-event-id"), None);
    push(&upstream, 2);
    assert_eq!(stream.event().unwrap().data, note(2));
}

#[test]
fn a_gateway_that_stops_tells_its_clients_to_come_back() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = newest(&gateway);
    let (mut stream, id) = listen(&session);
    push(&upstream, 1);
    stream.event().unwrap();
    let stopping = gateway.begin_stop();
    let text = String::from_utf8(stream.whole().body).unwrap();
    assert!(text.ends_with("retry: 1000\n\n"), "{text}");
    stopping.join().unwrap();
    gateway.restart_after_stop();
    let client = gateway.client().with("mcp-session-id", &session.id);
    let mut stream = resume(&client, &id);
    assert_eq!(stream.event().unwrap().data, note(1));
}
