//! Header names, and the encoding of values that a header cannot carry as they are.

use std::borrow::Cow;

use data_encoding::BASE64;

/// The id of a legacy session.
pub const MCP_SESSION_ID: &str = "mcp-session-id";
/// The protocol version of a request.
pub const MCP_PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The method of a modern request, mirrored from its body.
pub const MCP_METHOD: &str = "mcp-method";
/// The tool, prompt or resource of a modern request, mirrored from its body and possibly encoded.
pub const MCP_NAME: &str = "mcp-name";
/// What the names of headers that mirror a tool's parameters begin with; their values may be encoded.
pub const MCP_PARAM_PREFIX: &str = "mcp-param-";
/// Where a legacy client resumes a stream.
pub const LAST_EVENT_ID: &str = "last-event-id";

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

/// Why a header value cannot be decoded. A server answers 400 with -32020.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderValueError {
    /// A plain value has a character that a header may not carry.
    #[error("header value has a character outside of printable ASCII")]
    Character,
    /// An encoded value is not canonical base64.
    #[error("encoded header value is not base64")]
    Base64,
    /// An encoded value is not UTF-8.
    #[error("encoded header value is not UTF-8")]
    Utf8,
}

/// The header value for `value`: itself where that is safe, else its base64 between sentinels.
///
/// Specification 2026-07-28, Streamable HTTP, "Value Encoding". A tab could travel as it is, but
/// intermediaries may fold it into a space, so it is encoded too.
#[must_use]
pub fn encode_value(value: &str) -> Cow<'_, str> {
    let printable = value.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    let padded = value.starts_with(' ') || value.ends_with(' ');
    let sentinel = value.starts_with(PREFIX) && value.ends_with(SUFFIX);
    if printable && !padded && !sentinel {
        Cow::Borrowed(value)
    } else {
        Cow::Owned(format!("{PREFIX}{}{SUFFIX}", BASE64.encode(value.as_bytes())))
    }
}

/// The value that a header carries: decoded if it stands between sentinels, else as it is.
///
/// # Errors
///
/// See [`HeaderValueError`].
pub fn decode_value(header: &str) -> Result<Cow<'_, str>, HeaderValueError> {
    let encoded = header.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    let Some(encoded) = encoded else {
        let carried = |byte: u8| byte == b'\t' || (0x20..=0x7e).contains(&byte);
        return match header.bytes().all(carried) {
            true => Ok(Cow::Borrowed(header)),
            false => Err(HeaderValueError::Character),
        };
    };
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| HeaderValueError::Base64)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| HeaderValueError::Utf8)
}
