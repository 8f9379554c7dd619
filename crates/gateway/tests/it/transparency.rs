//! What the gateway does not have to change reaches the other side byte for byte.

use std::sync::{Arc, Mutex};

use crate::harness::{Answer, Gw, Session, Upstream, json, refused};

/// Odd, but legal.
const PIECES: &[&str] = &[
    r#""plain":{"a":1}"#,
    r#""unknown member":{"deep":[[[[{"x":null}]]]]}"#,
    r#""big":[123456789012345678901234567890,-0,1e3,1E+400,1.0,0.10,5e-324]"#,
    r#""z":1,"a":2,"m":3,"10":4,"2":5"#,
    r#""escapes":"\u0041\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\""#,
    "\"utf-8\":\"é😀\u{2028}\u{7f}\"",
    r#""lone":"\ud800""#,
    r#""empty":"","":"","nul":"\u0000""#,
    "\"space\" :\t[ 1 ,\r\n 2 ]",
    r#""__proto__":{"constructor":null},"task":{"ttl":60000}"#,
    r#""session":"Session not found","failure":{"error":{"code":-32001}}"#,
    r#""_meta":{"progressToken":1e3,"vendor/x":[true],"io.modelcontextprotocol/related-task":{"taskId":"t"}}"#,
    r#""same":1,"same":2"#,
];

/// Requests with each of these in them.
fn requests() -> Vec<String> {
    let mut requests: Vec<String> = PIECES
        .iter()
        .flat_map(|piece| {
            [
                format!(
                    r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"x",{piece}}}}}"#
                ),
                format!(
                    r#"{{{piece},"params":{{}},"method":"vendor/odd.method","id":"\u0031","jsonrpc":"2.0"}}"#
                ),
            ]
        })
        .collect();
    requests
        .push("\r\n\t {\"jsonrpc\" : \"2.0\" ,\n\"id\" : 1e3 , \"method\" : \"tools/call\" } \n".to_owned());
    requests.push(r#"{"jsonrpc":"2.0","id":-0.5,"method":"x","params":[1,2,3]}"#.to_owned());
    requests.push(r#"{"jsonrpc":"2.0","id":123456789012345678901,"\u006dethod":"tools\/call"}"#.to_owned());
    requests.push(r#"{"jsonrpc":"2.0","id":"","method":"","params":null}"#.to_owned());
    let text = "0123456789abcdef".repeat(1 << 16);
    requests.push(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"text":"{text}"}}}}"#));
    requests
}

/// Answers with each of these in them, one of them 1 MiB long.
fn answers() -> Vec<String> {
    let mut answers: Vec<String> = PIECES
        .iter()
        .flat_map(|piece| {
            [
                format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{piece}}}}}"#),
                format!(r#"{{ "result" : {{{piece}}}, {piece2}, "id":1, "jsonrpc":"2.0" }}"#, piece2 = r#""extra":[1e3]"#),
                format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":-32099,"message":"odd","data":{{{piece}}}}}}}"#),
            ]
        })
        .collect();
    let text = "0123456789abcdef".repeat(1 << 16);
    answers.push(format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#
    ));
    answers.push(r#"{"jsonrpc":"2.0","id":1,"result":null}"#.to_owned());
    answers.push(r#"{"jsonrpc":"2.0","id":1,"result":1e3}"#.to_owned());
    answers.push(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}1{}}}"#, "[".repeat(120), "]".repeat(120)));
    answers
}

#[test]
fn requests_reach_the_upstream_as_they_were_written() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    upstream.script(|request, _| {
        let passes = !matches!(request.rpc().as_str(), "initialize" | "notifications/initialized" | "DELETE");
        passes.then(|| json(200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#))
    });
    for body in requests() {
        let answer = session.post(&body);
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        let arrived = upstream.log().pop().unwrap();
        assert!(
            arrived.body == body.as_bytes(),
            "{}\n{}",
            &body[..body.len().min(300)],
            &arrived.text()[..arrived.body.len().min(300)]
        );
    }
    for piece in PIECES {
        let body = format!(r#"{{"params":{{{piece}}},"method":"notifications/vendor","jsonrpc":"2.0"}}"#);
        assert_eq!(session.post(&body).status, 202);
        assert_eq!(upstream.log().pop().unwrap().text(), body);
    }
}

#[test]
fn answers_reach_the_client_as_they_were_written() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let next = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&next);
    upstream.script(move |request, _| match request.tool().as_str() {
        "json" => Some(refused(200, "application/json; charset=utf-8", said.lock().unwrap().clone())),
        "sse" => {
            let body = said.lock().unwrap().replace('\r', "").replace('\n', "\ndata: ");
            let before = body.replace(r#""id":1"#, r#""id":99"#);
            Some(refused(
                200,
                "text/event-stream",
                format!("data: {before}\n\n: x\r\n\r\nretry: 5\nevent: message\nodd: 1\ndata:{body}\n\n"),
            ))
        }
        "chunks" => {
            let body =
                format!("event: message\ndata: {}\n\n", said.lock().unwrap().replace(['\r', '\n'], ""));
            Some(Answer::Stream(Box::new(move |events| {
                // Torn anywhere, also within characters.
                for piece in body.as_bytes().chunks(body.len() / 7 + 1) {
                    events.bytes(piece);
                }
            })))
        }
        _ => None,
    });
    let session = Session::open(&gateway.client());
    // Deeper than what the gateway itself can read.
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    for body in answers().into_iter().chain([deep]) {
        next.lock().unwrap().clone_from(&body);
        for tool in ["json", "sse", "chunks"] {
            let answer = session.post(crate::harness::call("1", tool));
            let sent = match tool {
                "json" => body.clone(),
                "sse" => {
                    let body = body.replace('\r', "").replace('\n', "\ndata: ");
                    let before = body.replace(r#""id":1"#, r#""id":99"#);
                    format!("data: {before}\n\n: x\r\n\r\nretry: 5\nevent: message\nodd: 1\ndata:{body}\n\n")
                }
                _ => format!("event: message\ndata: {}\n\n", body.replace(['\r', '\n'], "")),
            };
            assert_eq!(answer.status, 200);
            assert!(
                answer.body == sent.as_bytes(),
                "{tool}: {}\n{}",
                &sent[..sent.len().min(300)],
                answer.text().chars().take(300).collect::<String>()
            );
        }
        assert!(
            session.post(crate::harness::call("1", "json")).headers.get("content-type")
                == Some("application/json; charset=utf-8")
        );
    }
}

#[test]
fn in_a_shared_session_only_the_id_is_another() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let next = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&next);
    upstream.script(move |request, _| {
        let passes = !matches!(request.rpc().as_str(), "initialize" | "notifications/initialized" | "DELETE");
        let body = said.lock().unwrap().replace(r#""id":1"#, &format!(r#""id":{}"#, request.id()));
        passes.then(|| json(200, body))
    });
    for body in answers() {
        next.lock().unwrap().clone_from(&body);
        let answer = gateway.client().post(crate::harness::call("1", "x"));
        assert!(
            answer.text() == body,
            "{}\n{}",
            &body[..body.len().min(300)],
            answer.text().chars().take(300).collect::<String>()
        );
    }
    for body in requests().iter().filter(|body| body.contains(r#""id":1,"#)) {
        gateway.client().post(body);
        let arrived = upstream.log().pop().unwrap();
        let restored = arrived.text().replace(&arrived.id(), "1");
        let token = body.replace(r#""progressToken":1e3"#, r#""progressToken":1"#);
        assert!(
            restored == token,
            "{}\n{}",
            &body[..body.len().min(300)],
            &restored[..restored.len().min(300)]
        );
    }
}

#[test]
fn headers_that_mean_something_upstream_arrive_and_no_others() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    let client = session
        .client
        .with("user-agent", "test/1")
        .with("accept-language", "de")
        .with("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .with("authorization", "Bearer secret")
        .with("cookie", "a=b")
        .with("x-api-key", "secret")
        .with("x-forwarded-for", "10.0.0.1")
        .with("content-type", "application/json; charset=utf-8");
    client.post(crate::harness::call("1", "count"));
    let arrived = upstream.of("tools/call").pop().unwrap();
    let mut names: Vec<_> = arrived.headers.0.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-language",
            "content-length",
            "content-type",
            "host",
            "mcp-protocol-version",
            "mcp-session-id",
            "traceparent",
            "user-agent"
        ]
    );
    assert_eq!(arrived.headers.get("accept"), Some("application/json, text/event-stream"));
    assert_eq!(arrived.headers.get("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(arrived.headers.get("mcp-protocol-version"), Some("2025-06-18"));
}
