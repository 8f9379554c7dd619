//! Upstreams of the oldest transport: a stream that names an endpoint, which is where messages go.

use std::collections::HashMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throughline_gateway::config::Transport;

use crate::harness::{Answer, Gw, Request, Session, Upstream, call, json, refused, request};

/// A connection, as the server sees it.
struct Connection {
    say: mpsc::Sender<String>,
    count: u32,
}

#[derive(Default)]
struct Older {
    connections: Mutex<HashMap<String, Connection>>,
    /// What stands before the path of the endpoint that it names.
    before: Mutex<String>,
}

impl Older {
    /// Lets the upstream be such a server.
    fn start(upstream: &Upstream) -> Arc<Self> {
        let server = Arc::new(Older::default());
        let answering = Arc::clone(&server);
        upstream.script(move |request, _| Some(answering.answer(request)));
        server
    }

    fn answer(&self, request: &Request) -> Answer {
        match (request.method.as_str(), request.target.split_once("?id=")) {
            ("GET", _) => self.connect(),
            ("POST", Some(("/messages", id))) => self.post(id, request),
            _ => refused(405, "text/plain", "Method Not Allowed"),
        }
    }

    fn connect(&self) -> Answer {
        let mut connections = self.connections.lock().unwrap();
        let id = format!("connection-{}-{self:p}", connections.len() + 1);
        let (say, said) = mpsc::channel();
        connections.insert(id.clone(), Connection { say, count: 0 });
        let endpoint = format!("{}/messages?id={id}", self.before.lock().unwrap());
        Answer::Stream(Box::new(move |events| {
            events.write(&format!(": hello\n\nevent: endpoint\ndata: {endpoint}\n\n"));
            loop {
                match said.recv_timeout(Duration::from_millis(5)) {
                    Ok(message) if events.message(&message) => {}
                    Err(RecvTimeoutError::Timeout) if events.is_open() => {}
                    _ => return,
                }
            }
        }))
    }

    fn post(&self, id: &str, request: &Request) -> Answer {
        let mut connections = self.connections.lock().unwrap();
        let Some(connection) = connections.get_mut(id) else {
            return refused(400, "text/plain", "No transport found for sessionId");
        };
        let result = match request.rpc().as_str() {
            "initialize" => {
                r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{}},"serverInfo":{"name":"older","version":"1"}}"#.to_owned()
            }
            "tools/call" => {
                connection.count += 1;
                format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, connection.count)
            }
            "asks" => {
                let question = r#"{"jsonrpc":"2.0","id":4,"method":"sampling/createMessage","params":{}}"#;
                connection.say.send(question.to_owned()).unwrap();
                return refused(202, "text/plain", "Accepted");
            }
            "refused" => return json(403, r#"{"error":"not you"}"#),
            _ => "{}".to_owned(),
        };
        if request.id() != "null" && request.rpc() != "response" {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id());
            connection.say.send(answer).unwrap();
        }
        refused(202, "text/plain", "Accepted")
    }

    /// Ends all connections, as a restart does.
    fn lose(&self) {
        self.connections.lock().unwrap().clear();
    }
}

fn posts(upstream: &Upstream, target: &str) -> usize {
    upstream.log().iter().filter(|r| r.method == "POST" && r.target.starts_with(target)).count()
}

#[test]
fn such_a_server_is_found_out_and_used() {
    let upstream = Upstream::start();
    let _server = Older::start(&upstream);
    let gateway = Gw::start(&upstream);
    let (one, other) = (
        Session::open_as(&gateway.client(), "2024-11-05", "{}"),
        Session::open_as(&gateway.client(), "2024-11-05", "{}"),
    );
    assert_eq!((one.count(), one.count(), other.count()), ("1".into(), "2".into(), "1".into()));
    assert_eq!(posts(&upstream, "/mcp"), 2, "it is asked for either era once");
    let keyed = gateway.client();
    assert_eq!(
        (keyed.post(call("1", "x")).tool_text(), keyed.post(call("2", "x")).tool_text()),
        ("1".into(), "2".into())
    );
}

#[test]
fn a_connection_that_ends_is_a_lost_session() {
    let upstream = Upstream::start();
    let server = Older::start(&upstream);
    let gateway = Gw::start(&upstream);
    let session = Session::open_as(&gateway.client(), "2024-11-05", "{}");
    assert_eq!((session.count(), session.count()), ("1".into(), "2".into()));
    server.lose();
    let again = session.post(call("1", "count"));
    assert_eq!((again.status, again.tool_text().as_str()), (200, "1"));
    assert!(again.headers.get("throughline-session").unwrap().starts_with("restored"));
}

#[test]
fn it_is_known_after_a_restart_what_the_server_speaks() {
    let upstream = Upstream::start();
    let _server = Older::start(&upstream);
    let mut gateway = Gw::start(&upstream);
    let session = Session::open_as(&gateway.client(), "2024-11-05", "{}");
    assert_eq!(session.count(), "1");
    gateway.restart(|_| {});
    let client = gateway.client().with("mcp-session-id", &session.id);
    assert_eq!(client.post(call("1", "count")).tool_text(), "1", "the connection ended with the gateway");
    assert_eq!(posts(&upstream, "/mcp"), 2, "not asked again");
}

#[test]
fn what_it_asks_on_the_way_reaches_the_client_and_a_refusal_too() {
    let upstream = Upstream::start();
    let _server = Older::start(&upstream);
    let gateway = Gw::start_with(&upstream, |config| config.routes[0].transport = Transport::Sse);
    let session = Session::open_as(&gateway.client(), "2024-11-05", r#"{"sampling":{}}"#);
    assert_eq!(session.count(), "1");
    let mut stream = session.client.open("POST", request("9", "asks", "{}"));
    let asked = stream.message().json();
    assert_eq!(
        session.post(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, asked["id"])).status,
        202
    );
    upstream.wait_for("response", 1);
    assert_eq!(upstream.of("response")[0].json()["id"], 4);
    assert_eq!(session.post(request("1", "refused", "{}")).status, 403);
    assert_eq!(posts(&upstream, "/mcp"), 0, "it was said what the server speaks");
    assert_eq!(session.client.delete().status, 200);
    upstream.wait_until("its stream is closed", |_| upstream.open_connections() <= 1);
}

#[test]
fn an_endpoint_elsewhere_is_not_used() {
    for (before, good) in [("http://127.0.0.1:1", false), ("", true)] {
        let upstream = Upstream::start();
        let server = Older::start(&upstream);
        *server.before.lock().unwrap() = before.to_owned();
        let gateway = Gw::start(&upstream);
        let answer = gateway.client().post(crate::harness::initialize_body("2024-11-05", "{}"));
        assert_eq!(answer.status == 200, good, "{}", answer.text());
    }
    let upstream = Upstream::start();
    let server = Older::start(&upstream);
    *server.before.lock().unwrap() = format!("http://{}", upstream.address);
    let gateway = Gw::start(&upstream);
    assert_eq!(Session::open_as(&gateway.client(), "2024-11-05", "{}").count(), "1", "absolute, and its own");
}

#[test]
fn configured_headers_and_the_clients_own_arrive() {
    let upstream = Upstream::start();
    let _server = Older::start(&upstream);
    let file = "[upstream]\nurl = \"UPSTREAM\"\nforward_authorization = true\nheaders = { x-key = \"k\" }\n";
    let gateway = Gw::start_file(&upstream, file);
    let client = gateway.client().with("authorization", "Bearer me");
    assert_eq!(Session::open_as(&client, "2024-11-05", "{}").count(), "1");
    for request in upstream.log() {
        let (key, who) = (request.headers.get("x-key"), request.headers.get("authorization"));
        assert_eq!((key, who), (Some("k"), Some("Bearer me")), "{} {}", request.method, request.target);
        assert_eq!(request.headers.get("throughline-bridge"), None);
        assert_eq!(request.headers.get("host"), Some(upstream.address.to_string().as_str()));
        assert_eq!(request.session(), None);
    }
}
