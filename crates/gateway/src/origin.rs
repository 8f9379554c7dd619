//! Requests that a page in somebody's browser makes in their name: by DNS rebinding (the Host header tells), or
//! openly (Origin and Sec-Fetch-Site tell). And what a browser must be told so that allowed pages can read answers.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request};

use crate::config::Config;
use crate::error::Fault;
use crate::peer::Peer;

/// Headers that a page may send.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-type, accept, authorization, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, last-event-id",
);
/// Headers that a page may read.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "mcp-session-id, throughline-session, throughline-instance, retry-after, www-authenticate",
);

/// Lets a request pass, or refuses it. Returns the origin of the page that may read the answer.
pub fn check<B>(config: &Config, peer: Peer, request: &Request<B>) -> Result<Option<HeaderValue>, Fault> {
    let headers = request.headers();
    let loopback = config.on_loopback();
    let is_ours = |host: &str| {
        let name = name_of(host);
        let known = listed(&config.allowed_hosts, host) || listed(&config.allowed_hosts, name);
        known || (loopback && is_loopback_name(name))
    };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The name that the proxy was called by, beside the one that it uses here: a page that comes from a proxy's own
    // machine can set the first.
    let host = peer.forwarded_host(config, headers).unwrap_or(own);
    if !(is_ours(own) && (host == own || is_ours(host))) {
        return Err(Fault::BadHost);
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return if is_cross_site(headers) { Err(Fault::BadOrigin) } else { Ok(None) };
    };
    let text = origin.to_str().map_err(|_| Fault::BadOrigin)?;
    let from = text.split_once("://").map(|(_, host)| host).unwrap_or_default();
    let same = from.eq_ignore_ascii_case(host) || (loopback && is_loopback_name(name_of(from)));
    if listed(&config.allowed_origins, text) || (same && !is_cross_site(headers)) {
        return Ok(Some(origin.clone()));
    }
    Err(Fault::BadOrigin)
}

/// The same for whoever watches the process, a program on any machine: a web page has no business there, and a name that
/// nobody gave the gateway may be one that a page makes resolve to it.
pub fn check_watcher(config: &Config, headers: &HeaderMap) -> Result<(), Fault> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = name_of(host);
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let known = listed(&config.allowed_hosts, host) || listed(&config.allowed_hosts, name);
    if !(is_address || known || is_loopback_name(name)) {
        return Err(Fault::BadHost);
    }
    if headers.contains_key(ORIGIN) || is_cross_site(headers) {
        return Err(Fault::BadOrigin);
    }
    Ok(())
}

fn listed(list: &[String], value: &str) -> bool {
    list.iter().any(|known| known.eq_ignore_ascii_case(value))
}

/// The same for the administrator, who is on this machine and never a web page.
pub fn check_local(headers: &HeaderMap) -> Result<(), Fault> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_loopback_name(name_of(host)) {
        return Err(Fault::BadHost);
    }
    if headers.contains_key(ORIGIN) || is_cross_site(headers) {
        return Err(Fault::BadOrigin);
    }
    Ok(())
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get(HeaderName::from_static("sec-fetch-site")).is_some_and(|site| site == "cross-site")
}

/// Whether a browser only asks what a page may do (Fetch standard, "CORS-preflight request").
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Tells the browser that this page may read the answer, and what it may send.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue, preflight: bool) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("origin"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    if preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    if matches!(name, "localhost" | "127.0.0.1") {
        return true;
    }
    let name = name.trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
