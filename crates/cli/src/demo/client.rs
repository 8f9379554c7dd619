//! A client that does what clients do, and no more.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use throughline_wire::bridge::meta;
use throughline_wire::headers::{MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION};

use super::cast::{GATEWAYS, now};
use super::say;
use crate::Failure;

/// The revision of clients that know no sessions.
const VERSION: &str = "2026-07-28";
/// How long an answer may take: a server may be starting behind the gateway.
const PATIENCE: Duration = Duration::from_secs(30);

/// One client, which sends every request over a connection of its own, to the next gateway; if that is away, to the
/// one after: what a load balancer does for it elsewhere.
#[derive(Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    urls: Vec<String>,
    turn: usize,
    name: &'static str,
    /// It speaks 2026-07-28, and says so with every request.
    modern: bool,
    session: Option<String>,
    next_id: u64,
}

/// What the client sees.
struct Answer {
    status: u16,
    /// The gateway that answered.
    gateway: &'static str,
    session: Option<String>,
    held: String,
    message: Value,
}

impl Client {
    /// A client of the same endpoint at each of the gateways.
    pub(super) fn new(urls: &[String]) -> Result<Self, Failure> {
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            // A connection that is kept may be to somebody who has been killed.
            .max_idle_connections(0)
            .build();
        let urls = urls.to_vec();
        if urls.is_empty() {
            return Err("a client needs a gateway".into());
        }
        Ok(Self {
            agent: agent.into(),
            urls,
            turn: 0,
            name: "throughline-demo",
            modern: false,
            session: None,
            next_id: 1,
        })
    }

    pub(super) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// One that speaks the revision without sessions.
    pub(super) fn of_2026(self) -> Self {
        Self { modern: true, ..self }
    }

    /// Opens a session and keeps its id.
    pub(super) fn initialize(&mut self) -> Result<(), Failure> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": self.name, "version": env!("CARGO_PKG_VERSION") },
        });
        let answer =
            self.post(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }))?;
        self.session = answer.session;
        self.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        let id: String = self.session.as_deref().unwrap_or("none").chars().take(12).collect();
        say(&format!(
            "     initialize            {}   gateway {}   Mcp-Session-Id: {id}...\n",
            answer.status, answer.gateway
        ))
    }

    /// Calls the counter's tool, and prints what came of it. Another count than the right one is a failure.
    pub(super) fn count(&mut self, right: u32) -> Result<(), Failure> {
        self.next_id += 1;
        let mut params = json!({ "name": "increment", "arguments": {} });
        if self.modern {
            params["_meta"] = json!({
                meta::VERSION: VERSION,
                meta::CLIENT_INFO: { "name": self.name, "version": env!("CARGO_PKG_VERSION") },
                meta::CLIENT_CAPABILITIES: {},
            });
        }
        let started = now();
        let answer = self.post(
            &json!({ "jsonrpc": "2.0", "id": self.next_id, "method": "tools/call", "params": params }),
        )?;
        let took = started.elapsed().as_millis();
        let Some(count) = answer.message.pointer("/result/content/0/text").and_then(Value::as_str) else {
            return Err(format!("the client saw {}: {}", answer.status, answer.message).into());
        };
        say(&format!(
            "     tools/call increment  {}   gateway {}   count {count}   ({took} ms; Throughline-Session: {})\n",
            answer.status, answer.gateway, answer.held
        ))?;
        if count == right.to_string() {
            return Ok(());
        }
        Err(format!("the session was lost: the count is {count}, {right} would be right").into())
    }

    /// Sends a message to the first gateway in turn that takes connections.
    fn post(&mut self, message: &Value) -> Result<Answer, Failure> {
        let mut away = None;
        for _ in 0..self.urls.len() {
            let at = self.turn % self.urls.len();
            self.turn += 1;
            match self.send(at, message) {
                Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    away = Some(error);
                }
                sent => return Ok(sent?),
            }
        }
        Err(away.map_or_else(|| "no gateway".into(), Into::into))
    }

    fn send(&self, at: usize, message: &Value) -> Result<Answer, ureq::Error> {
        let mut request = self
            .agent
            .post(&self.urls[at])
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("user-agent", self.name);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        if self.modern {
            request = request.header(MCP_PROTOCOL_VERSION, VERSION);
            request = request.header(MCP_METHOD, "tools/call").header(MCP_NAME, "increment");
        }
        let mut response = request.send(message.to_string())?;
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (session, held) = (header("mcp-session-id"), header("throughline-session").unwrap_or_default());
        let body = response.body_mut().read_to_string()?;
        // A message comes as JSON, or as the last data of an event stream.
        let text =
            body.lines().filter_map(|line| line.strip_prefix("data:")).rfind(|data| !data.trim().is_empty());
        let message = serde_json::from_str(text.unwrap_or(&body)).unwrap_or(Value::Null);
        let gateway = GATEWAYS.get(at).copied().unwrap_or_default();
        Ok(Answer { status: response.status().as_u16(), gateway, session, held, message })
    }
}
