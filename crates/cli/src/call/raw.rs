//! `--raw`: the exchanges as they go over the wire, without what nobody else is to see.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};
use throughline_wire::headers::MCP_SESSION_ID;

use crate::text::{self, HIDDEN};

/// So much of a session id tells it from another, and lets nobody use it.
const ID_SHOWN: usize = 8;
/// Session ids of this process that are looked for in bodies.
const MAX_SESSIONS: usize = 64;

/// Prints exchanges on standard error, each under a number.
pub(crate) struct Raw {
    exchanges: AtomicU64,
    secrets: Vec<String>,
    /// Session ids that the server has given, in full.
    sessions: Mutex<Vec<String>>,
}

/// One exchange's number.
#[derive(Clone, Copy)]
pub(crate) struct Number(u64);

impl Raw {
    /// Hides these texts wherever they stand.
    pub(crate) fn new(secrets: Vec<String>) -> Self {
        Raw { exchanges: AtomicU64::new(0), secrets, sessions: Mutex::default() }
    }

    /// A request goes out.
    pub(crate) fn request(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Number {
        let number = Number(self.exchanges.fetch_add(1, Ordering::Relaxed) + 1);
        let mut lines = format!("{method} {} HTTP/1.1\n", without_values(uri));
        add_headers(&mut lines, headers);
        if !body.is_empty() {
            let _ = write!(lines, "\n{}", String::from_utf8_lossy(body));
        }
        self.print(number, '>', &lines);
        number
    }

    /// The head of its answer has come.
    pub(crate) fn head<B>(&self, number: Number, response: &Response<B>) {
        if let Some(id) = response.headers().get(MCP_SESSION_ID).and_then(|id| id.to_str().ok()) {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            if id.len() > ID_SHOWN
                && sessions.len() < MAX_SESSIONS
                && !sessions.iter().any(|known| known == id)
            {
                sessions.push(id.to_owned());
            }
        }
        let mut lines = format!("HTTP/1.1 {}\n", response.status());
        add_headers(&mut lines, response.headers());
        lines.push('\n');
        self.print(number, '<', &lines);
    }

    /// A body has come, or an event of it.
    pub(crate) fn body(&self, number: Number, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.print(number, '<', &String::from_utf8_lossy(bytes));
        }
    }

    /// Something else has become of it.
    pub(crate) fn note(&self, number: Number, what: &str) {
        self.print(number, '-', what);
    }

    fn print(&self, number: Number, direction: char, lines: &str) {
        let shown = self.hide(lines);
        let mut out = String::new();
        for line in shown.lines() {
            let _ = writeln!(out, "[{}] {direction} {line}", number.0);
        }
        // At once, so that exchanges do not mix within it. Nobody is left to tell if this fails.
        let _ = std::io::stderr().lock().write_all(out.as_bytes());
    }

    fn hide(&self, lines: &str) -> String {
        let mut shown = text::without(&self.secrets, &text::printable(lines));
        for id in self.sessions.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            shown = shown.replace(id.as_str(), &shortened(id));
        }
        shown
    }
}

fn add_headers(lines: &mut String, headers: &HeaderMap) {
    for (name, value) in headers {
        let _ = writeln!(lines, "{name}: {}", header(name, value));
    }
}

fn header(name: &HeaderName, value: &HeaderValue) -> String {
    let secret = value.is_sensitive()
        || [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE].iter().any(|known| known == name);
    let text = String::from_utf8_lossy(value.as_bytes());
    if secret {
        HIDDEN.to_owned()
    } else if name.as_str() == MCP_SESSION_ID {
        shortened(&text)
    } else {
        text.into_owned()
    }
}

fn shortened(id: &str) -> String {
    let shown: String = id.chars().take(ID_SHOWN).collect();
    if id.chars().count() > ID_SHOWN { format!("{shown}...") } else { HIDDEN.to_owned() }
}

/// A URL with the names in its query, not the values: some services take their keys there.
fn without_values(uri: &Uri) -> String {
    let whole = uri.to_string();
    let Some((path, query)) = whole.split_once('?') else { return whole };
    let names = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => pair.to_owned(),
    });
    format!("{path}?{}", names.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let raw = Raw::new(vec!["abcdefgh".to_owned()]);
        assert_eq!(raw.hide(r#"{"echo":"abcdefgh"}"#), r#"{"echo":"(redacted)"}"#);
        let id = "0123456789abcdef";
        let response = Response::builder().header("mcp-session-id", id).body(()).expect("a response");
        raw.head(Number(1), &response);
        assert_eq!(raw.hide(&format!("session {id}")), "session 01234567...");
    }

    #[test]
    fn headers_show_what_is_no_secret() {
        let shown = |name: &'static str, value: &'static str| {
            header(&HeaderName::from_static(name), &HeaderValue::from_static(value))
        };
        assert_eq!(shown("accept", "application/json"), "application/json");
        assert_eq!(shown("cookie", "a=b"), HIDDEN);
        assert_eq!(shown("mcp-session-id", "short"), HIDDEN);
        let mut given = HeaderValue::from_static("a key");
        given.set_sensitive(true);
        assert_eq!(header(&HeaderName::from_static("x-any"), &given), HIDDEN);
    }

    #[test]
    fn values_in_a_query_are_hidden() {
        let uri = Uri::from_static("/mcp?key=abc&flag&b=");
        assert_eq!(without_values(&uri), "/mcp?key=(redacted)&flag&b=(redacted)");
    }
}
