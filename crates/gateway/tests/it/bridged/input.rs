//! What a server asks in the middle of a call, as input that its result requires.

use serde_json::json;

use super::asker::Asker;
use super::{Modern, accept, keys, state};
use crate::harness::{Gw, Upstream, json as plain};

#[test]
fn a_question_is_an_incomplete_result_and_its_answer_a_second_request() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let asked = client.call("ask.form=user_name");
    assert_eq!((asked.status, &asked.json()["id"]), (200, &json!(7)));
    let question = &asked.json()["result"]["inputRequests"]["user_name"];
    assert_eq!(question["method"], "elicitation/create");
    let schema = json!({ "type": "object", "properties": {} });
    assert_eq!(question["params"], json!({ "message": "?", "requestedSchema": schema }));
    assert_eq!(asker.answers().len(), 0);
    let answers = json!({ "user_name": accept("Al"), "unknown": accept("Bo") });
    let answer = client.answer("ask.form=user_name", &state(&asked), &answers);
    assert_eq!(answer.tool_text(), accept("Al").to_string());
    assert_eq!(answer.json()["result"]["resultType"], "complete");
    assert_eq!((upstream.count("tools/call"), upstream.count("initialize")), (1, 1), "called once");
    assert_eq!(asker.answers().len(), 1);
}

#[test]
fn several_questions_are_one_result_and_further_ones_another() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "ask.form=a+sampling=b+roots=c.ping+form=a.form=d";
    let asked = client.call(tool);
    assert_eq!(keys(&asked), ["a", "b", "c"]);
    let sampled = json!({ "role": "assistant", "content": { "type": "text", "text": "x" }, "model": "m" });
    let first = json!({ "a": accept("1"), "b": sampled, "c": { "roots": [] } });
    let second = client.answer(tool, &state(&asked), &first);
    assert_eq!(keys(&second), ["a-2"], "keys are unique within a request");
    assert_ne!(state(&second), state(&asked));
    let third = client.answer(tool, &state(&second), &json!({ "a-2": accept("2") }));
    assert_eq!(keys(&third), ["d"]);
    let answer = client.answer(tool, &state(&third), &json!({ "d": accept("3") }));
    let texts = [
        accept("1").to_string(),
        sampled.to_string(),
        json!({ "roots": [] }).to_string(),
        "{}".to_owned(),
        accept("2").to_string(),
        accept("3").to_string(),
    ];
    assert_eq!(answer.tool_text(), texts.join(";"));
    assert_eq!((upstream.count("tools/call"), asker.answers().len()), (1, 6));
}

#[test]
fn what_is_missing_or_of_another_form_is_asked_again() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "ask.form=a+form=b";
    let asked = client.call(tool);
    assert_eq!(keys(&asked), ["a", "b"]);
    for wrong in [json!({}), json!({ "c": accept("1") }), json!({ "a": {}, "b": 7 })] {
        let again = client.answer(tool, &state(&asked), &wrong);
        assert_eq!(keys(&again), ["a", "b"], "{wrong}");
    }
    assert_eq!(asker.answers().len(), 0);
    let rest = client.answer(tool, &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(keys(&rest), ["b"]);
    let answer = client.answer(tool, &state(&rest), &json!({ "b": accept("2") }));
    assert_eq!(answer.tool_text(), [accept("1").to_string(), accept("2").to_string()].join(";"));
    assert_eq!(asker.answers().len(), 2, "each was answered once");
}

#[test]
fn an_answer_that_comes_with_the_first_request_is_used() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let _asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let more = format!(r#","inputResponses":{}"#, json!({ "a": accept("1"), "x": accept("2") }));
    assert_eq!(client.call_with("ask.form=a", &more).tool_text(), accept("1").to_string());
    assert_eq!(keys(&client.call_with("ask.form=a.form=b", &more)), ["b"]);
    let wrong = format!(r#","inputResponses":{}"#, json!({ "a": { "action": "sing" } }));
    assert_eq!(keys(&client.call_with("ask.form=a", &wrong)), ["a"]);
}

#[test]
fn who_comes_again_with_the_same_answers_gets_the_same_result() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "ask.form=a.form=b";
    let asked = client.call(tool);
    let second = client.answer(tool, &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(keys(&second), ["b"]);
    // The response was lost.
    let again = client.answer(tool, &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(keys(&again), ["b"]);
    let other = client.answer(tool, &state(&asked), &json!({ "a": accept("another") }));
    assert_eq!((other.status, other.code()), (400, -32602), "{}", other.text());
    let both = [accept("1").to_string(), accept("2").to_string()].join(";");
    for state in [state(&second), state(&again), state(&second)] {
        assert_eq!(client.answer(tool, &state, &json!({ "b": accept("2") })).tool_text(), both);
    }
    let other = client.answer(tool, &state(&again), &json!({ "b": accept("another") }));
    assert_eq!(other.code(), -32602);
    assert_eq!((asker.answers().len(), upstream.count("tools/call")), (2, 1), "answered once, called once");
}

#[test]
fn a_capability_that_was_not_declared_is_named_and_the_call_cancelled() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    for (count, (declared, tool, required)) in [
        ("{}", "ask.sampling", json!({ "sampling": {} })),
        (r#"{"sampling":{}}"#, "ask.form", json!({ "elicitation": {} })),
        (r#"{"elicitation":{}}"#, "ask.url", json!({ "elicitation": { "url": {} } })),
        (r#"{"elicitation":{"url":{}}}"#, "ask.form", json!({ "elicitation": {} })),
        (r#"{"elicitation":{}}"#, "ask.roots", json!({ "roots": {} })),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = Modern::new(&gateway).declaring(declared).call(tool);
        assert_eq!((answer.status, answer.code()), (400, -32021), "{declared} {tool} {}", answer.text());
        assert_eq!(answer.json()["error"]["data"]["requiredCapabilities"], required);
        upstream.wait_for("notifications/cancelled", count + 1);
        let cancelled = upstream.of("notifications/cancelled")[count].json();
        assert_eq!(cancelled["params"]["requestId"], upstream.of("tools/call")[count].json()["id"]);
    }
    assert_eq!(asker.answers().len(), 0);
}

#[test]
fn what_cannot_be_asked_is_refused_toward_the_server() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    assert_eq!(client.call("ask.no/such").tool_text(), "null");
    assert_eq!(asker.answers()[0]["error"]["code"], -32601);
}

#[test]
fn what_is_asked_on_the_sessions_stream_is_asked_in_the_course_of_the_call() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asker = Asker::at(&upstream);
    let client = Modern::new(&gateway);
    let tool = "aside.form=a+form=b.sampling=c";
    let asked = client.call(tool);
    assert_eq!(keys(&asked), ["a", "b"]);
    let rest = client.answer(tool, &state(&asked), &json!({ "a": accept("1") }));
    assert_eq!(keys(&rest), ["b"], "asked again, though it stands in no stream that could be read again");
    let next = client.answer(tool, &state(&rest), &json!({ "b": accept("2") }));
    assert_eq!(keys(&next), ["c"]);
    let sampled = json!({ "role": "assistant", "content": { "type": "text", "text": "x" }, "model": "m" });
    for _ in 0..2 {
        let answer = client.answer(tool, &state(&next), &json!({ "c": sampled }));
        let all = [accept("1").to_string(), accept("2").to_string(), sampled.to_string()];
        assert_eq!(answer.tool_text(), all.join(";"));
    }
    assert_eq!((asker.answers().len(), upstream.count("tools/call"), upstream.count("GET")), (3, 1, 1));
    assert_eq!(
        client
            .call_with("aside.form=a", &format!(r#","inputResponses":{}"#, json!({ "a": accept("1") })))
            .tool_text(),
        accept("1").to_string()
    );
}

#[test]
fn a_server_without_such_a_stream_is_asked_for_it_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| (request.rpc() == "GET").then(|| plain(405, "")));
    let client = Modern::new(&gateway);
    for round in 1..=3 {
        assert_eq!(client.call("count").tool_text(), round.to_string());
    }
    assert_eq!(upstream.count("GET"), 1);
}

#[test]
fn urls_to_visit_first_are_asked_for_and_the_call_made_anew() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let first = request.tool() == "login" && request.json()["params"]["_meta"]["visited"].is_null();
        let error = r#"{"code":-32042,"message":"Log in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a.example/","message":"Log in"}]}}"#;
        first.then(|| plain(200, format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, request.id())))
    });
    let client = Modern::new(&gateway);
    let asked = client.call("login");
    assert_eq!((asked.status, keys(&asked)), (200, vec!["e1".to_owned()]));
    let question = &asked.json()["result"]["inputRequests"]["e1"];
    assert_eq!(
        question["params"],
        json!({ "mode": "url", "url": "https://a.example/", "message": "Log in" })
    );
    let state = state(&asked);
    let declined = client.answer("login", &state, &json!({ "e1": { "action": "decline" } }));
    assert_eq!((declined.status, declined.code(), upstream.count("tools/call")), (400, -32000, 1));
    let visited = client.clone().meta(r#""visited":true"#);
    let answer = visited.answer("login", &state, &json!({ "e1": { "action": "accept" } }));
    assert_eq!((answer.tool_text(), upstream.count("tools/call")), ("{}".to_owned(), 2));
    let lacks = client.declaring(r#"{"elicitation":{}}"#).call("login");
    assert_eq!((lacks.status, lacks.code()), (400, -32021));
}
