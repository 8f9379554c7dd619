//! What was to be reached, beside what was.

use std::fmt::Write;

use crate::lifecycle::Lifecycle;
use crate::subject::{Answer, Client, Proxy};
use crate::table::{CPU, THROUGHPUT, Table, show};

/// Connections at which requests are judged: enough for the cores to be busy.
pub(crate) const JUDGED_AT: usize = 64;

struct Goal {
    what: &'static str,
    bound: Bound,
    unit: &'static str,
    digits: usize,
    found: Option<f64>,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A table in Markdown; without rows for what was not measured.
pub(crate) fn markdown(table: &Table<'_>, lifecycle: Option<&Lifecycle>) -> String {
    let ratio = |client, value| {
        let subject = table.subjects.iter().find(|subject| {
            subject.proxy == Proxy::Gateway && subject.client == client && subject.answer == Answer::Json
        })?;
        table.ratio(subject, JUDGED_AT, value)
    };
    let [embedded, memory] = lifecycle.map_or([None; 2], Lifecycle::bytes_per_session);
    let [empty, full] = lifecycle.map_or([None; 2], Lifecycle::ready_ms);
    let new_sessions = lifecycle.and_then(Lifecycle::sessions_per_second);
    let goal = |what, bound, unit, digits, found| Goal { what, bound, unit, digits, found };
    let goals = [
        goal("CPU per request to nginx, issued", Bound::AtMost(1.5), "x", 2, ratio(Client::Issued, CPU)),
        goal("CPU per request to nginx, keyed", Bound::AtMost(2.0), "x", 2, ratio(Client::Keyed, CPU)),
        goal("requests/s to nginx, issued", Bound::AtLeast(0.7), "x", 2, ratio(Client::Issued, THROUGHPUT)),
        goal("requests/s to nginx, keyed", Bound::AtLeast(0.7), "x", 2, ratio(Client::Keyed, THROUGHPUT)),
        goal("memory per open session, `embedded:`", Bound::AtMost(2048.0), " bytes", 0, embedded),
        goal("memory per open session, `memory:`", Bound::AtMost(2048.0), " bytes", 0, memory),
        goal("new sessions, durable", Bound::AtLeast(1000.0), "/s", 0, new_sessions),
        goal("start to ready", Bound::AtMost(100.0), " ms", 1, empty),
        goal("start to ready, sessions in the store", Bound::AtMost(100.0), " ms", 1, full),
    ];
    let mut text = "| goal | | found | |\n|---|--:|--:|---|\n".to_owned();
    for Goal { what, bound, unit, digits, found } in goals {
        let Some(value) = found else { continue };
        let (words, reached) = match bound {
            Bound::AtMost(bound) => (format!("at most {bound}{unit}"), value <= bound),
            Bound::AtLeast(bound) => (format!("at least {bound}{unit}"), value >= bound),
        };
        let verdict = if reached { "reached" } else { "**missed**" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {what} | {words} | {} | {verdict} |", show(found, digits, unit));
    }
    text
}
