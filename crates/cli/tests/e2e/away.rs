//! While the upstream is away callers are told so, and when it is back they go on.

use serde_json::json;

use crate::harness::{Answer, Gateway, Mcp, Upstream, over_each_upstream, until};

over_each_upstream!(a_session_waits_for_its_upstream, an_idless_caller_is_told_too);

fn a_session_waits_for_its_upstream(mut upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);

    upstream.kill9();
    assert_is_away(&client.try_call("increment", json!({})));
    assert_is_away(&client.try_call("increment", json!({})));
    upstream.start_again();
    assert_goes_on(&client);
}

fn an_idless_caller_is_told_too(mut upstream: Upstream) {
    upstream.kill9();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let caller = Mcp::new(gateway.url());
    assert_is_away(&caller.try_call("increment", json!({})));
    upstream.start_again();
    assert_goes_on(&caller);
}

/// The gateway may spare a server that it has just found away, but not for long; and nothing that it refused
/// until then was executed.
fn assert_goes_on(client: &Mcp) {
    let first = until("a call to succeed", || {
        let answer = client.try_call("increment", json!({}));
        if answer.status == 200 {
            return Some(answer.message());
        }
        assert_is_away(&answer);
        None
    });
    assert_eq!(first["result"]["structuredContent"], json!({"value": 1}), "{first}");
    assert_eq!(client.increment(), 2);
}

/// A gateway's status, and a JSON-RPC error for the request that was made.
fn assert_is_away(answer: &Answer) {
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    let message = answer.message();
    assert_eq!(message["id"], answer.request_id, "{answer:?}");
    assert!(message["error"]["code"].is_i64() && message["error"]["message"].is_string(), "{answer:?}");
}
