//! The keys of an issuer (JWKS, RFC 7517): fetched when they are needed, kept, and fetched again when they are old or a
//! token names one that is not among them.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, StatusCode};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use throughline_store::Millis;
use tokio::sync::Semaphore;

use super::denied;
use crate::app::Core;
use crate::error::Fault;
use crate::session::lock;
use crate::upstream::destination::Destination;
use crate::upstream::http::Endpoint;
use crate::upstream::read_whole;
use crate::upstream::{self, AGENT, JSON};

/// After so long keys are fetched again, by one request; the others go on with the old ones.
const OLD_MS: u64 = 3_600_000;
/// After so long keys that could not be fetched again are not believed any more.
const TOO_OLD_MS: u64 = 24 * OLD_MS;
/// Unknown keys are asked for no more often than this: anyone can name some.
const AGAIN_MS: u64 = 10_000;
/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest set, in bytes and in keys.
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;
/// Shortest RSA key, in bytes of its modulus (RFC 7518, 3.3).
const MIN_RSA: usize = 256;

/// The keys of one issuer.
pub(super) struct KeySet {
    to: Arc<Destination>,
    held: Mutex<Held>,
    /// Counts up when keys go or come.
    generation: AtomicU64,
    /// Who fetches.
    turn: Semaphore,
}

#[derive(Default)]
struct Held {
    keys: Arc<Vec<Key>>,
    fetched: Option<Millis>,
    tried: Option<Millis>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    /// Tells it from another with the same id.
    material: String,
}

impl KeySet {
    pub(super) fn at(to: Arc<Destination>) -> Self {
        KeySet { to, held: Mutex::default(), generation: AtomicU64::new(0), turn: Semaphore::new(1) }
    }

    pub(super) fn to(&self) -> &Arc<Destination> {
        &self.to
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether what was fetched last can be gone by.
    pub(super) fn is_believed(&self, now: Millis) -> bool {
        lock(&self.held).fetched.is_some_and(|at| now.0 < at.0.saturating_add(TOO_OLD_MS))
    }

    /// The key that a token names, and the generation of the set that it is of.
    ///
    /// # Errors
    /// [`Fault::KeysAway`] where the set cannot be had, [`Fault::Unauthorized`] where it has no such key.
    pub(super) async fn find(
        &self,
        core: &Core,
        index: usize,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(DecodingKey, u64), Fault> {
        self.refresh_if_old(core, index).await;
        for again in [false, true] {
            let generation = self.generation();
            let (keys, tried) = {
                let held = lock(&self.held);
                (Arc::clone(&held.keys), held.tried)
            };
            let now = core.app.effects.now();
            if self.is_believed(now) {
                let mut named = keys.iter().filter(|key| match id {
                    Some(id) => key.id.as_deref() == Some(id),
                    // A token that names none can only be of the only one.
                    None => keys.len() == 1,
                });
                if let Some(key) = named.next() {
                    // A public key is no secret: as the key of an HMAC anyone could sign with it.
                    return match key.algorithms.contains(&algorithm) {
                        true => Ok((key.key.clone(), generation)),
                        false => Err(denied("the token is signed in a way that its key is not for")),
                    };
                }
            }
            let too_soon = tried.is_some_and(|at| now.0 < at.0.saturating_add(AGAIN_MS));
            if again || too_soon {
                break;
            }
            self.fetch(core, index, tried).await;
        }
        match self.is_believed(core.app.effects.now()) {
            true => Err(denied("the token is signed with a key that its issuer does not have")),
            false => Err(Fault::KeysAway),
        }
    }

    /// Fetches keys that are old. One request does, the others go on with what there is.
    pub(super) async fn refresh_if_old(&self, core: &Core, index: usize) {
        let now = core.app.effects.now();
        let tried = {
            let held = lock(&self.held);
            let old = held.fetched.is_some_and(|at| now.0 >= at.0.saturating_add(OLD_MS));
            let soon = held.tried.is_some_and(|at| now.0 < at.0.saturating_add(AGAIN_MS));
            if !old || soon || self.turn.available_permits() == 0 {
                return;
            }
            held.tried
        };
        self.fetch(core, index, tried).await;
    }

    /// Fetches the set, unless somebody has since `seen`.
    async fn fetch(&self, core: &Core, index: usize, seen: Option<Millis>) {
        let Ok(_turn) = self.turn.acquire().await else { return };
        {
            let mut held = lock(&self.held);
            if held.tried != seen {
                return;
            }
            held.tried = Some(core.app.effects.now());
        }
        let Some(endpoint) = core.key_sets.get(index) else { return };
        let fetched = tokio::time::timeout(PATIENCE, get(endpoint)).await;
        match fetched.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(keys) => {
                let mut held = lock(&self.held);
                let names = |keys: &[Key]| keys.iter().map(|key| key.material.clone()).collect::<Vec<_>>();
                if names(&held.keys) != names(&keys) {
                    tracing::info!(
                        from = self.to.host,
                        keys = keys.len(),
                        "the keys of a token issuer are new"
                    );
                    self.generation.fetch_add(1, Ordering::AcqRel);
                }
                held.keys = Arc::new(keys);
                held.fetched = Some(core.app.effects.now());
            }
            Err(error) => {
                tracing::warn!(from = self.to.host, %error, "the keys of a token issuer were not read")
            }
        }
    }
}

async fn get(endpoint: &Rc<Endpoint>) -> Result<Vec<Key>, String> {
    let path = endpoint.destination().uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, JSON);
    headers.insert(USER_AGENT, AGENT);
    let answer = endpoint.get(&path, headers).await.map_err(|error| error.to_string())?;
    if answer.status != StatusCode::OK {
        upstream::drain(answer.body);
        return Err(format!("it answered {}", answer.status.as_u16()));
    }
    let body = read_whole(answer.body, Vec::new(), MAX_BYTES).await.map_err(|error| error.to_string())?;
    let body = body.ok_or_else(|| format!("it has more than {MAX_BYTES} bytes"))?;
    let set: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("it is no set of keys")?;
    let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(usable).collect();
    if keys.is_empty() { Err("it has no key that could verify a token".to_owned()) } else { Ok(keys) }
}

/// A key that signatures can be verified with, and for which algorithms. Keys of a kind that is not known are passed by.
fn usable(key: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = data_encoding::BASE64URL_NOPAD.decode(rsa.n.as_bytes()).ok()?;
            if modulus.iter().skip_while(|byte| **byte == 0).count() < MIN_RSA {
                return None;
            }
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            vec![RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        // A secret that the whole world can read.
        AlgorithmParameters::OctetKey(_) => return None,
        #[allow(unreachable_patterns, reason = "kinds that a later release knows")]
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| same(*algorithm, only));
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    let material =
        ["kid", "kty", "n", "x", "y"].map(|name| key.get(name).map(Value::to_string).unwrap_or_default());
    Some(Key { id: jwk.common.key_id.clone(), algorithms, key: decoding, material: material.concat() })
}

fn same(algorithm: Algorithm, only: KeyAlgorithm) -> bool {
    serde_json::to_value(algorithm).ok() == serde_json::to_value(only).ok()
}
