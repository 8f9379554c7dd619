//! Who is at the other end of a connection, and what a proxy there says of the client behind it.
//!
//! Only proxies that the configuration names are believed (`trusted_proxies`): anyone can send these headers.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName};

use crate::config::Config;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, or a single address. None where it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let base: IpAddr = address.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        (prefix <= most).then_some(Network { base, prefix })
    }

    /// Whether this address is in it. An IPv4 address that came over IPv6 is an IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let differ = base.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn trusted(config: &Config, address: IpAddr) -> bool {
    config.trusted_proxies.iter().any(|network| network.contains(address))
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is a proxy that is believed.
    pub trusted: bool,
    /// Whether the connection to it has TLS.
    pub secure: bool,
}

impl Peer {
    /// The peer at this address.
    #[must_use]
    pub fn new(config: &Config, address: SocketAddr, secure: bool) -> Self {
        let address = address.ip().to_canonical();
        Peer { address, trusted: trusted(config, address), secure }
    }

    /// Where the request began: the peer's address, or the one that trusted proxies lead to.
    #[must_use]
    pub fn client_address(&self, config: &Config, headers: &HeaderMap) -> IpAddr {
        match self.hops(headers) {
            Some(hops) => hops.client(config, self.address).1,
            None => self.address,
        }
    }

    /// The name by which a trusted proxy was called; None where there is none, or it does not say.
    #[must_use]
    pub fn forwarded_host<'a>(&self, config: &Config, headers: &'a HeaderMap) -> Option<&'a str> {
        let hops = self.hops(headers)?;
        hops.value(hops.client(config, self.address).0, "host")
    }
}

/// Scheme and authority at which the client reached the gateway, such as `https://mcp.example.com`: the request's own,
/// or what a trusted proxy says. `headers` have passed [`origin::check`](crate::origin::check), so the name
/// is one of this gateway's.
#[must_use]
pub fn external_base(config: &Config, peer: Peer, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let own = if peer.secure { "https" } else { "http" };
    let Some(hops) = peer.hops(headers) else { return format!("{own}://{host}") };
    let hop = hops.client(config, peer.address).0;
    let scheme = match hops.value(hop, "proto") {
        Some(proto) if proto.eq_ignore_ascii_case("https") => "https",
        Some(proto) if proto.eq_ignore_ascii_case("http") => "http",
        _ => own,
    };
    format!("{scheme}://{}", hops.value(hop, "host").unwrap_or(host))
}

/// What proxies wrote into a request, the farthest first.
enum Hops<'a> {
    /// RFC 7239: one element for each proxy.
    Forwarded(Vec<&'a str>),
    /// One list for each property; they may differ in length, since proxies append to one and replace another.
    Headers(&'a HeaderMap),
}

impl Peer {
    fn hops<'a>(&self, headers: &'a HeaderMap) -> Option<Hops<'a>> {
        if !self.trusted {
            return None;
        }
        let names = [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO];
        if names.iter().any(|name| headers.contains_key(name)) {
            return Some(Hops::Headers(headers));
        }
        headers.contains_key(FORWARDED).then(|| Hops::Forwarded(list(headers, &FORWARDED)))
    }
}

impl<'a> Hops<'a> {
    /// Goes from proxy to proxy as long as they are trusted: the place of the last word, and the address that it
    /// names. Further words may be the client's own invention.
    fn client(&self, config: &Config, peer: IpAddr) -> (Option<usize>, IpAddr) {
        let named: Vec<Option<IpAddr>> = match self {
            Hops::Forwarded(elements) => {
                elements.iter().map(|e| parameter(e, "for").and_then(address)).collect()
            }
            Hops::Headers(headers) => list(headers, &X_FORWARDED_FOR).into_iter().map(address).collect(),
        };
        let (mut place, mut client) = (named.len().checked_sub(1), peer);
        for (index, address) in named.iter().enumerate().rev() {
            place = Some(index);
            // A proxy may hide the client ("unknown", "_name"): nothing before it can be placed.
            let Some(address) = *address else { break };
            client = address;
            if !trusted(config, address) {
                break;
            }
        }
        (place, client)
    }

    /// What that word says of `host` or `proto`.
    fn value(&self, place: Option<usize>, name: &str) -> Option<&'a str> {
        match self {
            Hops::Forwarded(elements) => parameter(elements.get(place?)?, name),
            Hops::Headers(headers) => {
                let hops = list(headers, &X_FORWARDED_FOR).len();
                let header = if name == "host" { X_FORWARDED_HOST } else { X_FORWARDED_PROTO };
                let values = list(headers, &header);
                // One for each hop, or only the nearest proxy's.
                let at = place.filter(|_| values.len() == hops).or(values.len().checked_sub(1));
                values.get(at?).copied()
            }
        }
        .filter(|value| !value.is_empty())
    }
}

/// The elements of a comma-separated header, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).collect()
}

/// One parameter of an element of `Forwarded`. Quoted strings with commas or semicolons in them are not understood;
/// no address, name or scheme has one.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(known, _)| known.trim().eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// An address, with or without port, as either header writes it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let parsed = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    parsed.ok().or_else(|| bare?.parse().ok()).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..], &["11.0.0.0", "::1"][..]),
            ("10.0.0.7", &["10.0.0.7"], &["10.0.0.6", "10.0.0.8"]),
            ("0.0.0.0/0", &["1.2.3.4"], &["::1"]),
            ("::1", &["::1"], &["::2", "127.0.0.1"]),
            ("fd00::/8", &["fd00::1", "fdff::"], &["fe00::"]),
            ("::/0", &["::1", "fe80::1"], &["1.2.3.4"]),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(inside.iter().all(|text| network.contains(text.parse().unwrap())), "{network:?}");
            assert!(!outside.iter().any(|text| network.contains(text.parse().unwrap())), "{network:?}");
        }
        for bad in ["", "10", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "a/8", "10.0.0.0/8/8", "*"]
        {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    /// Address, scheme and host of the client, as they follow from these headers.
    fn seen(peer: &str, lines: &[(&'static str, &'static str)]) -> (String, String) {
        let mut config = Config::for_upstream("http://localhost/mcp").unwrap();
        config.trusted_proxies = vec![Network::parse("10.0.0.0/8").unwrap(), Network::parse("::1").unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "gateway:8808".parse().unwrap());
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let peer = Peer::new(&config, SocketAddr::new(peer.parse().unwrap(), 1), false);
        (peer.client_address(&config, &headers).to_string(), external_base(&config, peer, &headers))
    }

    #[test]
    fn trusted_proxies_are_believed_and_nobody_else() {
        let nginx = [
            ("x-forwarded-for", "9.9.9.9, 1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "mcp.example.com"),
        ];
        let own = "http://gateway:8808";
        let outside = "https://mcp.example.com";
        for (peer, lines, address, base) in [
            ("1.1.1.1", &nginx[..], "1.1.1.1", own),
            ("127.0.0.1", &nginx, "127.0.0.1", own),
            // 9.9.9.9 is what the client claims.
            ("10.0.0.1", &nginx, "1.2.3.4", outside),
            ("::ffff:10.0.0.1", &nginx, "1.2.3.4", outside),
            ("::1", &nginx, "1.2.3.4", outside),
            ("10.0.0.1", &[], "10.0.0.1", own),
            ("10.0.0.1", &[("x-forwarded-for", "nonsense")], "10.0.0.1", own),
            ("10.0.0.1", &[("x-forwarded-for", "1.2.3.4, unknown")], "10.0.0.1", own),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "1.2.3.4:80"), ("x-forwarded-for", "10.0.0.2")],
                "1.2.3.4",
                own,
            ),
            ("10.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:9")], "2001:db8::1", own),
            ("10.0.0.1", &[("x-forwarded-proto", "gopher")], "10.0.0.1", own),
            (
                "10.0.0.1",
                &[("x-forwarded-host", "evil, mcp.example.com")],
                "10.0.0.1",
                "http://mcp.example.com",
            ),
            // Each of two proxies appended to each header.
            (
                "10.0.0.1",
                &[
                    ("x-forwarded-for", "1.2.3.4, 10.0.0.2"),
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "mcp.example.com, inner"),
                ],
                "1.2.3.4",
                outside,
            ),
            (
                "10.0.0.1",
                &[("forwarded", "for=1.2.3.4;proto=https;host=mcp.example.com")],
                "1.2.3.4",
                outside,
            ),
            (
                "10.0.0.1",
                &[
                    ("forwarded", "for=9.9.9.9;host=evil"),
                    (
                        "forwarded",
                        "For=\"[2001:db8::1]:4711\"; Proto=https;HOST=\"mcp.example.com\", for=10.0.0.2",
                    ),
                ],
                "2001:db8::1",
                outside,
            ),
            ("10.0.0.1", &[("forwarded", "for=_hidden, for=unknown;host=a")], "10.0.0.1", "http://a"),
            // A proxy that writes one kind passes on the other as the client sent it.
            (
                "10.0.0.1",
                &[("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=9.9.9.9;host=evil")],
                "1.2.3.4",
                own,
            ),
        ] {
            assert_eq!(seen(peer, lines), (address.to_owned(), base.to_owned()), "{peer} {lines:?}");
        }
    }
}
