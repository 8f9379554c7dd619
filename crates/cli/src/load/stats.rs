//! What is counted of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::instance::Shares;

/// Longest time that is told from a longer one, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;
/// Kinds of errors that are counted one by one.
const MAX_KINDS: usize = 64;

/// Why a call counts as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No connection.
    Connect,
    /// The connection ended before the answer did.
    Broken,
    /// No answer in time.
    Timeout,
    /// Due, and never sent: all clients were still waiting for other answers.
    Unsent,
    /// 404 in a session.
    SessionLost,
    /// Another status than 2xx.
    Http(u16),
    /// A JSON-RPC error.
    Rpc(i64),
    /// The tool reports an error.
    Tool,
    /// The server asks for input, and nobody is there.
    Input,
    /// An answer that is none.
    NotMcp,
    /// Of too many kinds to count each.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Connect => f.write_str("connect"),
            Kind::Broken => f.write_str("connection broke"),
            Kind::Timeout => f.write_str("timeout"),
            Kind::Unsent => f.write_str("unsent"),
            Kind::SessionLost => f.write_str("session lost"),
            Kind::Http(status) => write!(f, "HTTP {status}"),
            Kind::Rpc(code) => write!(f, "error {code}"),
            Kind::Tool => f.write_str("tool error"),
            Kind::Input => f.write_str("asks for input"),
            Kind::NotMcp => f.write_str("not MCP"),
            Kind::Other => f.write_str("other errors"),
        }
    }
}

impl Kind {
    /// Whether its time says how long callers wait. That of a refusal does not: refusing is fast.
    fn is_waiting(self) -> bool {
        match self {
            Kind::Timeout | Kind::Unsent | Kind::Rpc(_) | Kind::Tool | Kind::Input | Kind::Other => true,
            Kind::Connect | Kind::Broken | Kind::SessionLost | Kind::Http(_) | Kind::NotMcp => false,
        }
    }
}

/// Errors of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    /// What the first of them said.
    pub(crate) first: String,
}

/// An error, and what it says.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: Kind,
    pub(crate) says: String,
}

/// What an answer tells beside its result.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The instance that the tool names.
    pub(crate) instance: Option<String>,
    /// Who answered at the URL, by its header: a gateway, or the server itself.
    pub(crate) answered_by: Option<String>,
    /// Whether a gateway has restored the session for this call.
    pub(crate) restored: bool,
}

/// How long a call took.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// From when it was due to be sent.
    pub(crate) latency: Duration,
    /// From when it was sent.
    pub(crate) service: Duration,
}

/// Counts of one thread, or of all of them.
pub(crate) struct Stats {
    pub(crate) calls: u64,
    pub(crate) ok: u64,
    pub(crate) errors: BTreeMap<Kind, Errors>,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
    /// In microseconds.
    pub(crate) service: Histogram<u64>,
    /// How late this program itself was, in microseconds.
    pub(crate) lag: Histogram<u64>,
    pub(crate) instances: Shares,
    pub(crate) answered_by: Shares,
    pub(crate) restored: u64,
    /// Of the whole run, not only of what is measured.
    pub(crate) sessions_opened: u64,
    pub(crate) connections: u64,
}

impl Stats {
    /// Nothing yet.
    pub(crate) fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST, 3);
        Ok(Stats {
            calls: 0,
            ok: 0,
            errors: BTreeMap::new(),
            latency: histogram()?,
            service: histogram()?,
            lag: histogram()?,
            instances: Shares::default(),
            answered_by: Shares::default(),
            restored: 0,
            sessions_opened: 0,
            connections: 0,
        })
    }

    /// One call has ended.
    pub(crate) fn record(&mut self, times: Times, told: &Told, outcome: Result<(), Failed>) {
        self.calls += 1;
        let waited = outcome.as_ref().err().is_none_or(|failed| failed.kind.is_waiting());
        if waited {
            self.latency.saturating_record(micros(times.latency));
            self.service.saturating_record(micros(times.service));
        }
        if let Some(name) = &told.instance {
            self.instances.count(name);
        }
        if let Some(name) = &told.answered_by {
            self.answered_by.count(name);
        }
        self.restored += u64::from(told.restored);
        match outcome {
            Ok(()) => self.ok += 1,
            Err(failed) => self.error(failed),
        }
    }

    /// A call was due and is not sent any more.
    pub(crate) fn unsent(&mut self, waited: Duration) {
        self.calls += 1;
        self.latency.saturating_record(micros(waited));
        let says =
            "every client was still waiting for another answer: give more --clients, or a lower --rate";
        self.error(Failed { kind: Kind::Unsent, says: says.to_owned() });
    }

    fn error(&mut self, failed: Failed) {
        self.add(failed.kind, &Errors { count: 1, first: failed.says });
    }

    fn add(&mut self, kind: Kind, errors: &Errors) {
        // A server may have a status or a code for every answer.
        let is_known = self.errors.contains_key(&kind);
        let kind = if is_known || self.errors.len() < MAX_KINDS { kind } else { Kind::Other };
        let known = self.errors.entry(kind).or_default();
        if known.count == 0 {
            known.first.clone_from(&errors.first);
        }
        known.count += errors.count;
    }

    /// This program was so late to begin a call.
    pub(crate) fn late(&mut self, lag: Duration) {
        self.lag.saturating_record(micros(lag));
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Stats) {
        self.calls += other.calls;
        self.ok += other.ok;
        for (kind, errors) in &other.errors {
            self.add(*kind, errors);
        }
        for (mine, others) in [
            (&mut self.latency, &other.latency),
            (&mut self.service, &other.service),
            (&mut self.lag, &other.lag),
        ] {
            // Of one shape, so that nothing can be out of range.
            let _ = mine.add(others);
        }
        self.instances.merge(&other.instances);
        self.answered_by.merge(&other.answered_by);
        self.restored += other.restored;
        self.sessions_opened += other.sessions_opened;
        self.connections += other.connections;
    }

    /// All errors.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().map(|errors| errors.count).sum()
    }

    /// Those of one kind.
    pub(crate) fn failed_by(&self, kind: Kind) -> u64 {
        self.errors.get(&kind).map_or(0, |errors| errors.count)
    }

    /// The share of calls that are errors, from 0 to 1; all of none.
    pub(crate) fn error_rate(&self) -> f64 {
        if self.calls == 0 { 1.0 } else { self.failed() as f64 / self.calls as f64 }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST)
}

/// A histogram's time at this percentile, in milliseconds.
pub(crate) fn at(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    histogram.value_at_percentile(percentile) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: Kind) -> Failed {
        Failed { kind, says: kind.to_string() }
    }

    fn took(ms: u64) -> Times {
        Times { latency: Duration::from_millis(ms), service: Duration::from_millis(ms) }
    }

    #[test]
    fn all_calls_are_counted_and_refusals_do_not_make_latency_look_good() {
        let (mut one, mut other) = (Stats::new().expect("stats"), Stats::new().expect("stats"));
        one.record(took(10), &Told::default(), Ok(()));
        one.record(took(1), &Told::default(), Err(failed(Kind::Http(503))));
        other.record(took(900), &Told::default(), Err(failed(Kind::Timeout)));
        other.unsent(Duration::from_secs(2));
        one.merge(&other);
        assert_eq!((one.calls, one.ok, one.failed(), one.latency.len()), (4, 1, 3, 3));
        assert!((at(&one.latency, 100.0) - 2000.0).abs() < 2.0, "what was never sent has waited too");
        assert!(at(&one.latency, 0.0) > 9.0, "a refusal is no fast answer");
        assert!((one.error_rate() - 0.75).abs() < 1e-9);
    }

    #[test]
    fn kinds_have_a_bound() {
        let mut stats = Stats::new().expect("stats");
        for code in 0..100 {
            stats.record(took(1), &Told::default(), Err(failed(Kind::Rpc(code))));
        }
        assert_eq!((stats.errors.len(), stats.failed()), (MAX_KINDS + 1, 100));
    }

    #[test]
    fn nothing_called_is_no_success() {
        assert!(Stats::new().expect("stats").error_rate() > 0.99);
    }
}
