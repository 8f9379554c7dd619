//! Who a request comes from, as far as its HTTP headers say.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};

/// The HTTP headers of a request.
pub(super) fn headers(context: &RequestContext<RoleServer>) -> Option<&HeaderMap> {
    context.extensions.get::<Parts>().map(|parts| &parts.headers)
}

/// The caller that a trusted proxy names in `header`; `None` for one without a name.
///
/// # Errors
///
/// If the header is there twice or is not text: then it is not the proxy's alone.
pub(super) fn principal<'a>(
    context: &'a RequestContext<RoleServer>,
    header: Option<&HeaderName>,
) -> Result<Option<&'a str>, ErrorData> {
    let (Some(headers), Some(header)) = (headers(context), header) else { return Ok(None) };
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(""), None) => Ok(None),
        (Ok(name), None) => Ok(Some(name)),
        _ => Err(ErrorData::invalid_request(format!("{header} does not name one caller"), None)),
    }
}
