//! What the upstream does where a test has no script: a stateful MCP server in the manner of the legacy revisions,
//! strict about the handshake. Each session has a counter, so that a lost session can be told from a kept one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::upstream::{Answer, Events, Request, json, refused, rpc_error, sse};

/// How results are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Json,
    Sse,
}

type LostAnswer = Box<dyn Fn(&Request) -> Answer + Send>;

/// The server's state.
#[derive(Default)]
pub(crate) struct Server(Mutex<State>);

struct State {
    answers: Answers,
    capabilities: String,
    version: Option<String>,
    lost: LostAnswer,
    sessions: HashMap<String, Session>,
    given: Vec<String>,
    deleted: Vec<String>,
    calls: usize,
    violations: Vec<String>,
}

#[derive(Default)]
struct Session {
    initialized: bool,
    count: u32,
    setup: Vec<String>,
    stream: Option<Stream>,
}

/// A standing stream; over when its connection is.
struct Stream {
    say: mpsc::Sender<String>,
    over: Arc<AtomicBool>,
}

impl Stream {
    fn is_open(stream: Option<&Stream>) -> bool {
        stream.is_some_and(|stream| !stream.over.load(Ordering::Relaxed))
    }
}

impl Default for State {
    fn default() -> Self {
        State {
            answers: Answers::Json,
            capabilities: r#"{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{}}"#
                .into(),
            version: None,
            lost: Box::new(|request| {
                let body = rpc_error(&request.id(), -32001, "Session not found");
                json(404, body)
            }),
            sessions: HashMap::new(),
            given: Vec::new(),
            deleted: Vec::new(),
            calls: 0,
            violations: Vec::new(),
        }
    }
}

impl Server {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    pub(crate) fn answer_with(&self, answers: Answers) {
        self.change(|state| state.answers = answers);
    }

    pub(crate) fn announce(&self, capabilities: &str) {
        self.change(|state| state.capabilities = capabilities.to_owned());
    }

    /// Negotiates this version, whatever is asked for.
    pub(crate) fn negotiate(&self, version: &str) {
        self.change(|state| state.version = Some(version.to_owned()));
    }

    /// How requests in a session that is not there are answered from now on.
    pub(crate) fn when_lost(&self, answer: impl Fn(&Request) -> Answer + Send + 'static) {
        self.change(|state| state.lost = Box::new(answer));
    }

    /// Forgets all sessions and ends their streams, as a restart does.
    pub(crate) fn lose_sessions(&self) {
        self.change(|state| state.sessions.clear());
    }

    /// All session ids it ever gave out.
    pub(crate) fn given(&self) -> Vec<String> {
        self.change(|state| state.given.clone())
    }

    pub(crate) fn deleted(&self) -> Vec<String> {
        self.change(|state| state.deleted.clone())
    }

    /// The sessions that are open.
    pub(crate) fn open(&self) -> Vec<String> {
        self.change(|state| state.sessions.keys().cloned().collect())
    }

    /// How many tool calls were executed, in all sessions.
    pub(crate) fn executed(&self) -> usize {
        self.change(|state| state.calls)
    }

    /// What a session was set up with, in order: method and parameters.
    pub(crate) fn setup(&self, session: &str) -> Vec<String> {
        self.change(|state| state.sessions[session].setup.clone())
    }

    /// What clients did that the protocol forbids.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.change(|state| state.violations.clone())
    }

    /// Sends raw bytes on a session's standing stream.
    pub(crate) fn push(&self, session: &str, text: &str) {
        self.change(|state| {
            let stream = state.sessions[session].stream.as_ref().expect("a stream is open");
            stream.say.send(text.to_owned()).unwrap();
        });
    }

    /// Whether a session has a standing stream.
    pub(crate) fn has_stream(&self, session: &str) -> bool {
        self.change(|state| {
            Stream::is_open(state.sessions.get(session).and_then(|session| session.stream.as_ref()))
        })
    }

    /// Ends a session's standing stream, but not the session.
    pub(crate) fn end_stream(&self, session: &str) {
        self.change(|state| state.sessions.get_mut(session).unwrap().stream = None);
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        self.change(|state| state.answer(request))
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let rpc = request.rpc();
        if rpc == "initialize" {
            return self.initialize(request);
        }
        if rpc == "server/discover" {
            return json(
                400,
                rpc_error(&request.id(), -32000, "Bad Request: Mcp-Session-Id header is required"),
            );
        }
        if request.session().is_none() {
            return json(400, rpc_error("null", -32000, "Bad Request: Mcp-Session-Id header is required"));
        }
        let known = request.session().filter(|id| self.sessions.contains_key(*id)).map(str::to_owned);
        let Some(id) = known else { return (self.lost)(request) };
        match rpc.as_str() {
            "DELETE" => {
                self.sessions.remove(&id);
                self.deleted.push(id);
                refused(200, "text/plain", "")
            }
            "GET" => self.listen(&id),
            "notifications/initialized" => {
                let session = self.sessions.get_mut(&id).unwrap();
                if std::mem::replace(&mut session.initialized, true) {
                    self.violations.push("initialized twice".to_owned());
                }
                refused(202, "text/plain", "")
            }
            _ if request.id() == "null" || rpc == "response" => refused(202, "text/plain", ""),
            _ => self.request(&id, request, &rpc),
        }
    }

    fn initialize(&mut self, request: &Request) -> Answer {
        if request.session().is_some() {
            self.violations.push("initialize in a session".to_owned());
            return json(400, rpc_error(&request.id(), -32600, "duplicate \"initialize\" received"));
        }
        let id = format!("upstream-{}-{:p}", self.given.len() + 1, self);
        self.given.push(id.clone());
        self.sessions.insert(id.clone(), Session::default());
        let asked = request.json()["params"]["protocolVersion"].as_str().unwrap_or_default().to_owned();
        let (version, capabilities) = (self.version.clone().unwrap_or(asked), &self.capabilities);
        let result = format!(
            r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"serverInfo":{{"name":"scripted","version":"1"}}}}"#
        );
        self.result(request, &result).with("mcp-session-id", &id)
    }

    fn request(&mut self, id: &str, request: &Request, rpc: &str) -> Answer {
        let session = self.sessions.get_mut(id).unwrap();
        if !session.initialized && rpc != "ping" {
            self.violations.push(format!("{rpc} before initialized"));
            return json(
                400,
                rpc_error(&request.id(), -32602, "Received request before initialization was complete"),
            );
        }
        match rpc {
            "ping" => self.result(request, "{}"),
            "tools/list" => {
                self.result(request, r#"{"tools":[{"name":"count","inputSchema":{"type":"object"}}]}"#)
            }
            "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
                session.setup.push(format!("{rpc} {}", request.json()["params"]));
                self.result(request, "{}")
            }
            "tools/call" => {
                session.count += 1;
                self.calls += 1;
                let text = match request.tool().as_str() {
                    "count" => session.count.to_string(),
                    _ => request.json()["params"]["arguments"].to_string().replace('"', "'"),
                };
                self.result(request, &format!(r#"{{"content":[{{"type":"text","text":"{text}"}}]}}"#))
            }
            _ => json(200, rpc_error(&request.id(), -32601, "Method not found")),
        }
    }

    fn result(&self, request: &Request, result: &str) -> Answer {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id());
        match self.answers {
            Answers::Json => json(200, body),
            Answers::Sse => sse(200, &body),
        }
    }

    fn listen(&mut self, id: &str) -> Answer {
        let session = self.sessions.get_mut(id).unwrap();
        if Stream::is_open(session.stream.as_ref()) {
            return json(
                409,
                r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Conflict: Only one SSE stream is allowed per session"},"id":null}"#,
            );
        }
        let (say, said) = mpsc::channel::<String>();
        let over = Arc::new(AtomicBool::new(false));
        session.stream = Some(Stream { say, over: Arc::clone(&over) });
        Answer::Stream(Box::new(move |events: &mut Events<'_>| {
            loop {
                match said.recv_timeout(Duration::from_millis(5)) {
                    Ok(text) if events.write(&text) => {}
                    Err(RecvTimeoutError::Timeout) if events.is_open() => {}
                    _ => break,
                }
            }
            over.store(true, Ordering::Relaxed);
        }))
    }
}
