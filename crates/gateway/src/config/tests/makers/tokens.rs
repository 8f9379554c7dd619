//! Tokens: whose are good, and those that the gateway gets itself.

use super::*;

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

fn tokens(text: &str) -> Tokens {
    parse(&format!("[callers.tokens.entra]\n{text}")).callers.tokens.remove(0)
}

#[test]
fn a_tenant_has_two_issuers_and_entras_keys() {
    let entra = tokens(&format!("tenants = [\"{}\"]\naudiences = [\"a\"]", TENANT.to_uppercase()));
    assert_eq!(
        entra.all_issuers(),
        [
            format!("https://login.microsoftonline.com/{TENANT}/v2.0"),
            format!("https://sts.windows.net/{TENANT}/")
        ]
    );
    assert_eq!(entra.key_set(), "https://login.microsoftonline.com/common/discovery/v2.0/keys");
    let other = tokens(
        "issuers = [\"https://id.example\"]\nkey_set = \"https://id.example/keys\"\naudiences = [\"a\"]\nscopes = [\"x\"]",
    );
    assert_eq!(
        (other.all_issuers(), other.authorization_servers()),
        (vec!["https://id.example".into()], vec!["https://id.example".into()])
    );
    assert_eq!(
        (other.key_set(), other.scopes),
        (Uri::from_static("https://id.example/keys"), vec!["x".to_owned()])
    );
    let callers =
        parse(&format!("[callers.tokens.entra]\ntenants = [\"{TENANT}\"]\naudiences = [\"a\"]")).callers;
    assert!(callers.refuses_anonymous());
}

#[test]
fn what_would_let_others_in_is_refused() {
    for (text, message) in [
        ("audiences = [\"a\"]", "whose tokens? Write tenants = [\"TENANT-ID\"], or issuers and key_set"),
        (
            "tenants = [\"72f988bf-86f1-41af-91ab-2d7cd011db47\"]",
            "whom must a token be for? Write audiences = [\"api://APP-ID\"]: without, tokens for any other service would do",
        ),
        ("issuers = [\"https://i\"]\naudiences = [\"a\"]", "key_set is missing: where the issuer's keys are"),
        (
            "tenants = [\"common\"]\naudiences = [\"a\"]",
            "\"common\" is not the id of a tenant: write 72f988bf-86f1-41af-91ab-2d7cd011db47, as Entra shows it",
        ),
        (
            "issuers = [\"https://i\"]\naudiences = [\"a\"]\nkey_set = \"http://i/keys\"",
            "\"http://i/keys\" is not safe: anyone on the way could answer; write https://",
        ),
    ] {
        let error = error(&format!("[callers.tokens.entra]\n{text}"));
        assert!(error.ends_with(message), "{error}");
    }
    let both = format!(
        "[callers.tokens.e]\ntenants = [\"{TENANT}\"]\naudiences = [\"a\"]\n{UPSTREAM}forward_authorization = true\n"
    );
    let error = Config::parse(&both, "t.toml").unwrap().check().unwrap_err().to_string();
    assert_eq!(error, "upstream: authorization opens this gateway, so it must not be passed on: take it out");
}

const GRANT: &str =
    "token.url = \"https://i/token\"\ntoken.client_id = \"me\"\ntoken.client_secret_env = \"SECRET\"\n";

#[test]
fn a_grant_has_its_secret_from_the_environment() {
    let text = format!("{UPSTREAM}{GRANT}token.scopes = [\"a/.default\"]\ntoken.audience = \"b\"\n");
    let mut config = Config::parse(&text, "t.toml").unwrap();
    let error = config.resolve(&env(&[])).unwrap_err().to_string();
    assert!(
        error.ends_with("token.client_secret_env: the environment variable SECRET is not set"),
        "{error}"
    );
    config.resolve(&env(&[("SECRET", " hush\n")])).unwrap();
    let grant = config.routes[0].token.clone().unwrap();
    assert_eq!(
        (grant.kind, grant.secret.expose(), grant.audience.as_deref()),
        (GrantKind::ClientCredentials, "hush", Some("b"))
    );
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn a_grant_that_cannot_work_is_refused() {
    let upstream = |text: &str| errors(&format!("{UPSTREAM}{text}"));
    assert_eq!(upstream("token.scopes = []").len(), 3, "url, client_id, client_secret_env");
    for text in ["forward_authorization = true\n", "headers = { authorization = \"x\" }\n"] {
        let lines = upstream(&format!("{GRANT}{text}"));
        assert!(lines[0].contains("only one of them can arrive"), "{lines:?}");
    }
    for kind in ["on-behalf-of", "token-exchange"] {
        let lines = upstream(&format!("{GRANT}token.grant = \"{kind}\"\n"));
        assert!(
            lines[0].ends_with("a token in a caller's name needs the caller's: set callers.tokens"),
            "{lines:?}"
        );
    }
}
