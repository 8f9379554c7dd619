//! Where a Redis is, and how this gateway signs in there: `place/url.rs` and `place/azure.rs` read the two forms
//! in which people have that at hand.

mod azure;
mod url;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What keys and channels begin with, if nothing else is said.
const PREFIX: &str = "throughline";
/// How long a command may take, if nothing else is said.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Between these a time-out makes sense: below, a busy network passes for an outage; above, requests wait too long.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(5);

/// The address of a Redis, a Sentinel or a cluster, with how to sign in. `Debug` and `Display` show neither user
/// nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) kind: Kind,
    /// `Some` for TLS.
    pub(super) tls: Option<Tls>,
    pub(super) sign_in: SignIn,
    /// Whether sentinels are told the same user and password.
    pub(super) sentinels_too: bool,
    pub(super) database: u16,
    /// What all keys and channels begin with.
    pub(super) prefix: String,
    /// How long a command may take.
    pub(super) timeout: Duration,
}

/// What stands at the address.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server, or a service that looks like one.
    Server(Host),
    /// Sentinels that know where the master of that name is.
    Sentinel { sentinels: Vec<Host>, master: String },
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<Host>),
}

/// A host and its port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// A name or an address; IPv6 without brackets.
    pub(super) name: String,
    pub(super) port: u16,
}

/// TLS toward Redis.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Who vouches for the server, as a PEM file; the system's roots if it is not said.
    pub(super) ca: Option<PathBuf>,
}

/// How the gateway shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum SignIn {
    /// Not at all.
    Anonymous,
    /// By a password that stands in the address.
    Password { user: Option<String>, password: Secret },
    /// By the password in a file, which is read for each connection.
    File { user: Option<String>, path: PathBuf },
    /// As the managed identity of the Azure resource that it runs on.
    Entra { client_id: Option<String> },
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

/// What is wrong with the address of a Redis; never a part of it that could hold the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlaceError(String);

impl PlaceError {
    fn new<T>(text: impl Into<String>) -> Result<T, PlaceError> {
        Err(PlaceError(text.into()))
    }
}

impl Place {
    /// Reads a URL (`redis://`, `rediss://`, `redis+sentinel://`, `rediss+sentinel://`, `redis+cluster://`,
    /// `rediss+cluster://`) or Azure's form (`HOST:PORT,password=...,ssl=True`).
    ///
    /// # Errors
    ///
    /// [`PlaceError`], which says what is wrong without showing the password.
    pub fn parse(text: &str) -> Result<Place, PlaceError> {
        match text.split_once("://") {
            Some((scheme, rest)) => url::parse(scheme, rest),
            None => azure::parse(text),
        }
    }

    /// One server, with everything that is not said as it usually is.
    fn new(kind: Kind, tls: Option<Tls>) -> Place {
        Place {
            kind,
            tls,
            sign_in: SignIn::Anonymous,
            sentinels_too: false,
            database: 0,
            prefix: PREFIX.to_owned(),
            timeout: TIMEOUT,
        }
    }

    /// The key of that name that belongs to no session.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// Where changes are announced.
    pub(super) fn channel(&self) -> String {
        self.key("changed")
    }

    /// Where news of streams are announced.
    pub(super) fn news(&self) -> String {
        self.key("events")
    }

    /// What is right for each parameter can still be wrong together.
    fn check(self) -> Result<Place, PlaceError> {
        if matches!(self.kind, Kind::Cluster(_)) && self.database != 0 {
            return PlaceError::new("a cluster has no database numbers: leave it out");
        }
        if self.sentinels_too && !matches!(self.kind, Kind::Sentinel { .. }) {
            return PlaceError::new("sentinel_auth is only for redis+sentinel://: leave it out");
        }
        if matches!(self.sign_in, SignIn::Entra { .. }) && self.tls.is_none() {
            return PlaceError::new("auth=entra sends a token, which needs TLS: write rediss:// or ssl=True");
        }
        Ok(self)
    }
}

/// The parameters that both forms know, as they are read; put together by [`Options::finish`].
#[derive(Default)]
struct Options {
    user: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    entra: bool,
    client_id: Option<String>,
}

impl Options {
    /// Takes one parameter; whether it is known.
    fn set(&mut self, place: &mut Place, name: &str, value: &str) -> Result<bool, PlaceError> {
        match name {
            "prefix" => place.prefix = prefix(value)?,
            "timeout" => place.timeout = timeout(value)?,
            "ca" => match &mut place.tls {
                Some(tls) => tls.ca = Some(file("ca", value)?),
                None => return PlaceError::new("ca is given, but no TLS: write rediss:// or ssl=True"),
            },
            "auth" if value == "entra" => self.entra = true,
            "auth" => return PlaceError::new("auth can only be entra"),
            "client_id" => self.client_id = Some(value.to_owned()),
            "password_file" => self.password_file = Some(file("password_file", value)?),
            "sentinel_auth" if value == "same" => place.sentinels_too = true,
            "sentinel_auth" => return PlaceError::new("sentinel_auth can only be same"),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(mut self, mut place: Place) -> Result<Place, PlaceError> {
        place.sign_in = match (self.password, self.password_file, self.entra) {
            (None, None, false) if self.user.is_some() => {
                return PlaceError::new("a user is given, but no password: add one, or password_file=FILE");
            }
            (None, None, false) => SignIn::Anonymous,
            (Some(password), None, false) => SignIn::Password { user: self.user, password },
            (None, Some(path), false) => SignIn::File { user: self.user, path },
            (None, None, true) if self.user.is_none() => SignIn::Entra { client_id: self.client_id.take() },
            _ => return PlaceError::new("choose one: a password, password_file=FILE, or auth=entra alone"),
        };
        if self.client_id.is_some() {
            return PlaceError::new("client_id is only for auth=entra: leave it out");
        }
        place.check()
    }
}

/// `HOST` or `HOST:PORT`; IPv6 in brackets.
fn host(text: &str, default_port: u16) -> Result<Host, PlaceError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) if port.starts_with(':') => (name, Some(&port[1..])),
            _ => return PlaceError::new("an IPv6 address is not closed: write [::1]:6379"),
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if name.is_empty() || !name.chars().all(plain) {
        return PlaceError::new("a host is missing or malformed: write HOST or HOST:PORT");
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return PlaceError::new("a port is not a number from 1 to 65535"),
        },
    };
    Ok(Host { name: name.to_owned(), port })
}

/// What keys begin with. Neither what a pattern of SCAN would take for a wildcard, nor the braces of hash tags.
fn prefix(text: &str) -> Result<String, PlaceError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return PlaceError::new("prefix must be 1 to 64 of letters, digits, '.', '-', '_' and ':'");
    }
    Ok(text.to_owned())
}

fn timeout(text: &str) -> Result<Duration, PlaceError> {
    let number = |digits: &str| digits.parse::<u64>().ok();
    let parsed = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => number(millis).map(Duration::from_millis),
        (None, Some(seconds)) => number(seconds).map(Duration::from_secs),
        (None, None) => None,
    };
    match parsed {
        Some(timeout) if TIMEOUTS.contains(&timeout) => Ok(timeout),
        _ => PlaceError::new("timeout must be from 10ms to 5s: write 50ms or 1s"),
    }
}

fn file(name: &str, text: &str) -> Result<PathBuf, PlaceError> {
    if text.is_empty() {
        return PlaceError::new(format!("{name} is empty: write the path of a file"));
    }
    Ok(PathBuf::from(text))
}

fn database(text: &str) -> Result<u16, PlaceError> {
    text.parse().or_else(|_| PlaceError::new("the database is not a number"))
}

/// A parameter's name, for an error. What is no plain word may be the end of a password that holds a `?` or `,`.
fn named(name: &str) -> &str {
    let plain = name.len() <= 24 && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    if plain { name } else { "..." }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, hosts) = match &self.kind {
            Kind::Server(host) => ("", std::slice::from_ref(host)),
            Kind::Sentinel { sentinels, .. } => ("+sentinel", sentinels.as_slice()),
            Kind::Cluster(nodes) => ("+cluster", nodes.as_slice()),
        };
        write!(f, "redis{}{kind}://", if self.tls.is_some() { "s" } else { "" })?;
        for (index, host) in hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        if let Kind::Sentinel { master, .. } = &self.kind {
            write!(f, "/{master}")?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        if self.prefix != PREFIX {
            write!(f, "?prefix={}", self.prefix)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}
