//! The configuration: one TOML file, then the environment, then flags.
//!
//! ```text
//! Config::parse(file) or Config::for_upstreams(urls)
//!     -> apply(Overrides::from_env(..)) -> apply(flags) -> check()
//! ```
//!
//! Every mistake in a file is reported at once, each with its line ([`ConfigErrors`]). What a key is called and
//! what it accepts is said once, in the tables of `schema`; [`EXAMPLE`] explains each of them to the operator,
//! and a test holds the two together.

mod admin;
mod cache;
mod callers;
mod command;
mod error;
mod grant;
mod overrides;
mod read;
mod rest;
mod route;
mod schema;
mod state;
mod streams;
#[cfg(test)]
mod tests;
mod tokens;
mod transport;
mod upstream;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::peer::Network;

pub use admin::{AdminAddress, AdminToken};
pub use cache::Cache;
pub use callers::{ApiKey, CallerProxy, Callers, Conversation, KeyKind};
pub use command::Command;
pub use error::{ConfigError, ConfigErrors, Place, ValueError};
pub use grant::{Grant, GrantKind, Secret};
pub use overrides::Overrides;
pub use rest::{Rest, ToolErrors};
pub use route::{
    Anonymous, Answers, KeptBy, MAX_ENDPOINTS, Mode, OnStoreFailure, OnStoreMiss, Resolve, Route,
    UnsafeAfterLoss,
};
pub use state::{KeyRingPlace, StoreUrl, default_state_dir};
pub use streams::Streams;
pub use tokens::Tokens;
pub use transport::Transport;
pub use upstream::{Header, HeaderSource, Proxies, Proxy};
pub use value::parse_duration;
pub(crate) use value::place;

/// The commented example configuration, as shipped. It is valid as it stands, and so it is with every option
/// in it switched on; the values of its commented-out options are the defaults wherever there is one.
pub const EXAMPLE: &str = include_str!("../../../examples/throughline.toml");

/// Stands for the URL of an upstream that is a program until it has one.
const COMMAND_URL: &str = "http://127.0.0.1/mcp";

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

const fn hours(n: u64) -> Duration {
    minutes(60 * n)
}

const fn days(n: u64) -> Duration {
    hours(24 * n)
}

/// Everything the gateway is told at start. Made by [`Config::parse`] or [`Config::for_upstreams`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address and port of the main listener; port 0 takes a free one. Default `127.0.0.1:8808`.
    pub listen: SocketAddr,
    /// How many worker threads, each with a runtime of its own. Default (`None`): one per core.
    pub workers: Option<NonZeroUsize>,
    /// Where the gateway keeps its key file and the embedded store. Default (`None`): [`default_state_dir`].
    pub state_dir: Option<PathBuf>,
    /// Where session records live. Default: embedded, in the state directory.
    pub store: StoreUrl,
    /// Where the key ring is. Default: the file `keyring` in the state directory, made at the first start.
    pub key_ring: KeyRingPlace,
    /// Values of `Host` that are accepted, in lower case: `name` (any port) or `name:port`. While the gateway
    /// listens on loopback they come on top of the loopback names; elsewhere they are the only ones, so
    /// [`Config::check`] asks for at least one. Default: none.
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` that are accepted, as a browser sends them (`scheme://host[:port]`, in lower case, no
    /// default port), on top of the loopback origins while the gateway listens on loopback. Default: none.
    pub allowed_origins: Vec<String>,
    /// The proxies whose word about the client is believed (`Forwarded`, `X-Forwarded-*`), by the address that they
    /// connect from. Default: none.
    pub trusted_proxies: Vec<Network>,
    /// TLS toward clients. Default (`None`): plain HTTP.
    pub tls: Option<Tls>,
    /// Where the administrator connects. Default: nowhere.
    pub admin: Option<AdminAddress>,
    /// What the administrator proves itself with. Default (`None`): the file `admin-token` in the state directory.
    pub admin_token: Option<AdminToken>,
    /// Where counts and health are shown to other machines. Default: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What this instance is called, where it says who answered. Default (`None`): a random name, new at each start.
    pub instance: Option<String>,
    /// Whether each request is logged, in a line of its own. Default: yes.
    pub access_log: bool,
    /// How much a peer may send or hold.
    pub limits: Limits,
    /// How long the gateway waits.
    pub timeouts: Timeouts,
    /// How long sessions live.
    pub sessions: Sessions,
    /// How streams outlive their connections.
    pub streams: Streams,
    /// Who may call, and how callers are told apart.
    pub callers: Callers,
    /// What is served, never empty; names and paths are distinct. The unnamed route comes first.
    pub routes: Vec<Route>,
    /// Proxies on the way to upstreams, as the environment names them. Default: none.
    pub proxies: Proxies,
    /// What programs of routes are run by, so that they do not outlive the gateway; the program and its arguments follow.
    /// Default: nothing, and they may.
    pub keeper: Vec<PathBuf>,
    /// Whether a configuration file was given. See [`Config::anonymous_callers_share`].
    pub from_file: bool,
    /// Where `listen` was written, for [`Config::check`].
    listen_place: Place,
}

/// TLS toward clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `tls.certificate`: a PEM file, the gateway's certificate first and then those that vouch for it.
    pub certificate: PathBuf,
    /// `tls.key`: a PEM file with the certificate's private key.
    pub key: PathBuf,
    /// `tls.reload`: how often the files are looked at; a changed pair serves the connections that follow.
    /// Default 5 s.
    pub reload: Duration,
}

impl Default for Tls {
    fn default() -> Self {
        Self { certificate: PathBuf::new(), key: PathBuf::new(), reload: Duration::from_secs(5) }
    }
}

/// How much a peer may send or hold. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limits.body`: a request's body. Default 4 MiB.
    pub body_bytes: usize,
    /// `limits.answer`: an upstream answer that has to be held whole, since it is translated or turned into
    /// JSON; one that only streams through has no limit. Default 16 MiB.
    pub answer_bytes: usize,
    /// `limits.event`: one event of an upstream's event stream. Default 16 MiB.
    pub event_bytes: usize,
    /// `limits.head`: request line and headers together. Default 32 KiB.
    pub header_bytes: usize,
    /// `limits.headers`: how many headers a request may have. Default 100.
    pub headers: usize,
    /// `limits.connections`: client connections open at a time, over all workers. Default 10,000.
    pub connections: usize,
    /// `limits.requests`: requests that are being answered at a time, over all connections, without streams that
    /// only listen. Default 4096.
    pub requests: usize,
    /// `limits.streams`: streams that listen (GET), open at a time. Default 10,000.
    pub streams: usize,
    /// `limits.sessions`: sessions alive at a time, over all routes. Default 100,000.
    pub sessions: usize,
    /// `limits.sessions_per_caller`: sessions of one identified caller in memory at a time; the idlest gives way. Default
    /// 1,000.
    pub sessions_per_caller: usize,
    /// `limits.requests_per_caller`: requests of one identified caller under way at a time, streams and calls that go on
    /// without their client included. Default 256.
    pub requests_per_caller: usize,
    /// `limits.parked`: calls that wait at a legacy server for what a client of 2026-07-28 has to be asked, at a time.
    /// Default 1,024.
    pub parked: usize,
    /// `limits.parked_per_caller`: such calls of one caller. Default 64.
    pub parked_per_caller: usize,
    /// `limits.json_depth`: how deep a message may nest arrays and objects. Default 128, which is also the most.
    pub json_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 * MIB,
            answer_bytes: 16 * MIB,
            event_bytes: 16 * MIB,
            header_bytes: 32 * KIB,
            headers: 100,
            connections: 10_000,
            requests: 4096,
            streams: 10_000,
            sessions: 100_000,
            sessions_per_caller: 1000,
            requests_per_caller: 256,
            parked: 1024,
            parked_per_caller: 64,
            json_depth: 128,
        }
    }
}

/// How long the gateway waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `timeouts.connect`: how long a connection to the upstream is tried, and tried again while it is refused,
    /// so that a request outlives the upstream's restart. Default 5 s.
    pub connect: Duration,
    /// `timeouts.first_byte`: how long the upstream may take to begin an answer. Default 5 min, since a tool
    /// that answers in plain JSON sends nothing before it is done; progress that it tells of on the session's
    /// standing stream starts the time anew. An answer that is a stream has begun with its head, and may then be
    /// silent for as long as the call may take.
    pub first_byte: Duration,
    /// `timeouts.call`: how long one request may take in all. Default 1 h.
    pub call: Duration,
    /// `timeouts.parked`: how long a call waits at a legacy server for what a client of 2026-07-28 has to be asked; then it
    /// is cancelled. Default 10 min.
    pub parked: Duration,
    /// `timeouts.request_read`: how long a client may take to send the head of a request, and then its body; also
    /// how long a connection without a request is kept. Default 75 s, since clients that keep connections expect
    /// a server to keep them for a minute.
    pub request_read: Duration,
    /// `timeouts.answer_write`: how long a client may take nothing of the answer that is there for it, before it is
    /// cut off. Default 60 s.
    pub answer_write: Duration,
    /// `timeouts.drain`: how long the gateway goes on after a signal to stop while it is no longer ready, since load
    /// balancers hear of the end late. Default: not at all.
    pub drain: Duration,
    /// `timeouts.shutdown`: how long requests in flight may go on after a signal to stop. Default 20 s, which is
    /// within the 30 s that Kubernetes allows.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: minutes(5),
            call: hours(1),
            parked: minutes(10),
            request_read: Duration::from_secs(75),
            answer_write: minutes(1),
            drain: Duration::ZERO,
            shutdown: Duration::from_secs(20),
        }
    }
}

/// How long sessions, and what belongs to them, live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// `sessions.idle`: after so long without a request the upstream session is released; the client's id stays
    /// good, and its next request gets a new one. Default 1 h.
    pub idle: Duration,
    /// `sessions.absolute`: after so long a session id ends, used or not. Never less than `idle`. Default 7 d.
    pub absolute: Duration,
    /// `sessions.initialize_cache`: how long the upstream's answer to `initialize` is given to further clients
    /// that ask the same. Default 10 min.
    pub initialize_cache: Duration,
    /// `sessions.warm`: how long an upstream session that such an `initialize` made waits for its first request
    /// before it is closed. Default 30 s.
    pub warm: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            idle: hours(1),
            absolute: days(7),
            initialize_cache: minutes(10),
            warm: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// What `throughline serve URL` without a file runs with: the defaults, and one unnamed route.
    ///
    /// # Errors
    /// When `url` cannot be an upstream (see [`Route::upstream`]).
    pub fn for_upstream(url: &str) -> Result<Self, ConfigErrors> {
        Self::for_upstreams(&[url])
    }

    /// The same for an upstream of several endpoints.
    ///
    /// # Errors
    /// When they cannot be an upstream (see [`Route::upstream`]).
    pub fn for_upstreams(urls: &[impl AsRef<str>]) -> Result<Self, ConfigErrors> {
        let fail = |error| ConfigErrors::one(Place::Argument("URL"), error);
        let read = urls.iter().map(|url| value::upstream(url.as_ref()));
        let upstream = read.collect::<Result<Vec<_>, _>>().map_err(fail)?;
        value::endpoints(&upstream).map_err(fail)?;
        let route = Route { anonymous: Anonymous::Shared, ..Route::new("", upstream) };
        Ok(Self { routes: vec![route], from_file: false, ..Self::without_routes() })
    }

    /// What `throughline serve -- COMMAND ARGS...` runs: one upstream, a program, at `/mcp`, without a file.
    ///
    /// # Errors
    /// When there is no program.
    pub fn for_command(words: Vec<String>) -> Result<Self, ConfigErrors> {
        let mut config = Self::for_upstream(COMMAND_URL)?;
        config.routes[0].command = Some(Command { words, ..Command::default() });
        Ok(config)
    }

    /// Reads the `text` of a TOML file; `file_name` only serves the error messages.
    ///
    /// # Errors
    /// All mistakes in the file, in the order of its lines.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigErrors> {
        schema::parse(text, file_name)
    }

    /// Puts what `overrides` says in place of what was configured.
    pub fn apply(&mut self, overrides: Overrides) {
        let Overrides {
            listen,
            admin,
            admin_token,
            metrics,
            store,
            key_ring,
            state_dir,
            workers,
            allowed_hosts,
            stateless,
            instance,
            proxies,
        } = overrides;
        self.admin = admin.or_else(|| self.admin.take());
        self.admin_token = admin_token.or_else(|| self.admin_token.take());
        self.metrics = metrics.or(self.metrics);
        if let Some(listen) = listen {
            self.listen = listen;
            self.listen_place = Place::Unknown;
        }
        if let Some(store) = store {
            self.store = store;
        }
        if let Some(key_ring) = key_ring {
            self.key_ring = key_ring;
        }
        self.state_dir = state_dir.or_else(|| self.state_dir.take());
        self.workers = workers.or(self.workers);
        self.instance = instance.or_else(|| self.instance.take());
        if let Some(hosts) = allowed_hosts {
            self.allowed_hosts = hosts;
        }
        if let Some(proxies) = proxies {
            self.proxies = proxies;
        }
        if stateless {
            self.routes.iter_mut().for_each(|route| route.mode = Mode::Stateless);
        }
    }

    /// Checks what can only be judged once file, environment and flags are put together: call it after the last
    /// [`Config::apply`].
    ///
    /// # Errors
    /// When the gateway can be reached from other machines and no allowed host is known. Without a list the
    /// check of `Host` would refuse every client, or, left out, let any web page reach the gateway through a
    /// name that it makes resolve to it (DNS rebinding). And when a key that opens the gateway would be passed on.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        if let Some((route, secret)) = self.passed_on() {
            let key =
                if route.name.is_empty() { "upstream".into() } else { format!("routes.{}", route.name) };
            let message = format!("{secret} opens this gateway, so it must not be passed on: take it out");
            return Err(ConfigErrors(vec![ConfigError { place: Place::Unknown, key, message }]));
        }
        if self.on_loopback() || !self.allowed_hosts.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} can be reached from other machines, so the names that clients use for it are needed: set \
             allowed_hosts or THROUGHLINE_ALLOWED_HOSTS",
            self.listen
        );
        let error = ConfigError { place: self.listen_place.clone(), key: "listen".to_owned(), message };
        Err(ConfigErrors(vec![error]))
    }

    /// A header that opens the gateway, and a route that passes it on.
    fn passed_on(&self) -> Option<(&Route, &str)> {
        let key = (!self.callers.keys.is_empty()).then_some("x-api-key");
        let secret = self.callers.proxy.as_ref().map(|proxy| proxy.secret_header.as_str());
        let passes = |route: &Route, name: &str| {
            (route.forward_authorization && name == "authorization")
                || route.forward_headers.iter().any(|passed| passed == name)
        };
        let token = (!self.callers.tokens.is_empty()).then_some("authorization");
        let mut secrets = key.into_iter().chain(secret).chain(token);
        secrets.find_map(|name| Some((self.routes.iter().find(|route| passes(route, name))?, name)))
    }

    /// Reads the variables of the environment that headers of routes come from; what is read already stays.
    ///
    /// # Errors
    /// All variables that are not set, or hold what headers cannot carry.
    pub fn resolve(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigErrors> {
        let headers = self.routes.iter_mut().flat_map(|route| &mut route.headers);
        let mut errors: Vec<_> = headers.filter_map(|header| header.value.resolve(env).err()).collect();
        let grants = self.routes.iter_mut().filter_map(|route| route.token.as_mut());
        errors.extend(grants.filter_map(|grant| grant.resolve(env).err()));
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }

    /// Whether only this machine can reach the main listener.
    #[must_use]
    pub fn on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// Whether callers of `route` that send neither credentials nor a session id share one upstream session.
    /// A file's word counts as it stands. Without a file they share only on loopback, and never when the request
    /// came through a proxy (`proxied`: it carries `Forwarded`, `X-Forwarded-*` or `Via`), since then
    /// they may be different people.
    #[must_use]
    pub fn anonymous_callers_share(&self, route: &Route, proxied: bool) -> bool {
        match route.anonymous {
            Anonymous::Isolated => false,
            Anonymous::Shared => self.from_file || (self.on_loopback() && !proxied),
        }
    }

    fn without_routes() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8808)),
            workers: None,
            state_dir: None,
            store: StoreUrl::Embedded(None),
            key_ring: KeyRingPlace::StateDir,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: None,
            admin: None,
            admin_token: None,
            metrics: None,
            instance: None,
            access_log: true,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            sessions: Sessions::default(),
            streams: Streams::default(),
            callers: Callers::default(),
            routes: Vec::new(),
            proxies: Proxies::default(),
            keeper: Vec::new(),
            from_file: true,
            listen_place: Place::Unknown,
        }
    }
}
