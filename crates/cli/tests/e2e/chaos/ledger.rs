//! What clients were told, held against what the servers executed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use super::client::STEPS;
use crate::harness::Engine;

/// What a call ends with that may have been executed.
const MAY_HAVE_EXECUTED: i64 = -32012;
/// What a client is told that comes back for a stream which is not in the log.
const STREAM_GONE: i64 = -32000;

/// One request of a client's.
pub(super) struct Event {
    /// Of an unsafe call: what it is known by in the journal.
    pub(super) key: Option<String>,
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
    pub(super) heard: Heard,
}

/// What a client heard before the response, in that order.
pub(super) enum Heard {
    /// It was not followed.
    Nothing,
    /// Of the progress of its call, which has so many steps.
    Steps(Vec<u64>),
    /// How often it was asked.
    Questions(usize),
}

impl Heard {
    /// What is wrong with it, if the call has `ended` with its result, or broke off.
    fn trouble(&self, ended: bool) -> Option<String> {
        match self {
            Heard::Nothing => None,
            Heard::Steps(steps) => {
                let whole = !ended || steps.len() as u64 == STEPS;
                (!whole || !steps.iter().copied().eq(1..=steps.len() as u64))
                    .then(|| format!("steps {steps:?}"))
            }
            Heard::Questions(asked) => {
                (*asked > 1 || (ended && *asked == 0)).then(|| format!("{asked} questions"))
            }
        }
    }
}

/// What a client was told.
pub(super) enum Outcome {
    /// A result.
    Done {
        /// In a new upstream session.
        restored: bool,
        /// The session had been used by this one, who is somebody else.
        foreign: Option<String>,
    },
    /// An error of the gateway's or the server's.
    Refused { status: u16, code: i64, may_have_executed: bool, text: String },
    /// A stream that ended before the answer.
    Unfinished,
    /// A stream that never ended.
    Unanswered,
    /// The replica was killed, before it was reached or after.
    Broken { connected: bool },
}

/// All of it.
#[derive(Default)]
pub(super) struct Ledger {
    events: Vec<Event>,
}

impl Ledger {
    pub(super) fn note(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The figures.
    pub(super) fn report(
        &self,
        engine: Engine,
        seed: u64,
        clients: u64,
        lasted: Duration,
        kills: &BTreeMap<&'static str, usize>,
    ) -> String {
        let mut errors = BTreeMap::<String, usize>::new();
        let (mut done, mut recovered) = (Vec::new(), Vec::new());
        for event in &self.events {
            match &event.outcome {
                Outcome::Done { restored: true, .. } => recovered.push(event.took),
                // The others take as long as they take.
                Outcome::Done { .. } if matches!(event.heard, Heard::Nothing) => done.push(event.took),
                Outcome::Done { .. } => {}
                Outcome::Refused { status, code, may_have_executed, .. } => {
                    let may = if *may_have_executed { "may have been executed" } else { "not executed" };
                    *errors.entry(format!("{status} / {code}, {may}")).or_default() += 1;
                }
                Outcome::Unfinished => {
                    *errors.entry("stream ended before the answer".to_owned()).or_default() += 1;
                }
                Outcome::Unanswered => {
                    *errors.entry("stream without an end".to_owned()).or_default() += 1;
                }
                Outcome::Broken { connected: true } => {
                    *errors.entry("connection to a killed replica broke".to_owned()).or_default() += 1;
                }
                Outcome::Broken { connected: false } => {
                    *errors.entry("connection to a dead replica refused".to_owned()).or_default() += 1;
                }
            }
        }
        let mut text = format!(
            "chaos over {engine:?}, seed {seed}: {clients} clients, {} s, {} calls, {} kills {kills:?}\n",
            lasted.as_secs(),
            self.events.len(),
            kills.values().sum::<usize>(),
        );
        let of = |wanted: fn(&Heard) -> bool| {
            let ended =
                |event: &&Event| wanted(&event.heard) && matches!(event.outcome, Outcome::Done { .. });
            (
                self.events.iter().filter(|event| wanted(&event.heard)).count(),
                self.events.iter().filter(ended).count(),
            )
        };
        for (what, (begun, ended)) in [
            ("told of their progress", of(|heard| matches!(heard, Heard::Steps(_)))),
            ("asked their client", of(|heard| matches!(heard, Heard::Questions(_)))),
        ] {
            let _ = writeln!(text, "  {begun} calls {what}, {ended} to the end");
        }
        for (what, times) in [("undisturbed", &mut done), ("recovered", &mut recovered)] {
            times.sort_unstable();
            let at =
                |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default().as_millis();
            let _ = writeln!(text, "  {what}: {} calls, p50 {} ms, p99 {} ms", times.len(), at(50), at(99));
        }
        for (kind, count) in errors {
            let _ = writeln!(text, "  {count} x {kind}");
        }
        text
    }

    /// Holds what clients were told against the journal.
    pub(super) fn check(&self, engine: Engine, journal: &str) {
        let mut executed = HashMap::<&str, usize>::new();
        for key in journal.lines() {
            *executed.entry(key).or_default() += 1;
        }
        let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "unsafe calls executed more than once: {twice:?}");
        for event in &self.events {
            let count = event.key.as_deref().map(|key| executed.get(key).copied().unwrap_or_default());
            let key = event.key.as_deref().unwrap_or("a call");
            let trouble = event.heard.trouble(matches!(event.outcome, Outcome::Done { .. }));
            assert_eq!(trouble, None, "lost, doubled, or in another order");
            match &event.outcome {
                Outcome::Done { foreign, .. } => {
                    assert_eq!(*foreign, None, "{key} met what is somebody else's");
                    assert_ne!(count, Some(0), "{key} was answered and not executed");
                }
                Outcome::Refused { status, code, may_have_executed, text } => {
                    // Nothing was wrong with any request: whoever is told so loses a session that is good.
                    // But a stream may end with an error, and what was said while Redis was away is not kept.
                    let followed = !matches!(event.heard, Heard::Nothing);
                    let of_stream = followed && [MAY_HAVE_EXECUTED, STREAM_GONE].contains(code);
                    assert!(*status >= 500 || of_stream, "{key} was refused: {status} / {code} {text}");
                    assert!(*may_have_executed || count != Some(1), "{key} was executed after all: {text}");
                }
                Outcome::Unfinished => {}
                // A failover loses what Redis has acknowledged: a replica that has the older record then takes a client's
                // answer for one to an old question.
                Outcome::Unanswered => {
                    let asked = matches!(event.heard, Heard::Questions(1));
                    assert!(asked && engine != Engine::Standalone, "{key} was never answered");
                }
                Outcome::Broken { connected } => {
                    assert!(*connected || count != Some(1), "{key} never went out");
                }
            }
        }
    }

    /// Whether any call found its session restored.
    pub(super) fn has_recovered(&self) -> bool {
        self.events.iter().any(|event| matches!(event.outcome, Outcome::Done { restored: true, .. }))
    }

    /// Calls that were answered with an error, or not at all.
    pub(super) fn disturbed(&self) -> Vec<String> {
        let disturbed = self.events.iter().filter_map(|event| match &event.outcome {
            Outcome::Refused { status, text, .. } => Some(format!("{:?}: {status} {text}", event.key)),
            Outcome::Broken { connected: true } | Outcome::Unfinished | Outcome::Unanswered => {
                Some(format!("{:?}: broken", event.key))
            }
            Outcome::Broken { connected: false } | Outcome::Done { .. } => None,
        });
        disturbed.collect()
    }
}
