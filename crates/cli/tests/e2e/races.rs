//! Many requests at once make one session, and one recovery.

use std::thread;

use serde_json::json;

use crate::harness::{Gateway, Mcp, Upstream, over_each_upstream};

const AT_ONCE: i64 = 50;

over_each_upstream!(first_calls_at_once_make_one_session, calls_on_a_lost_session_recover_it_once);

fn first_calls_at_once_make_one_session(upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let caller = Mcp::new(gateway.url());
    // Callers that know nothing of each other all use the same request id.
    let params = json!({"name": "increment", "arguments": {}});
    let request = json!({"jsonrpc": "2.0", "id": "3", "method": "tools/call", "params": params});
    let counts = at_once(|| {
        let message = caller.post(&request).message();
        assert_eq!(message["id"], "3");
        message["result"]["structuredContent"]["value"].as_i64().expect("a number")
    });
    assert_eq!(counts, (1..=AT_ONCE).collect::<Vec<_>>());
    assert_eq!(caller.call("session", json!({}))["initializes"], 1);
}

fn calls_on_a_lost_session_recover_it_once(mut upstream: Upstream) {
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    assert_eq!(client.increment(), 1);

    upstream.restart();
    assert_eq!(at_once(|| client.increment()), (1..=AT_ONCE).collect::<Vec<_>>());
    assert_eq!(client.call("session", json!({}))["initializes"], 1, "in the new process");

    upstream.drop_sessions();
    assert_eq!(at_once(|| client.increment()), (1..=AT_ONCE).collect::<Vec<_>>());
    assert_eq!(client.call("session", json!({}))["initializes"], 2, "one more");
}

/// The counts that so many calls got, in ascending order: all different if one session counted.
fn at_once(call: impl Fn() -> i64 + Sync) -> Vec<i64> {
    let mut counts: Vec<i64> = thread::scope(|scope| {
        let calls: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(&call)).collect();
        calls.into_iter().map(|call| call.join().expect("a count")).collect()
    });
    counts.sort_unstable();
    counts
}
