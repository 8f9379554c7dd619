//! Signing in as the managed identity of the Azure resource that the gateway runs on. The token comes from the
//! platform over plain HTTP that does not leave the host: the metadata service of virtual machines and AKS, or
//! where App Service and Container Apps say.
//!
//! Microsoft Entra's own library would bring OpenSSL with it, for flows that a gateway does not need.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use super::failure::Failure;

/// For whom the token is.
const RESOURCE: &str = "https://redis.azure.com";
/// The metadata service, the same on every virtual machine.
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
/// How long the platform may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Where tokens come from, and whose.
#[derive(Clone, Default)]
pub(super) struct Identity {
    source: Source,
    /// The client id of a user-assigned identity; without it the system's.
    client_id: Option<String>,
}

#[derive(Clone, Default)]
enum Source {
    /// The metadata service.
    #[default]
    Metadata,
    /// As `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` say.
    Endpoint { url: String, secret: String },
}

/// A token, and the name to sign in with.
pub(super) struct Token {
    /// The identity's object id.
    pub(super) user: String,
    pub(super) password: String,
    /// How long it is good from now.
    pub(super) lasts: Duration,
}

impl Identity {
    /// As the environment says.
    pub(super) fn new(client_id: Option<String>, env: &dyn Fn(&str) -> Option<String>) -> Identity {
        let source = match (env("IDENTITY_ENDPOINT"), env("IDENTITY_HEADER")) {
            (Some(url), Some(secret)) => Source::Endpoint { url, secret },
            _ => Source::Metadata,
        };
        Identity { source, client_id }
    }
}

/// What the platform answers. Numbers come as texts or as numbers, by platform.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<serde_json::Value>,
    expires_on: Option<serde_json::Value>,
}

/// The claims that are needed. The platform is believed, so the signature is not checked.
#[derive(Deserialize)]
struct Claims {
    oid: String,
    iat: Option<u64>,
}

/// Asks for a token.
pub(super) async fn token(identity: Identity) -> Result<Token, Failure> {
    let asked = tokio::task::spawn_blocking(move || ask(&identity)).await;
    let text = asked.unwrap_or_else(|error| Err(error.to_string()));
    text.and_then(|text| read(&text))
        .map_err(|reason| Failure::Refused(format!("there is no token of a managed identity: {reason}")))
}

fn ask(identity: &Identity) -> Result<String, String> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER))
        // A proxy must not see the token, and could not reach the address.
        .proxy(None)
        .max_redirects(0)
        .build()
        .new_agent();
    let mut request = match &identity.source {
        Source::Metadata => agent.get(METADATA).header("Metadata", "true").query("api-version", "2018-02-01"),
        Source::Endpoint { url, secret } => {
            agent.get(url).header("X-IDENTITY-HEADER", secret).query("api-version", "2019-08-01")
        }
    };
    request = request.query("resource", RESOURCE);
    if let Some(client_id) = &identity.client_id {
        request = request.query("client_id", client_id);
    }
    let answer = request.call().map_err(|error| error.to_string());
    answer?.body_mut().read_to_string().map_err(|error| error.to_string())
}

/// Errors name what is missing, never what is there.
fn read(text: &str) -> Result<Token, String> {
    let no_token = |_| "the platform's answer is not understood".to_owned();
    let answer: Answer = serde_json::from_str(text).map_err(no_token)?;
    let claims = answer.access_token.split('.').nth(1).unwrap_or_default();
    let claims = BASE64URL_NOPAD.decode(claims.trim_end_matches('=').as_bytes()).unwrap_or_default();
    let claims: Claims =
        serde_json::from_slice(&claims).map_err(|_| "the token names no object id (oid)".to_owned())?;
    let number = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let lasts = answer.expires_in.as_ref().and_then(number).or_else(|| {
        // Some platforms only say when; the token says when it was made.
        answer.expires_on.as_ref().and_then(number)?.checked_sub(claims.iat?)
    });
    let lasts = Duration::from_secs(lasts.unwrap_or(3600));
    Ok(Token { user: claims.oid, password: answer.access_token, lasts })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    fn answer(claims: &str, rest: &str) -> String {
        let claims = BASE64URL_NOPAD.encode(claims.as_bytes());
        format!(r#"{{"access_token":"e30.{claims}.sig","token_type":"Bearer"{rest}}}"#)
    }

    #[test]
    fn who_and_for_how_long_stands_in_the_answer() {
        for (rest, seconds) in [
            (r#","expires_in":"86400""#, 86400),
            (r#","expires_in":3599"#, 3599),
            (r#","expires_on":"1700","resource":"x""#, 700),
            ("", 3600),
        ] {
            let token = read(&answer(r#"{"oid":"object","iat":1000}"#, rest)).unwrap();
            assert_eq!((token.user.as_str(), token.lasts.as_secs()), ("object", seconds));
            assert!(token.password.starts_with("e30."));
        }
        for (text, error) in [
            ("{}".to_owned(), "the platform's answer is not understood"),
            (answer(r#"{"sub":"x"}"#, ""), "the token names no object id (oid)"),
        ] {
            assert_eq!(read(&text).err().unwrap(), error);
        }
    }

    #[tokio::test]
    async fn the_platform_is_asked_as_it_wants_to_be() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let platform = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<_> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let body = answer(r#"{"oid":"me"}"#, "");
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            head
        });
        let env = |name: &str| match name {
            "IDENTITY_ENDPOINT" => Some(url.clone()),
            "IDENTITY_HEADER" => Some("shared".to_owned()),
            _ => None,
        };
        let token = token(Identity::new(Some("id".to_owned()), &env)).await.unwrap();
        assert_eq!(token.user, "me");
        let head = platform.join().unwrap();
        let asked = "GET /token?api-version=2019-08-01&resource=https%3A%2F%2Fredis.azure.com&client_id=id";
        assert!(head[0].starts_with(asked), "{}", head[0]);
        assert!(head.iter().any(|line| line.eq_ignore_ascii_case("x-identity-header: shared")), "{head:?}");
    }
}
