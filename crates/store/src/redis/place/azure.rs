//! The address as Azure's portal shows it, which is the form of the client for .NET:
//! `HOST:PORT,password=...,ssl=True,abortConnect=False`.

use super::{Kind, Options, Place, PlaceError, Secret, Tls, database, host, named};

/// What that client knows and this one decides by itself.
const IGNORED: [&str; 14] = [
    "abortconnect",
    "allowadmin",
    "asynctimeout",
    "configcheckseconds",
    "connectretry",
    "connecttimeout",
    "keepalive",
    "name",
    "protocol",
    "resolvedns",
    "sslprotocols",
    "synctimeout",
    "tiebreaker",
    "version",
];

pub(super) fn parse(text: &str) -> Result<Place, PlaceError> {
    let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let first = parts.next().unwrap_or_default();
    if first.contains('=') {
        return PlaceError::new("the host must come first: write HOST:PORT,password=...,ssl=True");
    }
    let settings: Vec<_> = parts.map(|part| part.split_once('=').ok_or(part)).collect();
    let is = |name: &str, of: &str| name.trim().eq_ignore_ascii_case(of);
    let mut tls = None;
    for (name, value) in settings.iter().flatten() {
        if is(name, "ssl") {
            tls = match value.trim().to_ascii_lowercase().as_str() {
                "true" => Some(Tls::default()),
                "false" => None,
                _ => return PlaceError::new("ssl can only be True or False"),
            };
        }
    }
    let port = if tls.is_some() { 6380 } else { 6379 };
    let mut place = Place::new(Kind::Server(host(first, port)?), tls);
    let mut options = Options::default();
    for setting in settings {
        // Not shown: it may be the end of a password with a comma.
        let Ok((name, value)) = setting else {
            return PlaceError::new(
                "a part without = (several hosts, or a comma in the password): a cluster is redis+cluster://, \
                 and such a password goes into a URL, as %2C",
            );
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "password" => options.password = Some(Secret(value.to_owned())),
            "user" => options.user = Some(value.to_owned()),
            "defaultdatabase" => place.database = database(value)?,
            "ssl" => {}
            known if IGNORED.contains(&known) => {}
            "sentinel_auth" => return PlaceError::new("sentinel_auth is only for redis+sentinel://"),
            other => {
                if !options.set(&mut place, other, value)? {
                    return PlaceError::new(format!("{} is no setting that is known here", named(other)));
                }
            }
        }
    }
    options.finish(place)
}

#[cfg(test)]
mod tests {
    use super::super::SignIn;
    use super::*;

    #[test]
    fn azures_own_form() {
        let text = "x.redis.cache.windows.net:6380,password=se+cret/==,ssl=True,abortConnect=False";
        let place = Place::parse(text).unwrap();
        assert_eq!(place.to_string(), "rediss://x.redis.cache.windows.net:6380");
        let SignIn::Password { user: None, password } = place.sign_in else { panic!("no password") };
        assert_eq!(password.0, "se+cret/==");
        let more = "h,User=me, password=x ,DefaultDatabase=2,prefix=p,ssl=false,timeout=1s";
        assert_eq!(Place::parse(more).unwrap().to_string(), "redis://h:6379/2?prefix=p");
        let entra = Place::parse("h:10000,ssl=true,auth=entra").unwrap();
        assert!(matches!(entra.sign_in, SignIn::Entra { client_id: None }));
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for (text, part) in [
            ("password=secret,ssl=True", "the host must come first"),
            ("h:1,password=sec,ret", "without ="),
            ("a:1,b:1,password=secret", "without ="),
            ("h:1,password=secret,ssl=yes", "ssl can only be"),
            ("h:1,password=secret,sec-ret=x", "... is no setting"),
            ("h:1,password=secret,proxy=x", "proxy is no setting"),
            ("h:x,password=secret", "a port is not"),
            ("", "a host is missing"),
        ] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("sec"), "{text}: {error}");
        }
    }
}
