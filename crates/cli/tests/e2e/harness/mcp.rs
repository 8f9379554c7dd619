//! A raw MCP client over Streamable HTTP: it sends what a test tells it to and hides nothing of the answer.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{self, Connection, PATIENCE};

/// The newest protocol version with a handshake.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The first without one.
pub(crate) const MODERN: &str = "2026-07-28";

/// A client of one endpoint, and the session id that it echoes (or not).
#[derive(Clone, Debug)]
pub(crate) struct Mcp {
    url: String,
    headers: Vec<(String, String)>,
    pub(crate) session: Option<String>,
}

impl Mcp {
    /// A client that knows no session yet.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), headers: Vec::new(), session: None }
    }

    /// The same client with one more header on every request; it replaces a default one of that name.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A client that has shaken hands and keeps the session id, as the SDKs' do.
    pub(crate) fn connected(url: impl Into<String>) -> Self {
        Self::connected_with(url, json!({}))
    }

    /// [`Mcp::connected`], with client capabilities.
    pub(crate) fn connected_with(url: impl Into<String>, capabilities: Value) -> Self {
        let mut client = Self::new(url);
        let answer = client.initialize_with(capabilities);
        let id = answer.header("mcp-session-id").expect("a session id from initialize").to_owned();
        client.session = Some(id);
        client.initialized();
        client
    }

    /// Sends `initialize` and remembers nothing of the answer.
    pub(crate) fn initialize(&self) -> Answer {
        self.initialize_with(json!({}))
    }

    fn initialize_with(&self, capabilities: Value) -> Answer {
        let client_info = json!({"name": "throughline-tests", "version": "0"});
        let answer = self.request(
            "initialize",
            json!({"protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": client_info}),
        );
        assert!(answer.message()["result"]["serverInfo"].is_object(), "initialize: {answer:?}");
        answer
    }

    /// Sends `notifications/initialized`.
    pub(crate) fn initialized(&self) {
        let answer = self.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(answer.status, 202, "notifications/initialized: {answer:?}");
    }

    /// Calls a tool and returns its structured content; anything but a success fails the test.
    pub(crate) fn call(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.try_call(tool, arguments);
        assert_eq!(answer.status, 200, "{tool}: {answer:?}");
        let result = &answer.message()["result"];
        assert!(result.is_object() && result["isError"] != true, "{tool}: {answer:?}");
        result["structuredContent"].clone()
    }

    /// Calls a tool, whatever comes of it.
    pub(crate) fn try_call(&self, tool: &str, arguments: Value) -> Answer {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// Calls a tool, with a progress token, and gives its stream while it runs.
    pub(crate) fn start_call(&self, tool: &str, arguments: Value) -> Stream {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "t"}});
        self.open(&request("tools/call", params))
    }

    /// Answers a request of the server's.
    pub(crate) fn reply(&self, id: &Value, result: Value) {
        let answer = self.post(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
        assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{answer:?}");
    }

    /// The counter after one more increment.
    pub(crate) fn increment(&self) -> i64 {
        self.call("increment", json!({}))["value"].as_i64().expect("a number")
    }

    /// Sends a request, with an id of its own, and waits for its answer.
    pub(crate) fn request(&self, method: &str, params: Value) -> Answer {
        let answer = self.post(&request(method, params));
        assert!(answer.status != 200 || answer.message()["id"] == answer.request_id, "{answer:?}");
        answer
    }

    /// Sends a request to somebody who may not be there, or not for long.
    pub(crate) fn try_request(&self, method: &str, params: Value) -> io::Result<Answer> {
        self.try_post(&request(method, params))
    }

    /// POSTs a message to somebody who may not be there, or not for long.
    pub(crate) fn try_post(&self, message: &Value) -> io::Result<Answer> {
        let answer = self.send("POST", Some(message.to_string().as_bytes())).and_then(Answer::read)?;
        Ok(Answer { request_id: message["id"].clone(), ..answer })
    }

    /// Sends a request of the modern era, complete with headers and `_meta`.
    pub(crate) fn modern_request(&self, method: &str, mut params: Value) -> Answer {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "throughline-tests", "version": "0"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut client =
            self.clone().with_header("MCP-Protocol-Version", MODERN).with_header("Mcp-Method", method);
        if let Some(name) = params["name"].as_str() {
            client = client.with_header("Mcp-Name", name);
        }
        client.request(method, params)
    }

    /// POSTs a message and reads the answer to its end.
    pub(crate) fn post(&self, message: &Value) -> Answer {
        let answer = self.post_bytes(message.to_string().as_bytes());
        Answer { request_id: message["id"].clone(), ..answer }
    }

    /// POSTs a body as it is and reads the answer to its end.
    pub(crate) fn post_bytes(&self, body: &[u8]) -> Answer {
        self.send("POST", Some(body)).and_then(Answer::read).expect("an answer to a POST")
    }

    /// POSTs a message and gives its stream, to be read while the request is being worked on.
    pub(crate) fn open(&self, message: &Value) -> Stream {
        let sent = self.send("POST", Some(message.to_string().as_bytes()));
        Stream::read(sent.expect("an answer to a POST"))
    }

    /// Opens the session's standalone stream.
    pub(crate) fn listen(&self) -> Stream {
        let stream = Stream::read(self.send("GET", None).expect("an answer to a GET"));
        assert_eq!(stream.status, 200, "GET");
        stream
    }

    /// Sends a request without a body, such as DELETE.
    pub(crate) fn bare(&self, method: &str) -> Answer {
        self.send(method, None).and_then(Answer::read).expect("an answer")
    }

    /// Sends a request; unlike the rest of this client it does not mind if nobody is there.
    pub(crate) fn send(&self, method: &str, body: Option<&[u8]>) -> io::Result<(http::Response, Connection)> {
        let accept =
            if method == "GET" { "text/event-stream" } else { "application/json, text/event-stream" };
        let mut headers = vec![("Accept", accept)];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        if let Some(session) = &self.session {
            headers.push(("Mcp-Session-Id", session));
            headers.push(("MCP-Protocol-Version", LEGACY));
        }
        headers.retain(|(name, _)| !self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)));
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        http::send(method, &self.url, &headers, body)
    }
}

/// A request with an id that no other has: within a session ids must differ, and servers rely on it.
pub(crate) fn request(method: &str, params: Value) -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The id of the request that it should be for; `null` if the test sent bare bytes.
    pub(crate) request_id: Value,
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn read((response, connection): (http::Response, Connection)) -> io::Result<Self> {
        let (status, headers) = (response.status, response.headers().to_vec());
        let (sender, receiver) = channel();
        // A thread, since a server's heartbeats would keep a read on the socket itself from timing out.
        thread::spawn(move || {
            let mut body = String::new();
            sender.send(response.into_body().read_to_string(&mut body).map(|_| body))
        });
        let read = receiver.recv_timeout(PATIENCE);
        drop(connection);
        let body =
            read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "an answer without an end"))??;
        Ok(Self { request_id: Value::Null, status, headers, body })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every message in the answer, whether it is JSON or a stream of events.
    pub(crate) fn messages(&self) -> Vec<Value> {
        if self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return events(self.body.as_bytes()).map(|data| parse(&data)).collect();
        }
        if self.body.is_empty() { Vec::new() } else { vec![parse(&self.body)] }
    }

    /// The JSON-RPC response in the answer; `null` if there is none.
    pub(crate) fn message(&self) -> Value {
        self.messages().into_iter().find(is_response).unwrap_or_default()
    }

    /// The JSON-RPC error code of the answer, if it is an error.
    pub(crate) fn error_code(&self) -> Option<i64> {
        self.message()["error"]["code"].as_i64()
    }
}

/// An answer that is still arriving. Dropping it closes the connection.
pub(crate) struct Stream {
    pub(crate) status: u16,
    messages: Receiver<Value>,
    _connection: Connection,
}

impl Stream {
    fn read((response, connection): (http::Response, Connection)) -> Self {
        let status = response.status;
        let (sender, messages) = channel();
        let body = response.into_body();
        // A thread, since only so can the test wait for a message with a deadline of its own.
        thread::spawn(move || events(body).map(|data| parse(&data)).try_for_each(|event| sender.send(event)));
        Self { status, messages, _connection: connection }
    }

    /// The next message; its absence for [`PATIENCE`] fails the test.
    pub(crate) fn next(&self) -> Value {
        self.messages.recv_timeout(PATIENCE).expect("a message in the stream")
    }

    /// The next message with this method, passing over others.
    pub(crate) fn next_with_method(&self, method: &str) -> Value {
        loop {
            let message = self.next();
            if message["method"] == method {
                return message;
            }
        }
    }

    /// The next message if one comes soon.
    pub(crate) fn next_within_a_second(&self) -> Option<Value> {
        self.messages.recv_timeout(Duration::from_secs(1)).ok()
    }

    /// The response that ends the stream, passing over what comes before it.
    pub(crate) fn next_response(&self) -> Value {
        loop {
            let message = self.next();
            if is_response(&message) {
                return message;
            }
        }
    }

    /// Waits until the other side ends the stream.
    pub(crate) fn wait_for_its_end(&self) {
        loop {
            match self.messages.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("the stream does not end"),
            }
        }
    }
}

/// The data of each event that has any; comments and priming events have none. A cut ends the iteration.
fn events(body: impl BufRead) -> impl Iterator<Item = String> {
    let mut lines = body.lines().map_while(Result::ok);
    std::iter::from_fn(move || {
        let mut data = String::new();
        for line in lines.by_ref() {
            if let Some(part) = line.strip_prefix("data:") {
                data += part.strip_prefix(' ').unwrap_or(part);
            } else if line.is_empty() && !data.is_empty() {
                return Some(data);
            }
        }
        None
    })
}

pub(super) fn is_response(message: &Value) -> bool {
    message.get("result").or(message.get("error")).is_some()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
