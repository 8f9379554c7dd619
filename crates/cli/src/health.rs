//! `throughline health`: whether a server is ready, for those who run it in a container and can only run programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::Failure;

/// How long the server may take; Docker's own limit is 30 s.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of the answer is shown, in bytes.
const SHOWN: u64 = 200;
/// Where `throughline serve` and `throughline reference` listen if nothing else is said.
const USUAL: [u16; 2] = [8808, 3000];

/// Say whether a server is ready, by its exit code.
#[derive(clap::Args)]
#[command(after_help = "\
Without URL it is /readyz at the address that the environment gives to the server: THROUGHLINE_METRICS,
THROUGHLINE_LISTEN, PORT or WEBSITES_PORT; with none of them at 127.0.0.1, port 8808, or else 3000.

Examples:
  throughline health
  throughline health http://127.0.0.1:9464/readyz
  docker run --health-cmd 'throughline health http://127.0.0.1:8080/readyz' ...

The exit code is 0 if it is ready, else 1.")]
pub(crate) struct Arguments {
    /// What is asked; an answer of 200 to 299 is ready.
    #[arg(value_name = "URL")]
    url: Option<String>,
}

/// Asks.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let urls = arguments.url.map_or_else(|| usual(variable), |url| vec![url]);
    let agent = agent();
    let mut said = String::new();
    for url in urls {
        match ask(&agent, &url) {
            Ok(ready) => {
                println!("{url}: {ready}");
                return Ok(());
            }
            Err(reason) if said.is_empty() => said = format!("{url}: {reason}"),
            Err(reason) => said = format!("{said}; {url}: {reason}"),
        }
    }
    Err(said.into())
}

fn agent() -> Agent {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect::<Vec<_>>();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build();
    // The question is how this machine's server is, not how a proxy finds it.
    let agent = Agent::config_builder().proxy(None).max_redirects(0).http_status_as_error(false);
    agent.timeout_global(Some(PATIENCE)).tls_config(tls).build().new_agent()
}

/// What it says of itself, or why that is not ready.
fn ask(agent: &Agent, url: &str) -> Result<String, String> {
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.body_mut().with_config().limit(SHOWN).lossy_utf8(true).read_to_string();
    let body = body.unwrap_or_default();
    let line: String = body.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = format!("{} {line}", status.as_u16());
    if status.is_success() { Ok(said) } else { Err(said) }
}

/// Where the server of this environment is.
fn usual(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let address = ["THROUGHLINE_METRICS", "THROUGHLINE_LISTEN"]
        .iter()
        .find_map(|name| variable(name)?.parse::<SocketAddr>().ok());
    let port = || ["PORT", "WEBSITES_PORT"].iter().find_map(|name| variable(name)?.parse().ok());
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let addresses = match address.or_else(|| port().map(here)) {
        Some(address) => vec![reached(address)],
        None => USUAL.map(here).to_vec(),
    };
    addresses.iter().map(|address| format!("http://{address}/readyz")).collect()
}

/// An address at which what listens on this one is reached from here.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::usual;

    #[test]
    fn what_is_asked_is_where_the_environment_has_the_server() {
        let asked = |set: &[(&str, &str)]| {
            usual(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        let listen = ("THROUGHLINE_LISTEN", "0.0.0.0:8080");
        assert_eq!(asked(&[]), ["http://127.0.0.1:8808/readyz", "http://127.0.0.1:3000/readyz"]);
        assert_eq!(asked(&[listen]), ["http://127.0.0.1:8080/readyz"]);
        assert_eq!(asked(&[listen, ("THROUGHLINE_METRICS", "[::]:9464")]), ["http://[::1]:9464/readyz"]);
        assert_eq!(asked(&[("WEBSITES_PORT", "80")]), ["http://127.0.0.1:80/readyz"]);
        assert_eq!(asked(&[listen, ("PORT", "80")]), ["http://127.0.0.1:8080/readyz"]);
        assert_eq!(asked(&[("THROUGHLINE_LISTEN", "10.0.0.7:1")]), ["http://10.0.0.7:1/readyz"]);
    }
}
