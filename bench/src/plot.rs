//! The plot: two panels of bars, as SVG that needs nothing but a browser.

use std::fmt::Write;

use crate::subject::{Proxy, Subject};
use crate::table::{CPU, THROUGHPUT, Table, Value};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 250.0;
/// What a bar may take of the width, with room for the figures behind it.
const BARS: f64 = WIDTH - LABELS - 150.0;
const ROW: f64 = 26.0;
const BAR: f64 = 18.0;
const HEAD: f64 = 46.0;

/// Draws what the table has at so many connections.
pub(crate) fn svg(table: &Table<'_>, connections: usize) -> String {
    let mut body = String::new();
    let cpu = format!(
        "CPU time of the proxy per request, microseconds, {connections} connections (less is better)"
    );
    let next = panel(&mut body, 12.0, &cpu, table, connections, CPU, 1);
    let throughput = format!("Requests per second, {connections} connections (more is better)");
    let height = panel(&mut body, next + 16.0, &throughput, table, connections, THROUGHPUT, 0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>What the gateway costs, beside nginx</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// Draws one panel from `top` down; returns where it ends.
fn panel(
    body: &mut String,
    top: f64,
    title: &str,
    table: &Table<'_>,
    connections: usize,
    value: Value,
    digits: usize,
) -> f64 {
    let of = |subject: &&Subject| table.value(subject, connections, value);
    let rows: Vec<(&Subject, f64)> =
        table.subjects.iter().filter_map(|subject| Some((*subject, of(subject)?))).collect();
    let longest = rows.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    // Writing to a string does not fail.
    let _ = writeln!(
        body,
        "<text x=\"12\" y=\"{}\" font-size=\"15\" font-weight=\"600\" fill=\"#1f2328\">{title}</text>",
        top + 20.0
    );
    let mut y = top + HEAD - ROW / 2.0;
    for (subject, figure) in rows {
        y += ROW;
        let (bar, text) = (y - ROW / 2.0 - BAR / 2.0, y - ROW / 2.0 + 4.5);
        let width = BARS * figure / longest;
        let ratio = match table.ratio(subject, connections, value) {
            Some(ratio) if subject.proxy != Proxy::Nginx => format!(" ({ratio:.2}x)"),
            _ => String::new(),
        };
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#1f2328\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{bar}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{text}\" fill=\"#1f2328\">{figure:.digits$}{ratio}</text>",
            LABELS - 8.0,
            subject.name(),
            colour(subject.proxy),
            LABELS + width + 6.0,
        );
    }
    y + 12.0
}

fn colour(proxy: Proxy) -> &'static str {
    match proxy {
        Proxy::Direct => "#b6bcc4",
        Proxy::Nginx => "#57606a",
        Proxy::Gateway => "#2f81f7",
    }
}
