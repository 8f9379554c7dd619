//! Tests of the counter server.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use throughline_reference::counter::{CounterConfig, Era, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::mcp::{MODERN, Mcp};

/// A counter server on a port of its own, with a runtime of its own. It ends with the test.
pub(crate) struct Counter {
    pub(crate) url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Counter {
    pub(crate) fn start(config: CounterConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let thread =
            thread::spawn(move || runtime.block_on(serve(listener, config, shutdown)).expect("serves"));
        Self { url, stop: Some(stop), thread: Some(thread) }
    }

    fn mcp(&self) -> String {
        format!("{}/mcp", self.url)
    }

    pub(crate) fn connect(&self) -> Mcp {
        Mcp::connected(self.mcp())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        // A test that has failed already is not failed twice: that would abort the run.
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server ends when it is told to");
    }
}

#[test]
fn each_session_counts_for_itself() {
    let server = Counter::start(CounterConfig::default());
    let (one, other) = (server.connect(), server.connect());

    assert_eq!(one.increment(), 1);
    assert_eq!(one.call("increment", json!({"by": 4})), json!({"value": 5}));
    assert_eq!(other.increment(), 1);
    assert_eq!(one.call("value", json!({})), json!({"value": 5}));
    assert_eq!(other.call("total", json!({})), json!({"total": 3}));
    let text = one.try_call("value", json!({})).message()["result"]["content"][0]["text"].clone();
    assert_eq!(text, "5", "the number is there as text too");
}

#[test]
fn marks_are_in_the_journal_before_they_are_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = dir.path().join("journal");
    let server = Counter::start(CounterConfig { journal: Some(journal.clone()), ..CounterConfig::default() });
    let (one, other) = (server.connect(), server.connect());
    for (client, key, first) in [(&one, "a1", "a1"), (&one, "a2", "a1"), (&other, "b1", "b1")] {
        assert_eq!(client.call("mark", json!({ "key": key })), json!({ "first": first }));
        let written = std::fs::read_to_string(&journal).expect("the journal");
        assert_eq!(written.lines().last(), Some(key));
    }
}

#[test]
fn the_session_tool_tells_processes_and_handshakes_apart() {
    let server = Counter::start(CounterConfig::default());
    let client = server.connect();
    Mcp::new(server.mcp()).initialize();

    let session = client.call("session", json!({}));
    assert_eq!(session["pid"], std::process::id());
    assert_eq!(session["initializes"], 2);
    assert_eq!(session["initialized"], 1);
    assert_eq!(session["session"], json!(client.session));

    let another = Counter::start(CounterConfig::default());
    assert_ne!(another.connect().call("session", json!({}))["instance"], session["instance"]);
}

#[test]
fn dropped_and_expired_sessions_are_not_found() {
    let idle = Duration::from_millis(200);
    let server = Counter::start(CounterConfig { session_idle: Some(idle), ..CounterConfig::default() });

    let dropped = server.connect();
    let answer = Mcp::new(format!("{}/drop-sessions", server.url)).bare("POST");
    assert_eq!(answer.status, 204);
    assert_eq!(dropped.try_call("value", json!({})).status, 404);

    // A session's standalone stream ends with it, which is the moment to look.
    let expiring = server.connect();
    expiring.listen().wait_for_its_end();
    assert_eq!(expiring.try_call("value", json!({})).status, 404);
}

#[test]
fn sleep_reports_progress_to_those_who_ask_for_it() {
    let server = Counter::start(CounterConfig::default());
    let client = server.connect();

    let params = json!({"name": "sleep", "arguments": {"ms": 250}, "_meta": {"progressToken": "t"}});
    let messages = client.request("tools/call", params).messages();
    let progress: Vec<&Value> = messages.iter().filter(|m| m["method"] == "notifications/progress").collect();
    assert_eq!(progress.len(), 3, "{messages:?}");
    assert_eq!(progress[0]["params"], json!({"progressToken": "t", "progress": 100.0, "total": 250.0}));
    assert_eq!(client.try_call("sleep", json!({"ms": 1})).messages().len(), 1);
}

#[test]
fn a_subscriber_hears_of_increments() {
    let server = Counter::start(CounterConfig::default());
    let client = server.connect();
    let stream = client.listen();
    let uri = json!({"uri": "counter://value"});

    client.request("resources/subscribe", uri.clone());
    client.increment();
    assert_eq!(stream.next_with_method("notifications/resources/updated")["params"], uri);
    let read = client.request("resources/read", uri.clone()).message();
    assert_eq!(read["result"]["contents"][0]["text"], "1");

    client.request("resources/unsubscribe", uri);
    client.increment();
    client.call("log", json!({"text": "behind the increment"}));
    assert_eq!(stream.next()["method"], "notifications/message");
    assert_eq!(
        client.request("resources/subscribe", json!({"uri": "counter://other"})).error_code(),
        Some(-32002)
    );
}

#[test]
fn log_messages_below_the_level_stay_away() {
    let server = Counter::start(CounterConfig::default());
    let client = server.connect();
    let stream = client.listen();

    client.request("logging/setLevel", json!({"level": "warning"}));
    assert_eq!(client.call("log", json!({"text": "quiet"})), json!({"sent": false}));
    assert_eq!(client.call("log", json!({"text": "loud", "level": "error"})), json!({"sent": true}));
    let message = stream.next_with_method("notifications/message");
    assert_eq!(message["params"], json!({"level": "error", "logger": "counter", "data": "loud"}));
}

#[test]
fn ask_asks_in_the_way_that_the_client_understands() {
    let server = Counter::start(CounterConfig::default());

    let eliciting = Mcp::connected_with(server.mcp(), json!({"elicitation": {}}));
    let (question, answer) = ask(&eliciting, json!({"action": "accept", "content": {"answer": "sheep"}}));
    assert_eq!(question["method"], "elicitation/create");
    assert_eq!(answer, json!({"action": "accept", "content": {"answer": "sheep"}}));

    let sampling = Mcp::connected_with(server.mcp(), json!({"sampling": {}}));
    let said = json!({"type": "text", "text": "goats"});
    let (question, answer) = ask(&sampling, json!({"role": "assistant", "model": "m", "content": said}));
    assert_eq!(question["method"], "sampling/createMessage");
    assert_eq!(answer["content"]["text"], "goats");

    let neither = server.connect().try_call("ask", json!({})).message();
    assert_eq!(neither["result"]["isError"], true);
}

/// Calls `ask`, answers its question with `reply`, and returns the question and the tool's result.
fn ask(client: &Mcp, reply: Value) -> (Value, Value) {
    let asked = client.start_call("ask", json!({}));
    let question = asked.next();
    client.reply(&question["id"], reply);
    let answer = asked.next();
    (question, answer["result"]["structuredContent"].clone())
}

#[test]
fn a_modern_request_is_refused_or_served_without_a_session() {
    let legacy = Counter::start(CounterConfig::default());
    let refused = Mcp::new(legacy.mcp()).modern_request("tools/list", json!({}));
    assert_eq!((refused.status, refused.error_code()), (400, Some(-32022)), "{refused:?}");

    let dual = Counter::start(CounterConfig { era: Era::Dual, ..CounterConfig::default() });
    let client = Mcp::new(dual.mcp());
    let found = client.modern_request("server/discover", json!({}));
    let versions = found.message()["result"]["supportedVersions"].clone();
    assert!(versions.as_array().is_some_and(|all| all.contains(&json!(MODERN))), "{found:?}");
    for _ in 0..2 {
        let counted = client.modern_request("tools/call", json!({"name": "increment", "arguments": {}}));
        assert_eq!(counted.message()["result"]["structuredContent"], json!({"value": 1}), "{counted:?}");
        assert_eq!(counted.header("mcp-session-id"), None);
    }
}

#[test]
fn only_loopback_hosts_are_served() {
    let server = Counter::start(CounterConfig::default());
    let answer = Mcp::new(server.mcp()).with_header("Host", "attacker.example").request("ping", json!({}));
    assert_eq!(answer.status, 403);
    assert_eq!(Mcp::new(format!("{}/healthz", server.url)).bare("GET").status, 200);
}
