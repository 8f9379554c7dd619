//! OAuth tokens for an upstream: the gateway's own, or one for each caller, got for the caller's token. Kept in memory
//! only, and got anew before they expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use throughline_store::Millis;
use tokio::sync::Semaphore;

use crate::app::{Core, Route};
use crate::config::{Config, ConfigError, ConfigErrors, Grant, GrantKind, Place};
use crate::error::{Denied, Fault};
use crate::principal::Caller;
use crate::session::lock;
use crate::tokens;
use crate::upstream::destination::Destination;
use crate::upstream::http::Endpoint;
use crate::upstream::read_whole;
use crate::upstream::{AGENT, JSON};
use crate::urls::escaped;

/// Callers whose tokens are kept.
const MAX_HELD: usize = 10_000;
/// Largest answer of a token endpoint, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// How long a token endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a token lasts that does not say so (RFC 6749 leaves it open), in seconds.
const SHORT: u64 = 300;
/// Of a token's life, what is left when a new one is got: a fifth, and at most so much, in milliseconds.
const AHEAD_MS: u64 = 300_000;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// The tokens of one route.
pub struct Grants {
    config: Grant,
    to: Arc<Destination>,
    held: Mutex<HashMap<[u8; 16], Arc<Held>>>,
}

/// The token of one caller.
struct Held {
    token: Mutex<Option<Token>>,
    /// Who gets it.
    turn: Semaphore,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    renew: Millis,
    expires: Millis,
}

impl Grants {
    /// Of a route; None where its upstream gets no such token.
    ///
    /// # Errors
    /// Where the token endpoint cannot be reached as configured.
    pub fn of(config: &Config, route: &crate::config::Route) -> Result<Option<Self>, ConfigErrors> {
        let Some(grant) = &route.token else { return Ok(None) };
        let to = Destination::of_url(config, grant.url.clone()).map_err(|message| {
            ConfigErrors(vec![ConfigError { place: Place::Unknown, key: "token.url".to_owned(), message }])
        })?;
        Ok(Some(Grants { config: grant.clone(), to: Arc::new(to), held: Mutex::default() }))
    }

    /// Where the token endpoint is.
    pub fn to(&self) -> &Arc<Destination> {
        &self.to
    }

    /// The `Authorization` for this caller's requests.
    ///
    /// # Errors
    /// [`Fault::Unauthorized`] where the caller has to log in, [`Fault::NoToken`] where there is none to be had.
    pub async fn header(
        &self,
        core: &Core,
        route: &Route,
        caller: &Caller,
        headers: &HeaderMap,
    ) -> Result<HeaderValue, Fault> {
        let assertion = match self.config.is_for_callers() {
            true => Some(tokens::presented(headers).ok_or(Fault::unauthorized(Denied::Token(
                "the server behind the gateway is reached in the name of a user; log in",
            )))?),
            false => None,
        };
        let held = self
            .of_caller(if assertion.is_some() { caller.principal } else { [0; 16] }, core.app.effects.now());
        loop {
            let now = core.app.effects.now();
            let token = lock(&held.token).clone().filter(|token| now < token.expires);
            let turn = match &token {
                Some(token) if now < token.renew => return Ok(token.header.clone()),
                // One gets a new one, the others go on with the old.
                Some(token) => match held.turn.try_acquire() {
                    Ok(turn) => Ok(turn),
                    Err(_) => return Ok(token.header.clone()),
                },
                None => held.turn.acquire().await,
            };
            let Ok(_turn) = turn else { return Err(Fault::NoToken) };
            let newer = lock(&held.token).clone();
            if newer.as_ref().map(|token| token.expires) != token.as_ref().map(|token| token.expires) {
                // Somebody else got it meanwhile.
                if newer.is_some_and(|token| now < token.renew) {
                    continue;
                }
            }
            let Some(endpoint) = core.grants.get(route.index).and_then(Option::as_ref) else {
                return Err(Fault::NoToken);
            };
            let got = tokio::time::timeout(PATIENCE, self.get(endpoint, assertion, core)).await;
            return match (got.unwrap_or(Err(Refused::Trouble("no answer in time".to_owned()))), token) {
                (Ok(new), _) => {
                    let header = new.header.clone();
                    *lock(&held.token) = Some(new);
                    Ok(header)
                }
                (Err(Refused::Trouble(error)), Some(old)) => {
                    tracing::warn!(route = route.config.path, %error, "a token was not renewed");
                    Ok(old.header)
                }
                (Err(Refused::Trouble(error)), None) => {
                    tracing::warn!(route = route.config.path, %error, "no token for the upstream");
                    Err(Fault::NoToken)
                }
                (Err(Refused::LogIn), _) => Err(Fault::unauthorized(Denied::Token(
                    "the token was not accepted where one for the server behind the gateway is given; log in again",
                ))),
            };
        }
    }

    fn of_caller(&self, principal: [u8; 16], now: Millis) -> Arc<Held> {
        let mut held = lock(&self.held);
        if held.len() >= MAX_HELD && !held.contains_key(&principal) {
            held.retain(|_, held| lock(&held.token).as_ref().is_some_and(|token| now < token.expires));
            if held.len() >= MAX_HELD {
                let some = held.keys().next().copied();
                some.and_then(|some| held.remove(&some));
            }
        }
        let new = || Arc::new(Held { token: Mutex::default(), turn: Semaphore::new(1) });
        Arc::clone(held.entry(principal).or_insert_with(new))
    }

    /// Asks the token endpoint.
    async fn get(
        &self,
        endpoint: &std::rc::Rc<Endpoint>,
        assertion: Option<&str>,
        core: &Core,
    ) -> Result<Token, Refused> {
        let trouble = |error: &dyn std::fmt::Display| Refused::Trouble(error.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, JSON);
        headers.insert(CONTENT_TYPE, FORM);
        headers.insert(USER_AGENT, AGENT);
        let body = Bytes::from(self.form(assertion));
        let answer = endpoint.send_now(Method::POST, headers, body).await.map_err(|error| trouble(&error))?;
        let status = answer.status;
        let body = read_whole(answer.body, Vec::new(), MAX_BYTES).await.map_err(|error| trouble(&error))?;
        let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        if !status.is_success() {
            // Not more of it: a description may quote the token.
            let error = body["error"].as_str().unwrap_or("no reason given");
            return Err(match error {
                "invalid_grant" | "interaction_required" | "consent_required" | "login_required"
                    if assertion.is_some() =>
                {
                    Refused::LogIn
                }
                error => Refused::Trouble(format!("{}: {}", status.as_u16(), crate::tally::shown(error))),
            });
        }
        let token = body["access_token"].as_str().filter(|token| !token.is_empty());
        let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| trouble(&"the answer has no access_token"))?;
        header.set_sensitive(true);
        // Some servers write the number as text.
        let lasts = &body["expires_in"];
        let lasts =
            lasts.as_u64().or_else(|| lasts.as_str().and_then(|text| text.parse().ok())).unwrap_or(SHORT);
        let (now, lasts) = (core.app.effects.now().0, lasts.saturating_mul(1000));
        let ahead = (lasts / 5).min(AHEAD_MS);
        Ok(Token {
            header,
            renew: Millis(now.saturating_add(lasts - ahead)),
            expires: Millis(now.saturating_add(lasts)),
        })
    }

    fn form(&self, assertion: Option<&str>) -> String {
        let Grant { kind, client_id, secret, scopes, audience, .. } = &self.config;
        let scope = scopes.join(" ");
        let assertion = assertion.unwrap_or_default();
        let mut fields = match kind {
            GrantKind::ClientCredentials => vec![("grant_type", "client_credentials")],
            GrantKind::OnBehalfOf => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("requested_token_use", "on_behalf_of"),
                ("assertion", assertion),
            ],
            GrantKind::TokenExchange => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                ("subject_token", assertion),
            ],
        };
        fields.extend([("client_id", client_id.as_str()), ("client_secret", secret.expose())]);
        fields.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        fields.extend(audience.as_deref().map(|audience| ("audience", audience)));
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        fields.join("&")
    }
}

/// Why there is no token.
enum Refused {
    /// The caller's token is not good for one.
    LogIn,
    /// Anything else.
    Trouble(String),
}
