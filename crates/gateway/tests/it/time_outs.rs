//! How long the gateway waits for an upstream.

use std::sync::mpsc;
use std::time::Duration;

use crate::harness::{Answer, Gw, Session, Upstream, call};

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
