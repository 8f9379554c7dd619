//! The clients: each sends every request to a random replica, and remembers what it was told of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Dice;
use super::fleet::{Balancer, SECRET};
use super::ledger::{Event, Outcome};
use crate::harness::{Mcp, until};

/// How a client holds its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It echoes the id that it was given.
    Echoes,
    /// It is known by its name, initialises once, and echoes nothing.
    Known,
    /// The same, but it initialises before each call.
    Restless,
}

impl Kind {
    /// Half of them echo; the others cannot.
    pub(super) fn of(number: u64) -> Self {
        match number % 6 {
            0..=2 => Kind::Echoes,
            3 | 4 => Kind::Known,
            _ => Kind::Restless,
        }
    }
}

/// One client.
pub(super) struct Client {
    name: String,
    kind: Kind,
    balancer: Arc<Balancer>,
    dice: Dice,
    session: Option<String>,
    calls: u64,
}

impl Client {
    /// A client that has initialised.
    pub(super) fn start(number: u64, kind: Kind, balancer: Arc<Balancer>, dice: Dice) -> Self {
        let name = format!("c{number}");
        let mut client = Client { name, kind, balancer, dice, session: None, calls: 0 };
        until("initialize to succeed", || client.initialize());
        client
    }

    fn initialize(&mut self) -> Option<()> {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "chaos", "version": "1"},
        });
        let answer = self.somewhere().try_request("initialize", params).ok()?;
        if self.kind == Kind::Echoes {
            self.session = Some(answer.header("mcp-session-id")?.to_owned());
            self.somewhere()
                .try_post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
                .ok()?;
        }
        (answer.status == 200).then_some(())
    }

    /// The way to a random replica.
    fn somewhere(&mut self) -> Mcp {
        let mut mcp = Mcp::new(self.balancer.pick(&mut self.dice))
            .with_header("X-User", &self.name)
            .with_header("X-Proxy-Secret", SECRET);
        mcp.session.clone_from(&self.session);
        mcp
    }

    /// Does one thing.
    pub(super) fn act(&mut self, tell: &Sender<Event>) {
        if self.kind == Kind::Restless {
            // What becomes of it shows in the call.
            let _ = self.initialize();
        }
        let event = if self.dice.roll(5) == 0 { self.list() } else { self.mark() };
        tell.send(event).expect("somebody who notes it");
        let pause = Duration::from_millis(self.dice.roll(40));
        std::thread::park_timeout(pause);
    }

    /// Calls until it is executed, which must not take long any more.
    pub(super) fn must_succeed(&mut self, tell: &Sender<Event>) {
        until(&format!("{} to be served again", self.name), || {
            let event = self.mark();
            let done = matches!(event.outcome, Outcome::Done { .. });
            tell.send(event).expect("somebody who notes it");
            done.then_some(())
        });
    }

    /// An unsafe call, with a key that no other has.
    fn mark(&mut self) -> Event {
        self.calls += 1;
        let key = format!("{}-{}", self.name, self.calls);
        let params = json!({"name": "mark", "arguments": {"key": key}});
        self.send("tools/call", params, Some(key))
    }

    /// A call that may be repeated.
    fn list(&mut self) -> Event {
        self.send("tools/list", json!({}), None)
    }

    #[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
    fn send(&mut self, method: &str, params: Value, key: Option<String>) -> Event {
        let sent = Instant::now();
        let answer = self.somewhere().try_request(method, params);
        let took = sent.elapsed();
        let outcome = match answer {
            Err(error) => {
                Outcome::Broken { connected: error.kind() != std::io::ErrorKind::ConnectionRefused }
            }
            Ok(answer) => {
                let message = answer.message();
                let error = &message["error"];
                if let Some(result) = message.get("result") {
                    let first = &result["structuredContent"]["first"];
                    let foreign =
                        first.as_str().filter(|first| !first.starts_with(&format!("{}-", self.name)));
                    Outcome::Done {
                        restored: answer
                            .header("throughline-session")
                            .is_some_and(|it| it.starts_with("restored")),
                        foreign: foreign.map(str::to_owned),
                    }
                } else if answer.status == 200 && error.is_null() {
                    // The server ended the stream before the answer, and gave an event id to come back with.
                    Outcome::Unfinished
                } else {
                    Outcome::Refused {
                        status: answer.status,
                        code: error["code"].as_i64().unwrap_or_default(),
                        may_have_executed: error["data"]["mayHaveExecuted"] != false,
                        text: error["message"].as_str().unwrap_or(&answer.body).to_owned(),
                    }
                }
            }
        };
        Event { key, took, outcome }
    }
}
