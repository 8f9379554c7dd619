//! `[callers]`: who may call, and how callers are told apart.

use http::HeaderName;

use super::ValueError;
use super::read::{Field, Key};
use super::tokens::{self, Tokens};
use super::value;

/// Who may call, and how callers are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// `anonymous`: whether callers without a key are let in. Default (`None`): only where there are no keys; ask
    /// [`Callers::refuses_anonymous`].
    pub anonymous: Option<bool>,
    /// `[callers.keys.NAME]`: API keys. Default: none.
    pub keys: Vec<ApiKey>,
    /// `[callers.tokens.NAME]`: tokens that callers may prove themselves with. Default: none.
    pub tokens: Vec<Tokens>,
    /// `[callers.proxy]`: a proxy that says who the caller is. Default: none.
    pub proxy: Option<CallerProxy>,
    /// `[callers.conversation]`: what tells conversations of one caller apart.
    pub conversation: Conversation,
}

/// An API key, as its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name, which is the principal: a new key under the same name keeps the sessions.
    pub name: String,
    /// `sha256`: digest of the key.
    pub sha256: [u8; 32],
    /// `kind`: who uses it. Default [`KeyKind::User`].
    pub kind: KeyKind,
}

/// Who uses an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `"user"`: one person or agent. Callers with it that echo no session id share one session.
    User,
    /// `"application"`: an application on behalf of many. Its callers share a session only within a conversation.
    Application,
    /// `"connector"`: a connector of Power Platform, whose users it names in `x-ms-client-*`: each is a caller of their
    /// own. A request that names none is an application's.
    Connector,
}

/// A proxy in front that has recognised the caller. It is believed if it connects from one of
/// [`Config::trusted_proxies`](super::Config::trusted_proxies) *and* knows the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerProxy {
    /// `header`: the header that names the caller, in lower case.
    pub header: String,
    /// `secret_header`: the header that carries the secret, in lower case.
    pub secret_header: String,
    /// `secret_sha256`: digest of the secret.
    pub secret_sha256: [u8; 32],
}

/// Where callers say which of their conversations a request belongs to. A hint tells conversations of *one* caller
/// apart, so it need not be secret. The first that is there counts, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// `headers`: names of headers, in lower case. Default: none.
    pub headers: Vec<String>,
    /// `meta`: members of `params._meta`. Default `openai/session`.
    pub meta: Vec<String>,
    /// `query`: a query parameter. Default: none, since URLs end up in logs.
    pub query: Option<String>,
}

impl Default for Conversation {
    fn default() -> Self {
        Self { headers: Vec::new(), meta: vec!["openai/session".to_owned()], query: None }
    }
}

impl Callers {
    /// Whether a caller without a key is turned away.
    #[must_use]
    pub fn refuses_anonymous(&self) -> bool {
        !self.anonymous.unwrap_or(self.keys.is_empty() && self.tokens.is_empty() && self.proxy.is_none())
    }
}

pub(super) const CALLERS: &[Key<Callers>] = &[
    Key::new("anonymous", |c, f| {
        f.choice(&mut c.anonymous, &[("allow", Some(true)), ("refuse", Some(false))]);
    }),
    Key::new("keys", |c, f| f.each_table(|name, f| c.keys.push(key(name, f)))),
    Key::new("tokens", |c, f| f.each_table(|name, f| c.tokens.push(tokens::read(name, f)))),
    Key::new("proxy", |c, f| c.proxy = Some(proxy(f))),
    Key::new("conversation", |c, f| {
        f.table(&mut c.conversation, CONVERSATION);
    }),
];

pub(super) const KEY: &[Key<ApiKey>] = &[
    Key::new("sha256", |k, f| f.parsed(&mut k.sha256, "a digest", sha256)),
    Key::new("kind", |k, f| {
        let kinds = [
            ("user", KeyKind::User),
            ("application", KeyKind::Application),
            ("connector", KeyKind::Connector),
        ];
        f.choice(&mut k.kind, &kinds);
    }),
];

pub(super) const PROXY: &[Key<CallerProxy>] = &[
    Key::new("header", |p, f| f.parsed(&mut p.header, "a header name", header)),
    Key::new("secret_header", |p, f| f.parsed(&mut p.secret_header, "a header name", header)),
    Key::new("secret_sha256", |p, f| f.parsed(&mut p.secret_sha256, "a digest", sha256)),
];

pub(super) const CONVERSATION: &[Key<Conversation>] = &[
    Key::new("headers", |c, f| f.list(&mut c.headers, "header names", header)),
    Key::new("meta", |c, f| f.list(&mut c.meta, "member names", word)),
    Key::new("query", |c, f| f.parsed(&mut c.query, "a parameter name", |text| word(text).map(Some))),
];

/// Reads the table `[callers]`.
pub(super) fn read(callers: &mut Callers, field: &mut Field<'_, '_>) {
    field.table(callers, CALLERS);
    let mut seen = std::collections::HashMap::new();
    for key in &callers.keys {
        if let Some(before) = seen.insert(key.sha256, &key.name) {
            field.fail_inside("keys", format!("{} and {before} are the same key", key.name));
        }
    }
}

fn key(name: &str, field: &mut Field<'_, '_>) -> ApiKey {
    if let Err(error) = value::route_name(name) {
        field.fail_name(error);
    }
    // The digest of nothing never gets out: either `sha256` replaces it or the file is refused.
    let mut key = ApiKey { name: name.to_owned(), sha256: [0; 32], kind: KeyKind::User };
    field.table(&mut key, KEY);
    field.require("sha256", "sha256 = \"...\", what `printf %s KEY | sha256sum` says");
    key
}

fn proxy(field: &mut Field<'_, '_>) -> CallerProxy {
    let mut proxy = CallerProxy::default();
    field.table(&mut proxy, PROXY);
    field.require("header", "header = \"x-user\", the header that names the caller");
    field.require("secret_header", "secret_header = \"x-proxy-secret\"");
    field.require("secret_sha256", "secret_sha256 = \"...\", what `printf %s SECRET | sha256sum` says");
    proxy
}

fn sha256(text: &str) -> Result<[u8; 32], ValueError> {
    let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    // What is here by mistake may be the key itself: it is not repeated.
    decoded.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        ValueError("not a SHA-256 digest: write the 64 hex digits of `printf %s KEY | sha256sum`".to_owned())
    })
}

fn header(text: &str) -> Result<String, ValueError> {
    HeaderName::try_from(text)
        .map(|name| name.as_str().to_owned())
        .map_err(|_| ValueError(format!("{text:?} is not a header name")))
}

fn word(text: &str) -> Result<String, ValueError> {
    match text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err(ValueError(format!("{text:?} is not a name"))),
        false => Ok(text.to_owned()),
    }
}
