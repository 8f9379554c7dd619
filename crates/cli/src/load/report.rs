//! What a run comes to: for people, as JSON, and against what was expected of it.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::client::{Behaviour, Handshake};
use super::plan::{Pace, Plan};
use super::stats::{Kind, Stats, at};
use crate::instance::Shares;
use crate::text;

const BAR: usize = 30;
/// How much of an error's text is shown, in characters.
const SHOWN: usize = 100;
const PERCENTILES: [(&str, &str, f64); 4] =
    [("p50", "p50", 50.0), ("p90", "p90", 90.0), ("p99", "p99", 99.0), ("p99.9", "p99_9", 99.9)];

/// A run, to be reported.
pub(crate) struct Report<'a> {
    pub(crate) url: String,
    /// The tool, or the method where there is none.
    pub(crate) asked: &'a str,
    pub(crate) behaviour: Behaviour,
    pub(crate) handshake: Handshake,
    pub(crate) plan: Plan,
    /// How long was measured: less than planned after Ctrl-C.
    pub(crate) measured: Duration,
    pub(crate) interrupted: bool,
    pub(crate) stats: &'a Stats,
    pub(crate) expected: &'a [Expected],
}

/// What was expected, and what came.
pub(crate) struct Expected {
    pub(crate) name: &'static str,
    pub(crate) limit: f64,
    pub(crate) value: f64,
    /// Whether there was anything to judge by.
    pub(crate) known: bool,
}

impl Expected {
    /// Whether the value is within the limit.
    pub(crate) fn is_met(&self) -> bool {
        self.known && self.value <= self.limit
    }
}

impl Report<'_> {
    fn rate(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { self.stats.calls as f64 / seconds } else { 0.0 }
    }

    fn target_rate(&self) -> Option<f64> {
        match self.plan.pace {
            Pace::Answers => None,
            Pace::Rate(rate) => Some(rate),
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let stats = self.stats;
        let by_kind: serde_json::Map<String, Value> = stats
            .errors
            .iter()
            .map(|(kind, errors)| (kind.to_string(), json!({ "count": errors.count, "first": errors.first })))
            .collect();
        let open = self.target_rate().is_some();
        json!({
            "url": self.url,
            "asked": self.asked,
            "client": behaviour(self.behaviour),
            "initialize": handshake(self.behaviour, self.handshake),
            "loop": if open { "open" } else { "closed" },
            "clients": self.plan.clients,
            "rate": self.target_rate(),
            "ramp_seconds": self.plan.ramp.as_secs_f64(),
            "warm_up_seconds": self.plan.warm_up.as_secs_f64(),
            "measured_seconds": self.measured.as_secs_f64(),
            "interrupted": self.interrupted,
            "calls": stats.calls,
            "calls_per_second": self.rate(),
            "ok": stats.ok,
            "errors": { "count": stats.failed(), "rate": stats.error_rate(), "kinds": by_kind },
            "latency_ms": times(&stats.latency),
            "service_ms": open.then(|| times(&stats.service)),
            "lag_ms": open.then(|| times(&stats.lag)),
            "instances": shares(&stats.instances),
            "answered_by": shares(&stats.answered_by),
            "sessions": {
                "opened": stats.sessions_opened,
                "restored": stats.restored,
                "lost": stats.failed_by(Kind::SessionLost),
            },
            "connections": stats.connections,
            "expected": self.expected.iter().map(|expected| json!({
                "name": expected.name,
                "limit": expected.limit,
                "value": expected.known.then_some(expected.value),
                "met": expected.is_met(),
            })).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let stats = self.stats;
        let mut shown = self.heading();
        let _ = writeln!(
            shown,
            "calls       {}, {:.1} a second; {} errors ({:.2} %)",
            stats.calls,
            self.rate(),
            stats.failed(),
            if stats.calls == 0 { 0.0 } else { stats.error_rate() * 100.0 },
        );
        let _ = writeln!(shown, "latency     {}", in_words(&stats.latency));
        if self.target_rate().is_some() {
            let _ = writeln!(shown, "service     {}", in_words(&stats.service));
            let _ = writeln!(shown, "lag         {} (this program's own)", in_words(&stats.lag));
        }
        if stats.sessions_opened > 0 || stats.restored > 0 {
            let _ = writeln!(
                shown,
                "sessions    {} opened, {} restored by the gateway, {} lost",
                stats.sessions_opened,
                stats.restored,
                stats.failed_by(Kind::SessionLost),
            );
        }
        shown += &bars("instances", &stats.instances);
        if stats.answered_by != stats.instances {
            shown += &bars("answered by", &stats.answered_by);
        }
        for (at, (kind, errors)) in stats.errors.iter().enumerate() {
            let label = if at == 0 { "errors" } else { "" };
            let first = text::line(&errors.first, SHOWN);
            let _ = writeln!(shown, "{label:<11} {kind}: {}   (the first: {first})", errors.count);
        }
        for expected in self.expected {
            let met = if expected.is_met() { "met" } else { "NOT MET" };
            let value =
                if expected.known { format!("{:.3}", expected.value) } else { "nothing to judge by".into() };
            let _ = writeln!(shown, "expected    {} <= {}: {met} ({value})", expected.name, expected.limit);
        }
        shown
    }

    fn heading(&self) -> String {
        let pace = match self.target_rate() {
            None => "each calls again when it has its answer".to_owned(),
            Some(rate) => format!("{rate} calls due each second"),
        };
        let handshake = handshake(self.behaviour, self.handshake);
        let handshake = handshake.map(|when| format!(", initialize {when}")).unwrap_or_default();
        let cut = if self.interrupted { " (interrupted)" } else { "" };
        format!(
            "{} at {}\n{} clients ({}{handshake}), {pace}; measured for {:.1} s{cut}\n\n",
            self.asked,
            self.url,
            self.plan.clients,
            behaviour(self.behaviour),
            self.measured.as_secs_f64(),
        )
    }
}

fn behaviour(behaviour: Behaviour) -> &'static str {
    match behaviour {
        Behaviour::Auto => "auto",
        Behaviour::Modern => "modern",
        Behaviour::Issued => "issued",
        Behaviour::IdLess => "id-less",
    }
}

fn handshake(behaviour: Behaviour, handshake: Handshake) -> Option<&'static str> {
    match (behaviour, handshake) {
        (Behaviour::Modern, _) => None,
        (_, Handshake::Once) => Some("once"),
        (_, Handshake::EachCall) => Some("each-call"),
        (_, Handshake::Never) => Some("never"),
    }
}

fn times(histogram: &Histogram<u64>) -> Value {
    let mut times = json!({ "count": histogram.len() });
    if !histogram.is_empty() {
        times["min"] = (histogram.min() as f64 / 1000.0).into();
        times["mean"] = (histogram.mean() / 1000.0).into();
        for (_, name, percentile) in PERCENTILES {
            times[name] = at(histogram, percentile).into();
        }
        times["max"] = (histogram.max() as f64 / 1000.0).into();
    }
    times
}

fn in_words(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "none measured".to_owned();
    }
    let mut words = String::new();
    for (name, _, percentile) in PERCENTILES {
        let _ = write!(words, "{name} {:.2} ms   ", at(histogram, percentile));
    }
    let (max, mean) = (histogram.max() as f64 / 1000.0, histogram.mean() / 1000.0);
    format!("{words}max {max:.2} ms   mean {mean:.2} ms")
}

fn shares(shares: &Shares) -> Value {
    shares
        .iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A bar for each, as long as its share.
fn bars(label: &str, shares: &Shares) -> String {
    let total = shares.total().max(1) as f64;
    let width = shares.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut shown = String::new();
    for (at, (name, count)) in shares.iter().enumerate() {
        let label = if at == 0 { label } else { "" };
        let share = count as f64 / total;
        let bar = "#".repeat((share * BAR as f64).round() as usize);
        let name = text::line(name, width);
        let _ = writeln!(shown, "{label:<11} {name:width$}  {bar:<BAR$}  {:5.1} %  {count}", share * 100.0);
    }
    shown
}
