//! What a server asks of a client: the answer must reach that question and no other, in whatever upstream session.

use std::sync::Arc;

use crate::harness::{Answer, Gate, Gw, Incoming, Session, Upstream, call, logged, request, until};

/// What an upstream calls its questions, in every spelling.
const QUESTION_IDS: &[&str] = &["0", "\"a\"", "1e3", "\"\\u0041\"", "-1", "98765432109876543210"];

/// A tool that asks a question under this id and never ends by itself.
fn ask(upstream: &Upstream, id: &'static str) {
    upstream.script(move |request, _| {
        (request.tool() == "ask").then(|| {
            Answer::Stream(Box::new(move |events| {
                events.message(&format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{"message":"sure?","_meta":{{"progressToken":{id}}}}}}}"#
                ));
                events.wait_for_close();
            }))
        })
    });
}

/// Lets the tool ask, and returns its stream and the question's id as the client sees it.
fn asked(session: &Session) -> (Incoming, String) {
    let mut stream = session.client.open("POST", call("1", "ask"));
    let question = stream.message().json();
    assert_eq!(question["params"]["message"], "sure?");
    (stream, question["id"].as_str().expect("a string").to_owned())
}

fn reply(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept"}}}}"#)
}

#[test]
fn a_question_carries_an_id_that_cannot_be_guessed_and_its_answer_the_original() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for (count, id) in QUESTION_IDS.iter().enumerate() {
        ask(&upstream, id);
        let session = Session::open(&gateway.client());
        let (_stream, tag) = asked(&session);
        assert!(tag.starts_with("1."), "the generation: {tag}");
        assert!(tag.len() > 20, "{tag}");
        let told = session.post(reply(&format!("\"{tag}\"")));
        assert_eq!((told.status, told.body.len()), (202, 0));
        upstream.wait_for("response", count + 1);
        assert_eq!(upstream.of("response")[count].text(), reply(id));
    }
}

#[test]
fn an_answer_to_the_lost_sessions_question_never_reaches_the_new_one() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    ask(&upstream, "0");
    let session = Session::open(&gateway.client());
    let (old_stream, old) = asked(&session);
    upstream.server().lose_sessions();
    session.count();
    let (_stream, new) = asked(&session);
    assert_ne!(old, new);
    assert!(new.starts_with("2."), "{new}");
    drop(old_stream);

    let told = session.post(reply(&format!("\"{old}\"")));
    assert_eq!((told.status, told.body.len()), (202, 0));
    session.post(reply(&format!("\"{new}\"")));
    upstream.wait_for("response", 1);
    let answers = upstream.of("response");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].session(), upstream.server().given().last().map(String::as_str));
    assert_eq!(upstream.count("initialize"), 2);
}

#[test]
fn an_answer_or_a_notification_never_starts_a_recovery() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    ask(&upstream, "0");
    let session = Session::open(&gateway.client());
    let (_stream, tag) = asked(&session);
    upstream.server().lose_sessions();
    for body in [
        reply(&format!("\"{tag}\"")),
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#.to_owned(),
    ] {
        let told = session.post(body);
        assert_eq!((told.status, told.body.len()), (202, 0));
    }
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn forged_and_mangled_answers_are_dropped() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    ask(&upstream, "0");
    let session = Session::open(&gateway.client());
    let other = Session::open(&gateway.client());
    let (_stream, tag) = asked(&session);
    let (_other_stream, others) = asked(&other);
    let (generation, rest) = tag.split_once('.').unwrap();
    let mut flipped = tag.clone().into_bytes();
    flipped[6] = if flipped[6] == b'0' { b'1' } else { b'0' };
    let forged = [
        "0".to_owned(),
        "\"0\"".to_owned(),
        "\"\"".to_owned(),
        "1".to_owned(),
        format!("\"{others}\""),
        format!("\"{}\"", String::from_utf8(flipped).unwrap()),
        format!("\"2.{rest}\""),
        format!("\"+{generation}.{rest}\""),
        format!("\"{}\"", tag.to_uppercase()),
        format!("\"{tag}=\""),
        format!("\" {tag}\""),
        format!("\"{}\"", &tag[..tag.len() - 1]),
    ];
    for id in &forged {
        let told = session.post(reply(id));
        assert_eq!((told.status, told.body.len()), (202, 0), "{id}");
    }
    session.post(format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-1,"message":"{tag}"}}}}"#));
    session.post(r#"{"jsonrpc":"2.0","result":{}}"#);
    session.post(reply(&format!("\"{tag}\"")));
    upstream.wait_for("response", 1);
    let answers = upstream.of("response");
    assert_eq!((answers.len(), answers[0].text()), (1, reply("0")));
}

#[test]
fn an_answer_spelled_with_escapes_is_the_same_answer() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    ask(&upstream, "0");
    let session = Session::open(&gateway.client());
    let (_stream, tag) = asked(&session);
    let escaped: String = tag.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    session.post(format!(r#"{{ "result":{{"x":1e3}}, "id":"{escaped}", "jsonrpc":"2.0" }}"#));
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].text(), r#"{ "result":{"x":1e3}, "id":0, "jsonrpc":"2.0" }"#);
}

#[test]
fn progress_on_a_question_reaches_that_question_only() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    ask(&upstream, "1e3");
    let session = Session::open(&gateway.client());
    let mut stream = session.client.open("POST", call("1", "ask"));
    let question = stream.message().json();
    let token = question["params"]["_meta"]["progressToken"].as_str().unwrap().to_owned();
    let id = question["id"].as_str().unwrap();
    assert_ne!(token, id, "an id is no progress token");
    let progress = |token: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":0.5}}}}"#
        )
    };
    for forged in [progress("1e3"), progress("1000"), progress(&format!("\"{id}\""))] {
        assert_eq!(session.post(forged).status, 202);
    }
    assert_eq!(session.post(progress(&format!("\"{token}\""))).status, 202);
    upstream.wait_for("notifications/progress", 1);
    let arrived = upstream.of("notifications/progress");
    assert_eq!((arrived.len(), arrived[0].text()), (1, progress("1e3")));

    upstream.server().lose_sessions();
    session.count();
    assert_eq!(session.post(progress(&format!("\"{token}\""))).status, 202);
    session.post(request("1", "tools/list", "{}"));
    assert_eq!(upstream.count("notifications/progress"), 1, "of a generation that is gone");
}

#[test]
fn a_question_is_withdrawn_under_the_id_that_the_client_knows() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "ask").then(|| {
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                events.message(r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{"messages":[]}}"#);
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":0,"reason":"x"}}"#);
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"mine","progress":1}}"#);
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            }))
        })
    });
    let session = Session::open(&gateway.client());
    let mut stream = session.client.open("POST", call("1", "ask"));
    let question = stream.message().json();
    let withdrawn = stream.message().json();
    assert_eq!(withdrawn["params"]["requestId"], question["id"]);
    assert_eq!(withdrawn["params"]["reason"], "x");
    assert_eq!(stream.message().json()["params"]["progressToken"], "mine", "the client's own token");
    assert_eq!(stream.message().json()["id"], 1);
    assert!(stream.event().is_none());
}

#[test]
fn questions_on_the_standing_stream_are_answered_likewise() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    let inner = upstream.server().given()[0].clone();
    upstream.server().push(&inner, "data: {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"roots/list\"}\n\n");
    let tag = stream.message().json()["id"].as_str().unwrap().to_owned();
    assert_eq!(session.post(reply(&format!("\"{tag}\""))).status, 202);
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].text(), reply("0"));
    assert_eq!(upstream.of("response")[0].session(), Some(inner.as_str()));
}

#[test]
fn an_answer_after_a_gateway_restart_still_reaches_its_question() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let mut stream = session.listen();
    let inner = upstream.server().given()[0].clone();
    upstream.server().push(&inner, "data: {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"roots/list\"}\n\n");
    let tag = stream.message().json()["id"].as_str().unwrap().to_owned();
    drop(stream);
    gateway.restart(|_| {});
    let client = gateway.client().with("mcp-session-id", &session.id);
    assert_eq!(client.post(reply(&format!("\"{tag}\""))).status, 202);
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].text(), reply("0"));
}

#[test]
fn a_server_that_asks_faster_than_it_takes_answers_is_not_answered_without_bound() {
    const PINGS: usize = 2_000;
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = Arc::new(Gate::default());
    let waits = Arc::clone(&gate);
    upstream.script(move |request, _| {
        if request.rpc() == "response" {
            waits.wait();
            return None;
        }
        (request.tool() == "ask").then(|| {
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                for ping in 0..PINGS {
                    events.message(&format!(r#"{{"jsonrpc":"2.0","id":{ping},"method":"ping"}}"#));
                }
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#));
            }))
        })
    });
    // It holds no session of its own, so that the gateway answers for it.
    let answer = gateway.client().post(call("1", "ask"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("the log to say so", || logged("too many answers are on their way to upstreams"));
    let under_way = upstream.count("response");
    gate.open();
    assert!((1..PINGS / 2).contains(&under_way), "{under_way} at a time");
}
