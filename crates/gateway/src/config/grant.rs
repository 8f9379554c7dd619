//! `token`: OAuth tokens that the gateway gets for itself, or for its callers, to reach an upstream with.

use std::fmt;

use http::Uri;

use super::read::{Field, Key};
use super::tokens::{scope, secure_url};
use super::{ConfigError, Place, ValueError};

/// Where the tokens for an upstream come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `token.grant`: in whose name. Default [`GrantKind::ClientCredentials`].
    pub kind: GrantKind,
    /// `token.url`: the token endpoint.
    pub url: Uri,
    /// `token.client_id`: the gateway, as the authorization server knows it.
    pub client_id: String,
    /// `token.client_secret_env`: the variable of the environment that holds its secret.
    pub secret_env: String,
    /// What was in the variable; see [`Config::resolve`](super::Config::resolve).
    pub secret: Secret,
    /// `token.scopes`: what is asked for. Default: nothing.
    pub scopes: Vec<String>,
    /// `token.audience`: for whom, where the authorization server wants to know. Default: not said.
    pub audience: Option<String>,
    /// Where the table stands.
    pub place: Place,
}

/// In whose name a token is got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// `"client-credentials"`: the gateway's own (RFC 6749, 4.4). All callers have one token.
    ClientCredentials,
    /// `"on-behalf-of"`: the caller's, for the caller's token, in the way of Microsoft Entra (RFC 7523).
    OnBehalfOf,
    /// `"token-exchange"`: the caller's, for the caller's token (RFC 8693).
    TokenExchange,
}

/// A secret, which `Debug` does not show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Grant {
    fn empty(place: Place) -> Self {
        Grant {
            kind: GrantKind::ClientCredentials,
            url: Uri::default(),
            client_id: String::new(),
            secret_env: String::new(),
            secret: Secret::default(),
            scopes: Vec::new(),
            audience: None,
            place,
        }
    }

    /// Whether a caller's own token is needed.
    pub fn is_for_callers(&self) -> bool {
        self.kind != GrantKind::ClientCredentials
    }

    /// Reads the variable, if it has not been read.
    pub(super) fn resolve(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        if !self.secret.0.is_empty() {
            return Ok(());
        }
        match env(&self.secret_env).filter(|text| !text.trim().is_empty()) {
            Some(text) => {
                self.secret = Secret(text.trim().to_owned());
                Ok(())
            }
            None => Err(ConfigError {
                place: self.place.clone(),
                key: "token.client_secret_env".to_owned(),
                message: format!("the environment variable {} is not set", self.secret_env),
            }),
        }
    }
}

pub(super) const GRANT: &[Key<Grant>] = &[
    Key::new("grant", |g, f| {
        let kinds = [
            ("client-credentials", GrantKind::ClientCredentials),
            ("on-behalf-of", GrantKind::OnBehalfOf),
            ("token-exchange", GrantKind::TokenExchange),
        ];
        f.choice(&mut g.kind, &kinds);
    }),
    Key::new("url", |g, f| f.parsed(&mut g.url, "a URL", secure_url)),
    Key::new("client_id", |g, f| f.parsed(&mut g.client_id, "a client id", word)),
    Key::new("client_secret_env", |g, f| f.parsed(&mut g.secret_env, "the name of a variable", word)),
    Key::new("scopes", |g, f| f.list(&mut g.scopes, "scopes", scope)),
    Key::new("audience", |g, f| f.parsed(&mut g.audience, "an audience", |text| word(text).map(Some))),
];

/// Reads the table.
pub(super) fn read(field: &mut Field<'_, '_>) -> Grant {
    let mut grant = Grant::empty(field.place());
    field.table(&mut grant, GRANT);
    field.require("url", "url = \"https://...\", the token endpoint");
    field.require("client_id", "client_id = \"...\"");
    field.require("client_secret_env", "client_secret_env = \"VARIABLE\", the one that holds the secret");
    grant
}

fn word(text: &str) -> Result<String, ValueError> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(ValueError(format!("{text:?} is not a name"))),
        false => Ok(text.to_owned()),
    }
}
