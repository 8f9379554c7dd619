//! A server as the commands that are clients reach it: its URL, what every request carries, connections.

mod connect;

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use throughline_gateway::config::{Overrides, Proxy};
use tokio_rustls::TlsConnector;

pub(crate) use connect::{ConnectError, Sender};

/// How long a connection may take to make.
const CONNECT: Duration = Duration::from_secs(10);

/// What MCP's transport or this client sets itself.
const OWN: [&str; 13] = [
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "transfer-encoding",
];

/// What every request carries, and how long it may take.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Send this header with every request; again for more of them.
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// The same, its value from an environment variable, so that no list of processes shows it.
    #[arg(long = "header-env", value_name = "NAME:VARIABLE")]
    headers_from_env: Vec<String>,
    /// Send `Authorization: Bearer TOKEN` with every request.
    #[arg(long, value_name = "TOKEN", env = "THROUGHLINE_BEARER", hide_env_values = true)]
    bearer: Option<String>,
}

/// A mistake in what was asked for: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A server's MCP endpoint.
pub(crate) struct Endpoint {
    /// Its URL, with the path that is asked.
    pub(crate) uri: Uri,
    /// What requests name: the path, or the whole URL toward a proxy that passes them on.
    target: Uri,
    host: String,
    port: u16,
    authority: HeaderValue,
    tls: Option<(TlsConnector, rustls::pki_types::ServerName<'static>)>,
    proxy: Option<Proxy>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Texts that are not to be shown, the longest first.
    pub(crate) secrets: Vec<String>,
}

impl Endpoint {
    /// The endpoint at this URL; one without a path is asked at `/mcp`.
    ///
    /// # Errors
    /// A URL, header or token that cannot be used; certificates that are not there.
    pub(crate) fn new(url: &str, options: &Options) -> Result<Self, Usage> {
        let uri = parse_url(url)?;
        let is_https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let authority = HeaderValue::from_str(&authority)
            .map_err(|_| Usage("the URL names no host that a request could be for".to_owned()))?;
        let proxy = proxy(&uri)?;
        let target = match &proxy {
            Some(_) if !is_https => uri.clone(),
            _ => path_of(&uri),
        };
        let tls = if is_https { Some(connect::encryption(&host).map_err(Usage)?) } else { None };
        let mut endpoint = Endpoint {
            port: uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            uri,
            target,
            host,
            authority,
            tls,
            proxy,
            headers: Vec::new(),
            secrets: Vec::new(),
        };
        endpoint.take(options)?;
        Ok(endpoint)
    }

    fn take(&mut self, options: &Options) -> Result<(), Usage> {
        for given in &options.headers {
            let (name, value) = split(given, "--header", "NAME:VALUE")?;
            self.carry(name, value)?;
        }
        for given in &options.headers_from_env {
            let (name, variable) = split(given, "--header-env", "NAME:VARIABLE")?;
            let value = std::env::var(variable)
                .map_err(|_| Usage(format!("--header-env {name}: {variable} is not set, or is no text")))?;
            self.carry(name, value.trim())?;
        }
        if let Some(token) = options.bearer.as_deref().map(str::trim).filter(|token| !token.is_empty()) {
            self.carry("authorization", &format!("Bearer {token}"))?;
        }
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(())
    }

    /// Errors do not quote the value.
    fn carry(&mut self, name: &str, value: &str) -> Result<(), Usage> {
        let name = HeaderName::try_from(name)
            .map_err(|_| Usage(format!("{name:?} is not the name of a header: write x-api-key")))?;
        if OWN.contains(&name.as_str()) {
            return Err(Usage(format!("the header {name} is set by this client itself: take it out")));
        }
        let mut header = HeaderValue::from_str(value)
            .map_err(|_| Usage(format!("the value of {name} has a character that headers cannot carry")))?;
        header.set_sensitive(true);
        // Also its parts, so that `Bearer TOKEN` hides the token wherever it comes back.
        let parts = value.split([' ', ',', ';', '=']).chain([value]);
        self.secrets.extend(parts.filter(|part| part.len() >= SHORTEST_SECRET).map(str::to_owned));
        self.headers.push((name, header));
        Ok(())
    }

    /// Its URL without the query, where some services take their keys.
    pub(crate) fn shown(&self) -> String {
        let whole = self.uri.to_string();
        whole.split('?').next().unwrap_or_default().to_owned()
    }

    /// A request to it, with what every request carries.
    pub(crate) fn request(&self, method: http::Method) -> http::request::Builder {
        let mut request = http::Request::builder().method(method).uri(self.target.clone());
        if let Some(headers) = request.headers_mut() {
            headers.insert(http::header::HOST, self.authority.clone());
            if let Some(Proxy { authorization: Some(authorization), .. }) = &self.proxy
                && self.tls.is_none()
            {
                headers.insert(http::header::PROXY_AUTHORIZATION, authorization.clone());
            }
            for (name, value) in &self.headers {
                headers.append(name, value.clone());
            }
            let own = HeaderValue::from_static(USER_AGENT);
            headers.entry(http::header::USER_AGENT).or_insert(own);
        }
        request
    }
}

const USER_AGENT: &str = concat!("throughline/", env!("CARGO_PKG_VERSION"));
/// Shorter texts stand in too many places that are none of theirs.
const SHORTEST_SECRET: usize = 8;

fn split<'a>(given: &'a str, option: &str, form: &str) -> Result<(&'a str, &'a str), Usage> {
    let (name, value) = given.split_once(':').ok_or_else(|| Usage(format!("{option} takes {form}")))?;
    Ok((name.trim(), value.trim()))
}

fn parse_url(url: &str) -> Result<Uri, Usage> {
    let wrong = |why: &str| Usage(format!("the URL {why}: write http://127.0.0.1:3000/mcp"));
    let uri: Uri = url.parse().map_err(|_| wrong("cannot be read"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("begins with neither http:// nor https://"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("names no host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Usage(
            "the URL holds a user name: give it with --header-env Authorization:VARIABLE".into(),
        ));
    }
    let mut parts = uri.into_parts();
    if parts.path_and_query.as_ref().is_none_or(|path| path == "/") {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/mcp"));
    }
    Uri::from_parts(parts).map_err(|_| wrong("cannot be read"))
}

fn path_of(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map(Uri::from).unwrap_or_default()
}

/// The proxy that the environment names for this URL, as for the gateway's upstreams.
fn proxy(uri: &Uri) -> Result<Option<Proxy>, Usage> {
    let env = |name: &str| {
        let is_proxy = name.to_ascii_uppercase().ends_with("_PROXY");
        if is_proxy { std::env::var(name).ok() } else { None }
    };
    let overrides = Overrides::from_env(&env).map_err(|error| Usage(error.to_string()))?;
    let Some(proxies) = overrides.proxies else { return Ok(None) };
    Ok(proxies.on_the_way_to(uri).map_err(|error| Usage(error.to_string()))?.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(headers: &[&str]) -> Options {
        let headers = headers.iter().map(ToString::to_string).collect();
        Options { headers, headers_from_env: Vec::new(), bearer: None }
    }

    fn refusal(url: &str, headers: &[&str]) -> String {
        Endpoint::new(url, &options(headers)).err().expect("a refusal").to_string()
    }

    #[test]
    fn a_url_without_a_path_is_asked_at_mcp() {
        for (url, asked) in [
            ("http://localhost:3000", "http://localhost:3000/mcp"),
            ("http://localhost:3000/", "http://localhost:3000/mcp"),
            ("http://[::1]/other/mcp?a=b", "http://[::1]/other/mcp?a=b"),
        ] {
            let endpoint = Endpoint::new(url, &options(&[])).expect(url);
            assert_eq!(endpoint.uri.to_string(), asked);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_being_quoted() {
        assert!(refusal("localhost:3000", &[]).contains("http"));
        assert!(refusal("ftp://localhost/mcp", &[]).contains("http"));
        let user = refusal("http://me:hunter22@localhost/mcp", &[]);
        assert!(user.contains("user name") && !user.contains("hunter22"), "{user}");
        let value = refusal("http://localhost", &["X-Api-Key: hunter22\u{7f}"]);
        assert!(value.contains("x-api-key") && !value.contains("hunter22"), "{value}");
        assert!(!refusal("http://localhost", &["hunter22"]).contains("hunter22"));
        assert!(refusal("http://localhost", &["Mcp-Session-Id: 1"]).contains("itself"));
    }

    #[test]
    fn the_parts_of_a_header_are_secret_too() {
        let endpoint = Endpoint::new("http://localhost", &options(&["Authorization: Bearer abcdefgh"]));
        let secrets = endpoint.expect("an endpoint").secrets;
        assert_eq!(secrets, ["Bearer abcdefgh", "abcdefgh"]);
    }
}
