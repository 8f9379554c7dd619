//! What requests to an upstream carry beside a client's message, and through which proxy they go.

use std::net::IpAddr;

use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, Uri};

use super::{ConfigError, Place, ValueError};
use crate::peer::Network;

/// A header that every request to an upstream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Where its value comes from.
    pub value: HeaderSource,
}

/// Where a header's value comes from. Its `Debug` never shows the value, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// The configuration.
    Value(HeaderValue),
    /// A variable of the environment, read at start by [`Config::resolve`](super::Config::resolve).
    Env {
        /// The variable.
        variable: String,
        /// The key that names it, such as `upstream.headers.x-api-key`.
        key: String,
        /// Where that stands.
        place: Place,
    },
}

impl HeaderSource {
    /// Reads the variable, if it is one.
    pub(super) fn resolve(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        let HeaderSource::Env { variable, key, place } = self else { return Ok(()) };
        let value = match env(variable).filter(|text| !text.is_empty()) {
            Some(text) => header_value(text.trim()).map_err(|ValueError(message)| message),
            None => Err(format!("the environment variable {variable} is not set")),
        };
        match value {
            Ok(value) => *self = HeaderSource::Value(value),
            Err(message) => {
                return Err(ConfigError { place: place.clone(), key: std::mem::take(key), message });
            }
        }
        Ok(())
    }
}

/// Headers that the gateway or HTTP itself sets.
const OWN: [&str; 18] = [
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Headers of a client that reach every upstream.
const PASS_ANYWAY: [&str; 5] = ["user-agent", "accept-language", "traceparent", "tracestate", "baggage"];

fn name(text: &str) -> Result<HeaderName, ValueError> {
    let name = HeaderName::try_from(text)
        .map_err(|_| ValueError(format!("{text:?} is not the name of a header: write x-api-key")))?;
    if OWN.contains(&name.as_str()) || name.as_str().starts_with("mcp-param-") {
        return Err(ValueError(format!("{name} is set by the gateway itself: take it out")));
    }
    if name == http::header::COOKIE {
        return Err(ValueError("cookies are kept for each session by themselves: take it out".to_owned()));
    }
    Ok(name)
}

/// The name of a header with a configured value.
pub(super) fn header_name(text: &str) -> Result<HeaderName, ValueError> {
    name(text)
}

/// The name of a client's header that is passed on.
pub(super) fn forward_header(text: &str) -> Result<HeaderName, ValueError> {
    let name = name(text)?;
    if name == http::header::AUTHORIZATION {
        return Err(ValueError("write forward_authorization = true for this one".to_owned()));
    }
    if PASS_ANYWAY.contains(&name.as_str()) {
        return Err(ValueError(format!("{name} reaches every upstream anyway: take it out")));
    }
    Ok(name)
}

/// A header's value, marked so that it is not shown. The error does not quote it.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, ValueError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ValueError("the value has a character that headers cannot carry".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The proxies that the environment names. One that cannot be used matters only where it is on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTP_PROXY`: for upstreams at `http`.
    pub http: Option<Result<Proxy, ValueError>>,
    /// `HTTPS_PROXY`: for upstreams at `https`.
    pub https: Option<Result<Proxy, ValueError>>,
    /// `NO_PROXY`: the hosts that are reached without one.
    pub none: Vec<String>,
}

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it gets as `Proxy-Authorization`, where its URL holds a user name.
    pub authorization: Option<HeaderValue>,
}

impl Proxies {
    /// The proxy on the way to this URL. Loopback is never behind one.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn on_the_way_to(&self, uri: &Uri) -> Result<Option<&Proxy>, ValueError> {
        let is_https = uri.scheme_str() == Some("https");
        let proxy = if is_https { self.https.as_ref() } else { self.http.as_ref() };
        let Some(proxy) = proxy else { return Ok(None) };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let address = host.parse::<IpAddr>().ok();
        let loopback = host == "localhost" || address.is_some_and(|ip| ip.to_canonical().is_loopback());
        let direct = loopback || self.none.iter().any(|entry| matches(entry, &host, port, address));
        if direct {
            return Ok(None);
        }
        proxy.as_ref().map(Some).map_err(Clone::clone)
    }
}

/// Whether an entry of `NO_PROXY` covers this host: `*`, a name (with the names below it), an address, a block of
/// addresses, each but the first and the last with or without a port.
fn matches(entry: &str, host: &str, port: u16, address: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if entry.contains('/') {
        let block = Network::parse(entry);
        return block.is_some_and(|block| address.is_some_and(|address| block.contains(address)));
    }
    let (name, only) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, Some(digits)),
        _ => (entry, None),
    };
    if only.is_some_and(|digits| digits.parse() != Ok(port)) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
    match (address, name.parse::<IpAddr>()) {
        (Some(address), Ok(named)) => address == named,
        (None, Err(_)) if !name.is_empty() => {
            host == name || host.strip_suffix(name).is_some_and(|below| below.ends_with('.'))
        }
        _ => false,
    }
}

/// The value of `HTTP_PROXY` or `HTTPS_PROXY`. The error does not quote it: it may hold a password.
pub(super) fn proxy(text: &str) -> Result<Proxy, ValueError> {
    let unusable = || ValueError("is not a proxy that can be used: write http://HOST:PORT".to_owned());
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(unusable());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(u, place)| (Some(u), place));
    let uri: Uri = format!("http://{place}/").parse().map_err(|_| unusable())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let has_port = place.rfind(':') > place.rfind(']');
    let port = if has_port { uri.port_u16().filter(|port| *port != 0) } else { Some(80) };
    let (false, Some(port)) = (host.is_empty(), port) else { return Err(unusable()) };
    let authorization = match user {
        None => None,
        Some(user) => {
            let user = unescape(user).ok_or_else(unusable)?;
            let user = if user.contains(&b':') { user } else { [&user[..], b":"].concat() };
            Some(header_value(&format!("Basic {}", BASE64.encode(&user)))?)
        }
    };
    Ok(Proxy { host, port, authorization })
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

/// The value of `NO_PROXY`.
pub(super) fn no_proxy(text: &str) -> Vec<String> {
    let entries = text.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase());
    entries.filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_gateway_sets_or_passes_are_refused() {
        for (text, message) in [
            ("x y", "\"x y\" is not the name of a header: write x-api-key"),
            ("Mcp-Session-Id", "mcp-session-id is set by the gateway itself: take it out"),
            ("cookie", "cookies are kept for each session by themselves: take it out"),
            ("authorization", "write forward_authorization = true for this one"),
            ("traceparent", "traceparent reaches every upstream anyway: take it out"),
        ] {
            assert_eq!(forward_header(text).unwrap_err().to_string(), message);
        }
        assert_eq!(header_name("Authorization").unwrap(), "authorization");
        assert_eq!(forward_header("X-Tenant").unwrap(), "x-tenant");
    }

    #[test]
    fn proxies_are_read_and_their_passwords_are_not_shown() {
        let plain = proxy("http://proxy.internal:3128").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.authorization), ("proxy.internal", 3128, None));
        let named = proxy("http://me:s%3Acret@[::1]:8080/").unwrap();
        assert_eq!((named.host.as_str(), named.port), ("::1", 8080));
        let sent = named.authorization.as_ref().map(|value| value.to_str().unwrap());
        assert_eq!(sent, Some("Basic bWU6czpjcmV0"));
        assert!(!format!("{named:?}").contains("bWU6"));
        assert_eq!(proxy("proxy").unwrap().port, 80);
        for bad in ["socks5://h:1", "https://h:1", "", "http://", "http://u:secret@h:x", "http://%zz@h"] {
            let message = "is not a proxy that can be used: write http://HOST:PORT";
            assert_eq!(proxy(bad).unwrap_err().to_string(), message, "{bad}");
        }
    }

    #[test]
    fn some_hosts_are_reached_without_a_proxy() {
        let proxies = |none: &str| Proxies {
            http: Some(proxy("http://p:1")),
            https: Some(proxy("http://s:2")),
            none: no_proxy(none),
        };
        let way = |none: &str, uri: &str| {
            proxies(none).on_the_way_to(&uri.parse().unwrap()).unwrap().map(|proxy| proxy.port)
        };
        assert_eq!(way("", "http://example.com/mcp"), Some(1));
        assert_eq!(way("", "https://example.com/mcp"), Some(2));
        for loopback in
            ["http://localhost:1/", "http://127.0.0.2/", "https://[::1]/", "http://[::ffff:127.0.0.1]/"]
        {
            assert_eq!(way("", loopback), None, "{loopback}");
        }
        for (none, uri, direct) in [
            ("*", "http://a/", true),
            ("example.com", "http://example.com/", true),
            (".Example.com, b", "http://x.EXAMPLE.com/", true),
            ("*.example.com", "http://x.example.com/", true),
            ("example.com", "http://badexample.com/", false),
            ("example.com:8080", "http://example.com/", false),
            ("example.com:443", "https://example.com/", true),
            ("10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/8", "http://11.1.2.3/", false),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("0.0.0.0/0", "http://[fd12::1]/", false),
            ("[fd12::1]:80", "http://[fd12::1]/", true),
            ("10.0.0.1", "http://10.0.0.1:99/", true),
        ] {
            assert_eq!(way(none, uri).is_none(), direct, "{none} {uri}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_told() {
        let source = || HeaderSource::Env {
            variable: "KEY".into(),
            key: "upstream.headers.x".into(),
            place: Place::Unknown,
        };
        let mut set = source();
        set.resolve(&|name| (name == "KEY").then(|| "secret\n".to_owned())).unwrap();
        assert_eq!(set, HeaderSource::Value(HeaderValue::from_static("secret")));
        assert!(!format!("{set:?}").contains("secret"));
        let error = source().resolve(&|_| None).unwrap_err();
        assert_eq!(error.to_string(), "upstream.headers.x: the environment variable KEY is not set");
        let error = source().resolve(&|_| Some("a\u{1}secret".to_owned())).unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
