//! Lists that are kept for a while: for whom, for how long, and what ends it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;
use throughline_gateway::Config;
use throughline_gateway::config::Cache;

use crate::harness::{
    Answer, Client, Clock, Gw, Request, Response, Session, Upstream, json, request, sse, until,
};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// Answers lists with how often it was asked for one, and with these members.
fn counting(upstream: &Upstream, members: &'static str, answer: fn(String) -> Answer) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    upstream.script(move |request: &Request, _| {
        let result = match request.rpc().as_str() {
            "server/discover" => {
                r#"{"supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":0}"#.to_owned()
            }
            list if list.ends_with("/list") => {
                let n = asked.fetch_add(1, Ordering::Relaxed) + 1;
                format!(r#"{{"n":{n}{members},"tools":[]}}"#)
            }
            _ => return None,
        };
        Some(answer(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())))
    });
    count
}

fn as_json(body: String) -> Answer {
    json(200, body)
}

fn as_sse(body: String) -> Answer {
    sse(200, &body)
}

fn gateway<const N: usize>(upstream: &Upstream, cache: Cache) -> Gw {
    let mut config = Config::for_upstream(&upstream.url()).unwrap();
    config.routes[0].cache = cache;
    config.routes[0].forward_headers = vec![TENANT];
    Gw::run(upstream, config, Clock::<N>::EFFECTS)
}

fn modern(client: &Client, method: &str, params: &str) -> Response {
    let client = client.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method);
    let answer = client.post(request("\"q\"", method, &format!("{{{params}{META}}}")));
    assert_eq!((answer.status, &answer.json()["id"]), (200, &"q".into()), "{}", answer.text());
    answer
}

fn n(answer: &Response) -> u64 {
    answer.json()["result"]["n"].as_u64().unwrap()
}

#[test]
fn a_modern_server_says_for_whom_and_for_how_long() {
    for (scope, others) in [("public", 1), ("private", 2)] {
        let upstream = Upstream::start();
        let members = if scope == "public" {
            r#","ttlMs":60000,"cacheScope":"public""#
        } else {
            r#","ttlMs":60000,"cacheScope":"private""#
        };
        counting(&upstream, members, as_json);
        let gateway = gateway::<16>(&upstream, Cache::default());
        let (alice, bob) = (gateway.client().with("x-tenant", "a"), gateway.client().with("x-tenant", "b"));
        let first = modern(&alice, "tools/list", "");
        assert_eq!((n(&first), first.headers.get("age")), (1, None));
        Clock::<16>::advance(Duration::from_secs(20));
        let again = modern(&alice, "tools/list", "");
        let left = again.json()["result"]["ttlMs"].as_u64().unwrap();
        assert!(n(&again) == 1 && (39_000..=40_000).contains(&left), "{left}");
        assert_eq!(again.headers.get("age"), Some("20"));
        assert_eq!(n(&modern(&bob, "tools/list", "")), others, "{scope}");
        let other_page = modern(&alice, "tools/list", r#""cursor":"2","#);
        assert_eq!(n(&other_page), others + 1, "another page is another answer");
        assert_eq!(n(&modern(&alice, "prompts/list", "")), others + 2);
        Clock::<16>::advance(Duration::from_secs(41));
        assert_eq!(n(&modern(&alice, "tools/list", "")), others + 3, "{scope}: it has lapsed");
    }
}

#[test]
fn what_is_stale_at_once_or_depends_on_answers_is_not_kept() {
    let upstream = Upstream::start();
    counting(&upstream, r#","ttlMs":0,"cacheScope":"public""#, as_json);
    let stale = gateway::<17>(&upstream, Cache::default());
    assert_eq!([1, 2].map(|_| n(&modern(&stale.client(), "tools/list", ""))), [1, 2]);
    let upstream = Upstream::start();
    counting(&upstream, r#","ttlMs":9000,"cacheScope":"public""#, as_json);
    let brings = gateway::<17>(&upstream, Cache::default());
    let params = r#""requestState":"s","#;
    assert_eq!([1, 2].map(|_| n(&modern(&brings.client(), "tools/list", params))), [1, 2]);
    let off = gateway::<17>(&upstream, Cache { lists: Some(Duration::ZERO), shared: false });
    assert_eq!(
        [3, 4].map(|_| n(&modern(&off.client(), "tools/list", ""))),
        [3, 4],
        "the route has the last word"
    );
}

#[test]
fn a_route_lets_lists_of_legacy_servers_be_kept() {
    for answer in [as_json as fn(String) -> Answer, as_sse] {
        let upstream = Upstream::start();
        counting(&upstream, "", answer);
        let keep = Some(Duration::from_secs(30));
        let own = gateway::<18>(&upstream, Cache { lists: keep, shared: false });
        let (one, other) = (Session::open(&own.client()), Session::open(&own.client()));
        let list = |session: &Session| session.post(request("5", "tools/list", "{}")).message();
        assert_eq!(list(&one), list(&one));
        assert!(list(&one).contains(r#""n":1"#) && list(&other).contains(r#""n":2"#), "each session its own");
        assert_eq!(one.client.delete().status, 200);
        assert_eq!(
            one.post(request("5", "tools/list", "{}")).status,
            404,
            "an ended session has nothing kept"
        );

        let shared = gateway::<18>(&upstream, Cache { lists: keep, shared: true });
        let (one, other) = (Session::open(&shared.client()), Session::open(&shared.client()));
        assert!(list(&one).contains(r#""n":3"#) && list(&other).contains(r#""n":3"#));
        Clock::<18>::advance(Duration::from_secs(31));
        assert!(list(&other).contains(r#""n":4"#));
    }
}

#[test]
fn a_change_that_the_server_tells_of_ends_it() {
    let upstream = Upstream::start();
    let count = counting(&upstream, "", as_json);
    let gateway = gateway::<19>(&upstream, Cache { lists: Some(Duration::from_secs(3600)), shared: true });
    let session = Session::open(&gateway.client());
    let list = || session.post(request("5", "tools/list", "{}")).message();
    let before = list();
    assert_eq!(list(), before);
    let mut stream = session.listen();
    let open = upstream.server().open().remove(0);
    upstream.wait_until("the stream", |server| server.has_stream(&open));
    let told = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    upstream.server().push(&open, &format!("data: {told}\n\n"));
    assert_eq!(stream.message().data, told);
    assert_ne!(list(), before);
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_list_that_was_on_its_way_when_it_changed_is_not_kept() {
    let upstream = Upstream::start();
    let gateway = gateway::<20>(&upstream, Cache { lists: Some(Duration::from_secs(3600)), shared: true });
    let session = Session::open(&gateway.client());
    assert_eq!(session.count(), "1");
    let mut stream = session.listen();
    let open = upstream.server().open().remove(0);
    upstream.wait_until("the stream", |server| server.has_stream(&open));
    let gate = upstream.hold(|request| request.rpc() == "tools/list");
    let (answer, waits) = (Arc::new(Mutex::new(None)), session.clone());
    let to = Arc::clone(&answer);
    let asking = std::thread::spawn(move || {
        *to.lock().unwrap() = Some(waits.post(request("5", "tools/list", "{}")).status);
    });
    upstream.wait_for("tools/list", 1);
    upstream
        .server()
        .push(&open, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n");
    stream.message();
    gate.open();
    asking.join().unwrap();
    assert_eq!(*answer.lock().unwrap(), Some(200));
    session.post(request("6", "tools/list", "{}"));
    until("the second question", || upstream.count("tools/list") == 2);
}
