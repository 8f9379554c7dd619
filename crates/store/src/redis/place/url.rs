//! The address as a URL.

use percent_encoding::percent_decode_str;

use super::{Host, Kind, Options, Place, PlaceError, Secret, Tls, database, host, named};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// `rest` is what stands behind `scheme://`.
pub(super) fn parse(scheme: &str, rest: &str) -> Result<Place, PlaceError> {
    let (scheme, tls) = match scheme.strip_prefix("rediss") {
        Some(kind) => (kind, Some(Tls::default())),
        None => (scheme.strip_prefix("redis").unwrap_or("?"), None),
    };
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before.split_once('/').unwrap_or((before, ""));
    // Nothing is quoted in an error before this is certain: it may be a part of the password.
    if query.contains('@') || path.contains('@') || rest.contains('#') {
        return PlaceError::new(
            "user and password need % and two digits for each of / ? # @: write %2F %3F %23 %40",
        );
    }
    let (user_info, hosts) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, authority),
    };
    let (kind, base) = match scheme {
        "" => (Kind::Server(one(hosts)?), path),
        "+cluster" => (Kind::Cluster(several(hosts, PORT)?), path),
        "+sentinel" => {
            let (master, path) = path.split_once('/').unwrap_or((path, ""));
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if master.is_empty() || !master.chars().all(plain) {
                return PlaceError::new(
                    "the master's name is missing or malformed: write redis+sentinel://HOST,HOST/NAME",
                );
            }
            let master = master.to_owned();
            (Kind::Sentinel { sentinels: several(hosts, SENTINEL_PORT)?, master }, path)
        }
        _ => {
            return PlaceError::new(
                "is not a Redis: write redis://, rediss://, redis+sentinel:// or redis+cluster://",
            );
        }
    };
    let mut place = Place::new(kind, tls);
    let base = base.strip_suffix('/').unwrap_or(base);
    if !base.is_empty() {
        place.database = database(base)?;
    }
    let mut options = Options::default();
    if let Some(user_info) = user_info {
        let (user, password) = match user_info.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user_info, None),
        };
        options.user = Some(decoded(user)?).filter(|user| !user.is_empty());
        options.password = password.filter(|it| !it.is_empty()).map(decoded).transpose()?.map(Secret);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !options.set(&mut place, name, &decoded(value)?)? {
            return PlaceError::new(format!(
                "{} is no parameter: there are prefix, timeout, ca, password_file, auth, client_id and sentinel_auth",
                named(name)
            ));
        }
    }
    options.finish(place)
}

fn one(text: &str) -> Result<Host, PlaceError> {
    if text.contains(',') {
        return PlaceError::new("several hosts: write redis+cluster:// or redis+sentinel://");
    }
    host(text, PORT)
}

fn several(text: &str, port: u16) -> Result<Vec<Host>, PlaceError> {
    text.split(',').map(|text| host(text, port)).collect()
}

fn decoded(text: &str) -> Result<String, PlaceError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => PlaceError::new("what stands behind % is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::SignIn;
    use super::*;

    fn parsed(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    #[test]
    fn what_is_shown_is_the_address_without_who_signs_in() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379"),
            ("redis://h:1/", "redis://h:1"),
            ("rediss://user:secret@h:6380/2", "rediss://h:6380/2"),
            ("redis://[::1]:7/?prefix=a.b:c", "redis://[::1]:7?prefix=a.b:c"),
            ("redis+sentinel://:secret@a,b:1,c/main/3", "redis+sentinel://a:26379,b:1,c:26379/main/3"),
            ("rediss+cluster://:secret@a:7000,b:7001", "rediss+cluster://a:7000,b:7001"),
        ] {
            let place = parsed(text);
            assert_eq!(place.to_string(), shown);
            assert_eq!(format!("{place:?}"), format!("Place({shown})"));
        }
    }

    #[test]
    fn what_is_said_is_meant() {
        let place = parsed("rediss://us%40er:p%2Fw%3F@h/4?timeout=200ms&ca=/etc/ca.pem&prefix=p");
        assert_eq!((place.database, place.timeout), (4, Duration::from_millis(200)));
        assert_eq!((place.channel(), place.key("x")), ("p:changed".to_owned(), "p:x".to_owned()));
        assert_eq!(place.tls.unwrap().ca.unwrap().to_str(), Some("/etc/ca.pem"));
        let SignIn::Password { user, password } = place.sign_in else { panic!("no password") };
        assert_eq!((user.as_deref(), password.0.as_str()), (Some("us@er"), "p/w?"));
        let file = parsed("redis://me@h?password_file=/run/pw").sign_in;
        assert!(matches!(file, SignIn::File { user: Some(user), .. } if user == "me"));
        let entra = parsed("rediss://h?auth=entra&client_id=id").sign_in;
        assert!(matches!(entra, SignIn::Entra { client_id: Some(id) } if id == "id"));
        assert!(parsed("redis+sentinel://:x@h/m?sentinel_auth=same").sentinels_too);
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for (text, part) in [
            ("redis://:sec/ret@h", "%2F"),
            ("redis://:sec?ret@h", "%3F"),
            ("redis://:sec#ret@h", "%23"),
            ("redis://:secret@", "a host is missing"),
            ("redis://:secret@h:x", "a port is not"),
            ("redis://:secret@h:0", "a port is not"),
            ("redis://:secret@[::1", "not closed"),
            ("redis://:secret@a,b", "several hosts"),
            ("redis://:secret@h/x", "the database is not a number"),
            ("redis+cluster://:secret@h/1", "no database numbers"),
            ("redis+sentinel://:secret@h", "the master's name is missing"),
            ("redis+sentinel://:secret@h/a%40b", "the master's name is missing or malformed"),
            ("redis://:secret@h?prefix=a{b", "prefix must be"),
            ("redis://:secret@h?timeout=5", "timeout must be"),
            ("redis://:secret@h?timeout=9ms", "timeout must be"),
            ("redis://:secret@h?timeout=6s", "timeout must be"),
            ("redis://:secret@h?ca=/x", "no TLS"),
            ("rediss://:secret@h?ca=", "ca is empty"),
            ("redis://:secret@h?tls=1", "tls is no parameter"),
            ("redis://:secret@h?secret1=", "... is no parameter"),
            ("redis://:secret@h?password_file=/x", "choose one"),
            ("redis://user@h", "no password"),
            ("redis://h?auth=entra", "needs TLS"),
            ("rediss://:secret@h?auth=entra", "choose one"),
            ("rediss://h?auth=basic", "auth can only be entra"),
            ("redis://:secret@h?client_id=x", "client_id is only"),
            ("redis://:secret@h?sentinel_auth=same", "sentinel_auth is only"),
            ("redis+x://:secret@h", "is not a Redis"),
            ("http://:secret@h", "is not a Redis"),
            ("redis://:%ff@h", "not UTF-8"),
        ] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("sec") || error.contains("seconds"), "{text}: {error}");
        }
    }
}
