//! What the server needs from the client, as requests that the client knows; and how the answers find the call.

use serde_json::{Value, json};

use super::{RICH, modern, result, session, text};
use crate::harness::{Gw, Incoming, Request, Session, Upstream, call, request};
use crate::replicas::{Shared, at};

fn needs(request: &Request, questions: Value, state: Value) -> crate::harness::Answer {
    let mut needed = json!({ "resultType": "input_required" });
    for (name, value) in [("inputRequests", questions), ("requestState", state)] {
        if !value.is_null() {
            needed[name] = value;
        }
    }
    result(request, needed)
}

fn elicit(message: &str) -> Value {
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": { "type": "object", "properties": {} } } })
}

/// Asks for a name, then for a colour and the roots, then says what it was told.
fn curious(request: &Request) -> crate::harness::Answer {
    let params = &request.json()["params"];
    let (given, state) = (&params["inputResponses"], &params["requestState"]);
    match state.as_str() {
        None => needs(request, json!({ "who": elicit("Who?") }), json!("1")),
        Some("1") => {
            assert_eq!(given["who"]["content"]["name"], "Ada");
            let questions = json!({ "colour": elicit("Colour?"), "roots": { "method": "roots/list" } });
            needs(request, questions, json!("2"))
        }
        Some(_) => text(request, &format!("{} {}", given["colour"]["action"], given["roots"]["roots"])),
    }
}

/// The next question on the stream, and the id to answer it under.
fn question(stream: &mut Incoming) -> (String, Value) {
    let question = stream.message().json();
    (question["id"].to_string(), question)
}

fn reply(session: &Session, id: &str, result: &Value) {
    let told = session.post(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
    assert_eq!((told.status, told.body.len()), (202, 0));
}

fn answer_all(stream: &mut Incoming, session: &Session) -> Value {
    let (who, first) = question(stream);
    assert_eq!(
        (first["method"].as_str(), first["params"]["message"].as_str()),
        (Some("elicitation/create"), Some("Who?"))
    );
    reply(session, &who, &json!({ "action": "accept", "content": { "name": "Ada" } }));
    let (colour, roots) = (question(stream), question(stream));
    assert_eq!(roots.1["method"], "roots/list");
    reply(session, &roots.0, &json!({ "roots": [] }));
    reply(session, &colour.0, &json!({ "action": "decline" }));
    stream.message().json()
}

#[test]
fn a_call_asks_round_after_round_and_is_answered() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, curious);
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("1", "ask"));
    let answer = answer_all(&mut stream, &session);
    assert_eq!(
        (answer["id"].clone(), answer["result"]["content"][0]["text"].clone()),
        (json!(1), json!("\"decline\" []"))
    );
    let rounds = upstream.of("tools/call");
    let ids: std::collections::HashSet<_> = rounds.iter().map(|round| round.id()).collect();
    assert_eq!((rounds.len(), ids.len()), (3, 3), "each round is a request of its own");
    assert_eq!(rounds[0].json()["params"]["requestState"], Value::Null);
}

#[test]
fn the_answer_may_come_in_at_another_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    modern(&upstream, curious);
    let here = Session::open_as(&one.client(), "2025-06-18", RICH);
    let there = at(&here, &other);
    let mut stream = here.client.open("POST", call("1", "ask"));
    let answer = answer_all(&mut stream, &there);
    assert_eq!(answer["result"]["content"][0]["text"], "\"decline\" []");
    assert_eq!(upstream.count("tools/call"), 3);
}

#[test]
fn a_client_is_asked_only_what_it_announced() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| needs(request, json!({ "a": elicit("?") }), Value::Null));
    let session = Session::open_as(&gateway.client(), "2025-11-25", "{}");
    let answer = session.post(call("1", "ask"));
    assert_eq!((answer.status, answer.code()), (200, -32014), "{}", answer.text());
    assert!(answer.text().contains("elicitation/create"), "{}", answer.text());
    let idless = gateway.client().post(call("1", "ask"));
    assert_eq!((idless.status, idless.code()), (200, -32014), "{}", idless.text());
    let deaf = super::session(&gateway).client.with("accept", "application/json").post(call("1", "ask"));
    assert_eq!(
        (deaf.status, deaf.code()),
        (200, -32601),
        "it reads no stream to be asked on: {}",
        deaf.text()
    );
    let link = json!({ "method": "elicitation/create", "params": { "mode": "url", "url": "https://a.example/", "message": "?" } });
    let asked = link.clone();
    modern(&upstream, move |request| needs(request, json!({ "a": asked }), Value::Null));
    let form = Session::open_as(&gateway.client(), "2025-11-25", r#"{"elicitation":{}}"#);
    assert_eq!(form.post(call("1", "ask")).code(), -32014, "a form is no link");
    let both = Session::open_as(&gateway.client(), "2025-11-25", r#"{"elicitation":{"url":{}}}"#);
    let mut stream = both.client.open("POST", call("1", "ask"));
    let (_, question) = question(&mut stream);
    assert!(question["params"]["elicitationId"].is_string(), "2025-11-25 wants one: {question}");
}

#[test]
fn a_client_that_will_not_answer_ends_the_call() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, curious);
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("1", "ask"));
    let (id, _) = question(&mut stream);
    session.post(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-1,"message":"not now"}}}}"#));
    let answer = stream.message().json();
    assert_eq!((answer["id"].clone(), answer["error"]["code"].clone()), (json!(1), json!(-1)));
    assert!(answer["error"]["message"].as_str().unwrap().contains("not now"), "{answer}");
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn a_client_that_cancels_while_it_is_asked_is_asked_no_more() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, curious);
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("1", "ask"));
    let (id, _) = question(&mut stream);
    session.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    assert!(stream.message().json()["error"].is_object());
    reply(&session, &id, &json!({ "action": "accept", "content": { "name": "Ada" } }));
    assert_eq!(upstream.count("tools/call"), 1);
}

#[test]
fn a_server_that_only_wants_to_be_asked_again_is_but_not_for_ever() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| match request.json()["params"]["requestState"].as_str() {
        None if request.tool() == "twice" => needs(request, Value::Null, json!("s")),
        Some("s") if request.tool() == "twice" => text(request, "done"),
        _ => needs(request, json!({}), Value::Null),
    });
    let session = session(&gateway);
    assert_eq!(session.post(call("1", "twice")).tool_text(), "done");
    assert!(upstream.of("tools/call")[1].json()["params"].get("inputResponses").is_none());
}

#[test]
fn endless_questions_are_given_up() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| needs(request, json!({ "r": { "method": "roots/list" } }), Value::Null));
    let session = session(&gateway);
    let mut stream = session.client.open("POST", request("1", "prompts/get", r#"{"name":"p"}"#));
    let mut asked = 0;
    let last = loop {
        let message = stream.message().json();
        if message.get("method").is_none() {
            break message;
        }
        asked += 1;
        reply(&session, &message["id"].to_string(), &json!({ "roots": [] }));
    };
    assert_eq!((asked, last["error"]["code"].clone()), (16, json!(-32014)));
}

#[test]
fn a_client_that_comes_back_finds_its_question_and_its_answer() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, curious);
    let session = session(&gateway);
    let mut stream = session.client.open("POST", call("1", "ask"));
    let primed = stream.event().expect("an event to come back after");
    drop(stream);
    let again = session.client.with("accept", "text/event-stream");
    let mut stream = again.with("last-event-id", &primed.id.expect("an id")).open("GET", "");
    assert_eq!(answer_all(&mut stream, &session)["result"]["content"][0]["text"], "\"decline\" []");
    assert_eq!(upstream.count("tools/call"), 3, "the call went on");
}

#[test]
fn a_server_that_asks_a_thousand_things_at_once_is_not_listened_to() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| {
        let questions: serde_json::Map<_, _> =
            (0..1000).map(|n| (n.to_string(), json!({ "method": "roots/list" }))).collect();
        needs(request, questions.into(), Value::Null)
    });
    let session = session(&gateway);
    let answer = session.post(call("1", "ask"));
    assert_eq!((answer.status, answer.code()), (200, -32014), "{}", answer.text());
    assert!(!answer.text().contains("roots/list"), "nothing was asked");
}

#[test]
fn a_round_whose_stream_breaks_is_made_again_without_asking_again() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    modern(&upstream, |request| {
        let params = &request.json()["params"];
        match (params["requestState"].as_str(), params["inputResponses"]["r"].is_object()) {
            (Some("s"), true) => crate::harness::Answer::Stream(Box::new(|events| events.reset())),
            _ => needs(request, json!({ "r": { "method": "roots/list" } }), json!("s")),
        }
    });
    let session = session(&gateway);
    let mut stream = session.client.open("POST", request("1", "prompts/get", r#"{"name":"p"}"#));
    let (id, _) = question(&mut stream);
    reply(&session, &id, &json!({ "roots": [] }));
    let end = stream.message().json();
    assert!(end["error"].is_object(), "{end}");
    let rounds = upstream.of("prompts/get");
    assert_eq!(rounds.len(), 5, "the first, and the second with three repetitions");
    assert!(rounds[1..].iter().all(|round| round.json()["params"]["inputResponses"]["r"].is_object()));
}
