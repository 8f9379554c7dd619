//! `[callers.tokens.NAME]`: tokens of Microsoft Entra, or of another issuer, by which callers prove who they are.

use http::Uri;

use super::ValueError;
use super::read::{Field, Key};
use super::value;

/// Tokens that are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Its name; only the log shows it.
    pub name: String,
    /// `tenants`: ids of Entra tenants whose tokens are accepted, in lower case. Default: none.
    pub tenants: Vec<String>,
    /// `issuers`: other issuers (`iss`), exactly. Default: none.
    pub issuers: Vec<String>,
    /// `audiences`: whom a token must be for (`aud`); one of them.
    pub audiences: Vec<String>,
    /// `scopes`: what a token must permit (`scp`, `scope` or `roles`); one of them. Default: nothing.
    pub scopes: Vec<String>,
    /// `key_set`: where the keys are that tokens are signed with (a JWKS). Default (`None`): Entra's.
    pub key_set: Option<Uri>,
}

impl Tokens {
    /// The issuers whose tokens are accepted. Entra's are two for each tenant, by the version of the token.
    pub fn all_issuers(&self) -> Vec<String> {
        let of_tenant = |tenant: &String| {
            [
                format!("https://login.microsoftonline.com/{tenant}/v2.0"),
                format!("https://sts.windows.net/{tenant}/"),
            ]
        };
        self.tenants.iter().flat_map(of_tenant).chain(self.issuers.iter().cloned()).collect()
    }

    /// Where clients log in (RFC 9728, `authorization_servers`).
    pub fn authorization_servers(&self) -> Vec<String> {
        let entra = |tenant: &String| format!("https://login.microsoftonline.com/{tenant}/v2.0");
        self.tenants.iter().map(entra).chain(self.issuers.iter().cloned()).collect()
    }

    /// Where the keys are.
    pub fn key_set(&self) -> Uri {
        // Entra has one set for all tenants of a cloud.
        const ENTRA: &str = "https://login.microsoftonline.com/common/discovery/v2.0/keys";
        self.key_set.clone().unwrap_or(Uri::from_static(ENTRA))
    }
}

pub(super) const TOKENS: &[Key<Tokens>] = &[
    Key::new("tenants", |t, f| f.list(&mut t.tenants, "tenant ids", tenant)),
    Key::new("issuers", |t, f| f.list(&mut t.issuers, "issuers", issuer)),
    Key::new("audiences", |t, f| f.list(&mut t.audiences, "audiences", text)),
    Key::new("scopes", |t, f| f.list(&mut t.scopes, "scopes", scope)),
    Key::new("key_set", |t, f| f.parsed(&mut t.key_set, "a URL", |text| secure_url(text).map(Some))),
];

/// Reads one table.
pub(super) fn read(name: &str, field: &mut Field<'_, '_>) -> Tokens {
    if let Err(error) = value::route_name(name) {
        field.fail_name(error);
    }
    let mut tokens = Tokens { name: name.to_owned(), ..Tokens::default() };
    if field.table(&mut tokens, TOKENS) {
        if tokens.tenants.is_empty() && tokens.issuers.is_empty() {
            let message = "whose tokens? Write tenants = [\"TENANT-ID\"], or issuers and key_set";
            field.fail_inside("tenants", message.to_owned());
        }
        if !tokens.issuers.is_empty() && tokens.key_set.is_none() {
            field.fail_inside("issuers", "key_set is missing: where the issuer's keys are".to_owned());
        }
        if tokens.audiences.is_empty() {
            let message = "whom must a token be for? Write audiences = [\"api://APP-ID\"]: without, tokens for any \
                           other service would do";
            field.fail_inside("audiences", message.to_owned());
        }
    }
    tokens
}

/// The id of a tenant. A domain would not do: issuers have the id in them.
fn tenant(text: &str) -> Result<String, ValueError> {
    let groups: Vec<&str> = text.split('-').collect();
    let good = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match good {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(ValueError(format!(
            "{text:?} is not the id of a tenant: write 72f988bf-86f1-41af-91ab-2d7cd011db47, as Entra shows it"
        ))),
    }
}

fn issuer(text: &str) -> Result<String, ValueError> {
    secure_url(text).map(|_| text.to_owned())
}

fn text(text: &str) -> Result<String, ValueError> {
    match text.is_empty() {
        true => Err(ValueError("\"\" is not an audience".to_owned())),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn scope(text: &str) -> Result<String, ValueError> {
    // RFC 6749, 3.3.
    let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && !matches!(byte, b'"' | b'\\');
    match !text.is_empty() && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(ValueError(format!("{text:?} is not a scope"))),
    }
}

/// A URL whose answers can be believed: https, or this machine.
pub(super) fn secure_url(text: &str) -> Result<Uri, ValueError> {
    let url = value::upstream(text)?;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_local =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(url),
        _ if is_local => Ok(url),
        _ => Err(ValueError(format!("{text:?} is not safe: anyone on the way could answer; write https://"))),
    }
}
