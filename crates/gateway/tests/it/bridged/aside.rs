//! What a server asks on its session's stream: whose question it is, at one replica and at several.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::asker::Asker;
use super::listening::{CHANGED, granted, listen};
use super::waiting::{principals, two_principals};
use super::{Modern, accept, keys, state};
use crate::harness::{Gw, Upstream};
use crate::replicas::Shared;

#[test]
fn what_may_be_about_either_of_two_calls_is_asked_in_neither() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    thread::scope(|scope| {
        let other = scope.spawn(|| client.call("hold"));
        upstream.wait_for("tools/call", 1);
        assert_eq!(client.call("aside.form=a").tool_text(), "null");
        assert_eq!(other.join().unwrap().status, 200);
    });
    assert_eq!((asker.answers().len(), &asker.answers()[0]["error"]["code"]), (1, &json!(-32601)));
    assert_eq!(keys(&client.call("aside.form=a")), ["a"], "it is alone again");
}

#[test]
fn a_call_whose_client_cannot_be_asked_is_not_in_the_way() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    client.call("count");
    let mut subscriber = listen(&client, "1", r#"{"toolsListChanged":true}"#);
    granted(&mut subscriber, &json!(1));
    assert_eq!(keys(&client.call("aside.form=a")), ["a"]);
    let session = upstream.server().given()[0].clone();
    upstream.server().push(&session, CHANGED);
    assert_eq!(subscriber.message().json()["method"], "notifications/tools/list_changed");
    assert_eq!(upstream.count("GET"), 1, "shared");
}

#[test]
fn another_principals_call_is_neither_asked_nor_in_the_way() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, &two_principals(""));
    let asker = Asker::at(&upstream);
    let [alice, bob] = principals(&gateway);
    thread::scope(|scope| {
        let other = scope.spawn(|| alice.call("hold"));
        upstream.wait_for("tools/call", 1);
        let asked = bob.call("aside.form=a");
        assert_eq!(keys(&asked), ["a"]);
        let answer = bob.answer("aside.form=a", &state(&asked), &json!({ "a": accept("Bob") }));
        assert_eq!(answer.tool_text(), accept("Bob").to_string());
        assert_eq!(other.join().unwrap().json()["result"]["resultType"], "complete");
    });
    assert_eq!(asker.answers().len(), 1);
}

#[test]
fn any_replica_is_asked_and_answers() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream), shared.replica(&upstream)];
    let asker = Asker::at(&upstream);
    let clients = replicas.each_ref().map(Modern::new);
    for (round, client) in clients.iter().enumerate() {
        assert_eq!(client.call("count").tool_text(), (round + 1).to_string());
    }
    let tool = "aside.form=a+form=b.form=c";
    let asked = clients[0].call(tool);
    assert_eq!(keys(&asked), ["a", "b"], "{}", asked.text());
    let rest = clients[2].answer(tool, &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(keys(&rest), ["b"], "{}", rest.text());
    let next = clients[1].answer(tool, &state(&rest), &json!({ "b": accept("2") }));
    assert_eq!(keys(&next), ["c"], "{}", next.text());
    let other = clients[0].answer(tool, &state(&asked), &json!({ "a": accept("x"), "b": accept("2") }));
    assert_eq!(other.code(), -32602, "of two replicas one is first");
    let all = [accept("1"), accept("2"), accept("3")].map(|answer| answer.to_string()).join(";");
    for client in &clients {
        assert_eq!(client.answer(tool, &state(&next), &json!({ "c": accept("3") })).tool_text(), all);
    }
    assert_eq!((asker.answers().len(), upstream.count("tools/call"), upstream.count("GET")), (3, 4, 1));
}

#[test]
fn a_replica_that_a_client_comes_back_to_hears_the_next_question() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let _asker = Asker::at(&upstream);
    let first = shared.replica(&upstream);
    let questions = ["a", "b", "c", "d"];
    let tool = format!("aside.{}", questions.map(|key| format!("form={key}")).join("."));
    let mut asked = Modern::new(&first).call(&tool);
    for pair in questions.windows(2) {
        assert_eq!(keys(&asked), [pair[0]], "{}", asked.text());
        let other = shared.replica(&upstream);
        asked = Modern::new(&other).answer(&tool, &state(&asked), &json!({ pair[0]: accept(pair[0]) }));
    }
    assert_eq!(keys(&asked), ["d"], "{}", asked.text());
}

#[test]
fn what_nobody_can_be_asked_at_any_replica_is_refused_once() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream)];
    let asker = Asker::at(&upstream);
    for gateway in &replicas {
        Modern::new(gateway).call("count");
    }
    let session = upstream.server().given()[0].clone();
    let ask = |id: &str, method: &str| {
        let question = format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"{method}"}}"#);
        upstream.server().push(&session, &format!("data: {question}\n\n"));
    };
    ask("r", "roots/list");
    assert_eq!(asker.answer("r").unwrap()["error"]["code"], -32601);
    ask("p", "ping");
    assert_eq!(asker.answer("p").unwrap()["result"], json!({}));
    assert_eq!(asker.answers().len(), 2);
}

#[test]
fn subscribers_at_all_replicas_hear_what_the_one_stream_says() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream), shared.replica(&upstream)];
    let clients = replicas.each_ref().map(Modern::new);
    let mut streams = [&clients[0], &clients[1]].map(|client| {
        let mut stream = listen(client, "1", r#"{"toolsListChanged":true}"#);
        assert_eq!(granted(&mut stream, &json!(1)), json!({ "toolsListChanged": true }));
        stream
    });
    clients[2].call("count");
    let session = upstream.server().given()[0].clone();
    for _ in 0..2 {
        upstream.server().push(&session, CHANGED);
        for stream in &mut streams {
            assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
        }
    }
    assert_eq!(upstream.count("GET"), 1);
}

#[test]
fn a_server_that_leaves_its_stream_open_without_a_word_delays_one_call() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.rpc() == "GET");
    let client = Modern::new(&gateway);
    client.call("count");
    let began = tokio::time::Instant::now();
    for round in 2..=9 {
        assert_eq!(client.call("count").tool_text(), round.to_string());
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    gate.open();
}

#[test]
fn a_stream_that_nobody_needs_any_more_is_let_go() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.streams.away = Duration::from_millis(300);
        config.streams.heartbeat = Duration::from_millis(50);
    });
    let client = Modern::new(&gateway);
    client.call("count");
    client.call("count");
    assert_eq!(upstream.count("GET"), 1);
    let session = upstream.server().given()[0].clone();
    assert!(upstream.server().has_stream(&session), "one call may follow another");
    upstream.wait_for_closed(1);
    upstream.wait_until("the stream is closed", |server| !server.has_stream(&session));
    client.call("count");
    assert_eq!(upstream.count("GET"), 2, "and is opened for the next");
}

#[test]
fn who_comes_again_is_asked_again_what_was_asked_meanwhile() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "aside.form=a+form=b.form=c.form=d";
    let asked = client.call(tool);
    let answers = json!({ "a": accept("1"), "b": accept("2") });
    let next = client.answer(tool, &state(&asked), &answers);
    assert_eq!(keys(&next), ["c"], "{}", next.text());
    // The response was lost.
    let again = client.answer(tool, &state(&asked), &answers);
    assert_eq!(keys(&again), ["c"], "{}", again.text());
    let mut last = Vec::new();
    for state in [state(&next), state(&again), state(&next)] {
        last.push(client.answer(tool, &state, &json!({ "c": accept("3") })));
        assert_eq!(keys(&last[last.len() - 1]), ["d"]);
    }
    let other = client.answer(tool, &state(&again), &json!({ "c": accept("another") }));
    assert_eq!(other.code(), -32602);
    let both = client.answer(tool, &state(&asked), &answers);
    assert_eq!(keys(&both), ["c", "d"], "all that it has not answered there");
    let answer = client.answer(tool, &state(&both), &json!({ "c": accept("3"), "d": accept("4") }));
    let all = ["1", "2", "3", "4"].map(|name| accept(name).to_string()).join(";");
    assert_eq!(answer.tool_text(), all);
    assert_eq!(client.answer(tool, &state(&last[0]), &json!({ "d": accept("4") })).tool_text(), all);
    assert_eq!((asker.answers().len(), upstream.count("tools/call")), (4, 1));
}

#[test]
fn a_long_question_makes_no_long_state() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "aside.long=a";
    let asked = client.call(tool);
    assert_eq!(keys(&asked), ["a"], "{}", asked.text());
    assert!(asked.text().len() > 100_000 && state(&asked).len() < 2000);
    let sampled = json!({ "role": "assistant", "content": { "type": "text", "text": "x" }, "model": "m" });
    assert_eq!(
        client.answer(tool, &state(&asked), &json!({ "a": sampled })).tool_text(),
        sampled.to_string()
    );
}
