//! Upstreams that want credentials: whose reach them, and how a client finds out where to get some.

use std::sync::Arc;
use std::time::Duration;

use throughline_gateway::Config;

use crate::harness::{
    Answer, Gate, Gw, Request, Session, Upstream, call, initialize_body, json, logged, parse, refused,
    request,
};

fn forwarding(upstream: &Upstream) -> Gw {
    Gw::start_with(upstream, |config| config.routes[0].forward_authorization = true)
}

fn authorizations(upstream: &Upstream) -> Vec<Option<String>> {
    upstream.log().iter().map(|request| request.headers.get("authorization").map(str::to_owned)).collect()
}

#[test]
fn authorization_does_not_pass_by_default() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client().with("authorization", "Bearer t0ken").with("x-tenant", "a");
    let session = Session::open(&client);
    assert_eq!(session.count(), "1");
    let _stream = session.listen();
    for request in upstream.log() {
        assert_eq!((request.headers.get("authorization"), request.headers.get("x-tenant")), (None, None));
    }
}

#[test]
fn where_the_route_says_so_it_goes_with_everything() {
    let upstream = Upstream::start();
    let gateway = forwarding(&upstream);
    let session = Session::open(&gateway.client().with("authorization", "Bearer t0ken-8813"));
    session.post(request("1", "logging/setLevel", r#"{"level":"info"}"#));
    assert_eq!(session.count(), "1");
    let stream = session.listen();
    // Restored by the call, with what the call brought: nothing was kept.
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
    upstream.wait_for("GET", 2);
    drop(stream);
    assert_eq!(session.client.delete().status, 200);
    upstream.wait_for("DELETE", 1);
    let methods = upstream.methods();
    for method in
        ["initialize", "notifications/initialized", "logging/setLevel", "tools/call", "GET", "DELETE"]
    {
        assert!(methods.iter().any(|known| known == method), "{method}");
    }
    let all = authorizations(&upstream);
    assert!(all.iter().all(|sent| sent.as_deref() == Some("Bearer t0ken-8813")), "{methods:?} {all:?}");
    assert!(!logged("t0ken-8813"));
}

#[test]
fn other_credentials_are_another_caller() {
    let upstream = Upstream::start();
    let gateway = Gw::start_file(
        &upstream,
        "[upstream]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\nforward_authorization = true\n\
         forward_headers = [\"x-tenant\"]",
    );
    let alice = gateway.client().with("authorization", "Bearer a");
    let bob = gateway.client().with("authorization", "Bearer b");
    let session = Session::open(&alice);
    assert_eq!(session.count(), "1");
    Session::open(&bob);
    assert_eq!(upstream.count("initialize"), 2, "answers are not shared");
    for other in [&bob, &gateway.client(), &alice.with("x-tenant", "t")] {
        let stolen = other.with("mcp-session-id", &session.id).post(call("1", "count"));
        assert_eq!((stolen.status, stolen.code()), (404, -32001));
    }
    // Callers that echo nothing share a session with those that present the same.
    let counts = |client: &crate::harness::Client| client.post(call("1", "count")).tool_text();
    assert_eq!((counts(&alice), counts(&bob), counts(&alice)), ("1".into(), "1".into(), "2".into()));
    assert_eq!(counts(&alice.with("x-tenant", "t")), "1");
    let tenants: Vec<_> = upstream
        .of("tools/call")
        .iter()
        .filter_map(|r| r.headers.get("x-tenant").map(str::to_owned))
        .collect();
    assert_eq!(tenants, ["t"]);
}

#[test]
fn what_nobody_is_there_to_vouch_for_is_left_to_expire() {
    let upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| {
        config.routes[0].forward_authorization = true;
        config.sessions.idle = Duration::from_millis(200);
        config.sessions.warm = Duration::from_millis(200);
    });
    let client = gateway.client().with("authorization", "Bearer t");
    let session = Session::open(&client);
    assert_eq!(session.count(), "1");
    // Isolated: ended by what its only request brought.
    let isolated =
        Gw::start_file(&upstream, "[upstream]\nurl = \"UPSTREAM\"\nforward_authorization = true\n");
    isolated.client().with("authorization", "Bearer u").post(call("1", "count"));
    upstream.wait_for("DELETE", 1);
    // After its release the session goes on in another.
    loop {
        if session.count() == "1" {
            break;
        }
        std::thread::yield_now();
        upstream.server().lose_sessions();
    }
    drop(gateway);
    let deleted: Vec<_> = upstream.of("DELETE");
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0].headers.get("authorization"), Some("Bearer u"));
}

#[test]
fn a_key_of_the_gateways_never_reaches_the_upstream() {
    let upstream = Upstream::start();
    // SHA-256 of "abc".
    let keys = "[callers.keys]\nrobot.sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n";
    let text = format!("{keys}[upstream]\nurl = \"UPSTREAM\"\nforward_authorization = true\n");
    let gateway = Gw::start_file(&upstream, &text);
    // There the key has a header of its own.
    let mistaken = gateway.client().with("authorization", "Bearer abc").post(call("1", "count"));
    assert_eq!(mistaken.status, 401);
    assert_eq!(upstream.log().len(), 0);
    let client = gateway.client().with("x-api-key", "abc").with("authorization", "Bearer t1");
    let session = Session::open(&client);
    assert_eq!(session.count(), "1");
    // The gateway knows the caller by the key: a new token is still the same user's.
    let refreshed = session.client.with("authorization", "Bearer t2");
    assert_eq!(refreshed.post(call("1", "count")).tool_text(), "2");
    assert_eq!(authorizations(&upstream).pop().unwrap().as_deref(), Some("Bearer t2"));
    assert!(upstream.log().iter().all(|request| request.headers.get("x-api-key").is_none()));

    let text = format!("{keys}[upstream]\nurl = \"{}\"\nforward_headers = [\"x-api-key\"]\n", upstream.url());
    let error = Config::parse(&text, "t.toml").unwrap().check().unwrap_err();
    assert_eq!(
        error.to_string(),
        "upstream: x-api-key opens this gateway, so it must not be passed on: take it out"
    );
}

/// What a server answers that wants a token.
fn challenged(request: &Request, status: u16) -> Option<Answer> {
    let has_token = request.headers.get("authorization") == Some("Bearer good");
    let challenge =
        "Bearer error=\"invalid_token\", resource_metadata=\"https://mcp.example.com/meta/data?x=1\"";
    (!has_token && request.target == "/mcp")
        .then(|| json(status, r#"{"error":"invalid_token"}"#).with("www-authenticate", challenge))
}

#[test]
fn a_challenge_passes_on_any_request_and_points_to_the_gateway() {
    for status in [401, 403] {
        let upstream = Upstream::start();
        let gateway = forwarding(&upstream);
        let known = Session::open(&gateway.client().with("authorization", "Bearer good"));
        let fresh = Session::open(&gateway.client().with("authorization", "Bearer stale"));
        assert_eq!(known.count(), "1");
        assert_eq!(fresh.count(), "1");
        let unbound = Session::open(&gateway.client().with("authorization", "Bearer other"));
        upstream.script(move |request, _| challenged(request, status));
        let host = gateway.address;
        let expected = format!(
            "Bearer error=\"invalid_token\", \
             resource_metadata=\"http://{host}/.well-known/oauth-protected-resource/mcp\""
        );
        let answers = [
            gateway.client().post(initialize_body("2025-06-18", "{}")),
            fresh.post(call("7", "count")),
            unbound.post(call("8", "count")),
            fresh.client.with("accept", "text/event-stream").get(),
            gateway.client().post(call("9", "count")),
        ];
        for (index, answer) in answers.iter().enumerate() {
            let body = if answer.status == status { answer.text() } else { String::new() };
            assert_eq!((answer.status, body.as_str()), (status, r#"{"error":"invalid_token"}"#), "{index}");
            assert_eq!(answer.headers.get("www-authenticate"), Some(expected.as_str()), "{index}");
        }
        // It was no loss.
        assert_eq!(upstream.server().open().len(), 3);
        assert_eq!(known.count(), "2");
    }
}

#[test]
fn a_401_that_means_the_session_is_still_a_loss() {
    let upstream = Upstream::start();
    let gateway = forwarding(&upstream);
    upstream.server().when_lost(|_| refused(401, "text/plain", "Unauthorized: Session not found"));
    let session = Session::open(&gateway.client().with("authorization", "Bearer good"));
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    assert_eq!(session.count(), "1");
}

#[test]
fn metadata_are_the_upstreams_but_about_the_gateway() {
    let upstream = Upstream::start();
    let text = "trusted_proxies = [\"127.0.0.1\"]\n[upstream]\nurl = \"UPSTREAM\"\n\
                [routes.files]\nurl = \"UPSTREAM\"\nforward_authorization = true";
    let gateway = Gw::start_file(&upstream, text);
    let metadata = r#"{"resource":"https://mcp.example.com/mcp","authorization_servers":["https://login.example.com"],"x":1.0}"#;
    upstream.script(move |request, _| match request.target.as_str() {
        "/.well-known/oauth-protected-resource/mcp" => Some(json(200, metadata)),
        "/meta/data?x=1" => Some(json(200, r#"{"resource":"x","named":true}"#)),
        "/mcp" => challenged(request, 401),
        _ => Some(json(404, "{}")),
    });
    let client = gateway.client();
    let at = |path: &str| client.at(path).get();
    for path in ["/.well-known/oauth-protected-resource/files/mcp", "/.well-known/oauth-protected-resource"] {
        let answer = at(path);
        let resource = format!("http://{}/files/mcp", gateway.address);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.text(), metadata.replace("https://mcp.example.com/mcp", &resource));
        assert_eq!(answer.headers.get("content-type"), Some("application/json"));
    }
    // The name is the client's own, and the scheme is what the proxy says that it came through, if it is believed.
    let named = client.with("host", "localhost:99").with("x-forwarded-proto", "https");
    let answer = named.at("/.well-known/oauth-protected-resource/files/mcp").get();
    assert_eq!(parse(&answer.body)["resource"], "https://localhost:99/files/mcp");
    let stranger = client.with("host", "evil.example").at("/.well-known/oauth-protected-resource/files/mcp");
    assert_eq!(stranger.get().status, 403);
    // Routes that pass nothing on have none.
    assert_eq!(at("/.well-known/oauth-protected-resource/mcp").status, 404);
    assert_eq!(client.at("/.well-known/oauth-protected-resource/files/mcp").delete().status, 405);
    // Nothing of the client's goes with it.
    assert!(authorizations(&upstream).iter().all(Option::is_none));
    // Where the upstream says where they are, they are read there.
    assert_eq!(client.at("/files/mcp").post(initialize_body("2025-06-18", "{}")).status, 401);
    assert_eq!(parse(at("/.well-known/oauth-protected-resource/files/mcp").body)["named"], true);
}

#[test]
fn an_upstream_without_metadata_has_none_here() {
    let upstream = Upstream::start();
    let gateway = forwarding(&upstream);
    for body in ["", "[]", "{", "\"x\""] {
        upstream.script(move |request, _| {
            (request.method == "GET")
                .then(|| refused(if body.is_empty() { 404 } else { 200 }, "text/html", body))
        });
        let answer = gateway.client().at("/.well-known/oauth-protected-resource/mcp").get();
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
}

#[test]
fn a_call_does_not_fail_by_the_stale_token_of_another() {
    let upstream = Upstream::start();
    let text = "[callers.keys]\nrobot.sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\n\
                [upstream]\nurl = \"UPSTREAM\"\nforward_authorization = true\n";
    let gateway = Gw::start_file(&upstream, text);
    let client = gateway.client().with("x-api-key", "abc");
    let session = Session::open(&client.with("authorization", "Bearer good"));
    assert_eq!(session.count(), "1");
    upstream.server().lose_sessions();
    // Both meet the loss. The stale one's attempt is under way before the other learns of it.
    let begun = Arc::new(Gate::default());
    let tried = Arc::clone(&begun);
    upstream.script(move |request, _| {
        let is_stale = request.headers.get("authorization") == Some("Bearer stale");
        match request.rpc().as_str() {
            "initialize" if is_stale => {
                tried.open();
                challenged(request, 401)
            }
            "tools/call" if !is_stale => {
                tried.wait();
                None
            }
            _ => None,
        }
    });
    let good = session.client.begin("POST", call("2", "count"));
    upstream.wait_for("tools/call", 2);
    let stale = session.client.with("authorization", "Bearer stale").begin("POST", call("1", "count"));
    assert_eq!(stale.answer().whole().status, 401);
    assert_eq!(good.answer().whole().tool_text(), "1");
}
