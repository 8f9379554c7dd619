//! Callers that prove themselves with tokens, and tokens that the gateway gets for its upstreams. The authorization server
//! is one of these tests' own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use aws_lc_rs::{digest, hmac, rand};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use throughline_gateway::{Config, Effects};

use crate::harness::{Client, Clock, Gw, Session, Upstream, call, json as answer, logged};

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const OTHER_TENANT: &str = "11111111-2222-3333-4444-555555555555";
const AUDIENCE: &str = "api://gateway";

/// A signing key of the authorization server.
pub(crate) struct Key {
    id: String,
    pair: KeyPair,
}

impl Key {
    pub(crate) fn new(id: &str) -> Self {
        Key { id: id.to_owned(), pair: KeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        let encode = |number: &[u8]| BASE64URL_NOPAD.encode(number);
        let n = encode(public.modulus().big_endian_without_leading_zero());
        let e = encode(public.exponent().big_endian_without_leading_zero());
        json!({ "kty": "RSA", "use": "sig", "kid": self.id, "n": n, "e": e, "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0" })
    }

    fn sign(&self, header: Value, claims: &Value) -> String {
        self.sign_as(&RSA_PKCS1_SHA256, header, claims)
    }

    fn sign_as(&self, how: &'static dyn RsaEncoding, header: Value, claims: &Value) -> String {
        let text = unsigned(&header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(how, &rand::SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// A token as Entra makes it.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(json!({ "typ": "JWT", "alg": "RS256", "kid": self.id }), claims)
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

pub(crate) fn now(effects: Effects) -> u64 {
    (effects.now)().0 / 1000
}

/// Claims of version 2, of a user.
pub(crate) fn claims(user: &str) -> Value {
    let now = now(Effects::REAL);
    json!({
        "aud": AUDIENCE, "iss": format!("https://login.microsoftonline.com/{TENANT}/v2.0"), "iat": now, "nbf": now,
        "exp": now + 3600, "oid": format!("oid-of-{user}"), "sub": format!("pairwise-{user}"), "tid": TENANT, "ver": "2.0",
        "scp": "access other",
    })
}

pub(crate) fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// The authorization server: its keys can be changed while it runs.
pub(crate) struct Entra {
    server: Upstream,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Entra {
    pub(crate) fn start(keys: &[&Key]) -> Self {
        let server = Upstream::start();
        let keys = Arc::new(Mutex::new(keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()));
        let served = Arc::clone(&keys);
        server.script(move |request, _| {
            (request.target == "/keys")
                .then(|| answer(200, json!({ "keys": *served.lock().unwrap() }).to_string()))
        });
        Entra { server, keys }
    }

    fn serve(&self, keys: &[Value]) {
        *self.keys.lock().unwrap() = keys.to_vec();
    }

    fn asked(&self) -> usize {
        self.server.log().iter().filter(|request| request.target == "/keys").count()
    }

    pub(crate) fn tokens(&self, more: &str) -> String {
        format!(
            "[callers.tokens.entra]\ntenants = [\"{TENANT}\"]\naudiences = [\"{AUDIENCE}\", \"0000-app\"]\nkey_set = \"http://{}/keys\"\n{more}\n",
            self.server.address
        )
    }

    pub(crate) fn gateway(&self, upstream: &Upstream, more: &str) -> Gw {
        Gw::start_file(upstream, &format!("[upstream]\nurl = \"UPSTREAM\"\n{}", self.tokens(more)))
    }
}

pub(crate) fn bearing(gateway: &Gw, token: &str) -> Client {
    gateway.client().with("authorization", &format!("Bearer {token}"))
}

pub(crate) fn count(client: &Client) -> String {
    client.post(call("1", "count")).tool_text()
}

#[test]
fn a_user_is_one_caller_with_every_token_and_in_both_versions() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let entra = Entra::start(&[&key]);
    let gateway = entra.gateway(&upstream, "");
    let of = |claims: Value| bearing(&gateway, &key.token(&claims));
    assert_eq!(count(&of(claims("alice"))), "1");
    // A newer token; one of version 1, with the other issuer and another `sub`; one for the application's id, in a list.
    assert_eq!(count(&of(with(claims("alice"), "exp", json!(now(Effects::REAL) + 7200)))), "2");
    let first = with(claims("alice"), "iss", json!(format!("https://sts.windows.net/{TENANT}/")));
    assert_eq!(count(&of(with(with(first, "ver", json!("1.0")), "sub", json!("another-pair")))), "3");
    assert_eq!(count(&of(with(claims("alice"), "aud", json!(["x", "0000-app"])))), "4");
    assert_eq!(count(&of(claims("bob"))), "1");
    assert_eq!(entra.asked(), 1);
    // A session that is held by its id is the user's as well.
    let held = Session::open(&of(claims("alice")));
    assert_eq!(held.count(), "1");
    let stolen = of(claims("bob")).with("mcp-session-id", &held.id).post(call("1", "count"));
    assert_eq!((stolen.status, stolen.code()), (404, -32001));
    assert_eq!(
        of(with(claims("alice"), "jti", json!("new")))
            .with("mcp-session-id", &held.id)
            .post(call("1", "count"))
            .tool_text(),
        "2"
    );
    // What was for the gateway stays with it.
    assert!(upstream.log().iter().all(|request| request.headers.get("authorization").is_none()));
    assert!(!logged(&key.token(&claims("alice"))[200..]));
}

/// A token that is not good: what is wrong with it, itself, and what is said of it.
type Bad = (&'static str, String, &'static str);

/// Tokens that were signed well, and say something that is not good here.
fn wrong_claims(key: &Key) -> Vec<Bad> {
    let good = claims("mallory");
    let at = now(Effects::REAL);
    let changed = |name: &str, value: Value| key.token(&with(good.clone(), name, value));
    vec![
        ("expired", changed("exp", json!(at - 61)), "has expired"),
        ("never expires", changed("exp", Value::Null), "does not say when it expires"),
        ("exp as text", changed("exp", json!("tomorrow")), "does not say when it expires"),
        ("not yet", changed("nbf", json!(at + 120)), "not valid yet"),
        ("audience", changed("aud", json!("api://another")), "for another service"),
        ("no audience", changed("aud", Value::Null), "for another service"),
        ("issuer", changed("iss", json!("https://login.example/")), "of an issuer that is not accepted"),
        (
            "issuer, nearly",
            changed("iss", json!(format!("https://sts.windows.net/{TENANT}"))),
            "of an issuer",
        ),
        ("no issuer", changed("iss", Value::Null), "of an issuer"),
        ("tenant", changed("tid", json!(OTHER_TENANT)), "of a tenant"),
        ("no tenant", changed("tid", Value::Null), "of a tenant"),
        (
            "nobody",
            key.token(&with(with(good.clone(), "oid", Value::Null), "sub", Value::Null)),
            "whose it is",
        ),
    ]
}

/// Tokens that say nothing wrong, but were not signed as they have to be.
fn wrong_signatures(key: &Key) -> Vec<Bad> {
    let (stranger, shown) = (Key::new("k1"), key.jwk());
    let good = claims("mallory");
    let header = |alg: &str, kid: &str| json!({ "typ": "JWT", "alg": alg, "kid": kid });
    let hmac_with = |secret: &[u8], kid: &str| {
        let text = unsigned(&header("HS256", kid), &good);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
        format!("{text}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    };
    let tampered = {
        let token = key.token(&good);
        let (head, signature) = token.rsplit_once('.').unwrap();
        let head = head.split_once('.').unwrap().0;
        format!(
            "{head}.{}.{signature}",
            BASE64URL_NOPAD.encode(with(good.clone(), "oid", json!("admin")).to_string().as_bytes())
        )
    };
    let modulus = BASE64URL_NOPAD.decode(shown["n"].as_str().unwrap().as_bytes()).unwrap();
    let der = key.pair.public_key().as_der().unwrap();
    vec![
        ("none", format!("{}.", unsigned(&header("none", "k1"), &good)), "can be read"),
        ("None", format!("{}.", unsigned(&header("None", "k1"), &good)), "can be read"),
        ("hmac by the modulus", hmac_with(&modulus, "k1"), "not for"),
        ("hmac by the public key", hmac_with(der.as_ref(), "k1"), "not for"),
        ("hmac by the key's JSON", hmac_with(shown.to_string().as_bytes(), "k1"), "not for"),
        (
            "hmac by a published secret",
            hmac_with(b"0123456789abcdef0123456789abcdef", "secret"),
            "does not have",
        ),
        ("a stranger's key of the same name", stranger.token(&good), "signature"),
        ("no such key", key.sign(header("RS256", "k9"), &good), "does not have"),
        ("a key for encryption", key.sign(header("RS256", "enc"), &good), "does not have"),
        ("no key named", key.sign(json!({ "alg": "RS256" }), &good), "does not have"),
        (
            "another algorithm than the key's",
            key.sign_as(&RSA_PSS_SHA256, header("PS256", "strict"), &good),
            "not for",
        ),
        (
            "critical",
            key.sign(json!({ "alg": "RS256", "kid": "k1", "crit": ["exp"] }), &good),
            "needs an extension",
        ),
        ("tampered", tampered, "signature"),
        ("cut", key.token(&good)[..key.token(&good).len() - 8].to_owned(), "signature"),
        ("no JSON", "eyJ.eyJ.x".to_owned(), "can be read"),
    ]
}

#[test]
fn tokens_that_are_not_good_are_refused_and_the_challenge_says_why() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let entra = Entra::start(&[&key]);
    let shown = key.jwk();
    let secret = json!({ "kty": "oct", "kid": "secret", "k": BASE64URL_NOPAD.encode(b"0123456789abcdef0123456789abcdef") });
    let encrypting = with(with(Key::new("enc").jwk(), "use", json!("enc")), "kid", json!("enc"));
    let strict = with(with(shown.clone(), "alg", json!("RS256")), "kid", json!("strict"));
    entra.serve(&[shown.clone(), secret, encrypting, strict, json!({ "kty": "new", "kid": "x" })]);
    let gateway = entra.gateway(&upstream, "");
    assert_eq!(count(&bearing(&gateway, &key.token(&claims("a")))), "1", "the others are passed by");

    for (case, token, why) in wrong_claims(&key).iter().chain(&wrong_signatures(&key)) {
        let refused = bearing(&gateway, token).post(call("\"7\"", "count"));
        assert_eq!((refused.status, &refused.json()["id"]), (401, &json!("7")), "{case}: {}", refused.text());
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("Unauthorized: the token") && message.contains(why), "{case}: {message}");
        let challenge = refused.headers.get("www-authenticate").unwrap();
        assert!(
            challenge.starts_with(
                "Bearer realm=\"throughline\", error=\"invalid_token\", error_description=\"the token"
            ),
            "{challenge}"
        );
        let metadata = format!(
            "resource_metadata=\"http://{}/.well-known/oauth-protected-resource/mcp\"",
            gateway.address
        );
        assert!(challenge.ends_with(&metadata), "{challenge}");
        assert!(!logged(token), "{case}");
    }
    // Without any: asked for one, and told where to get it.
    let nobody = gateway.client().post(call("1", "count"));
    assert_eq!(nobody.status, 401);
    assert!(nobody.headers.get("www-authenticate").unwrap().contains("resource_metadata="));
    assert_eq!(upstream.count("tools/call"), 1);
    // Where the clock is a little wrong all is well.
    assert_eq!(
        count(&bearing(
            &gateway,
            &key.token(&with(claims("mallory"), "exp", json!(now(Effects::REAL) - 30)))
        )),
        "1"
    );
}

#[test]
fn keys_rotate_and_nobody_can_make_the_gateway_ask_for_ever() {
    let effects = Clock::<12>::EFFECTS;
    let (old, new, upstream) = (Key::new("old"), Key::new("new"), Upstream::start());
    let entra = Entra::start(&[&old]);
    let text = format!("[upstream]\nurl = \"{}\"\n{}", upstream.url(), entra.tokens(""));
    let gateway = Gw::run(&upstream, Config::parse(&text, "t.toml").unwrap(), effects);
    let long = with(claims("alice"), "exp", json!(now(effects) + 1_000_000));
    let (by_old, by_new) = (old.token(&long), new.token(&long));
    assert_eq!(count(&bearing(&gateway, &by_old)), "1");
    // Named before it is there: asked again at most every ten seconds.
    for _ in 0..20 {
        assert_eq!(bearing(&gateway, &by_new).post(call("1", "count")).status, 401);
    }
    assert_eq!(entra.asked(), 1);
    entra.serve(&[old.jwk(), new.jwk()]);
    Clock::<12>::advance(Duration::from_secs(11));
    assert_eq!(count(&bearing(&gateway, &by_new)), "2");
    assert_eq!((count(&bearing(&gateway, &by_old)), entra.asked()), ("3".into(), 2));
    // The old one is withdrawn: a token that was good before is good no more, once the set is read again.
    entra.serve(&[new.jwk()]);
    Clock::<12>::advance(Duration::from_secs(3600));
    assert_eq!(bearing(&gateway, &by_old).post(call("1", "count")).status, 401);
    assert_eq!(count(&bearing(&gateway, &by_new)), "4");
    // The server is away: what it said last is believed for a day.
    entra.serve(&[]);
    Clock::<12>::advance(Duration::from_secs(7200));
    assert_eq!(count(&bearing(&gateway, &by_new)), "5");
    Clock::<12>::advance(Duration::from_secs(86_400));
    let away = bearing(&gateway, &by_new).with("x", "y").post(call("1", "count"));
    assert_eq!((away.status, away.headers.get("retry-after")), (503, Some("2")), "{}", away.text());
}

#[test]
fn keys_that_were_never_there_are_no_reason_to_let_anyone_in() {
    let (key, upstream) = (Key::new("k"), Upstream::start());
    let mut entra = Entra::start(&[&key]);
    let gateway = entra.gateway(&upstream, "");
    entra.server.go_away();
    let away = bearing(&gateway, &key.token(&claims("a"))).post(call("1", "count"));
    assert_eq!((away.status, away.code()), (503, -32015));
    assert_eq!(upstream.log().len(), 0);
}

#[test]
fn scopes_roles_and_applications() {
    let (key, upstream) = (Key::new("k"), Upstream::start());
    let entra = Entra::start(&[&key]);
    let gateway = entra.gateway(
        &upstream,
        "scopes = [\"access\", \"Agent.Run\"]\n[callers.conversation]\nheaders = [\"conversation-id\"]",
    );
    assert_eq!(count(&bearing(&gateway, &key.token(&claims("a")))), "1");
    let few = bearing(&gateway, &key.token(&with(claims("a"), "scp", json!("accessories"))))
        .post(call("1", "count"));
    let challenge = few.headers.get("www-authenticate").unwrap();
    assert_eq!(few.status, 403);
    assert!(challenge.contains("error=\"insufficient_scope\", scope=\"access Agent.Run\""), "{challenge}");
    // An application's own token stands for many: they share nothing unless a hint says what belongs together.
    let own = with(with(claims("app"), "scp", Value::Null), "sub", json!("oid-of-app"));
    let own = bearing(&gateway, &key.token(&with(own, "roles", json!(["Agent.Run"]))));
    assert_eq!((count(&own), count(&own)), ("1".into(), "1".into()));
    let one = own.with("conversation-id", "one");
    assert_eq!(
        (count(&one), count(&one), count(&own.with("conversation-id", "two"))),
        ("1".into(), "2".into(), "1".into())
    );
    // A user's conversations are apart too.
    let user = bearing(&gateway, &key.token(&claims("b")));
    assert_eq!(
        (count(&user.with("conversation-id", "one")), count(&user.with("conversation-id", "two"))),
        ("1".into(), "1".into())
    );
}

#[test]
fn a_client_finds_out_where_to_log_in() {
    let (key, upstream) = (Key::new("k"), Upstream::start());
    let entra = Entra::start(&[&key]);
    let gateway = entra.gateway(&upstream, "scopes = [\"access\"]");
    for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"] {
        let metadata = gateway.client().at(path).get();
        assert_eq!(
            (metadata.status, metadata.json()),
            (
                200,
                json!({
                    "resource": format!("http://{}/mcp", gateway.address),
                    "authorization_servers": [format!("https://login.microsoftonline.com/{TENANT}/v2.0")],
                    "bearer_methods_supported": ["header"],
                    "scopes_supported": ["access"],
                })
            )
        );
    }
}

#[test]
fn another_issuer_is_nobody_of_entras() {
    let (key, own, upstream) = (Key::new("k"), Key::new("k"), Upstream::start());
    let (entra, other) = (Entra::start(&[&key]), Entra::start(&[&own]));
    let text = format!(
        "[callers.tokens.other]\nissuers = [\"https://id.example/\"]\naudiences = [\"{AUDIENCE}\"]\nkey_set = \"http://{}/keys\"\n",
        other.server.address
    );
    let gateway = entra.gateway(&upstream, &text);
    assert_eq!(count(&bearing(&gateway, &key.token(&claims("alice")))), "1");
    // It can say that it is about the same user of the same tenant.
    let posing = with(claims("alice"), "iss", json!("https://id.example/"));
    assert_eq!(count(&bearing(&gateway, &own.token(&posing))), "1", "another caller");
    assert_eq!(bearing(&gateway, &own.token(&claims("alice"))).post(call("1", "count")).status, 401);
    assert_eq!(bearing(&gateway, &key.token(&posing)).post(call("1", "count")).status, 401);
}

#[test]
fn a_connector_with_one_key_names_its_users() {
    let upstream = Upstream::start();
    let sha256 =
        data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, b"connector-secret").as_ref());
    let text = format!(
        "[upstream]\nurl = \"UPSTREAM\"\n[callers.keys.power]\nsha256 = \"{sha256}\"\nkind = \"connector\"\n[callers.conversation]\nheaders = [\"conversation-id\"]\n"
    );
    let gateway = Gw::start_file(&upstream, &text);
    let connector = gateway.client().with("x-api-key", "connector-secret");
    let of = |user: &str, tenant: &str| {
        connector.with("x-ms-client-object-id", user).with("x-ms-client-tenant-id", tenant)
    };
    assert_eq!(
        (count(&of("a", "t")), count(&of("b", "t")), count(&of("a", "u")), count(&of("a", "t"))),
        ("1".into(), "1".into(), "1".into(), "2".into())
    );
    let talking = |about: &str| of("a", "t").with("conversation-id", about);
    assert_eq!(
        (count(&talking("x")), count(&talking("y")), count(&talking("x"))),
        ("1".into(), "1".into(), "2".into())
    );
    // Names nobody: many people, for all that is known.
    assert_eq!((count(&connector), count(&connector)), ("1".into(), "1".into()));
    // Without the secret the headers are anyone's.
    let forged = gateway.client().with("x-ms-client-object-id", "a").with("x-ms-client-tenant-id", "t");
    assert_eq!(forged.post(call("1", "count")).status, 401);
    assert_eq!(forged.with("x-api-key", "guess").post(call("1", "count")).status, 401);
    // An ordinary key names its own user, whatever the headers say.
    let text = text.replace("kind = \"connector\"", "");
    let ordinary = Gw::start_file(&upstream, &text);
    let client = ordinary.client().with("x-api-key", "connector-secret");
    assert_eq!((count(&client), count(&client.with("x-ms-client-object-id", "b"))), ("1".into(), "2".into()));
    assert!(upstream.log().iter().all(|request| request.headers.get("x-ms-client-object-id").is_none()));
}
