//! What a modern server says unasked, on the stream that a client with a handshake opens.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{modern, result, session, text};
use crate::harness::{Answer, Gate, Gw, Request, Upstream, json as answer, request, rpc_error, until};

fn filter(request: &Request) -> Value {
    request.json()["params"]["notifications"].clone()
}

/// Says what was asked for, and then that something of it has changed; ends with a result when `end` is opened.
fn listening(request: &Request, end: &Arc<Gate>) -> Answer {
    let (id, filter, end) = (request.id(), filter(request), Arc::clone(end));
    Answer::Stream(Box::new(move |events| {
        let tag = format!(r#""io.modelcontextprotocol/subscriptionId":{id}"#);
        events.message(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{{tag}}},"notifications":{filter}}}}}"#
        ));
        let changed = match filter["resourceSubscriptions"][0].as_str() {
            Some(uri) => format!(
                r#""notifications/resources/updated","params":{{"uri":"{uri}","_meta":{{{tag},"x":1}}}}"#
            ),
            None => format!(r#""notifications/tools/list_changed","params":{{"_meta":{{{tag}}}}}"#),
        };
        events.message(&format!(r#"{{"jsonrpc":"2.0","method":{changed}}}"#));
        if end.is_open() {
            events.wait_for_close();
            return;
        }
        end.wait();
        events.message(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{{tag}}}}}}}"#
        ));
    }))
}

#[test]
fn changes_come_on_the_clients_stream_which_outlives_the_servers() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let end = Arc::new(Gate::default());
    let ends = Arc::clone(&end);
    modern(&upstream, move |request| match request.rpc().as_str() {
        "subscriptions/listen" => listening(request, &ends),
        _ => text(request, "1"),
    });
    let session = session(&gateway);
    let mut stream = session.listen();
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#;
    assert_eq!(stream.message().data, changed);
    let lists = json!({ "toolsListChanged": true, "resourcesListChanged": true });
    assert_eq!(filter(&upstream.of("subscriptions/listen")[0]), lists);
    // It ends as it should, and is opened again.
    end.open();
    assert_eq!(stream.message().data, changed);
    assert_eq!(upstream.count("subscriptions/listen"), 2);
}

#[test]
fn subscriptions_are_kept_here_and_open_the_stream_anew() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let open = Arc::new(Gate::default());
    open.open();
    modern(&upstream, move |request| match request.rpc().as_str() {
        "subscriptions/listen" => listening(request, &open),
        _ => text(request, "1"),
    });
    let session = session(&gateway);
    let about = |method: &str, uri: &str| request("1", method, &format!(r#"{{"uri":"{uri}"}}"#));
    // Before there is a stream.
    assert_eq!(session.post(about("resources/subscribe", "file:///a")).json()["result"], json!({}));
    let mut stream = session.listen();
    let updated = |uri: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{uri}","_meta":{{"x":1}}}}}}"#
        )
    };
    assert_eq!(stream.message().data, updated("file:///a"));
    session.post(about("resources/unsubscribe", "file:///a"));
    assert_eq!(session.post(about("resources/subscribe", "file:///b")).json()["result"], json!({}));
    assert_eq!(stream.message().data, updated("file:///b"));
    assert_eq!(session.post(about("resources/subscribe", "")).status, 200);
    until("the server is asked for both", || {
        let asked = upstream.of("subscriptions/listen");
        asked.last().is_some_and(|last| filter(last)["resourceSubscriptions"] == json!(["", "file:///b"]))
    });
    drop(stream);
    // It survives the gateway.
    gateway.restart(|_| {});
    upstream.forget();
    let client =
        gateway.client().with("mcp-session-id", &session.id).with("mcp-protocol-version", "2025-11-25");
    let again = client.with("accept", "text/event-stream").open("GET", "");
    assert_eq!(again.status, 200);
    assert_eq!(
        filter(&upstream.of("subscriptions/listen")[0])["resourceSubscriptions"],
        json!(["", "file:///b"])
    );
}

#[test]
fn a_server_that_never_speaks_unasked_has_no_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        Some(match request.rpc().as_str() {
            "server/discover" => result(
                request,
                json!({ "supportedVersions": ["2026-07-28"], "capabilities": { "resources": {} } }),
            ),
            "initialize" => answer(404, rpc_error(&request.id(), -32601, "Method not found")),
            _ => text(request, "1"),
        })
    });
    let session = session(&gateway);
    assert_eq!(session.client.get().status, 405);
    let subscribe = session.post(request("1", "resources/subscribe", r#"{"uri":"file:///a"}"#));
    assert_eq!((subscribe.status, subscribe.code()), (200, -32601));
    assert_eq!(session.post(request("1", "logging/setLevel", r#"{"level":"info"}"#)).code(), -32601);
}

/// Acknowledges what was asked for, and says so to the test.
fn acknowledge(events: &mut crate::harness::Events<'_>, request: &(String, Value)) {
    let (id, filter) = request;
    events.message(&format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}},"notifications":{filter}}}}}"#
    ));
}

#[test]
fn what_changes_while_the_stream_is_opened_anew_is_not_missed() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let (change, open) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let gates = (Arc::clone(&change), Arc::clone(&open));
    modern(&upstream, move |request| {
        if request.rpc() != "subscriptions/listen" {
            return text(request, "1");
        }
        let (asked, change) = ((request.id(), filter(request)), Arc::clone(&gates.0));
        let first = asked.1["resourceSubscriptions"].is_null();
        if !first {
            gates.1.wait();
        }
        Answer::Stream(Box::new(move |events| {
            acknowledge(events, &asked);
            if first {
                change.wait();
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
            }
            events.wait_for_close();
        }))
    });
    let session = session(&gateway);
    let mut stream = session.listen();
    upstream.wait_for("subscriptions/listen", 1);
    let subscribing =
        session.client.begin("POST", request("1", "resources/subscribe", r#"{"uri":"file:///a"}"#));
    upstream.wait_for("subscriptions/listen", 2);
    change.open();
    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
    open.open();
    assert_eq!(subscribing.answer().whole().json()["result"], json!({}));
}

#[test]
fn a_subscription_is_answered_when_the_server_knows_of_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let known = Arc::new(std::sync::Mutex::new(Value::Null));
    let knows = Arc::clone(&known);
    modern(&upstream, move |request| {
        if request.rpc() != "subscriptions/listen" {
            return text(request, "1");
        }
        let (asked, knows) = ((request.id(), filter(request)), Arc::clone(&knows));
        Answer::Stream(Box::new(move |events| {
            knows.lock().unwrap().clone_from(&asked.1["resourceSubscriptions"]);
            acknowledge(events, &asked);
            events.wait_for_close();
        }))
    });
    let session = session(&gateway);
    let _stream = session.listen();
    for n in 1..4 {
        let params = format!(r#"{{"uri":"file:///{n}"}}"#);
        assert_eq!(session.post(request("1", "resources/subscribe", &params)).json()["result"], json!({}));
        let known = known.lock().unwrap().clone();
        assert_eq!(known[n - 1], format!("file:///{n}"), "{known}");
    }
}

#[test]
fn subscriptions_at_several_replicas_at_a_time_are_all_kept() {
    let (upstream, shared) = (Upstream::start(), crate::replicas::Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    modern(&upstream, move |request| {
        if request.rpc() != "subscriptions/listen" {
            return text(request, "1");
        }
        let asked = (request.id(), filter(request));
        Answer::Stream(Box::new(move |events| {
            acknowledge(events, &asked);
            events.wait_for_close();
        }))
    });
    let here = crate::harness::Session::open_as(&one.client(), "2025-06-18", super::RICH);
    let there = crate::replicas::at(&here, &other);
    let _stream = here.listen();
    assert_eq!(there.post(request("1", "ping", "{}")).status, 200);
    for n in 1..=10 {
        let subscribe = |session: &crate::harness::Session, name: &str| {
            let params = format!(r#"{{"uri":"file:///{name}{n}"}}"#);
            session.client.begin("POST", request("1", "resources/subscribe", &params))
        };
        for sent in
            [subscribe(&here, "a"), subscribe(&there, "b"), subscribe(&here, "c"), subscribe(&there, "d")]
        {
            assert_eq!(sent.answer().whole().json()["result"], json!({}));
        }
        until("the server is asked for all", || {
            let asked = upstream.of("subscriptions/listen").pop().unwrap();
            filter(&asked)["resourceSubscriptions"].as_array().is_some_and(|uris| uris.len() == 4 * n)
        });
    }
}
