//! What a file says of callers.

use super::*;

#[test]
fn anonymous_callers_share_where_they_are_one_person_or_the_file_says_so() {
    let mut config = Config::for_upstream("http://h/mcp").unwrap();
    let shares = |config: &Config, proxied| config.anonymous_callers_share(&config.routes[0], proxied);
    assert!(shares(&config, false));
    assert!(!shares(&config, true));
    config.listen = "0.0.0.0:8808".parse().unwrap();
    assert!(!shares(&config, false));

    assert!(!shares(&parse(""), false));
    let text = "listen = \"0.0.0.0:1\"\nupstream = { url = \"http://h\", anonymous = \"shared\" }";
    assert!(shares(&Config::parse(text, "t.toml").unwrap(), true));
}

#[test]
fn callers_are_refused_by_default_only_where_there_are_keys() {
    assert!(!parse("").callers.refuses_anonymous());
    assert!(parse("[callers]\nanonymous = \"refuse\"").callers.refuses_anonymous());
    let key = format!("callers.keys.a.sha256 = \"{}\"\n", "0f".repeat(32));
    assert!(parse(&key).callers.refuses_anonymous());
    assert!(!parse(&format!("{key}callers.anonymous = \"allow\"")).callers.refuses_anonymous());
}

#[test]
fn a_proxy_that_names_callers_has_to_be_named_itself() {
    let proxy = "[callers.proxy]\nheader = \"x-user\"\nsecret_header = \"x-secret\"\n";
    let secret = format!("secret_sha256 = \"{}\"\n", "0f".repeat(32));
    assert!(parse(&format!("trusted_proxies = [\"10.0.0.1\"]\n{proxy}{secret}")).callers.refuses_anonymous());
    assert_eq!(
        error(&format!("{proxy}{secret}")),
        "t.toml:1: callers.proxy: nobody is believed as a proxy: set trusted_proxies"
    );
    assert_eq!(
        error(&format!("trusted_proxies = [\"10.0.0.1\"]\n{proxy}")),
        "t.toml:2: callers.proxy: secret_sha256 is missing: write secret_sha256 = \"...\", what \
         `printf %s SECRET | sha256sum` says"
    );
}

#[test]
fn keys_are_digests_and_each_is_one_callers() {
    assert_eq!(
        error("callers.keys.alice = {}"),
        "t.toml:1: callers.keys.alice: sha256 is missing: write sha256 = \"...\", what `printf %s KEY | sha256sum` says"
    );
    // What was written in place of the digest may be the key.
    assert_eq!(
        error("callers.keys.alice.sha256 = \"hunter2\""),
        "t.toml:1: callers.keys.alice.sha256: not a SHA-256 digest: write the 64 hex digits of \
         `printf %s KEY | sha256sum`"
    );
    let digest = "0f".repeat(32);
    assert_eq!(
        error(&format!("[callers.keys]\na.sha256 = \"{digest}\"\nb.sha256 = \"{digest}\"")),
        "t.toml:1: callers.keys: b and a are the same key"
    );
    assert_eq!(
        error("callers.conversation.headers = [\"a b\"]"),
        "t.toml:1: callers.conversation.headers: \"a b\" is not a header name"
    );
}
