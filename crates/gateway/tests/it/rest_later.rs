//! REST calls whose result is asked for later.

use std::time::Duration;

use crate::harness::{Client, Gw, Response, Upstream, until};
use crate::replicas::Shared;

fn tool(gateway: &Gw, prefer: &str) -> Response {
    gateway.client().without("accept").at("/rest/tools/count").with("prefer", prefer).post("{}")
}

/// Where the result will be, as a path.
fn location(answer: &Response, gateway: &Gw) -> String {
    assert_eq!((answer.status, answer.headers.get("retry-after")), (202, Some("1")), "{}", answer.text());
    let location = answer.headers.get("location").expect("where to ask").to_owned();
    assert_eq!(answer.json()["location"], location.as_str());
    location.strip_prefix(&format!("http://{}", gateway.address)).expect("a whole URL").to_owned()
}

fn at(gateway: &Gw, location: &str) -> Client {
    gateway.client().without("accept").without("content-type").at(location)
}

#[test]
fn the_result_is_where_the_answer_says() {
    let upstream = Upstream::start();
    let gate = upstream.hold(|request| request.tool() == "count");
    let gateway = Gw::start(&upstream);
    let there = location(&tool(&gateway, "respond-async"), &gateway);
    let call = at(&gateway, &there);
    upstream.wait_for("tools/call", 1);
    assert_eq!(location(&call.get(), &gateway), there, "it runs");
    gate.open();
    until("the result", || call.get().status == 200);
    for _ in 0..2 {
        let answer = call.get();
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"text":"1"}"#));
    }
    assert_eq!(call.delete().status, 204);
    assert_eq!((call.get().status, call.delete().status), (404, 404));
    assert_eq!(upstream.count("tools/call"), 1);
    let refused = at(&gateway, &there).with("content-type", "application/json").post("{}");
    assert_eq!((refused.status, refused.headers.get("allow")), (405, Some("GET, DELETE")));
}

#[test]
fn what_is_there_in_time_is_answered_at_once() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let answer = tool(&gateway, "respond-async, wait=20");
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"text":"1"}"#));
    assert_eq!(answer.headers.get("location"), None);
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_upstream() {
    let upstream = Upstream::start();
    let gate = upstream.hold(|request| request.tool() == "count");
    let gateway = Gw::start(&upstream);
    let call = at(&gateway, &location(&tool(&gateway, "respond-async"), &gateway));
    upstream.wait_for("tools/call", 1);
    assert_eq!(call.delete().status, 204);
    upstream.wait_for("notifications/cancelled", 1);
    let cancelled = &upstream.of("notifications/cancelled")[0].json()["params"]["requestId"];
    assert_eq!(*cancelled, upstream.of("tools/call")[0].json()["id"]);
    until("it is forgotten", || call.get().status == 404);
    gate.open();
}

#[test]
fn a_result_is_its_callers_alone() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(
        &upstream,
        "[routes.a]\nurl = \"UPSTREAM\"\nforward_authorization = true\n[routes.b]\nurl = \"UPSTREAM\"\nforward_authorization = true\n",
    );
    let me = gateway.client().without("accept").with("authorization", "Bearer me");
    let answer = me.at("/a/rest/tools/count").with("prefer", "respond-async").post("{}");
    let there = location(&answer, &gateway);
    assert!(there.starts_with("/a/rest/calls/"));
    let me = me.without("content-type");
    until("the result", || me.at(&there).get().status == 200);
    let other = there.replace("/a/", "/b/");
    let you = me.with("authorization", "Bearer you");
    for stranger in
        [you.at(&there), me.at(&other), me.at(&there[..there.len() - 1]), me.at("/a/rest/calls/x")]
    {
        assert_eq!((stranger.get().status, stranger.delete().status), (404, 404));
    }
    assert_eq!(me.at(&there).get().status, 200);
}

#[test]
fn any_replica_tells_and_cancels() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let gate = upstream.hold(|request| request.tool() == "count");
    let calls = [(); 2].map(|()| at(&other, &location(&tool(&one, "respond-async"), &one)));
    upstream.wait_for("tools/call", 2);
    assert_eq!(calls[0].get().status, 202);
    assert_eq!(calls[1].delete().status, 204);
    upstream.wait_for("notifications/cancelled", 1);
    assert_eq!(calls[1].get().status, 404);
    gate.open();
    until("the result", || calls[0].get().status == 200);
}

#[test]
fn a_call_that_was_lost_with_its_process_may_have_been_executed() {
    let upstream = Upstream::start();
    let gate = upstream.hold(|request| request.tool() == "count");
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.shutdown = Duration::from_secs(1));
    let there = location(&tool(&gateway, "respond-async"), &gateway);
    upstream.wait_for("tools/call", 1);
    let after = gateway.after_a_crash();
    let answer = at(&after, &there).get();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &(-32012).into()));
    gate.open();
}
