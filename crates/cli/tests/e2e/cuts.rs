//! Connections that are cut at random, between client and gateway and between gateway and server: a client that comes
//! back hears everything once, in order, and on its own stream.
//!
//! Seeded: `THROUGHLINE_CHAOS_SEED` draws the same bytes to cut at. What is here is short; `chaos` does more of it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::{Connection, Response};
use crate::harness::resuming::{Ended, call, follow};
use crate::harness::{Cutter, Dice, Gateway, Mcp, Upstream, request, setting};

/// Sessions at a time; each has a standing stream and one call under way.
const SESSIONS: usize = 8;
/// What a call tells of its progress, at 100 ms each.
const STEPS: u64 = 8;
/// Nothing takes longer: then connections are not cut any more, which is a failure.
const LONGEST: Duration = Duration::from_secs(120);

#[test]
fn nothing_is_lost_on_the_way_to_the_client() {
    cut(&Upstream::rmcp(), Place::Client, 25);
}

#[test]
fn nor_of_a_server_without_event_ids() {
    cut(&Upstream::python1(), Place::Client, 25);
}

#[test]
fn nor_on_the_way_from_a_server_with_event_ids() {
    cut(&Upstream::rmcp(), Place::Both, 25);
}

/// Where connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between client and gateway.
    Client,
    /// There, and between gateway and server.
    Both,
}

/// Clients at work until so many connections were cut in each of the places.
#[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
pub(crate) fn cut(upstream: &Upstream, place: Place, cuts: u64) {
    let seed = setting("THROUGHLINE_CHAOS_SEED", 1);
    let behind = Cutter::start(&upstream.base(), Dice::new(seed));
    let gateway = Gateway::start(&format!("{}/mcp", behind.base()), &[]);
    let front = Cutter::start(&gateway.at(""), Dice::new(seed + 1));
    let sessions: Vec<_> = (0..SESSIONS).map(|number| Session::open(number, &gateway, &front)).collect();

    let (started, enough) = (Instant::now(), AtomicBool::new(false));
    let report = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter()
            .map(|session| {
                // In one piece: before there is an event there is nothing to come back from.
                let standing = session.stand();
                let listening = scope.spawn(|| session.listen(standing));
                let telling = scope.spawn(|| session.tell(&enough));
                let calling = scope.spawn(|| session.call_on(place, &enough));
                (listening, telling, calling)
            })
            .collect();
        front.cut(cuts);
        if place == Place::Both {
            behind.cut(cuts);
        }
        let wanted = if place == Place::Both { 2 * cuts } else { cuts };
        let all_run = || running.iter().all(|(listening, ..)| !listening.is_finished());
        while front.count() + behind.count() < wanted && started.elapsed() < LONGEST && all_run() {
            thread::park_timeout(Duration::from_millis(50));
        }
        enough.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for (listening, telling, calling) in running {
            report.add(&calling.join().expect("calls that went well"));
            let told = telling.join().expect("a session that could tell");
            let heard = listening.join().expect("a standing stream that went well");
            assert!(heard.is_sorted_by(|one, next| one < next), "each once, in order: {heard:?}");
            let lost: Vec<_> = told.iter().filter(|number| !heard.contains(number)).collect();
            assert!(lost.is_empty(), "lost {lost:?} of {told:?}");
            report.messages += heard.len();
        }
        report
    });
    println!(
        "cuts, seed {seed}: {} to clients and {} to the server in {} s, {report:?}",
        front.count(),
        behind.count(),
        started.elapsed().as_secs()
    );
    assert!(
        front.count() == cuts && (place == Place::Client || behind.count() == cuts),
        "not enough was cut"
    );
    assert!(report.answered > SESSIONS as u64, "most calls are answered: {report:?}");
}

/// What came of the calls, and how many messages went over the standing streams.
#[derive(Debug, Default)]
struct Report {
    /// With all that belongs to them, once.
    answered: u64,
    /// With the error that a call ends with which may have been executed.
    honest: u64,
    /// Cut before there was anything to come back from.
    unknown: u64,
    messages: usize,
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.answered += other.answered;
        self.honest += other.honest;
        self.unknown += other.unknown;
    }
}

/// A client whose connections are cut, and a way around for what is to be certain.
struct Session {
    name: String,
    cut: Mcp,
    whole: Mcp,
}

impl Session {
    fn open(number: usize, gateway: &Gateway, front: &Cutter) -> Self {
        let whole = Mcp::connected_with(gateway.url(), json!({"elicitation": {}}));
        // Bound upstream, before anything is cut.
        whole.increment();
        let mut cut = Mcp::new(format!("{}/mcp", front.base()));
        cut.session.clone_from(&whole.session);
        Session { name: format!("s{number}"), cut, whole }
    }

    /// Opens the standing stream.
    fn stand(&self) -> (Response, Connection) {
        let begun = self.whole.send("GET", None).expect("a standing stream");
        assert_eq!(begun.0.status, 200);
        begun
    }

    /// Follows the standing stream until its last message; the numbers of all.
    fn listen(&self, begun: (Response, Connection)) -> Vec<u64> {
        let mut heard = Vec::new();
        let ended = follow(
            begun,
            || self.cut.clone(),
            |message| {
                let said = message["params"]["data"].as_str().unwrap_or_else(|| panic!("{message}"));
                let (name, number) = said.split_once(' ').expect("a name and a number");
                assert_eq!(name, self.name, "a message of another session");
                match number.parse() {
                    Ok(number) => heard.push(number),
                    Err(_) => return ControlFlow::Break(()),
                }
                ControlFlow::Continue(())
            },
        );
        ended.expect("a stream that can be resumed");
        heard
    }

    /// Has numbered messages said on the standing stream; which of them were said for certain.
    fn tell(&self, enough: &AtomicBool) -> Vec<u64> {
        let mut told = Vec::new();
        for number in 1.. {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            if self.say(&format!("{} {number}", self.name)) {
                told.push(number);
            }
            thread::park_timeout(Duration::from_millis(30));
        }
        while !self.say(&format!("{} end", self.name)) {}
        told
    }

    /// Whether it was said for certain: the server may not have got the call, or the gateway not its answer.
    fn say(&self, text: &str) -> bool {
        let answer = self.whole.try_call("log", json!({"text": text}));
        answer.message()["result"]["structuredContent"]["sent"] == true
    }

    /// Makes calls one after the other.
    fn call_on(&self, place: Place, enough: &AtomicBool) -> Report {
        let mut report = Report::default();
        for number in 0.. {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("{}-{number}", self.name);
            match if number % 3 == 2 { self.ask(&name) } else { self.sleep(&name) } {
                Ended::Answered(_, response) if response.get("result").is_some() => report.answered += 1,
                Ended::Answered(_, response) => {
                    let error = &response["error"];
                    assert_eq!((place, error["code"].as_i64()), (Place::Both, Some(-32012)), "{response}");
                    report.honest += 1;
                }
                Ended::Unknown { .. } => report.unknown += 1,
                Ended::Gone(status, text) => panic!("{name}: {status} {text}"),
                Ended::Endless => panic!("{name}: a stream without an end"),
            }
        }
        report
    }

    /// A call that tells of its progress.
    fn sleep(&self, name: &str) -> Ended {
        let arguments = json!({"ms": STEPS * 100});
        let params = json!({"name": "sleep", "arguments": arguments, "_meta": {"progressToken": name}});
        let request = request("tools/call", params);
        let mut heard = Vec::new();
        let ended = call(
            || self.cut.clone(),
            &request,
            |message| {
                assert_eq!(message["params"]["progressToken"], name, "of another call: {message}");
                heard.push(message["params"]["progress"].as_f64().expect("a number"));
            },
        );
        let all: Vec<_> = (1..=STEPS).map(|step| (step * 100) as f64).collect();
        match &ended {
            Ended::Answered(_, response) => {
                assert_eq!(response["id"], request["id"], "{name}");
                let complete = response.get("result").is_none() || heard.len() == all.len();
                assert!(complete && all.starts_with(&heard), "{name} heard {heard:?}");
            }
            _ => assert_eq!(heard, Vec::<f64>::new(), "{name}: with an event there is an id"),
        }
        ended
    }

    /// A call in the middle of which the client is asked.
    fn ask(&self, name: &str) -> Ended {
        let request = request("tools/call", json!({"name": "ask", "arguments": {"question": name}}));
        let content = json!({"answer": name});
        let mut asked = 0;
        let ended = call(
            || self.cut.clone(),
            &request,
            |message| {
                assert_eq!(
                    (&message["method"], &message["params"]["message"]),
                    (&"elicitation/create".into(), &name.into())
                );
                asked += 1;
                self.reply(&message["id"], &json!({"action": "accept", "content": content}));
            },
        );
        if let Ended::Answered(_, response) = &ended {
            assert_eq!(response["id"], request["id"], "{name}");
            if response.get("result").is_some() {
                assert_eq!(
                    (asked, &response["result"]["structuredContent"]["content"]),
                    (1, &content),
                    "{response}"
                );
            }
        }
        ended
    }

    /// Answers a question, and again where it is not known whether the answer got there.
    fn reply(&self, id: &Value, result: &Value) {
        let reply = json!({"jsonrpc": "2.0", "id": id, "result": result});
        while self.cut.try_post(&reply).is_err() {}
    }
}
