//! Clients that echo no id: recognised where that is safe, alone where it is not.

use std::sync::{Arc, Mutex};

use crate::harness::{
    Answer, Answers, Client, Gw, Session, Upstream, call, initialize_body, json, request, sse,
};

#[test]
fn many_initializes_and_calls_cost_one_upstream_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    // The way of Copilot Studio, on the wire.
    let client = gateway.client().with("content-type", "application/json; charset=utf-8");
    for turn in 1..=5 {
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":"1","method":"initialize","params":{{"capabilities":{{}},"clientInfo":{{"name":"mcs","version":"1.0"}},"protocolVersion":"2024-11-05","sessionContext":{{"turn":{turn}}}}}}}"#
        );
        let welcome = client.post(initialize);
        assert_eq!((welcome.status, &welcome.json()["id"]), (200, &"1".into()));
        assert_eq!(welcome.json()["result"]["protocolVersion"], "2024-11-05");
        let told = client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized","id":null}"#);
        assert_eq!((told.status, told.body.len()), (202, 0));
        let list = client.post(request("\"2\"", "tools/list", "{}"));
        assert_eq!((list.status, &list.json()["id"]), (200, &"2".into()));
        let counted = client.post(call("\"3\"", "count"));
        assert_eq!((counted.tool_text(), &counted.json()["id"]), (turn.to_string(), &"3".into()));
    }
    assert_eq!((upstream.count("initialize"), upstream.count("notifications/initialized")), (1, 1));
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn calls_alone_are_enough_and_the_session_survives_a_loss() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let gateway = Gw::start(&upstream);
        let client = gateway.client();
        assert_eq!(client.post(call("1", "count")).tool_text(), "1");
        assert_eq!(client.post(call("1", "count")).tool_text(), "2");
        upstream.server().lose_sessions();
        assert_eq!(client.post(call("1", "count")).tool_text(), "1");
        assert_eq!(client.post(call("1", "count")).tool_text(), "2");
        assert_eq!(upstream.count("initialize"), 2);
        assert_eq!(upstream.of("initialize")[0].json()["params"]["capabilities"], serde_json::json!({}));
    }
}

#[test]
fn a_client_that_announces_capabilities_but_never_echoes_its_id_announces_none_upstream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client();
    let rich = r#"{"sampling":{},"elicitation":{},"roots":{"listChanged":true},"experimental":{"x":{}}}"#;
    for turn in 1..=3 {
        assert_eq!(client.post(initialize_body("2025-06-18", rich)).status, 200);
        assert_eq!(client.post(call("1", "count")).tool_text(), turn.to_string());
    }
    let used = upstream.of("tools/call")[0].session().unwrap().to_owned();
    let which = upstream.server().given().iter().position(|id| *id == used).unwrap();
    assert_eq!(upstream.of("initialize")[which].json()["params"]["capabilities"], serde_json::json!({}));
    assert_eq!(upstream.of("initialize")[which].json()["params"]["clientInfo"]["name"], "test");
    assert!(upstream.count("initialize") <= 2, "one to answer the client with, one that announces nothing");
}

/// Ids in all their spellings.
const IDS: &[&str] = &[
    "1",
    "\"1\"",
    "1e3",
    "0",
    "-7",
    "1.0",
    "123456789012345678901234567890",
    "\"\"",
    "\"\\u0041\\u00e9\\ud83d\\ude00\"",
    "\"a\\\"b\\\\c\"",
    "\"caf\u{e9}\"",
    "\"throughline-ping\"",
];

#[test]
fn ids_are_unique_upstream_and_come_back_as_they_were_written() {
    for answers in [Answers::Json, Answers::Sse] {
        let upstream = Upstream::start();
        upstream.server().answer_with(answers);
        let gateway = Gw::start(&upstream);
        for id in IDS.iter().chain(IDS) {
            let answer = gateway.client().post(request(id, "tools/list", "{}"));
            let expected = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[{{"name":"count","inputSchema":{{"type":"object"}}}}]}}}}"#
            );
            assert_eq!((answer.status, answer.message()), (200, expected));
        }
        let ids: std::collections::HashSet<_> = upstream.of("tools/list").iter().map(|r| r.id()).collect();
        assert_eq!(ids.len(), 2 * IDS.len());
        assert!(ids.iter().all(|id| id.starts_with('"')), "{ids:?}");
    }
}

#[test]
fn an_error_comes_back_under_the_callers_id_too() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let answer = gateway.client().post(request("1e3", "no/such", "{}"));
    assert_eq!(
        answer.text(),
        r#"{"jsonrpc":"2.0","id":1e3,"error":{"code":-32601,"message":"Method not found"}}"#
    );
}

#[test]
fn two_callers_with_one_id_get_their_own_answers() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    let client = gateway.client();
    let ask = |name: &str, who: &str| {
        client.begin(
            "POST",
            request("1", "tools/call", &format!(r#"{{"name":"{name}","arguments":{{"who":"{who}"}}}}"#)),
        )
    };
    let slow = ask("slow", "first");
    upstream.wait_for("tools/call", 1);
    let quick = ask("echo", "second").answer().whole();
    gate.open();
    let slow = slow.answer().whole();
    assert_eq!((slow.tool_text(), quick.tool_text()), ("{'who':'first'}".into(), "{'who':'second'}".into()));
    assert_eq!((&slow.json()["id"], &quick.json()["id"]), (&1.into(), &1.into()));
    assert_eq!(upstream.count("initialize"), 1);
}

#[test]
fn progress_comes_back_under_the_callers_token_and_nobody_elses_comes_at_all() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "work").then(|| {
            let (id, token) = (request.id(), request.json()["params"]["_meta"]["progressToken"].to_string());
            Answer::Stream(Box::new(move |events| {
                for token in [token.as_str(), "\"somebody-elses\"", "7"] {
                    events.message(&format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
                    ));
                }
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":"somebody-elses","result":{{"secret":{id}}}}}"#));
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#);
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            }))
        })
    });
    for token in ["7", "\"t\\u0041\"", "1e2"] {
        let params = format!(r#"{{"name":"work","_meta":{{"other":1,"progressToken":{token}}}}}"#);
        let answer = gateway.client().post(request("5", "tools/call", &params));
        let text = answer.text();
        let messages: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let progress = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
        );
        assert_eq!(
            messages,
            [
                progress.as_str(),
                r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#,
                r#"{"jsonrpc":"2.0","id":5,"result":{}}"#,
            ]
        );
    }
    let tokens: std::collections::HashSet<_> = upstream
        .of("tools/call")
        .iter()
        .map(|request| request.json()["params"]["_meta"]["progressToken"].to_string())
        .collect();
    assert_eq!(tokens.len(), 3, "unique upstream");
}

#[test]
fn a_cancellation_is_passed_on_only_where_it_can_mean_one_request() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    let client = gateway.client();
    let cancel = |id: &str| {
        let params = format!(r#"{{"requestId":{id},"reason":"enough"}}"#);
        client.post(format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#))
    };
    let waiting: Vec<_> = ["1", "2", "2"].map(|id| client.begin("POST", call(id, "slow"))).into();
    upstream.wait_for("tools/call", 3);
    for id in ["2", "3", "\"1\"", "1"] {
        let told = cancel(id);
        assert_eq!((told.status, told.body.len()), (202, 0));
    }
    upstream.wait_for("notifications/cancelled", 1);
    let cancelled = upstream.of("notifications/cancelled");
    assert_eq!(cancelled.len(), 1, "neither the ambiguous one nor those of no request");
    assert_eq!(cancelled[0].json()["params"]["reason"], "enough");
    let named = &cancelled[0].json()["params"]["requestId"];
    let names = |request: &crate::harness::Request| request.json()["id"] == *named;
    assert_eq!(upstream.of("tools/call").iter().filter(|request| names(request)).count(), 1);
    gate.open();
    waiting.into_iter().for_each(|sent| assert_eq!(sent.answer().status, 200));
    assert_eq!((cancel("1").status, upstream.count("notifications/cancelled")), (202, 1), "too late");
}

#[test]
fn callers_who_cannot_be_told_apart_safely_are_alone_and_leave_nothing_behind() {
    let forwarded = |name: &'static str, value: &'static str| move |client: &Client| client.with(name, value);
    type Disguise = Box<dyn Fn(&Client) -> Client>;
    let cases: [(&str, Disguise); 5] = [
        ("X-Forwarded-For", Box::new(forwarded("x-forwarded-for", "10.0.0.1"))),
        ("X-Forwarded-Proto", Box::new(forwarded("x-forwarded-proto", "https"))),
        ("Forwarded", Box::new(forwarded("forwarded", "for=10.0.0.1"))),
        ("Via", Box::new(forwarded("via", "1.1 proxy"))),
        ("a configuration file", Box::new(Client::clone)),
    ];
    for (name, disguise) in cases {
        let upstream = Upstream::start();
        let gateway = match name {
            "a configuration file" => Gw::start_file(&upstream, "[upstream]\nurl = \"UPSTREAM\"\n"),
            _ => Gw::start(&upstream),
        };
        let client = disguise(&gateway.client());
        for id in 1..=3 {
            let answer = client.post(call(&id.to_string(), "count"));
            assert_eq!((answer.tool_text().as_str(), &answer.json()["id"]), ("1", &id.into()), "{name}");
            upstream.wait_until("the session is ended", |server| server.open().is_empty());
        }
        assert_eq!((upstream.count("initialize"), upstream.count("DELETE")), (3, 3), "{name}");
        assert_eq!(upstream.server().violations(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn anonymous_callers_share_with_a_file_only_if_it_says_so() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(&upstream, "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\n");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "2");
}

#[test]
fn an_isolated_caller_that_leaves_leaves_no_upstream_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    let sent = gateway.client().with("via", "1.1 proxy").begin("POST", call("1", "slow"));
    upstream.wait_for("tools/call", 1);
    drop(sent);
    gate.open();
    upstream.wait_until("the session is ended", |server| server.open().is_empty());
}

#[test]
fn client_products_do_not_share_but_their_versions_do() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let agent = |agent: &str| gateway.client().with("user-agent", agent).post(call("1", "count")).tool_text();
    assert_eq!(agent("alpha/1.0 (linux)"), "1");
    assert_eq!(agent("alpha/2.0"), "2");
    assert_eq!(agent("beta/1.0"), "1");
    assert_eq!(agent("alpha"), "3");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
}

#[test]
fn a_stream_or_an_end_without_an_id_is_refused_and_changes_nothing() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client();
    client.post(call("1", "count"));
    for answer in [client.with("accept", "text/event-stream").get(), client.get(), client.delete()] {
        assert_eq!((answer.status, answer.headers.get("allow")), (405, Some("POST")));
        assert!(answer.json().get("id").is_none(), "an error about no request has no id");
    }
    assert_eq!(client.post(call("1", "count")).tool_text(), "2");
    assert_eq!((upstream.count("GET"), upstream.count("DELETE")), (0, 0));
}

#[test]
fn a_question_on_a_shared_session_is_answered_by_the_gateway() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::clone(&asked);
    upstream.script(move |request, _| {
        if request.rpc() == "response" {
            answers.lock().unwrap().push(request.json());
        }
        (request.tool() == "ask").then(|| {
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                events.message(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#);
                events.message(
                    r#"{"jsonrpc":"2.0","id":"e","method":"elicitation/create","params":{"message":"?"}}"#,
                );
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"done":true}}}}"#));
            }))
        })
    });
    for (client, count) in [
        (gateway.client(), 2),
        (gateway.client().with("via", "x"), 4),
        (gateway.client().with("accept", "application/json"), 6),
    ] {
        let answer = client.post(call("9", "ask"));
        assert!(!answer.text().contains("elicitation"), "{}", answer.text());
        assert_eq!(answer.message(), r#"{"jsonrpc":"2.0","id":9,"result":{"done":true}}"#);
        upstream.wait_for("response", count);
    }
    for said in asked.lock().unwrap().iter() {
        match &said["id"] {
            id if *id == 0 => assert_eq!(said["result"], serde_json::json!({})),
            _ => assert_eq!((&said["id"], &said["error"]["code"]), (&"e".into(), &(-32601).into())),
        }
    }
}

#[test]
fn events_of_a_shared_session_cannot_be_resumed_so_they_have_no_ids() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "ids").then(|| {
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                events.write("id: one\nretry: 500\ndata:\n\n");
                events.write(&format!(
                    "id: two\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\n"
                ));
            }))
        })
    });
    let answer = gateway.client().post(call("9", "ids"));
    assert!(!answer.text().contains("id: one") && !answer.text().contains("id: two"), "{}", answer.text());
    assert_eq!(answer.json()["id"], 9);
}

#[test]
fn an_issued_client_beside_an_idless_one_has_a_session_of_its_own() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "1");
    assert_eq!(session.count(), "1");
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "2");
    assert_eq!(session.client.delete().status, 200);
    assert_eq!(gateway.client().post(call("1", "count")).tool_text(), "3");
}

#[test]
fn an_error_in_an_answer_for_a_shared_session_passes_even_without_its_id() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    for (status, id) in [(400, ""), (400, r#""id":null,"#), (400, r#""id":"server-error","#), (500, "")] {
        let body = format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":-32603,"message":"broken"}}}}"#);
        let as_sse = [false, true].map(|stream| (stream, body.clone()));
        for (stream, body) in as_sse {
            upstream.script(move |request, _| {
                let answer = |body: &str| if stream { sse(status, body) } else { json(status, body) };
                (request.tool() == "odd").then(|| answer(&body))
            });
            let answer = gateway.client().post(call("9", "odd"));
            assert_eq!(answer.status, status, "{stream} {id}");
            match (stream, id.contains("server")) {
                // What stands under somebody else's id is not shown; that there is no answer is said.
                (true, true) => assert_eq!((answer.json()["id"].as_i64(), answer.code()), (Some(9), -32012)),
                _ => assert_eq!(answer.json()["error"]["message"], "broken", "{stream} {id}"),
            }
        }
    }
}

#[test]
fn a_result_that_nests_deeper_than_requests_may_comes_back_under_the_callers_id() {
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    for stream in [false, true] {
        let upstream = Upstream::start();
        let gateway = Gw::start(&upstream);
        let result = deep.clone();
        upstream.script(move |request, _| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"deep":{result}}}}}"#, request.id());
            (request.rpc() == "tools/call").then(|| if stream { sse(200, &body) } else { json(200, body) })
        });
        let expected = format!(r#"{{"jsonrpc":"2.0","id":"mine","result":{{"deep":{deep}}}}}"#);
        assert!(gateway.client().post(call("\"mine\"", "count")).text().contains(&expected));
    }
}
