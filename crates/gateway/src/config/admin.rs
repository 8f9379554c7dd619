//! Where the administrator connects, and with what.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::{ValueError, value};

/// An address that only this machine can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A loopback address with a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:PATH`: a socket in the file system.
    Unix(PathBuf),
}

impl AdminAddress {
    /// Reads `127.0.0.1:8809`, `[::1]:8809` or `unix:PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, ValueError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return value::directory(path).map(AdminAddress::Unix).map_err(|_| {
                ValueError(format!("{text:?} has no path: write unix:/run/throughline/admin.sock"))
            });
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() => Ok(AdminAddress::Tcp(address)),
            Ok(_) => Err(ValueError(format!(
                "{text:?} can be reached from other machines; administration is for this one: write \
                 127.0.0.1:8809 or unix:PATH"
            ))),
            Err(_) => Err(ValueError(format!(
                "{text:?} is not an address for administration: write 127.0.0.1:8809 or unix:PATH"
            ))),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse(text)
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What the administrator proves itself with. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// Shortest token, in bytes.
    const MIN: usize = 16;

    /// A token of visible ASCII characters.
    ///
    /// # Errors
    /// When it is too short to be one, or could not stand in a header.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        if text.len() < Self::MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let least = Self::MIN;
            return Err(ValueError(format!(
                "is not a token: write at least {least} visible ASCII characters, such as 32 random bytes in base64"
            )));
        }
        Ok(AdminToken(text.to_owned()))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_reach_it() {
        for good in ["127.0.0.1:8809", "[::1]:0", "127.8.0.1:1", "[::ffff:127.0.0.1]:1", "unix:/run/x.sock"] {
            assert_eq!(AdminAddress::parse(good).unwrap().to_string(), good);
        }
        for bad in
            ["0.0.0.0:8809", "192.168.0.1:8809", "[::]:1", "8809", "localhost:8809", "unix:", "unix:~/x", ""]
        {
            let error = AdminAddress::parse(bad).unwrap_err().to_string();
            assert!(
                error.contains("write 127.0.0.1:8809") || error.contains("write unix:/"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn a_token_is_long_and_not_shown() {
        let token = AdminToken::parse(" 0123456789abcdef\n").unwrap();
        assert_eq!((token.expose(), format!("{token:?}").as_str()), ("0123456789abcdef", "AdminToken(..)"));
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcde\u{e9}"] {
            let error = AdminToken::parse(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
