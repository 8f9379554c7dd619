//! A page to try the tools with. It is the same for everybody: what it shows it gets as any REST client does.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Response, StatusCode};

use super::Asked;
use crate::app::App;
use crate::reply::{self, ReplyBody};

const PAGE: &str = include_str!("try.html");
const SCRIPT: &str = include_str!("try.js");
const STYLE: &str = include_str!("try.css");

/// Nothing from elsewhere, and nothing that stands in the page itself.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// The page, or what belongs to it, if that is what was asked for.
pub(super) fn page(app: &App, asked: &Asked, method: &Method) -> Option<Response<ReplyBody>> {
    let (content_type, text) = match asked.below.as_str() {
        "" | "/" => {
            let name = &asked.route.config.name;
            let base = if name.is_empty() { "/rest".to_owned() } else { format!("/{name}/rest") };
            ("text/html; charset=utf-8", PAGE.replace("{{base}}", &base))
        }
        "/try.js" => ("text/javascript; charset=utf-8", SCRIPT.to_owned()),
        "/try.css" => ("text/css; charset=utf-8", STYLE.to_owned()),
        _ => return None,
    };
    if *method != Method::GET {
        return None;
    }
    let mut response = reply::whole(app, StatusCode::OK, HeaderValue::from_static(content_type), text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(response)
}
