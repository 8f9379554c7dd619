//! Tokens that the gateway gets for its upstreams: its own, and one for each caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use throughline_gateway::Config;

use crate::entra::{Entra, Key, bearing, claims, count};
use crate::harness::{Clock, Gw, Request, Session, Upstream, call, json as answer, logged};

const SECRET: &str = "hush-81c2";

/// A token endpoint that numbers its tokens; for a caller's, it says whose by the token's length.
fn token_server(
    answers: impl Fn(&Request, usize) -> Option<(u16, String)> + Send + Sync + 'static,
) -> Upstream {
    let server = Upstream::start();
    let given = Arc::new(AtomicUsize::new(0));
    server.script(move |request, _| {
        let number = given.fetch_add(1, Ordering::Relaxed) + 1;
        let (status, body) = answers(request, number).unwrap_or_else(|| {
            (200, json!({ "access_token": format!("given-{number}"), "token_type": "Bearer", "expires_in": 3600 }).to_string())
        });
        Some(answer(status, body))
    });
    server
}

fn config(upstream: &Upstream, endpoint: &Upstream, kind: &str, more: &str) -> Config {
    let text = format!(
        "[upstream]\nurl = \"{}\"\nanonymous = \"shared\"\ntoken.grant = \"{kind}\"\ntoken.url = \"http://{}/token\"\ntoken.client_id = \"gateway & co\"\ntoken.client_secret_env = \"S\"\ntoken.scopes = [\"a/.default\", \"b\"]\n{more}",
        upstream.url(),
        endpoint.address
    );
    let mut config = Config::parse(&text, "t.toml").unwrap();
    config.resolve(&|_| Some(SECRET.to_owned())).unwrap();
    config
}

/// What the upstream was sent, in order, each once.
fn authorizations(upstream: &Upstream) -> Vec<String> {
    let mut all: Vec<String> =
        upstream.log().iter().map(|r| r.headers.get("authorization").unwrap_or("none").to_owned()).collect();
    all.dedup();
    all
}

#[test]
fn the_gateways_own_token_is_got_once_and_anew_before_it_expires() {
    let effects = Clock::<13>::EFFECTS;
    let (upstream, endpoint) = (Upstream::start(), token_server(|_, _| None));
    let gateway = Gw::run(&upstream, config(&upstream, &endpoint, "client-credentials", ""), effects);
    // The client's own is not passed on.
    let client = gateway.client().with("authorization", "Bearer of-the-client");
    assert_eq!((count(&client), count(&client)), ("1".into(), "2".into()));
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    assert_eq!((endpoint.log().len(), authorizations(&upstream)), (1, vec!["Bearer given-1".to_owned()]));
    let asked = &endpoint.log()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/token"));
    assert_eq!(asked.headers.get("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(
        asked.text(),
        "grant_type=client_credentials&client_id=gateway%20%26%20co&client_secret=hush-81c2&scope=a%2F.default%20b"
    );
    // 300 s before its end, not earlier.
    Clock::<13>::advance(Duration::from_secs(3290));
    assert_eq!(session.count(), "2");
    assert_eq!(endpoint.log().len(), 1);
    Clock::<13>::advance(Duration::from_secs(20));
    assert_eq!(session.count(), "3");
    assert_eq!(
        (endpoint.log().len(), authorizations(&upstream).pop()),
        (2, Some("Bearer given-2".to_owned()))
    );
    for secret in [SECRET, "given-1", "given-2"] {
        assert!(!logged(secret), "{secret}");
    }
}

#[test]
fn each_caller_has_a_token_of_their_own_for_theirs() {
    for (kind, assertion) in [("on-behalf-of", "assertion"), ("token-exchange", "subject_token")] {
        let (key, upstream) = (Key::new("k"), Upstream::start());
        let entra = Entra::start(&[&key]);
        let endpoint = token_server(|_, _| None);
        let config = config(&upstream, &endpoint, kind, &entra.tokens(""));
        let gateway = Gw::run(&upstream, config, throughline_gateway::Effects::REAL);
        let (alice, bob) = (key.token(&claims("alice")), key.token(&claims("bob")));
        for _ in 0..2 {
            for token in [&alice, &bob] {
                count(&bearing(&gateway, token));
            }
        }
        assert_eq!(endpoint.log().len(), 2, "one for each");
        for (asked, token) in endpoint.log().iter().zip([&alice, &bob]) {
            assert!(asked.text().contains(&format!("&{assertion}={token}&")), "{}", asked.text());
        }
        let sent = upstream.log();
        // By session: whose it is, it carries the token of, and never the one that was for the gateway.
        for request in &sent {
            let authorization = request.headers.get("authorization").unwrap();
            assert!(authorization.starts_with("Bearer given-"), "{authorization}");
        }
        let calls = upstream.of("tools/call");
        let of = |n: usize| (calls[n].session().unwrap(), calls[n].headers.get("authorization").unwrap());
        assert_eq!((of(0), of(1)), (of(2), of(3)));
        assert_ne!(of(0).0, of(1).0);
        assert_ne!(of(0).1, of(1).1);
        assert!(!logged(&alice) && !logged("given-1"));
    }
}

#[test]
fn a_refusal_says_who_has_to_do_something() {
    let (key, upstream) = (Key::new("k"), Upstream::start());
    let entra = Entra::start(&[&key]);
    let endpoint = token_server(|request, number| match number {
        1 => Some((400, r#"{"error":"interaction_required","error_description":"secret words"}"#.into())),
        2 => Some((401, r#"{"error":"invalid_client","error_description":"secret words"}"#.into())),
        3 => Some((200, "{}".into())),
        _ if request.text().is_empty() => unreachable!(),
        _ => None,
    });
    let config = config(&upstream, &endpoint, "on-behalf-of", &entra.tokens(""));
    let gateway = Gw::run(&upstream, config, throughline_gateway::Effects::REAL);
    let client = bearing(&gateway, &key.token(&claims("alice")));
    let log_in = client.post(call("1", "count"));
    assert_eq!(log_in.status, 401, "{}", log_in.text());
    assert!(log_in.headers.get("www-authenticate").unwrap().contains("invalid_token"));
    for _ in 0..2 {
        let trouble = client.post(call("1", "count"));
        assert_eq!((trouble.status, trouble.code()), (502, -32014));
        assert!(trouble.text().contains("the call was not executed"));
    }
    assert_eq!(upstream.log().len(), 0);
    assert_eq!(count(&client), "1");
    assert!(logged("401: invalid_client") && !logged("secret words"));
}

#[test]
fn a_token_endpoint_that_is_away_is_missed_only_when_the_token_expires() {
    let effects = Clock::<11>::EFFECTS;
    let upstream = Upstream::start();
    let mut endpoint = token_server(|_, _| None);
    let gateway = Gw::run(&upstream, config(&upstream, &endpoint, "client-credentials", ""), effects);
    assert_eq!(count(&gateway.client()), "1");
    endpoint.go_away();
    Clock::<11>::advance(Duration::from_secs(3500));
    assert_eq!(count(&gateway.client()), "2");
    Clock::<11>::advance(Duration::from_secs(101));
    assert_eq!(gateway.client().post(call("1", "count")).status, 502);
    endpoint.come_back();
    assert_eq!(count(&gateway.client()), "3");
}
