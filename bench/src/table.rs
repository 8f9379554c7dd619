//! From figures to the table: medians over the rounds, and ratios to nginx in the same round.

use std::fmt::{self, Display, Formatter, Write};

use serde::Serialize;

use crate::load::Turn;
use crate::subject::Subject;

/// One turn's figures.
#[derive(Serialize)]
pub(crate) struct Figures {
    subject: String,
    connections: usize,
    round: usize,
    requests: u64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of the client's: the gateway may make requests of its own.
    upstream_requests_per_request: f64,
    /// None where there is no proxy.
    cpu_us_per_request: Option<f64>,
    peak_rss_kib: Option<u64>,
}

impl Figures {
    pub(crate) fn new(subject: &Subject, connections: usize, round: usize, turn: &Turn) -> Self {
        let micros = |quantile| turn.latency.value_at_quantile(quantile) as f64 / 1e3;
        Figures {
            subject: subject.name(),
            connections,
            round,
            requests: turn.requests,
            requests_per_second: turn.requests as f64 / turn.elapsed.as_secs_f64(),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            upstream_requests_per_request: turn.upstream_requests as f64 / turn.requests as f64,
            cpu_us_per_request: turn
                .usage
                .map(|(before, after)| (after.cpu - before.cpu) * 1e6 / turn.requests as f64),
            peak_rss_kib: turn.usage.map(|(_, after)| after.peak_rss),
        }
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Figures { subject, connections, requests_per_second, .. } = self;
        write!(f, "{connections:>3} x {subject:31} {requests_per_second:>7.0}/s")?;
        match self.cpu_us_per_request {
            Some(cpu) => write!(f, ", {cpu:.1} us of CPU"),
            None => Ok(()),
        }
    }
}

/// All turns of all subjects.
pub(crate) struct Table<'a> {
    pub(crate) figures: &'a [Figures],
    pub(crate) subjects: &'a [&'a Subject],
}

/// What a column shows of a turn.
pub(crate) type Value = fn(&Figures) -> Option<f64>;
/// CPU time of the proxy, in microseconds per request.
pub(crate) const CPU: Value = |figures| figures.cpu_us_per_request;
/// Requests per second.
pub(crate) const THROUGHPUT: Value = |figures| Some(figures.requests_per_second);

const HEADER: &str = "\
| connections | subject | CPU per request, us | to nginx | requests/s | to nginx | p50, us | p99, us | peak RSS, MiB | upstream requests |
|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|
";

impl Table<'_> {
    fn turns(&self, subject: &Subject, connections: usize) -> impl Iterator<Item = &Figures> {
        let name = subject.name();
        self.figures.iter().filter(move |f| f.connections == connections && f.subject == name)
    }

    /// The median over the rounds.
    pub(crate) fn value(&self, subject: &Subject, connections: usize, value: Value) -> Option<f64> {
        median(self.turns(subject, connections).filter_map(value))
    }

    /// The median of the ratios to nginx in the same round.
    pub(crate) fn ratio(&self, subject: &Subject, connections: usize, value: Value) -> Option<f64> {
        let nginx = self.subjects.iter().find(|other| other.is_yardstick_of(subject))?;
        let pairs = self.turns(subject, connections).zip(self.turns(nginx, connections));
        median(pairs.filter_map(|(own, nginx)| Some(value(own)? / value(nginx)?)))
    }

    /// In Markdown.
    pub(crate) fn markdown(&self, connections: &[usize]) -> String {
        let mut table = HEADER.to_owned();
        for &connections in connections {
            for subject in self.subjects {
                let of = |value: Value, digits| show(self.value(subject, connections, value), digits, "");
                let ratio = |value: Value| show(self.ratio(subject, connections, value), 2, "x");
                let cells = [
                    connections.to_string(),
                    subject.name(),
                    of(CPU, 1),
                    ratio(CPU),
                    of(THROUGHPUT, 0),
                    ratio(THROUGHPUT),
                    of(|f| Some(f.p50_us), 0),
                    of(|f| Some(f.p99_us), 0),
                    of(|f| f.peak_rss_kib.map(|kib| kib as f64 / 1024.0), 1),
                    of(|f| Some(f.upstream_requests_per_request), 2),
                ];
                // Writing to a string does not fail.
                let _ = writeln!(table, "| {} |", cells.join(" | "));
            }
        }
        table
    }
}

/// A figure in a cell; an empty one if there is none.
pub(crate) fn show(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}{unit}"))
}

/// The middle one, or what lies between the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let median = *values.get(upper)?;
    Some(if values.len().is_multiple_of(2) { (median + values[upper - 1]) / 2.0 } else { median })
}
