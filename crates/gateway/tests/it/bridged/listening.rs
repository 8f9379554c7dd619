//! `subscriptions/listen` at a server with a standing stream.

use serde_json::{Value, json};

use super::Modern;
use crate::harness::{Answer, Gw, Incoming, Upstream, request, until};
use crate::replicas::Shared;

pub(super) const CHANGED: &str =
    "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";

pub(super) fn listen(client: &Modern, id: &str, filter: &str) -> Incoming {
    let body = request(id, "subscriptions/listen", &client.params(&format!(r#""notifications":{filter}"#)));
    let stream = client.headers("subscriptions/listen", None).open("POST", body);
    assert_eq!(stream.status, 200);
    stream
}

/// The first message of a stream: what was granted.
pub(super) fn granted(stream: &mut Incoming, id: &Value) -> Value {
    let first = stream.message().json();
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], *id);
    first["params"]["notifications"].clone()
}

#[test]
fn subscribers_share_a_stream_and_each_hears_what_it_asked_for() {
    let upstream = Upstream::start();
    let mut gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    let everything =
        r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a:b","a:c"]}"#;
    let mut one = listen(&client, "\"s1\"", everything);
    let known = json!({ "toolsListChanged": true, "resourceSubscriptions": ["a:b", "a:c"] });
    assert_eq!(granted(&mut one, &json!("s1")), known, "prompts do not change there");
    let mut other = listen(&client, "2", r#"{"resourceSubscriptions":["a:b"]}"#);
    assert_eq!(granted(&mut other, &json!(2)), json!({ "resourceSubscriptions": ["a:b"] }));
    let session = upstream.server().given()[0].clone();
    assert_eq!((upstream.count("GET"), upstream.count("resources/subscribe")), (1, 2));
    upstream.server().push(&session, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"error\",\"data\":1}}\n\n");
    upstream.server().push(&session, CHANGED);
    let updated = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{\"uri\":\"a:b\"}}\n\n";
    upstream.server().push(&session, updated);
    let told = one.message().json();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "s1");
    assert_eq!(one.message().json()["params"]["uri"], "a:b");
    let told = other.message().json();
    assert_eq!(
        (&told["method"], &told["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!("a:b"))
    );
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 2);
    drop(one);
    upstream.wait_for("resources/unsubscribe", 1);
    assert_eq!(upstream.of("resources/unsubscribe")[0].json()["params"]["uri"], "a:c", "a:b is still wanted");
    let stopped = gateway.begin_stop();
    let last = other.message().json();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(2), &json!("complete")));
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 2);
    assert!(other.event().is_none());
    stopped.join().unwrap();
}

#[test]
fn a_subscription_outlives_the_servers_session() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    let mut stream = listen(&client, "1", r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}"#);
    granted(&mut stream, &json!(1));
    upstream.server().lose_sessions();
    assert_eq!(client.call("count").tool_text(), "1");
    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed", "it may have changed");
    assert_eq!(stream.message().json()["params"]["uri"], "a:b");
    let session = upstream.server().given().pop().unwrap();
    assert_eq!(upstream.server().setup(&session), [r#"resources/subscribe {"uri":"a:b"}"#]);
    upstream.wait_until("the stream follows", |server| server.has_stream(&session));
    upstream.server().push(&session, CHANGED);
    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
}

#[test]
fn what_nobody_can_be_told_is_not_granted() {
    let upstream = Upstream::start();
    upstream.server().announce(r#"{"tools":{}}"#);
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    let mut stream = listen(&client, "1", r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}"#);
    assert_eq!(granted(&mut stream, &json!(1)), json!({}));
    assert_eq!(upstream.count("resources/subscribe"), 0);
    for params in ["", r#""notifications":1"#, r#""notifications":{"toolsListChanged":"yes"}"#] {
        let answer = client.ask("subscriptions/listen", params);
        assert_eq!((answer.status, answer.code()), (400, -32602), "{params}");
    }
}

#[test]
fn what_a_listener_at_another_replica_wants_stays_subscribed_to() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let replicas = [shared.replica(&upstream), shared.replica(&upstream)];
    let clients = replicas.each_ref().map(Modern::new);
    let filter = r#"{"resourceSubscriptions":["a:b"]}"#;
    let [one, _other] = clients.each_ref().map(|client| {
        let mut stream = listen(client, "1", filter);
        assert_eq!(granted(&mut stream, &json!(1)), serde_json::from_str::<Value>(filter).unwrap());
        stream
    });
    drop(one);
    until("its replica lets go of it", || {
        let mut again = listen(&clients[0], "2", filter);
        granted(&mut again, &json!(2));
        upstream.count("resources/subscribe") > 2
    });
    assert_eq!(upstream.count("resources/unsubscribe"), 0, "the other replica's listener still wants it");
}

#[test]
fn a_resource_that_is_wanted_again_meanwhile_stays_subscribed_to() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = Modern::new(&gateway);
    let filter = r#"{"resourceSubscriptions":["a:b"]}"#;
    let mut stream = listen(&client, "1", filter);
    granted(&mut stream, &json!(1));
    let held = upstream.hold(|request| request.rpc() == "resources/unsubscribe");
    drop(stream);
    upstream.wait_for("resources/unsubscribe", 1);
    let mut again = listen(&client, "2", filter);
    assert_eq!(granted(&mut again, &json!(2)), json!({ "resourceSubscriptions": ["a:b"] }));
    held.open();
    upstream.wait_for("resources/subscribe", 3);
    let session = upstream.server().given()[0].clone();
    upstream.wait_until("the last word", |server| {
        server.setup(&session).last().is_some_and(|last| last.starts_with("resources/subscribe"))
    });
}

#[test]
fn a_change_that_is_told_on_a_calls_stream_is_heard_too() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        let id = request.id();
        (request.tool() == "work").then(|| {
            Answer::Stream(Box::new(move |events| {
                events.message(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[]}}}}"#));
            }))
        })
    });
    let client = Modern::new(&gateway);
    let mut stream = listen(&client, "1", r#"{"toolsListChanged":true}"#);
    granted(&mut stream, &json!(1));
    assert_eq!(client.call("work").json()["result"]["resultType"], "complete");
    assert_eq!(stream.message().json()["method"], "notifications/tools/list_changed");
}
