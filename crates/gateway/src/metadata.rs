//! OAuth of an upstream, through the gateway: protected-resource metadata (RFC 9728).
//!
//! A client that is told 401 reads where it can log in from the metadata of the resource that it asked, and goes on
//! only if the metadata is about that very resource. What it asked is the gateway. So, on routes that pass
//! `Authorization` on, the upstream's metadata is served here with the gateway's URL in it, and `WWW-Authenticate`
//! points here. Everything else, the authorization server above all, is as the upstream says. Where the gateway itself
//! checks tokens, the metadata are its own.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, HeaderValue, USER_AGENT, WWW_AUTHENTICATE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde_json::json;
use throughline_wire::splice::{set_member, splice};

use crate::app::{App, Core, Route};
use crate::classify::Arrived;
use crate::error::Fault;
use crate::peer::{Peer, external_base};
use crate::reply::{self, ReplyBody};
use crate::session::lock;
use crate::upstream::read_whole;
use crate::upstream::{self, AGENT, JSON};

/// Where metadata is found (RFC 9728, 3.1): this, followed by the resource's path.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// Longest metadata that is passed on, in bytes.
const MAX_METADATA: usize = 64 * 1024;
/// How long an upstream may take for its metadata.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest path of metadata that is remembered, in bytes.
const MAX_PATH: usize = 1024;

/// Where an upstream last said that its metadata is.
#[derive(Default)]
pub struct Named(Mutex<Option<PathAndQuery>>);

/// A request for the metadata of a route.
pub struct Asked {
    route: Arc<Route>,
    /// The route's URL as the client knows it.
    resource: String,
    method: Method,
}

/// Whether a request is for the metadata of a route that has such.
pub fn asked(app: &App, peer: Peer, request: &Parts) -> Option<Asked> {
    let path = request.uri.path().strip_prefix(WELL_KNOWN)?;
    let forwards = |route: &&Arc<Route>| route.config.forward_authorization || app.tokens.is_some();
    let route = match path {
        // Of the origin as a whole: the unnamed route's, or the only one's.
        "" | "/" => {
            let mut candidates = app.routes.iter().filter(forwards);
            let first = candidates.next()?;
            (first.config.name.is_empty() || candidates.next().is_none()).then_some(first)?
        }
        path => app.route(path).filter(forwards)?,
    };
    let origin = external_base(&app.config, peer, &request.headers);
    let resource = format!("{origin}{}", route.config.path);
    Some(Asked { route: Arc::clone(route), resource, method: request.method.clone() })
}

/// Answers with the upstream's metadata.
pub async fn answer(core: &Rc<Core>, asked: &Asked) -> Response<ReplyBody> {
    if let (&Method::GET, Some(own)) = (&asked.method, own(&core.app, asked)) {
        return own;
    }
    let found = match asked.method {
        Method::GET => tokio::time::timeout(PATIENCE, fetch(core, &asked.route)).await,
        _ => Ok(Err(Fault::Method("GET"))),
    };
    let metadata = found.unwrap_or(Err(Fault::UpstreamTimeout)).and_then(|metadata| {
        let resource = serde_json::Value::from(asked.resource.as_str()).to_string();
        let edit = set_member(&metadata, &(0..metadata.len()), "resource", resource.as_bytes());
        Ok(splice(&metadata, &mut [edit.map_err(|_| Fault::NoMetadata)?]))
    });
    match metadata {
        Ok(metadata) => {
            let mut response = reply::whole(&core.app, StatusCode::OK, JSON, metadata);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(fault) => reply::fault(&core.app, &fault, None),
    }
}

/// The gateway's own metadata, where it checks the tokens.
fn own(app: &App, asked: &Asked) -> Option<Response<ReplyBody>> {
    let tokens = app.tokens.as_ref()?;
    let (servers, scopes) = tokens.how_to_log_in();
    let mut metadata = json!({
        "resource": asked.resource,
        "authorization_servers": servers,
        "bearer_methods_supported": ["header"],
    });
    if !scopes.is_empty() {
        metadata["scopes_supported"] = scopes.into();
    }
    let mut response = reply::whole(app, StatusCode::OK, JSON, metadata.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// Where the metadata of a route is, for clients that know the gateway by this base.
pub fn url(base: &str, route: &Route) -> String {
    format!("{base}{WELL_KNOWN}{}", route.config.path)
}

/// The upstream's metadata, a JSON object: where it said that they are, or else where they belong.
async fn fetch(core: &Rc<Core>, route: &Route) -> Result<Vec<u8>, Fault> {
    let endpoint = upstream::any_endpoint(core, &route.fleet).await.ok_or(Fault::UpstreamAway)?;
    let own = endpoint.destination().uri.path().trim_end_matches('/');
    let named = lock(&route.metadata.0).clone();
    let usual = [format!("{WELL_KNOWN}{own}"), WELL_KNOWN.to_owned()];
    let usual = usual.iter().filter_map(|path| PathAndQuery::try_from(path.as_str()).ok());
    for path in named.into_iter().chain(usual) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, JSON);
        headers.insert(USER_AGENT, AGENT);
        let answer = endpoint.get(&path, headers).await.map_err(upstream::fault_of)?;
        if answer.status != StatusCode::OK {
            upstream::drain(answer.body);
            continue;
        }
        let body = read_whole(answer.body, Vec::new(), MAX_METADATA).await;
        let body = body.ok().flatten().unwrap_or_default();
        if serde_json::from_slice::<serde_json::Map<_, _>>(&body).is_ok() {
            return Ok(body.trim_ascii().to_vec());
        }
    }
    Err(Fault::NoMetadata)
}

/// Lets the challenges of an answer point to the metadata here.
pub fn localise<B>(app: &App, arrived: &Arrived, response: &mut Response<B>) {
    let refused = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if !refused || !arrived.route.config.forward_authorization {
        return;
    }
    let here = url(&arrived.external_base(app), &arrived.route);
    let challenges: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().cloned().collect();
    response.headers_mut().remove(WWW_AUTHENTICATE);
    for challenge in challenges {
        let pointed = challenge.to_str().ok().and_then(|text| point(text, &here));
        let challenge = match pointed {
            Some((text, there)) => {
                let path = there.parse::<Uri>().ok().and_then(|uri| uri.path_and_query().cloned());
                if let Some(path) = path.filter(|path| path.as_str().len() <= MAX_PATH) {
                    *lock(&arrived.route.metadata.0) = Some(path);
                }
                HeaderValue::from_str(&text).unwrap_or(challenge)
            }
            None => challenge,
        };
        response.headers_mut().append(WWW_AUTHENTICATE, challenge);
    }
}

/// A challenge whose `resource_metadata` is `here`, and what it was.
fn point(challenge: &str, here: &str) -> Option<(String, String)> {
    const NAME: &str = "resource_metadata";
    let mut quoted = false;
    let mut bytes = challenge.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if quoted => drop(bytes.next()),
            b'"' => quoted = !quoted,
            _ if quoted || !starts_parameter(challenge, at) => {}
            _ => {
                let rest = challenge[at..].get(..NAME.len()).filter(|name| name.eq_ignore_ascii_case(NAME));
                let Some(value) =
                    rest.and_then(|_| challenge[at + NAME.len()..].trim_start().strip_prefix('='))
                else {
                    continue;
                };
                let value = value.trim_start();
                let start = challenge.len() - value.len();
                let (there, len) = match value.strip_prefix('"') {
                    Some(inner) => {
                        let end = inner.find('"')?;
                        (&inner[..end], end + 2)
                    }
                    None => {
                        let end = value.find([',', ' ']).unwrap_or(value.len());
                        (&value[..end], end)
                    }
                };
                let text = format!("{}\"{here}\"{}", &challenge[..start], &challenge[start + len..]);
                return Some((text, there.to_owned()));
            }
        }
    }
    None
}

/// Whether a word can begin here.
fn starts_parameter(challenge: &str, at: usize) -> bool {
    challenge.is_char_boundary(at)
        && challenge[..at].bytes().next_back().is_none_or(|before| matches!(before, b' ' | b',' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::point;

    #[test]
    fn only_the_parameter_is_changed() {
        let here = "https://g/x";
        for (challenge, pointed, was) in [
            (
                r#"Bearer realm="a, resource_metadata=\"no\"", resource_metadata="https://u/y", scope="s""#,
                r#"Bearer realm="a, resource_metadata=\"no\"", resource_metadata="https://g/x", scope="s""#,
                "https://u/y",
            ),
            (
                "Bearer Resource_Metadata = https://u/y, a=b",
                "Bearer Resource_Metadata = \"https://g/x\", a=b",
                "https://u/y",
            ),
            ("Bearer resource_metadata=\"\"", "Bearer resource_metadata=\"https://g/x\"", ""),
        ] {
            assert_eq!(point(challenge, here), Some((pointed.to_owned(), was.to_owned())), "{challenge}");
        }
        for other in [
            "",
            "Basic realm=\"é\"",
            "Bearer x_resource_metadata=\"a\"",
            "Bearer resource_metadata",
            "Bearer resource_metadata=\"a",
        ] {
            assert_eq!(point(other, here), None, "{other}");
        }
    }
}
