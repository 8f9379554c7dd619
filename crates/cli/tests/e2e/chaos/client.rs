//! The clients: each sends every request to a random replica, and remembers what it was told of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fleet::{Balancer, SECRET};
use super::ledger::{Event, Heard, Outcome};
use crate::harness::resuming::{self, Ended};
use crate::harness::{Answer, Dice, Mcp, request, until};

/// What a call tells of its progress, at 100 ms each.
pub(super) const STEPS: u64 = 10;
/// How often a reply is sent whose fate is unknown.
const REPLIES: u32 = 20;

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
            "capabilities": {"elicitation": {}},
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

    fn somewhere(&mut self) -> Mcp {
        place(&self.balancer, &mut self.dice, &self.name, self.session.as_deref())
    }

    /// Does one thing.
    pub(super) fn act(&mut self, tell: &Sender<Event>) {
        if self.kind == Kind::Restless {
            // What becomes of it shows in the call.
            let _ = self.initialize();
        }
        let event = match (self.kind, self.dice.roll(10)) {
            (_, 0 | 1) => self.list(),
            (Kind::Echoes, 2) => self.sleep(),
            (Kind::Echoes, 3) => self.ask(),
            _ => self.mark(),
        };
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
            Ok(answer) => self.outcome(&answer),
        };
        Event { key, took, outcome, heard: Heard::Nothing }
    }

    fn outcome(&self, answer: &Answer) -> Outcome {
        let message = answer.message();
        let Some(result) = message.get("result") else {
            // Or else the server ended the stream before the answer, and gave an event id to come back with.
            let unfinished = answer.status == 200 && message["error"].is_null();
            return if unfinished {
                Outcome::Unfinished
            } else {
                refused(answer.status, &message, &answer.body)
            };
        };
        let first = &result["structuredContent"]["first"];
        let foreign = first.as_str().filter(|first| !first.starts_with(&format!("{}-", self.name)));
        Outcome::Done {
            restored: answer.header("throughline-session").is_some_and(|it| it.starts_with("restored")),
            foreign: foreign.map(str::to_owned),
        }
    }

    /// A call that tells of its progress.
    fn sleep(&mut self) -> Event {
        let arguments = json!({"ms": STEPS * 100});
        self.follow("sleep", &arguments, |heard, name, message| {
            let step = message["params"]["progress"].as_f64().map(|progress| progress as u64 / 100);
            match step.filter(|_| message["params"]["progressToken"] == name) {
                Some(step) => heard.push(step),
                None => return Some(message.to_string()),
            }
            None
        })
    }

    /// A call in the middle of which the client is asked; its reply may reach any replica.
    fn ask(&mut self) -> Event {
        let (balancer, mut dice) = (Arc::clone(&self.balancer), Dice::new(self.dice.roll(1 << 32)));
        let session = self.session.clone();
        let user = self.name.clone();
        let arguments = json!({"question": format!("{}-{}", self.name, self.calls + 1)});
        self.follow("ask", &arguments, move |heard, name, message| {
            if message["method"] != "elicitation/create" || message["params"]["message"] != name {
                return Some(message.to_string());
            }
            heard.push(1);
            let result = json!({"action": "accept", "content": {"answer": name}});
            let reply = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            // Again where it is not known whether it got there.
            for _ in 0..REPLIES {
                let place = place(&balancer, &mut dice, &user, session.as_deref());
                if place.try_post(&reply).is_ok_and(|answer| answer.status == 202) {
                    break;
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
            None
        })
    }

    /// Calls a tool, and comes back for the rest of its answer, at any replica. `hear` notes what belongs to the call;
    /// what does not, it returns.
    #[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
    fn follow(
        &mut self,
        tool: &str,
        arguments: &Value,
        mut hear: impl FnMut(&mut Vec<u64>, &str, &Value) -> Option<String>,
    ) -> Event {
        self.calls += 1;
        let name = format!("{}-{}", self.name, self.calls);
        let meta = json!({"progressToken": name});
        let request = request("tools/call", json!({"name": tool, "arguments": arguments, "_meta": meta}));
        let sent = Instant::now();
        let (mut heard, mut foreign) = (Vec::new(), None);
        let ended = resuming::call(
            || self.somewhere(),
            &request,
            |message| foreign = hear(&mut heard, &name, &message).or(foreign.take()),
        );
        let outcome = match ended {
            Ended::Answered(status, response) => {
                let right = response["id"] == request["id"] || status >= 400;
                foreign = foreign.or((!right).then(|| response.to_string()));
                match response.get("result") {
                    Some(_) => Outcome::Done { restored: false, foreign },
                    None => refused(status, &response, ""),
                }
            }
            Ended::Unknown { connected } => Outcome::Broken { connected },
            Ended::Endless => Outcome::Unanswered,
            Ended::Gone(status, text) => {
                let message = serde_json::from_str(&text).unwrap_or_default();
                refused(status, &message, &text)
            }
        };
        let heard = if tool == "ask" { Heard::Questions(heard.len()) } else { Heard::Steps(heard) };
        Event { key: None, took: sent.elapsed(), outcome, heard }
    }
}

/// The way to a random replica.
fn place(balancer: &Balancer, dice: &mut Dice, name: &str, session: Option<&str>) -> Mcp {
    let mut mcp =
        Mcp::new(balancer.pick(dice)).with_header("X-User", name).with_header("X-Proxy-Secret", SECRET);
    mcp.session = session.map(str::to_owned);
    mcp
}

fn refused(status: u16, message: &Value, body: &str) -> Outcome {
    let error = &message["error"];
    Outcome::Refused {
        status,
        code: error["code"].as_i64().unwrap_or_default(),
        may_have_executed: error["data"]["mayHaveExecuted"] != false,
        text: error["message"].as_str().unwrap_or(body).to_owned(),
    }
}
