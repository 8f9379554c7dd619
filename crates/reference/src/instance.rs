//! What an instance is called: the name by which a caller sees which of several has answered.

use axum::http::HeaderValue;
use data_encoding::HEXLOWER;

/// Longer names help nobody; App Service's have 64 characters.
const LONGEST: usize = 128;

/// The name of this process among its equals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: String,
    header: HeaderValue,
}

impl std::str::FromStr for Instance {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::named(name).ok_or("a name has 1 to 128 printable ASCII characters without spaces")
    }
}

impl Instance {
    /// A name that was chosen: 1 to 128 printable ASCII characters, without spaces.
    pub fn named(name: &str) -> Option<Self> {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > LONGEST || !printable {
            return None;
        }
        Some(Self { name: name.to_owned(), header: HeaderValue::from_str(name).ok()? })
    }

    /// The name that the host gives, by `WEBSITE_INSTANCE_ID` (App Service) or `HOSTNAME` (containers); a random
    /// one where it gives none. `variable` reads the environment.
    pub fn of_host(variable: impl Fn(&str) -> Option<String>) -> Self {
        ["WEBSITE_INSTANCE_ID", "HOSTNAME"]
            .iter()
            .find_map(|name| Self::named(&variable(name)?))
            .unwrap_or_else(Self::random)
    }

    /// A name that no other process has.
    pub fn random() -> Self {
        let mut bytes = [0; 8];
        random(&mut bytes);
        let name = HEXLOWER.encode(&bytes);
        Self { header: HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("unnamed")), name }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

/// Fills `bytes` from the operating system's random source.
pub(crate) fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the operating system's random source works");
}
