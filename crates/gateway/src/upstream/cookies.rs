//! Cookies of one upstream session: load balancers find the session's server by them.
//!
//! An upstream is one URL, so what a cookie says of scheme, host and path (RFC 6265, 5.3) is judged when it arrives:
//! one that would not be sent there is not kept.

use std::sync::{Arc, Mutex};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use throughline_store::Millis;

use super::destination::Destination;
use crate::session::{lock, millis};

/// Cookies kept of one session.
const MAX_COOKIES: usize = 16;
/// Longest name and value together, in bytes.
const MAX_COOKIE_BYTES: usize = 4096;
/// All of one session's together, in bytes: they are part of every request, and of the record.
const MAX_BYTES: usize = 8 * 1024;

/// The cookies of one upstream session, shared by whoever speaks in it. The default keeps none.
#[derive(Clone, Debug, Default)]
pub struct Jar(Option<Arc<Mutex<Vec<Cookie>>>>);

/// One of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookie {
    name: String,
    value: String,
    /// When it lapses; None with the session.
    until: Option<Millis>,
}

/// The name alone: values may be as good as a session id.
impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Jar {
    /// Of a session with these.
    pub fn new(cookies: Vec<Cookie>) -> Self {
        Jar(Some(Arc::new(Mutex::new(cookies))))
    }

    /// What is in it.
    pub fn cookies(&self) -> Vec<Cookie> {
        self.0.as_ref().map(|jar| lock(jar).clone()).unwrap_or_default()
    }

    /// Adds them to a request.
    pub fn apply(&self, headers: &mut HeaderMap, now: impl FnOnce() -> Millis) {
        let Some(jar) = &self.0 else { return };
        let jar = lock(jar);
        if jar.is_empty() {
            return;
        }
        let now = now();
        let live = jar.iter().filter(|cookie| cookie.until.is_none_or(|until| now < until));
        let text =
            live.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect::<Vec<_>>().join("; ");
        if let Ok(mut value) = HeaderValue::from_str(&text)
            && !text.is_empty()
        {
            value.set_sensitive(true);
            headers.insert(COOKIE, value);
        }
    }

    /// Keeps what came with an answer.
    pub fn keep(&self, headers: &HeaderMap, from: &Destination, now: impl FnOnce() -> Millis) {
        let Some(jar) = self.0.as_ref().filter(|_| headers.contains_key(SET_COOKIE)) else { return };
        let now = now();
        for value in headers.get_all(SET_COOKIE) {
            let Some(cookie) = value.to_str().ok().and_then(|text| read(text, from, now)) else { continue };
            let mut jar = lock(jar);
            jar.retain(|known| known.name != cookie.name && known.until.is_none_or(|until| now < until));
            let len = |cookie: &Cookie| cookie.name.len() + cookie.value.len() + 3;
            let bytes = jar.iter().map(len).sum::<usize>() + len(&cookie);
            if cookie.until.is_some_and(|until| until <= now) {
                continue;
            }
            if jar.len() < MAX_COOKIES && bytes <= MAX_BYTES {
                jar.push(cookie);
            } else {
                tracing::warn!(
                    upstream = from.host,
                    "an upstream sets more cookies than are kept for a session"
                );
            }
        }
    }
}

/// A `Set-Cookie` for this upstream; one that lapses at once takes its namesake away.
fn read(text: &str, from: &Destination, now: Millis) -> Option<Cookie> {
    let mut parts = text.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let plain = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';');
    if name.is_empty() || name.len() + value.len() > MAX_COOKIE_BYTES || !plain(name) || !plain(value) {
        return None;
    }
    let (mut expires, mut max_age) = (None, None);
    for part in parts {
        let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match attribute.trim().to_ascii_lowercase().as_str() {
            "secure" if from.tls.is_none() => return None,
            "path" if value.starts_with('/') && !path_matches(from.uri.path(), value) => return None,
            "domain" if !value.is_empty() && !domain_matches(&from.host, value) => return None,
            "max-age" => max_age = value.parse::<i64>().ok(),
            "expires" => expires = httpdate::parse_http_date(value).ok(),
            _ => {}
        }
    }
    let until = match (max_age, expires) {
        (Some(seconds), _) => {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            Some(Millis(now.0.saturating_add(seconds.saturating_mul(1000))))
        }
        (None, Some(at)) => {
            Some(Millis(at.duration_since(std::time::UNIX_EPOCH).map(millis).unwrap_or_default()))
        }
        (None, None) => None,
    };
    // A lapse at zero is one in the past, whatever the clock says.
    let until = until.map(|until| if max_age.is_some_and(|age| age <= 0) { Millis(0) } else { until });
    Some(Cookie { name: name.to_owned(), value: value.to_owned(), until })
}

/// RFC 6265, 5.1.4.
fn path_matches(path: &str, cookies: &str) -> bool {
    path == cookies
        || path.strip_prefix(cookies).is_some_and(|rest| cookies.ends_with('/') || rest.starts_with('/'))
}

/// RFC 6265, 5.1.3.
fn domain_matches(host: &str, cookies: &str) -> bool {
    let (host, cookies) = (host.to_ascii_lowercase(), cookies.trim_start_matches('.').to_ascii_lowercase());
    let below = || host.strip_suffix(&cookies).is_some_and(|rest| rest.ends_with('.'));
    host == cookies || (below() && host.parse::<std::net::IpAddr>().is_err())
}
