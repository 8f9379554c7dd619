//! Parts of URLs, with and without their escapes (RFC 3986, section 2.1).

use http::Uri;
use http::uri::PathAndQuery;

/// A text as one segment of a path, or as a name or value of a form.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The text that was escaped; None where it was not, or is not UTF-8.
pub fn unescaped(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                // `from_str_radix` alone would take a sign.
                let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(&digits).ok().filter(|_| is_hex)?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

/// A parameter of a query, without its escapes.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name)?.1;
    unescaped(&value.replace('+', " "))
}

/// Where a reference in what `base` answered points (RFC 3986, section 5.2), if that is of the same origin.
pub fn resolved(base: &Uri, reference: &str) -> Option<PathAndQuery> {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("http");
    let whole = match reference.strip_prefix("//") {
        Some(_) => Some(format!("{scheme}:{reference}")),
        None => reference.split_once("://").map(|_| reference.to_owned()),
    };
    if let Some(whole) = whole {
        let uri: Uri = whole.parse().ok()?;
        return (origin(&uri)? == origin(base)?).then(|| uri.into_parts().path_and_query).flatten();
    }
    let joined = match reference.bytes().next()? {
        b'/' => reference.to_owned(),
        b'?' => format!("{}{reference}", base.path()),
        _ => {
            let (directory, _) = base.path().rsplit_once('/').unwrap_or_default();
            format!("{directory}/{reference}")
        }
    };
    let (path, query) =
        joined.split_once('?').map_or((joined.as_str(), None), |(path, query)| (path, Some(query)));
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{}{query}", segments.join("/")).parse().ok()
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_comes_back() {
        for text in ["", "plain-1_2.~", "a b/c?d=e&f%g+h", "größe \u{1F600}"] {
            assert_eq!(unescaped(&escaped(text)).as_deref(), Some(text));
        }
        assert_eq!(escaped("a b/ö"), "a%20b%2F%C3%B6");
        for bad in ["%", "%4", "%+1", "%zz", "%ff"] {
            assert_eq!(unescaped(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_reference_stays_at_its_origin() {
        let base: Uri = "http://Host.example:80/a/sse?x=1".parse().unwrap();
        for (reference, path) in [
            ("/messages?id=1", "/messages?id=1"),
            ("messages/?id=a/../b", "/a/messages/?id=a/../b"),
            ("../m", "/m"),
            ("./m", "/a/m"),
            ("../../../m", "/m"),
            ("?id=1", "/a/sse?id=1"),
            ("http://host.EXAMPLE/m?id=1#top", "/m?id=1"),
            ("//host.example:80/m", "/m"),
        ] {
            let resolved = resolved(&base, reference).unwrap_or_else(|| panic!("{reference}"));
            assert_eq!(resolved.as_str(), path, "{reference}");
        }
        for other in [
            "",
            "https://host.example/m",
            "http://other.example/m",
            "http://host.example:8080/m",
            "//other/m",
            "http://host.example@other/m",
            "file:///etc/passwd",
            "/a b",
        ] {
            assert_eq!(resolved(&base, other), None, "{other}");
        }
    }
}
