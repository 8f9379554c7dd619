//! The stateless server among proxies, browsers and hosts: who may reach it, how much it takes, how it ends.

use std::time::Duration;

use serde_json::json;
use throughline_reference::instance::Instance;
use throughline_reference::stateless::{Hosts, StatelessConfig};

use crate::http::PATIENCE;
use crate::mcp::Mcp;
use crate::server::{Stateless, modernised, quick};

fn status(server: &Stateless, header: &str, value: &str) -> u16 {
    server.client().with_header(header, value).try_call("echo", json!({"message": "hi"})).status
}

#[test]
fn only_known_hosts_and_origins_are_served() {
    let server = Stateless::start(quick());
    for (host, expected) in [("localhost:1", 200), ("[::1]", 200), ("attacker.example", 403)] {
        assert_eq!(status(&server, "Host", host), expected, "{host}");
    }
    for (origin, expected) in
        [("http://localhost:8080", 200), ("https://attacker.example", 403), ("null", 403)]
    {
        assert_eq!(status(&server, "Origin", origin), expected, "{origin}");
    }

    let public = Stateless::start(StatelessConfig {
        hosts: Hosts::Named(vec!["mcp.example".to_owned()]),
        origins: vec!["https://app.example:443".to_owned()],
        ..quick()
    });
    assert_eq!(status(&public, "Host", "mcp.example"), 200);
    assert_eq!(status(&public, "Host", "other.example"), 403);
    assert_eq!(status(&public, "Origin", "https://app.example"), 200);
    let any = Stateless::start(StatelessConfig { hosts: Hosts::Any, ..quick() });
    assert_eq!(status(&any, "Host", "whatever.example"), 200);
}

#[test]
fn bodies_have_a_limit() {
    let server = Stateless::start(quick());
    let call = |length: usize| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"message": "x".repeat(length)}}});
        server.client().post(&message)
    };
    // Too long for the tool, but not for the server.
    assert_eq!(call(1 << 17).message()["result"]["isError"], true);
    assert_eq!(call(1 << 18).status, 413);
    assert_eq!(server.client().post_bytes(b"no JSON").status, 415);
}

#[test]
fn what_is_too_much_or_too_slow_is_turned_away() {
    let server = Stateless::start(StatelessConfig {
        requests: 1,
        body_patience: Duration::from_millis(50),
        ..quick()
    });
    let slow = server.client().with_header("Content-Length", "9").bare("POST");
    assert_eq!(slow.status, 408);

    let (caller, params) =
        modernised(&server.client(), "subscriptions/listen", json!({"notifications": {}}), json!({}));
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
    let stream = caller.open(&message);
    assert_eq!(stream.next()["method"], "notifications/subscriptions/acknowledged");
    let busy = server.client().try_call("echo", json!({"message": "hi"}));
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")));
    let alive = Mcp::new(format!("{}/healthz", server.base)).bare("GET");
    assert_eq!(alive.status, 200, "whoever asks for that is not turned away");
    drop(stream);
    // The place is free again once the server has seen that its client is gone.
    let freed = (0..PATIENCE.as_millis())
        .any(|_| server.client().try_call("echo", json!({"message": "hi"})).status == 200);
    assert!(freed);
}

#[test]
fn hosts_can_see_whether_it_lives() {
    let server = Stateless::start(quick());
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = Mcp::new(format!("{}{path}", server.base)).bare("GET");
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
    }
}

#[test]
fn what_is_under_way_may_end_when_the_server_stops() {
    let mut server = Stateless::start(quick());
    let params = json!({"name": "compute_primes", "arguments": {"limit": 100_000_000}});
    let (caller, params) = modernised(&server.client(), "tools/call", params, json!({"progressToken": 1}));
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let stream = caller.open(&message);
    assert_eq!(stream.next()["method"], "notifications/progress");
    server.stop();
    assert_eq!(stream.next_response()["result"]["structuredContent"]["primeCount"], 5_761_455);
    drop(server);
    stream.wait_for_its_end();
}

#[test]
fn the_host_names_the_instance() {
    let host = |variables: &'static [(&str, &str)]| {
        Instance::of_host(move |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(host(&[("WEBSITE_INSTANCE_ID", "abc"), ("HOSTNAME", "web-1")]).as_str(), "abc");
    assert_eq!(host(&[("HOSTNAME", "web-1")]).as_str(), "web-1");
    assert_eq!(host(&[("WEBSITE_INSTANCE_ID", "not a name"), ("HOSTNAME", "web-1")]).as_str(), "web-1");
    let (one, other) = (host(&[]), host(&[]));
    assert_eq!(one.as_str().len(), 16);
    assert_ne!(one, other);
}
