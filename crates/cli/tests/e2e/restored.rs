//! What comes back with a session: log level, subscriptions, the client's open stream.

use serde_json::json;

use crate::harness::{Gateway, Mcp, Upstream, until};

#[test]
fn log_level_and_subscription_survive_the_upstream() {
    let mut upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    let stream = client.listen();
    client.request("logging/setLevel", json!({"level": "warning"}));
    client.request("resources/subscribe", json!({"uri": "counter://value"}));
    assert_eq!(client.increment(), 1);
    stream.next_with_method("notifications/resources/updated");

    upstream.restart();
    assert_eq!(client.increment(), 1);
    assert_eq!(client.call("log", json!({"text": "quiet"})), json!({"sent": false}));
    stream.next_with_method("notifications/resources/updated");
}

#[test]
fn an_open_stream_goes_on_behind_the_loss() {
    for mut upstream in [Upstream::rmcp(), Upstream::python1(), Upstream::python2()] {
        let gateway = Gateway::start(&upstream.url(), &[]);
        let client = Mcp::connected(gateway.url());
        let stream = client.listen();
        upstream.restart();
        // The gateway reopens the upstream's stream behind the recovery, and a server may drop what it has to
        // say before: one of several messages must arrive.
        until("a message in the stream that was open before", || {
            client.call("log", json!({"text": "still there"}));
            stream.next_within_a_second()
        });
    }
}

#[test]
fn a_set_up_call_is_made_again_in_the_session_that_replaces_the_lost_one() {
    let mut upstream = Upstream::rmcp();
    let url = upstream.url();
    let mut gateway =
        Gateway::configured(&format!("[upstream]\nurl = {url:?}\nrestore.calls = [\"set_workspace\"]\n"));
    let client = Mcp::connected(gateway.url());
    let workspace = || client.call("workspace", json!({}))["workspace"].clone();
    assert_eq!(workspace(), json!(null));
    client.call("set_workspace", json!({"path": "/srv/first"}));
    client.call("set_workspace", json!({"path": "/srv/second"}));
    client.increment();

    upstream.restart();
    assert_eq!(workspace(), "/srv/second", "the last call counts");
    assert_eq!(client.increment(), 1, "what is not listed is not done again");

    gateway.restart();
    upstream.restart();
    assert_eq!(workspace(), "/srv/second", "both were killed");
}
