//! Clients of the oldest transport: a stream, and an endpoint for their messages that it names.

use std::time::Duration;

use crate::harness::{
    Answer, Client, Gw, Incoming, Upstream, call, initialize_body, json, refused, request, until,
};
use crate::replicas::Shared;

const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A client with its stream, and the endpoint that the stream named.
struct Old {
    stream: Incoming,
    endpoint: String,
    client: Client,
}

impl Old {
    fn connect(client: &Client, path: &str) -> Self {
        let mut stream = client.with("accept", "text/event-stream").at(path).open("GET", "");
        assert_eq!(stream.status, 200);
        assert!(stream.headers.get("content-type").unwrap().starts_with("text/event-stream"));
        assert_eq!(stream.headers.get("mcp-session-id"), None);
        let endpoint = stream.event().unwrap().data;
        Old { stream, client: client.at(&endpoint), endpoint }
    }

    fn open(gateway: &Gw) -> Self {
        Self::connect(&gateway.client(), "/sse").begin()
    }

    fn begin(mut self) -> Self {
        self.send(initialize_body("2024-11-05", r#"{"sampling":{}}"#));
        let welcome = self.stream.message().json();
        assert_eq!(
            (&welcome["id"], &welcome["result"]["serverInfo"]["name"]),
            (&0.into(), &"scripted".into())
        );
        self.send(READY);
        self
    }

    fn send(&self, body: impl AsRef<[u8]>) {
        let answer = self.client.post(body);
        assert_eq!((answer.status, answer.text().as_str()), (202, ""));
    }

    fn count(&mut self, id: &str) -> String {
        self.send(call(id, "count"));
        let answer = self.stream.message().json();
        assert_eq!(answer["id"].to_string(), id);
        answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

fn note(n: u32) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","data":{n}}}}}"#)
}

/// The session that the upstream opened last.
fn inner(upstream: &Upstream) -> String {
    upstream.server().given().pop().unwrap()
}

#[test]
fn such_a_client_has_a_session_like_any_other() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let mut old = Old::open(&gateway);
    assert!(old.endpoint.starts_with("/message?sessionId="), "{}", old.endpoint);
    assert_eq!((old.count("1"), old.count("\"two\"")), ("1".into(), "2".into()));
    assert_eq!(Old::open(&gateway).count("1"), "1", "another has another");
    upstream.server().lose_sessions();
    assert_eq!(old.count("3"), "1", "the session is restored");
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn what_the_server_says_unasked_comes_on_the_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let mut old = Old::open(&gateway);
    upstream.wait_for("GET", 1);
    let inner = inner(&upstream);
    upstream.wait_until("the stream is open", |server| server.has_stream(&inner));
    upstream.server().push(&inner, &format!("data: {}\n\n", note(1)));
    assert_eq!(old.stream.message().data, note(1));
    let question = r#"{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{"x":1.0}}"#;
    upstream.server().push(&inner, &format!("data: {question}\n\n"));
    let asked = old.stream.message().json();
    old.send(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"ok":true}}}}"#, asked["id"]));
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].json()["id"], 5);
}

#[test]
fn a_streaming_answer_comes_message_by_message() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    upstream.script(|request, _| {
        (request.tool() == "slow").then(|| {
            let id = request.id();
            Answer::Stream(Box::new(move |events| {
                for n in 0..3 {
                    events.write(&format!("id: up-{n}\ndata: {}\n\n", note(n)));
                }
                events.message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            }))
        })
    });
    let mut old = Old::open(&gateway);
    old.send(call("7", "slow"));
    for n in 0..3 {
        assert_eq!(old.stream.message().data, note(n));
    }
    assert_eq!(old.stream.message().data, r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
}

#[test]
fn what_fails_is_told_on_the_stream_under_the_requests_id() {
    let mut upstream = Upstream::start();
    let gateway = Gw::start_with(&upstream, |config| config.timeouts.connect = Duration::from_millis(100));
    let mut old = Old::open(&gateway);
    upstream.script(|request, _| match request.tool().as_str() {
        "nameless" => Some(json(400, r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"no"}}"#)),
        "garbage" => Some(refused(200, "text/html", "<p>")),
        _ => None,
    });
    for (tool, code) in [("nameless", -32602), ("garbage", -32014)] {
        old.send(call("\"x\"", tool));
        let answer = old.stream.message().json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&"x".into(), &code.into()), "{tool}");
    }
    upstream.go_away();
    old.send(call("9", "count"));
    let answer = old.stream.message().json();
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&9.into(), &(-32010).into()));
}

#[test]
fn the_session_ends_with_the_stream() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let mut old = Old::open(&gateway);
    assert_eq!(old.count("1"), "1");
    let (client, inner) = (old.client.clone(), inner(&upstream));
    drop(old);
    upstream.wait_until("the session is ended", |server| server.deleted().contains(&inner));
    let answer = client.post(call("2", "count"));
    assert_eq!((answer.status, answer.code()), (404, -32001));
    let id = client.post("{").status;
    assert_eq!(id, 400, "what is no message is told as such");
}

#[test]
fn a_client_that_comes_back_without_initialize_is_served() {
    // Clients whose stream broke connect again, and go on with the new endpoint as if nothing had happened.
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    drop(Old::open(&gateway));
    let mut old = Old::connect(&gateway.client(), "/sse");
    assert_eq!((old.count("4"), old.count("5")), ("1".into(), "2".into()));
    assert_eq!(upstream.server().violations(), Vec::<String>::new());
}

#[test]
fn an_endpoint_is_its_callers_and_its_routes_alone() {
    let upstream = Upstream::start();
    let file = "[routes.one]\nurl = \"UPSTREAM\"\nforward_authorization = true\n\
                [routes.other]\nurl = \"UPSTREAM\"\nforward_authorization = true\n\
                [routes.plain]\nurl = \"UPSTREAM\"\nmode = \"stateless\"\n";
    let gateway = Gw::start_file(&upstream, file);
    let (me, you) = (
        gateway.client().with("authorization", "Bearer me"),
        gateway.client().with("authorization", "Bearer you"),
    );
    let mut old = Old::connect(&me, "/one/sse").begin();
    assert!(old.endpoint.starts_with("/one/message?sessionId="), "{}", old.endpoint);
    assert_eq!(old.count("1"), "1");
    let elsewhere = old.endpoint.replace("/one/", "/other/");
    let forged = old.endpoint.replace("sessionId=a", "sessionId=b");
    for client in [you.at(&old.endpoint), me.at(&elsewhere), me.at(&forged), me.at("/one/message")] {
        assert_eq!(client.post(call("2", "count")).status, 404);
    }
    assert_eq!(old.count("3"), "2");
    assert_eq!(me.at("/plain/sse").get().status, 404, "a route without sessions has no such transport");
    for (path, allow) in [("/one/sse", "GET"), (old.endpoint.as_str(), "POST")] {
        let method = if allow == "GET" { "POST" } else { "GET" };
        let answer = me.at(path).open(method, "{}").whole();
        assert_eq!((answer.status, answer.headers.get("allow")), (405, Some(allow)));
    }
    assert_eq!(me.with("accept", "application/json").at("/one/sse").get().status, 406);
}

#[test]
fn a_message_may_reach_any_replica() {
    let (upstream, shared) = (Upstream::start(), Shared::new());
    let (one, other) = (shared.replica(&upstream), shared.replica(&upstream));
    let mut old = Old::connect(&one.client(), "/sse");
    // Every message from now on goes to the replica that does not hold the stream.
    old.client = other.client().at(&old.endpoint);
    let mut old = old.begin();
    for n in 1..=5 {
        assert_eq!(old.count(&n.to_string()), n.to_string());
    }
    upstream.wait_for("GET", 1);
    let listened = || upstream.server().open().into_iter().find(|one| upstream.server().has_stream(one));
    until("the stream to be open", || listened().is_some());
    let inner = listened().unwrap();
    upstream.server().push(&inner, &format!("data: {}\n\n", note(1)));
    assert_eq!(old.stream.message().data, note(1));
    let client = old.client.clone();
    drop(old);
    upstream.wait_until("the session is ended", |server| server.deleted().contains(&inner));
    until("it is known elsewhere", || client.post(request("1", "ping", "{}")).status == 404);
}

#[test]
fn a_store_that_goes_away_ends_no_session() {
    let (upstream, mut shared) = (Upstream::start(), Shared::new());
    let metrics = |config: &mut throughline_gateway::Config| {
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
    };
    let gateway = shared.replica_with(&upstream, metrics);
    let mut old = Old::connect(&gateway.client(), "/sse").begin();
    assert_eq!(old.count("1"), "1");
    shared.redis.kill9();
    let failed = || {
        let told = gateway.watcher().at("/metrics").get().text();
        told.lines().any(|line| {
            line.starts_with("throughline_store_errors_total")
                && (line.contains("\"append\"") || line.contains("\"read\""))
                && !line.ends_with(" 0")
        })
    };
    until("it to be noticed that the store is away", failed);
    assert_eq!((old.count("2"), old.count("3")), ("2".into(), "3".into()));
    shared.redis.start_again();
    // What is sent elsewhere finds it again.
    let other = shared.replica(&upstream);
    let elsewhere = other.client().at(&old.endpoint);
    until("it is known elsewhere", || elsewhere.post(request("9", "ping", "{}")).status == 202);
}
