//! How long the gateway waits for an upstream.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::harness::{Answer, Gw, Session, Upstream, call, json, request};

const FIRST_BYTE: Duration = Duration::from_millis(300);

/// Longer than an answer may take to begin: that time passes is the subject here.
fn long() {
    let (_say, said) = mpsc::channel::<()>();
    let _ = said.recv_timeout(3 * FIRST_BYTE);
}

#[test]
fn a_call_that_shows_progress_may_take_longer_than_an_answer_may_take_to_begin() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.first_byte = FIRST_BYTE);
    let session = Session::open(&gateway.client());
    upstream.script(|request, _| match request.tool().as_str() {
        "slow" => {
            let id = request.id();
            Some(Answer::Stream(Box::new(move |events| {
                for progress in 0..2 {
                    let params = format!(r#"{{"progressToken":1,"progress":{progress}}}"#);
                    events.message(&format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#
                    ));
                    long();
                }
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            })))
        }
        "silent" => {
            long();
            None
        }
        _ => None,
    });
    let answer = session.post(call("1", "slow"));
    assert_eq!(answer.json()["result"], serde_json::json!({}));
    assert_eq!(answer.text().matches("notifications/progress").count(), 2);
    let answer = session.post(call("2", "silent"));
    assert_eq!((answer.status, answer.code()), (504, -32011));
}

#[test]
fn progress_on_the_standing_stream_gives_a_plain_answer_more_time() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.first_byte = FIRST_BYTE);
    let session = Session::open(&gateway.client());
    let (tell, told) = mpsc::channel::<String>();
    let (tell, told) = (Mutex::new(tell), Mutex::new(Some(told)));
    upstream.script(move |request, _| {
        if request.method == "GET" {
            let told = told.lock().unwrap().take()?;
            return Some(Answer::Stream(Box::new(move |events| {
                while let Ok(token) = told.recv() {
                    let params = format!(r#"{{"progressToken":{token},"progress":1}}"#);
                    events.message(&format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#
                    ));
                }
            })));
        }
        let token = match request.tool().as_str() {
            "tells" => r#""mine""#,
            "tells of another" => "7",
            _ => return None,
        };
        // Three times as long as it may be silent.
        let (_say, said) = mpsc::channel::<()>();
        for _ in 0..9 {
            tell.lock().unwrap().send(token.to_owned()).unwrap();
            let _ = said.recv_timeout(FIRST_BYTE / 3);
        }
        Some(json(200, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id())))
    });
    let mut stream = session.listen();
    let tool = |id: &str, name: &str| {
        let params = format!(r#"{{"name":{name:?},"_meta":{{"progressToken":"mine"}}}}"#);
        session.post(request(id, "tools/call", &params))
    };
    let answer = tool("1", "tells");
    assert_eq!(answer.json()["result"], serde_json::json!({}), "{}", answer.text());
    assert!(stream.message().data.contains(r#""progressToken":"mine""#), "the client is told as well");
    let answer = tool("2", "tells of another");
    assert_eq!((answer.status, answer.code()), (504, -32011));
}
