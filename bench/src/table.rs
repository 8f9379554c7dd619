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
        write!(f, "{connections:>3} x {subject:20} {requests_per_second:>7.0}/s")?;
        match self.cpu_us_per_request {
            Some(cpu) => write!(f, ", {cpu:.1} us of CPU"),
            None => Ok(()),
        }
    }
}

const HEADER: &str = "\
| connections | subject | CPU per request, us | to nginx | requests/s | to nginx | p50, us | p99, us | peak RSS, MiB |
|--:|---|--:|--:|--:|--:|--:|--:|--:|
";

/// The whole table.
pub(crate) fn markdown(figures: &[Figures], subjects: &[&Subject], connections: &[usize]) -> String {
    let mut table = HEADER.to_owned();
    for &connections in connections {
        for subject in subjects {
            let turns = |of: &Subject| {
                let name = of.name();
                figures.iter().filter(move |f| f.connections == connections && f.subject == name)
            };
            let of = |value: fn(&Figures) -> Option<f64>, digits| show(turns(subject).map(value), digits, "");
            let ratio = |value: fn(&Figures) -> Option<f64>| {
                let yardstick = subjects.iter().find(|other| other.is_yardstick_of(subject));
                let ratios = yardstick.into_iter().flat_map(|yardstick| {
                    turns(subject).zip(turns(yardstick)).map(|(own, nginx)| Some(value(own)? / value(nginx)?))
                });
                show(ratios, 2, "x")
            };
            let cells = [
                connections.to_string(),
                subject.name(),
                of(|f| f.cpu_us_per_request, 1),
                ratio(|f| f.cpu_us_per_request),
                of(|f| Some(f.requests_per_second), 0),
                ratio(|f| Some(f.requests_per_second)),
                of(|f| Some(f.p50_us), 0),
                of(|f| Some(f.p99_us), 0),
                of(|f| f.peak_rss_kib.map(|kib| kib as f64 / 1024.0), 1),
            ];
            // Writing to a string does not fail.
            let _ = writeln!(table, "| {} |", cells.join(" | "));
        }
    }
    table
}

fn show(values: impl Iterator<Item = Option<f64>>, digits: usize, unit: &str) -> String {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match (values.get(upper), values.len().is_multiple_of(2)) {
        (None, _) => String::new(),
        (Some(median), false) => format!("{median:.digits$}{unit}"),
        (Some(median), true) => format!("{:.digits$}{unit}", (median + values[upper - 1]) / 2.0),
    }
}
