//! From a text to a value. Every function says in its error what to write instead.
//!
//! An error quotes the text, except where that could be a password.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use throughline_wire::profile::{Profile, ROUTE_PROFILES};

use crate::peer::Network;

use super::{GIB, KIB, MAX_ENDPOINTS, MIB, StoreUrl, ValueError};

/// How many worker threads may be asked for.
pub(super) const WORKERS: RangeInclusive<usize> = 1..=1024;

const SIZE_UNITS: [(&str, usize); 3] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// In milliseconds. `ms` stands before `s` and `m`, since units are tried in this order.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// Names that mean something at the start of a path of the gateway.
const RESERVED_NAMES: [&str; 7] = ["healthz", "mcp", "message", "metrics", "readyz", "rest", "sse"];

fn err<V>(message: String) -> Result<V, ValueError> {
    Err(ValueError(message))
}

/// The whole number in front of one of `units`, and what the unit stands for.
fn with_unit<U: Copy>(text: &str, units: &[(&str, U)]) -> Option<(u64, U)> {
    let (number, unit) = units.iter().find_map(|(unit, of)| Some((text.strip_suffix(unit)?, *of)))?;
    // `u64::from_str` alone would take a leading plus sign.
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?.map(|number| (number, unit))
}

/// A number of bytes, or one of `KiB`, `MiB`, `GiB`.
pub(super) fn size(text: &str) -> Result<usize, ValueError> {
    with_unit(text, &SIZE_UNITS)
        .or_else(|| with_unit(text, &[("", 1)]))
        .and_then(|(number, unit)| usize::try_from(number).ok()?.checked_mul(unit))
        .ok_or_else(|| ValueError(format!("{text:?} is not a size: write a number of bytes or 4MiB")))
}

/// `bytes` as a configuration would have it.
pub(super) fn show_size(bytes: usize) -> String {
    match SIZE_UNITS.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A whole number of one of `ms`, `s`, `m`, `h`, `d`.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    with_unit(text, &TIME_UNITS)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| ValueError(format!("{text:?} is not a duration: write 500ms, 5s, 10m, 1h or 7d")))
}

/// A duration as the configuration has it, for flags.
///
/// # Errors
/// When it is none.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    duration(text)
}

/// `duration` as a configuration would have it.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let mut units = TIME_UNITS.map(|(name, unit)| (name, u128::from(unit)));
    units.sort_by_key(|(_, unit)| std::cmp::Reverse(*unit));
    match units.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// What an instance is called: it stands in a header.
pub(super) fn instance(text: &str) -> Result<String, ValueError> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > 128 || !printable {
        return err(format!("{text:?} is no name: write 1 to 128 printable ASCII characters without spaces"));
    }
    Ok(text.to_owned())
}

/// An address to listen on.
pub(super) fn listen(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| {
        ValueError(format!(
            "{text:?} is not an IP address with a port: write 127.0.0.1:8808, [::1]:8808 or, for all \
             interfaces, 0.0.0.0:8808"
        ))
    })
}

/// A number of worker threads.
pub(super) fn workers(text: &str) -> Result<NonZeroUsize, ValueError> {
    let number = text.parse().ok().filter(|number| WORKERS.contains(number));
    number.and_then(NonZeroUsize::new).ok_or_else(|| {
        let (least, most) = WORKERS.into_inner();
        ValueError(format!("{text:?} is not a number between {least} and {most}"))
    })
}

/// A directory; it need not exist.
pub(super) fn directory(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() {
        return err("the directory is empty: write a path, such as /var/lib/throughline".to_owned());
    }
    path(text)
}

/// A file; whether it can be read shows at the start.
pub(super) fn file(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() {
        return err("the path is empty: write that of a file, such as /etc/throughline/tls.pem".to_owned());
    }
    path(text)
}

fn path(text: &str) -> Result<PathBuf, ValueError> {
    // Taken literally, it would make a directory called `~`.
    if text == "~" || text.starts_with("~/") {
        return err(format!("{text:?}: ~ does not stand for the home directory here: write the whole path"));
    }
    Ok(PathBuf::from(text))
}

/// A word of a command.
pub(super) fn word(text: &str) -> Result<String, ValueError> {
    if text.contains('\0') {
        err("a word of a command cannot have a NUL in it".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// A variable of a program's environment.
pub(super) fn variable(text: &str) -> Result<(String, String), ValueError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        // It is not quoted: it may be a secret.
        _ => err("not a variable: write \"NAME=VALUE\"".to_owned()),
    }
}

/// Where session records live.
pub(super) fn store(text: &str) -> Result<StoreUrl, ValueError> {
    let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
    match (scheme, rest) {
        ("memory", "") if text.ends_with(':') => Ok(StoreUrl::Memory),
        ("embedded", "") if text.ends_with(':') => Ok(StoreUrl::Embedded(None)),
        ("embedded", dir) if !dir.is_empty() => Ok(StoreUrl::Embedded(Some(directory(dir)?))),
        // The rest may hold a password, so that nothing of it is shown.
        _ if scheme.starts_with("redis") || text.contains(',') => match throughline_store::Place::parse(text)
        {
            Ok(place) => Ok(StoreUrl::Redis(Box::new(place))),
            Err(error) => err(error.to_string()),
        },
        _ if text.contains('@') => err(format!("is not a store: {STORES}")),
        _ => err(format!("{text:?} is not a store: {STORES}")),
    }
}

/// What to write instead of what is no store.
const STORES: &str = "write memory:, embedded:DIR or redis://HOST";

/// An upstream's URL.
pub(super) fn upstream(text: &str) -> Result<Uri, ValueError> {
    let without_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = without_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return err("the URL holds a user name or password: take it out, since URLs are logged".to_owned());
    }
    if text.contains('#') {
        return err(format!("{text:?} has a fragment (#...), which is never sent: take it out"));
    }
    let not_a_url = || ValueError(format!("{text:?} is not a URL: write http://HOST:PORT/mcp"));
    let uri: Uri = text.parse().map_err(|_| not_a_url())?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(not_a_url()),
    }
    let has_port = authority.rfind(':') > authority.rfind(']');
    let good_port = !has_port || uri.port_u16().is_some_and(|port| port != 0);
    if uri.host().is_none_or(str::is_empty) || !good_port {
        return Err(not_a_url());
    }
    Ok(uri)
}

/// The name of a profile.
pub(super) fn profile(text: &str) -> Result<Option<&'static Profile>, ValueError> {
    Profile::named(text).map(Some).ok_or_else(|| {
        let names: Vec<String> = ROUTE_PROFILES.iter().map(|profile| format!("{:?}", profile.name)).collect();
        ValueError(format!("{text:?} is not {}", names.join(" or ")))
    })
}

/// An upstream's URL as logs and records may show it: its query may hold a key.
pub(crate) fn place(upstream: &Uri) -> String {
    let authority = upstream.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", upstream.scheme_str().unwrap_or("http"), upstream.path())
}

/// Checks an upstream's URLs as a whole.
pub(super) fn endpoints(upstream: &[Uri]) -> Result<(), ValueError> {
    if upstream.is_empty() {
        return err("there is none: write at least one URL, [\"http://HOST:PORT/mcp\"]".to_owned());
    }
    if upstream.len() > MAX_ENDPOINTS {
        return err(format!("{} are too many: at most {MAX_ENDPOINTS}", upstream.len()));
    }
    let places: Vec<_> = upstream.iter().map(place).collect();
    match places.iter().enumerate().find(|(at, place)| places[..*at].contains(place)) {
        Some((_, twice)) => err(format!("{twice} is there twice (queries do not count): take one out")),
        None => Ok(()),
    }
}

/// Whether a URL's host is a name, and not an address.
pub(super) fn has_name(upstream: &Uri) -> bool {
    let host = upstream.host().unwrap_or_default();
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
}

/// The name of a route.
pub(super) fn route_name(text: &str) -> Result<String, ValueError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(allowed) {
        return err(format!("{text:?} is not a route name: write 1 to 63 of a-z, 0-9 and -"));
    }
    if RESERVED_NAMES.contains(&text) {
        return err(format!("the name {text:?} is taken by the gateway itself: choose another"));
    }
    Ok(text.to_owned())
}

/// An address, or a range of addresses.
pub(super) fn network(text: &str) -> Result<Network, ValueError> {
    Network::parse(text).ok_or_else(|| {
        ValueError(format!(
            "{text:?} is not an IP address or a range of them: write 10.0.0.0/8, 10.0.0.7 or ::1"
        ))
    })
}

/// A `Host` to accept, in lower case.
pub(super) fn host(text: &str) -> Result<String, ValueError> {
    if text.contains('*') {
        return err(format!(
            "{text:?}: patterns are not supported: write each host, such as mcp.example.com"
        ));
    }
    let lower = text.to_ascii_lowercase();
    let has_port = lower.rfind(':') > lower.rfind(']');
    let good = lower.parse::<Authority>().is_ok_and(|authority| {
        let good_port = !has_port || authority.port_u16().is_some_and(|port| port != 0);
        !lower.contains('@') && !authority.host().is_empty() && good_port
    });
    if good {
        Ok(lower)
    } else {
        err(format!("{text:?} is not a host: write mcp.example.com or mcp.example.com:8808"))
    }
}

/// An `Origin` to accept, as a browser writes it.
pub(super) fn origin(text: &str) -> Result<String, ValueError> {
    let scheme_char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let parsed = text
        .split_once("://")
        .filter(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(scheme_char))
        .and_then(|(scheme, rest)| Some((scheme.to_ascii_lowercase(), host(rest).ok()?)));
    let Some((scheme, host)) = parsed else {
        return err(format!("{text:?} is not an origin: write https://app.example.com, without a path"));
    };
    let default_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    // A browser leaves the default port out, so an entry with it would match nothing.
    Ok(format!("{scheme}://{}", host.strip_suffix(default_port).unwrap_or(&host)))
}

/// The name of a tool: anything but nothing, since servers choose it.
pub(super) fn tool_name(text: &str) -> Result<String, ValueError> {
    match text.is_empty() {
        true => Err(ValueError("\"\" is not the name of a tool".to_owned())),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_whole_numbers_with_exact_units() {
        for (text, bytes) in [("0", 0), ("123", 123), ("64KiB", 64 * KIB), ("4MiB", 4 * MIB), ("1GiB", GIB)] {
            assert_eq!(size(text).unwrap(), bytes);
        }
        for text in ["", "KiB", "4 MiB", "4MB", "4M", "+4", "-4", "1.5MiB", "99999999999GiB", "4mib"] {
            let message = format!("{text:?} is not a size: write a number of bytes or 4MiB");
            assert_eq!(size(text).unwrap_err().to_string(), message);
        }
        for (text, millis) in
            [("500ms", 500), ("5s", 5000), ("10m", 600_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis));
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        for text in ["", "s", "5", "5 s", "+5s", "1h30m", "1.5h", "5S", "99999999999999999d"] {
            let message = format!("{text:?} is not a duration: write 500ms, 5s, 10m, 1h or 7d");
            assert_eq!(duration(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn stores() {
        let embedded = |dir: &str| StoreUrl::Embedded(Some(dir.into()));
        assert_eq!("memory:".parse(), Ok(StoreUrl::Memory));
        assert_eq!("embedded:".parse(), Ok(StoreUrl::Embedded(None)));
        assert_eq!("embedded:/var/lib/tl".parse(), Ok(embedded("/var/lib/tl")));
        assert_eq!("embedded:C:\\tl".parse(), Ok(embedded("C:\\tl")));
        for text in ["rediss://:secret@h:6380/1", "h:6380,password=secret,ssl=True,defaultDatabase=1"] {
            let Ok(StoreUrl::Redis(place)) = text.parse() else { panic!("{text} is no Redis") };
            assert_eq!(place.to_string(), "rediss://h:6380/1");
        }
        for (text, message) in [
            ("", "\"\" is not a store: write memory:, embedded:DIR or redis://HOST"),
            ("memory", "\"memory\" is not a store: write memory:, embedded:DIR or redis://HOST"),
            ("memory:x", "\"memory:x\" is not a store: write memory:, embedded:DIR or redis://HOST"),
            ("postgres://u:secret@h/", "is not a store: write memory:, embedded:DIR or redis://HOST"),
            ("embedded:~/tl", "\"~/tl\": ~ does not stand for the home directory here: write the whole path"),
            ("redis://:secret@h:x", "a port is not a number from 1 to 65535"),
            ("h:x,password=secret", "a port is not a number from 1 to 65535"),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn upstreams() {
        for good in
            ["http://localhost:3000/mcp", "https://h/mcp", "http://[::1]/mcp?a=b", "HTTP://h", "http://a/x@y"]
        {
            upstream(good).unwrap();
        }
        let not_a_url = |text: &str| format!("{text:?} is not a URL: write http://HOST:PORT/mcp");
        for bad in [
            "",
            "/mcp",
            "localhost:3000/mcp",
            "127.0.0.1:3000",
            "ftp://h/",
            "http://",
            "http:///mcp",
            "http://:80/",
            "http://h:x/",
            "http://h:0/",
            "http://h:70000/",
            "http://h:/",
            "http://a b/",
            "${URL}",
        ] {
            assert_eq!(upstream(bad).unwrap_err().to_string(), not_a_url(bad));
        }
        for secret in ["http://user:secret@h/mcp", "user:secret@h", "https://secret@h#f"] {
            let message = "the URL holds a user name or password: take it out, since URLs are logged";
            assert_eq!(upstream(secret).unwrap_err().to_string(), message);
        }
        assert_eq!(
            upstream("http://h/mcp#a").unwrap_err().to_string(),
            "\"http://h/mcp#a\" has a fragment (#...), which is never sent: take it out"
        );
    }

    #[test]
    fn hosts_and_origins() {
        for bad in ["", "http://h", "h/", "h:", "h:0", "h:99999", "u@h", "a b", ":80", "::1"] {
            let message = format!("{bad:?} is not a host: write mcp.example.com or mcp.example.com:8808");
            assert_eq!(host(bad).unwrap_err().to_string(), message);
        }
        assert_eq!(origin("http://h:8080").unwrap(), "http://h:8080");
        assert_eq!(origin("http://h:80").unwrap(), "http://h");
        for bad in ["null", "", "*", "https://*", "h", "https://h/", "https://h/x", "://h", "https://"] {
            let message = format!("{bad:?} is not an origin: write https://app.example.com, without a path");
            assert_eq!(origin(bad).unwrap_err().to_string(), message);
        }
    }
}
