//! Tokens that callers prove themselves with: JWTs of Microsoft Entra or another issuer, verified here, for this gateway
//! only. One that was verified is never passed on.

mod key_set;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use throughline_store::Millis;

use crate::app::Core;
use crate::config::{Config, ConfigError, ConfigErrors, Place, Tokens};
use crate::error::{Denied, Fault};
use crate::session::lock;
use crate::upstream::destination::Destination;
use key_set::KeySet;

/// How far a clock may be wrong, in seconds.
const LEEWAY: u64 = 60;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Tokens that were verified and are remembered, so that each is verified once.
const MAX_KNOWN: usize = 4096;

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Names the subject, among all subjects of all issuers.
    pub subject: Arc<[String]>,
    /// Whether it is an application's own token, that no user stands behind.
    pub is_application: bool,
}

/// The issuers that the configuration names.
pub struct Verifier {
    issuers: Vec<Issuer>,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

struct Issuer {
    config: Tokens,
    names: Vec<String>,
    keys: KeySet,
}

/// A token that was verified before.
#[derive(Clone)]
struct Known {
    verified: Verified,
    /// In seconds since 1970.
    expires: u64,
    /// Of which issuer, and by which of its key sets.
    issuer: usize,
    generation: u64,
}

impl Verifier {
    /// As configured; None where callers cannot have tokens.
    ///
    /// # Errors
    /// Where the keys of an issuer cannot be reached as configured.
    pub fn of(config: &Config) -> Result<Option<Self>, ConfigErrors> {
        let mut issuers = Vec::new();
        for tokens in &config.callers.tokens {
            let to = Destination::of_url(config, tokens.key_set()).map_err(|message| {
                let key = format!("callers.tokens.{}.key_set", tokens.name);
                ConfigErrors(vec![ConfigError { place: Place::Unknown, key, message }])
            })?;
            let names = tokens.all_issuers();
            issuers.push(Issuer { config: tokens.clone(), names, keys: KeySet::at(Arc::new(to)) });
        }
        Ok((!issuers.is_empty()).then(|| Verifier { issuers, known: Mutex::default() }))
    }

    /// Where the keys are, in the order in which a core has its connections there.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.issuers.iter().map(|issuer| issuer.keys.to())
    }

    /// What clients that want to log in are told (RFC 9728): authorization servers, and scopes.
    pub fn how_to_log_in(&self) -> (Vec<String>, Vec<String>) {
        let servers = self.issuers.iter().flat_map(|issuer| issuer.config.authorization_servers());
        let scopes = self.issuers.iter().flat_map(|issuer| issuer.config.scopes.iter().cloned());
        (servers.collect(), scopes.collect())
    }

    /// What the token of a request says; None where the request has none.
    ///
    /// # Errors
    /// [`Fault::Unauthorized`] for a token that is not good, [`Fault::KeysAway`] where that cannot be told now.
    pub async fn verify(&self, core: &Core, headers: &HeaderMap) -> Result<Option<Verified>, Fault> {
        let Some(token) = presented(headers) else { return Ok(None) };
        if token.len() > MAX_TOKEN {
            return Err(denied("the token is too long"));
        }
        let digest = core.app.keys.digest("token", &[token.as_bytes()]);
        let now = core.app.effects.now();
        let known = lock(&self.known).get(&digest).cloned();
        if let Some(known) = known {
            let keys = &self.issuers[known.issuer].keys;
            keys.refresh_if_old(core, known.issuer).await;
            if keys.is_believed(now)
                && keys.generation() == known.generation
                && now.0 / 1000 < known.expires + LEEWAY
            {
                return Ok(Some(known.verified));
            }
        }
        let (index, issuer) = self.issuer_of(token)?;
        let header = decode_header(token).map_err(|_| denied("the token is not a JWT that can be read"))?;
        // What its issuer says must be understood is not understood here (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(denied("the token needs an extension that is not known here"));
        }
        let (key, generation) = issuer.keys.find(core, index, header.kid.as_deref(), header.alg).await?;
        let claims = claims_of(token, &key, header.alg)?;
        let (verified, expires) = issuer.judge(&claims, now)?;
        let mut known = lock(&self.known);
        if known.len() >= MAX_KNOWN {
            known.retain(|_, known| now.0 / 1000 < known.expires);
        }
        if known.len() < MAX_KNOWN {
            known.insert(digest, Known { verified: verified.clone(), expires, issuer: index, generation });
        }
        Ok(Some(verified))
    }

    /// The issuer that a token says it is of. That is only what it says, until the signature is verified.
    fn issuer_of(&self, token: &str) -> Result<(usize, &Issuer), Fault> {
        let claims: Map<String, Value> =
            insecure_decode_claims(token).map_err(|_| denied("the token is not a JWT that can be read"))?;
        let name = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let mut issuers = self.issuers.iter().enumerate();
        let found = issuers.find(|(_, issuer)| issuer.names.iter().any(|own| own == name));
        found.ok_or_else(|| denied("the token is of an issuer that is not accepted here"))
    }
}

impl Issuer {
    /// Whether verified claims are good here and now; who they are about, and until when, in seconds since 1970.
    fn judge(&self, claims: &Map<String, Value>, now: Millis) -> Result<(Verified, u64), Fault> {
        let now = now.0 / 1000;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        // Numbers, with or without a fraction (RFC 7519, section 2).
        let time =
            |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds.max(0.0) as u64);
        let expires = time("exp").ok_or_else(|| denied("the token does not say when it expires"))?;
        if now >= expires.saturating_add(LEEWAY) {
            return Err(denied("the token has expired; log in again"));
        }
        if time("nbf").is_some_and(|from| now.saturating_add(LEEWAY) < from) {
            return Err(denied("the token is not valid yet; is a clock wrong?"));
        }
        let issuer = text("iss").filter(|name| self.names.iter().any(|own| own == name));
        let issuer = issuer.ok_or_else(|| denied("the token is of an issuer that is not accepted here"))?;
        let is_ours = |name: &Value| {
            name.as_str().is_some_and(|name| self.config.audiences.iter().any(|own| own == name))
        };
        let for_us = match claims.get("aud") {
            Some(Value::Array(names)) => names.iter().any(is_ours),
            Some(name) => is_ours(name),
            None => false,
        };
        if !for_us {
            return Err(denied(
                "the token is for another service (its audience is not one of this gateway's)",
            ));
        }
        let tenant = text("tid").map(str::to_ascii_lowercase);
        let is_entra = !self.config.issuers.iter().any(|own| own == issuer);
        if is_entra {
            // The issuer names the tenant as well; a token where they differ was not made by Entra.
            let fits = tenant.as_ref().is_some_and(|tenant| {
                self.config.tenants.contains(tenant) && issuer.contains(tenant.as_str())
            });
            if !fits {
                return Err(denied("the token is of a tenant that is not accepted here"));
            }
        }
        self.permits(claims)?;
        let subject: Arc<[String]> = match (tenant, text("oid"), text("sub")) {
            // The same for every application and in both versions of tokens, which `sub` is not.
            (Some(tenant), Some(object), _) if is_entra => {
                ["entra".to_owned(), tenant, object.to_owned()].into()
            }
            (_, _, Some(subject)) => ["jwt".to_owned(), issuer.to_owned(), subject.to_owned()].into(),
            _ => return Err(denied("the token does not say whose it is")),
        };
        let own = text("oid").is_some() && text("oid") == text("sub");
        let is_application = text("idtyp") == Some("app") || (own && !claims.contains_key("scp"));
        Ok((Verified { subject, is_application }, expires))
    }

    fn permits(&self, claims: &Map<String, Value>) -> Result<(), Fault> {
        let has = |scope: &String| {
            ["scp", "scope", "roles"].iter().any(|name| match claims.get(*name) {
                Some(Value::String(scopes)) => scopes.split(' ').any(|own| own == scope),
                Some(Value::Array(scopes)) => scopes.iter().any(|own| own == scope.as_str()),
                _ => false,
            })
        };
        if self.config.scopes.is_empty() || self.config.scopes.iter().any(has) {
            return Ok(());
        }
        Err(Fault::unauthorized(Denied::Scope(self.config.scopes.join(" "))))
    }
}

/// The token that a request presents. What has not the form of one may be a key.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim();
    let parts = token.split('.').count();
    (scheme.eq_ignore_ascii_case("bearer ") && parts == 3 && token.starts_with("ey")).then_some(token)
}

/// The claims of a token whose signature is this key's. What they say is judged elsewhere, by this gateway's clock.
fn claims_of(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Map<String, Value>, Fault> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let data = decode::<Map<String, Value>>(token, key, &validation);
    data.map(|data| data.claims).map_err(|_| denied("the token's signature is not its issuer's"))
}

fn denied(why: &'static str) -> Fault {
    Fault::unauthorized(Denied::Token(why))
}
