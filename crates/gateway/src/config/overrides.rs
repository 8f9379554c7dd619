//! What the environment and flags say in place of the file.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use throughline_wire::keyring::KeyRing;

use super::{
    AdminAddress, AdminToken, ConfigError, ConfigErrors, KeyRingPlace, Place, Proxies, StoreUrl, ValueError,
    upstream, value,
};

/// Settings that stand above the file's; `None` and `false` leave it as it is.
/// The environment's are applied first, the command line's after them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// In place of [`Config::listen`](super::Config::listen).
    pub listen: Option<SocketAddr>,
    /// In place of [`Config::admin`](super::Config::admin).
    pub admin: Option<AdminAddress>,
    /// In place of the file that [`Config::admin_token`](super::Config::admin_token) tells of.
    pub admin_token: Option<AdminToken>,
    /// In place of [`Config::metrics`](super::Config::metrics).
    pub metrics: Option<SocketAddr>,
    /// In place of [`Config::store`](super::Config::store).
    pub store: Option<StoreUrl>,
    /// In place of [`Config::key_ring`](super::Config::key_ring).
    pub key_ring: Option<KeyRingPlace>,
    /// In place of [`Config::state_dir`](super::Config::state_dir).
    pub state_dir: Option<PathBuf>,
    /// In place of [`Config::workers`](super::Config::workers).
    pub workers: Option<NonZeroUsize>,
    /// In place of [`Config::allowed_hosts`](super::Config::allowed_hosts).
    pub allowed_hosts: Option<Vec<String>>,
    /// Makes every route [`Mode::Stateless`](super::Mode::Stateless).
    pub stateless: bool,
    /// In place of [`Config::instance`](super::Config::instance).
    pub instance: Option<String>,
    /// In place of [`Config::proxies`](super::Config::proxies).
    pub proxies: Option<Proxies>,
}

impl Overrides {
    /// Reads `THROUGHLINE_LISTEN`, `THROUGHLINE_ADMIN`, `THROUGHLINE_ADMIN_TOKEN`, `THROUGHLINE_METRICS`,
    /// `THROUGHLINE_STORE`,
    /// `THROUGHLINE_KEY_RING` (its text), `THROUGHLINE_KEY_RING_FILE`,
    /// `THROUGHLINE_STATE_DIR`, `THROUGHLINE_WORKERS`, `THROUGHLINE_INSTANCE` and `THROUGHLINE_ALLOWED_HOSTS` (separated by commas), and, as
    /// everywhere in either case, `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`. An empty variable counts as unset.
    ///
    /// # Errors
    /// All variables that hold no value of their kind.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut variables = Variables { env, errors: Vec::new() };
        let proxies = variables.proxies();
        let overrides = Self {
            listen: variables.parse("THROUGHLINE_LISTEN", value::listen),
            admin: variables.parse("THROUGHLINE_ADMIN", AdminAddress::parse),
            admin_token: variables.parse("THROUGHLINE_ADMIN_TOKEN", AdminToken::parse),
            metrics: variables.parse("THROUGHLINE_METRICS", value::listen),
            store: variables.parse("THROUGHLINE_STORE", value::store),
            key_ring: variables
                .parse("THROUGHLINE_KEY_RING", key_ring)
                .or_else(|| variables.parse("THROUGHLINE_KEY_RING_FILE", key_ring_file)),
            state_dir: variables.parse("THROUGHLINE_STATE_DIR", value::directory),
            workers: variables.parse("THROUGHLINE_WORKERS", value::workers),
            allowed_hosts: variables.parse("THROUGHLINE_ALLOWED_HOSTS", hosts),
            stateless: false,
            instance: variables.parse("THROUGHLINE_INSTANCE", value::instance),
            proxies,
        };
        if variables.errors.is_empty() { Ok(overrides) } else { Err(ConfigErrors(variables.errors)) }
    }
}

fn key_ring(text: &str) -> Result<KeyRingPlace, ValueError> {
    // Its errors never show the text.
    KeyRing::parse(text).map(KeyRingPlace::Given).map_err(|error| ValueError(error.to_string()))
}

fn key_ring_file(text: &str) -> Result<KeyRingPlace, ValueError> {
    value::file(text).map(KeyRingPlace::File)
}

fn hosts(text: &str) -> Result<Vec<String>, ValueError> {
    text.split(',').map(|host| value::host(host.trim())).collect()
}

struct Variables<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<ConfigError>,
}

impl Variables<'_> {
    fn proxies(&self) -> Option<Proxies> {
        let set = |name: &str| (self.env)(name).filter(|text| !text.is_empty());
        // In lower case first, as curl and most others have it.
        let either = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        let proxy = |name: &str| {
            either(name)
                .map(|text| upstream::proxy(&text).map_err(|error| ValueError(format!("{name} {error}"))))
        };
        let (http, https) = (proxy("HTTP_PROXY"), proxy("HTTPS_PROXY"));
        let none = either("NO_PROXY").map(|text| upstream::no_proxy(&text)).unwrap_or_default();
        (http.is_some() || https.is_some()).then_some(Proxies { http, https, none })
    }

    fn parse<V>(&mut self, name: &'static str, parse: fn(&str) -> Result<V, ValueError>) -> Option<V> {
        let text = (self.env)(name).filter(|text| !text.is_empty())?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(ValueError(message)) => {
                self.errors.push(ConfigError {
                    place: Place::Environment(name),
                    key: String::new(),
                    message,
                });
                None
            }
        }
    }
}
