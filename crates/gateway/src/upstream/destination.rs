//! Where a route's upstream is and how it is reached: what the configuration comes to at start.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::ServerName;

use super::certificates::{Certificates, SystemRoots, Wrong};
use crate::config::{Config, ConfigError, ConfigErrors, HeaderSource, Place, Proxy, Resolve, Route, place};
use crate::credentials::is_forwarding;

/// An endpoint of an upstream, as every core speaks to it.
#[derive(Clone)]
pub struct Destination {
    /// Its URL.
    pub uri: Uri,
    /// Its name or address, without brackets.
    pub host: String,
    /// The one of the host's addresses that it is at; None where any will do.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its host and port as `Host` has them.
    pub authority: HeaderValue,
    /// How its connections are encrypted; None at `http`.
    pub tls: Option<Tls>,
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
    /// What every request carries.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether requests carry something of the client's that the upstream may ask for.
    pub forwards: bool,
    /// How long a refused connection is tried again.
    pub connect_window: Duration,
    /// How long a response head may take.
    pub first_byte: Duration,
}

/// What encrypted connections to an upstream need.
#[derive(Clone)]
pub struct Tls {
    /// Roots, client certificate, protocols.
    pub certificates: Arc<Certificates>,
    /// The name that the upstream's certificate must be for.
    pub name: ServerName<'static>,
}

/// The endpoints of all routes, as they are configured, in their order.
///
/// # Errors
/// Files that cannot be read or used, all at once.
pub fn of_routes(config: &Config) -> Result<Vec<Vec<Arc<Destination>>>, ConfigErrors> {
    let mut system = SystemRoots::default();
    let mut errors = Vec::new();
    let mut destinations = Vec::new();
    for route in &config.routes {
        match of_route(config, route, &mut system) {
            Ok(endpoints) => destinations.push(endpoints),
            Err((key, message)) => {
                let table =
                    if route.name.is_empty() { "upstream".into() } else { format!("routes.{}", route.name) };
                errors.push(ConfigError { place: Place::Unknown, key: format!("{table}.{key}"), message });
            }
        }
    }
    if errors.is_empty() { Ok(destinations) } else { Err(ConfigErrors(errors)) }
}

fn of_route(
    config: &Config,
    route: &Route,
    system: &mut SystemRoots,
) -> Result<Vec<Arc<Destination>>, Wrong> {
    let is_https = |uri: &Uri| uri.scheme_str() == Some("https");
    let tls = match route.upstream.iter().any(is_https) {
        true => Some(Certificates::load(route, system)?),
        false => None,
    };
    if tls.is_none() && (route.ca.is_some() || route.client_key.is_some()) {
        tracing::warn!(route = route.path, "ca and client_certificate do nothing at an http URL");
    }
    let each =
        |uri| Destination::new(config, route, uri, tls.as_ref().filter(|_| is_https(uri))).map(Arc::new);
    route.upstream.iter().map(each).collect()
}

impl Destination {
    /// Of something that is no upstream: an issuer's keys, say.
    ///
    /// # Errors
    /// What is wrong with the URL, or with the system's roots.
    pub fn of_url(config: &Config, url: Uri) -> Result<Self, String> {
        let route = Route::new("", vec![url]);
        let mut found =
            of_route(config, &route, &mut SystemRoots::default()).map_err(|(_, message)| message)?;
        let found = found.pop().ok_or("there is no URL")?;
        Ok(Arc::unwrap_or_clone(found))
    }

    fn new(
        config: &Config,
        route: &Route,
        uri: &Uri,
        tls: Option<&Arc<Certificates>>,
    ) -> Result<Self, Wrong> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let text = uri.authority().map(ToString::to_string).unwrap_or_default();
        let authority =
            HeaderValue::from_str(&text).map_err(|_| ("url", "is not a URL for a request".to_owned()))?;
        let proxy = config.proxies.on_the_way_to(uri).map_err(|error| ("url", error.to_string()))?;
        if proxy.is_some() && route.resolve == Resolve::All {
            let message =
                format!("a proxy is on the way to {host}, and looks its name up itself: take it out");
            return Err(("resolve", message));
        }
        let headers = route.headers.iter().filter_map(|header| match &header.value {
            HeaderSource::Value(value) => Some((header.name.clone(), value.clone())),
            // `Config::resolve` has replaced or refused all of them.
            HeaderSource::Env { .. } => None,
        });
        Ok(Destination {
            port: uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            address: None,
            proxy: proxy.cloned(),
            headers: headers.collect(),
            forwards: is_forwarding(route),
            connect_window: config.timeouts.connect,
            first_byte: config.timeouts.first_byte,
            uri: uri.clone(),
            tls: tls.map(|certificates| Tls::of_host(certificates, &host)).transpose()?,
            host,
            authority,
        })
    }

    /// What stands for it where a bridge speaks with it: the bridge is at `uri`, and is shown these headers.
    ///
    /// # Errors
    /// When that is no URL for a request.
    pub fn bridged(&self, uri: Uri, headers: Vec<(HeaderName, HeaderValue)>) -> Result<Self, String> {
        let host = uri.host().unwrap_or_default().to_owned();
        let text = uri.authority().map(ToString::to_string).unwrap_or_default();
        Ok(Destination {
            authority: HeaderValue::from_str(&text).map_err(|error| error.to_string())?,
            port: uri.port_u16().unwrap_or(80),
            address: None,
            tls: None,
            proxy: None,
            headers,
            uri,
            host,
            ..self.clone()
        })
    }

    /// The same at this one of its host's addresses.
    pub fn at(&self, address: IpAddr) -> Self {
        Destination { address: Some(address), ..self.clone() }
    }

    /// What records and logs call it: its URL without the query, which may hold a key, and the address, if it is one
    /// of several.
    pub fn name(&self) -> String {
        let place = place(&self.uri);
        match self.address {
            Some(address) => format!("{place}#{address}"),
            None => place,
        }
    }

    /// Whether requests name the whole URL, since they are for a proxy to send on (RFC 9112, 3.2.2).
    pub fn through_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }
}

impl Tls {
    fn of_host(certificates: &Arc<Certificates>, host: &str) -> Result<Self, Wrong> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ("url", format!("{host:?} is no name that a certificate could be for")))?;
        Ok(Tls { certificates: Arc::clone(certificates), name })
    }
}
