//! The status page that the gateway and the reference server have in common: figures in, HTML and JSON out.
//!
//! Plain HTML says everything; a small script keeps it fresh, and, behind a load balancer, shows each instance that
//! answers it. Nothing is fetched from elsewhere, and [`POLICY`] forbids it.

mod history;

use std::time::Duration;

use askama::Template;
use serde::Serialize;

pub use history::{History, KEPT, STEP};

/// Value for `Content-Security-Policy`: what the page needs, all of it from the same server.
pub const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Width and height of the picture, in its own units.
const WIDTH: usize = 600;
const HEIGHT: usize = 120;

/// What one instance says of itself.
#[derive(Clone, Debug, Serialize, Template)]
#[template(path = "status.html")]
pub struct Status {
    /// What it is.
    pub service: &'static str,
    /// Which instance.
    pub instance: String,
    /// Its version.
    pub version: &'static str,
    /// For how long it has been running, in seconds.
    pub uptime_seconds: u64,
    /// Single figures, in the order in which they are shown.
    pub facts: Vec<Fact>,
    /// What there are several of.
    pub tables: Vec<Table>,
    /// Requests in each [`STEP`], the latest last.
    pub requests: Vec<u32>,
}

/// A figure with a name.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// How much.
    pub value: String,
    /// Something is wrong with it.
    pub alarming: bool,
}

impl Fact {
    /// A figure that is as it should be.
    pub fn new(name: &'static str, value: impl ToString) -> Self {
        Fact { name, value: value.to_string(), alarming: false }
    }
}

/// Rows of the same columns.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its heading.
    pub name: &'static str,
    /// The headings of its columns.
    pub columns: &'static [&'static str],
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

impl Status {
    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        // Writing to a String does not fail, and nothing in the template can.
        self.render().unwrap_or_default()
    }

    /// The same for programs, and for the page's script.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn uptime(&self) -> String {
        uptime(Duration::from_secs(self.uptime_seconds))
    }

    fn peak(&self) -> u32 {
        self.requests.iter().copied().max().unwrap_or_default()
    }

    /// The picture's line, as SVG has it. It ends at the right edge: what is not there yet is left out.
    fn line(&self) -> String {
        let peak = self.peak().max(1) as usize;
        let first = KEPT.saturating_sub(self.requests.len());
        let points = self.requests.iter().enumerate().map(|(at, count)| {
            let x = (first + at) * WIDTH / (KEPT - 1);
            let y = HEIGHT - *count as usize * HEIGHT / peak;
            format!("{x},{y}")
        });
        points.collect::<Vec<_>>().join(" ")
    }
}

/// Days, hours, minutes, seconds: the two that matter.
fn uptime(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// What else is served for the page: content type and body of the file at this path.
#[must_use]
pub fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/status.css" => Some(("text/css; charset=utf-8", include_str!("../assets/status.css"))),
        "/status.js" => Some(("text/javascript; charset=utf-8", include_str!("../assets/status.js"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(requests: Vec<u32>) -> Status {
        Status {
            service: "A service",
            instance: "<b>i</b>".to_owned(),
            version: "1.2.3",
            uptime_seconds: 3_661,
            facts: vec![Fact { alarming: true, ..Fact::new("Errors", 3) }],
            tables: vec![Table { name: "Routes", columns: &["path"], rows: vec![vec!["/a&b".to_owned()]] }],
            requests,
        }
    }

    #[test]
    fn everything_is_on_the_page_and_nothing_is_markup_that_came_from_outside() {
        let html = status(vec![1, 2]).html();
        for part in ["A service", "1.2.3", "1 h 1 min", "Errors", "Routes", "path"] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("<b>") && !html.contains("/a&b"), "{html}");
        assert!(!html.contains("http:") && !html.contains("https:"), "nothing from elsewhere: {html}");
    }

    #[test]
    fn the_line_ends_at_the_right_edge_and_its_peak_at_the_top() {
        let line = status(vec![0, 5, 10]).line();
        let points: Vec<_> = line.split(' ').collect();
        assert_eq!(points.len(), 3);
        assert_eq!(points[2], format!("{WIDTH},0"));
        assert!(points[0].ends_with(&format!(",{HEIGHT}")), "{line}");
        assert_eq!(status(Vec::new()).line(), "");
        assert_eq!(status(vec![0]).line(), format!("{WIDTH},{HEIGHT}"));
    }

    #[test]
    fn time_is_told_in_its_two_greatest_units() {
        let told = [0, 59, 61, 3_600, 90_061].map(|seconds| uptime(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn what_the_page_refers_to_is_there() {
        let html = status(vec![1]).html();
        for path in ["/status.css", "/status.js"] {
            assert!(html.contains(&format!("\"{}\"", &path[1..])), "{html}");
            assert!(asset(path).is_some());
        }
        assert_eq!(asset("/status.php"), None);
        let json: serde_json::Value = serde_json::from_str(&status(vec![1]).json()).unwrap_or_default();
        assert_eq!(json["facts"][0]["value"], "3");
    }
}
