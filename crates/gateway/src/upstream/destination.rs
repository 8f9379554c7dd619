//! Where a route's upstream is and how it is reached: what the configuration comes to at start.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Config, ConfigError, ConfigErrors, HeaderSource, Place, Proxy, Resolve, Route, place};
use crate::credentials::is_forwarding;

/// The protocols that are offered to an upstream at `https`, the preferred one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

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
    pub config: Arc<ClientConfig>,
    /// The name that the upstream's certificate must be for.
    pub name: ServerName<'static>,
}

/// The endpoints of all routes, as they are configured, in their order.
///
/// # Errors
/// Files that cannot be read or used, all at once.
pub fn of_routes(config: &Config) -> Result<Vec<Vec<Arc<Destination>>>, ConfigErrors> {
    let mut system = SystemRoots(None);
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

/// A key of a route, and what is wrong with its value.
type Wrong = (&'static str, String);

fn of_route(
    config: &Config,
    route: &Route,
    system: &mut SystemRoots,
) -> Result<Vec<Arc<Destination>>, Wrong> {
    let is_https = |uri: &Uri| uri.scheme_str() == Some("https");
    let tls = match route.upstream.iter().any(is_https) {
        true => Some(client_config(route, system)?),
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
        let mut found = of_route(config, &route, &mut SystemRoots(None)).map_err(|(_, message)| message)?;
        let found = found.pop().ok_or("there is no URL")?;
        Ok(Arc::unwrap_or_clone(found))
    }

    fn new(
        config: &Config,
        route: &Route,
        uri: &Uri,
        tls: Option<&Arc<ClientConfig>>,
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
            tls: tls.map(|config| Tls::of_host(config, &host)).transpose()?,
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
    fn of_host(config: &Arc<ClientConfig>, host: &str) -> Result<Self, Wrong> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ("url", format!("{host:?} is no name that a certificate could be for")))?;
        Ok(Tls { config: Arc::clone(config), name })
    }
}

/// What a route's encrypted connections have in common.
fn client_config(route: &Route, system: &mut SystemRoots) -> Result<Arc<ClientConfig>, Wrong> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match &route.ca {
        Some(path) => Arc::new(roots_of(path).map_err(|message| ("ca", message))?),
        None => system.get().map_err(|message| ("ca", message))?,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| ("ca", error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ("url", error.to_string()))?
        .with_webpki_verifier(verifier);
    let mut config = match (&route.client_certificate, &route.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).map_err(|message| ("client_certificate", message))?;
            let key = private_key(key).map_err(|message| ("client_key", message))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| ("client_key", error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// The roots of the system, read when the first route needs them.
struct SystemRoots(Option<Arc<RootCertStore>>);

impl SystemRoots {
    fn get(&mut self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = &self.0 {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's root certificates were not read");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let message =
                "is needed: the system has no root certificates (ca-certificates is not installed?)";
            return Err(message.to_owned());
        }
        Ok(Arc::clone(self.0.insert(Arc::new(roots))))
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("{}: {error}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() {
        return Err(format!("{} has no certificate in it (PEM, BEGIN CERTIFICATE)", path.display()));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))
}
