//! Names of headers, ready to be looked up: one given as text is parsed again at every look-up.

use http::HeaderName;
use throughline_wire::headers;

/// The id of a legacy session.
pub const SESSION_ID: HeaderName = HeaderName::from_static(headers::MCP_SESSION_ID);
/// The protocol version of a request.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static(headers::MCP_PROTOCOL_VERSION);
/// The method of a modern request.
pub const METHOD: HeaderName = HeaderName::from_static(headers::MCP_METHOD);
/// The tool, prompt or resource of a modern request.
pub const NAME: HeaderName = HeaderName::from_static(headers::MCP_NAME);
/// Where a legacy client resumes a stream.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static(headers::LAST_EVENT_ID);
/// The trace that a request is part of (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What those on its way say of it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Where a caller may present its key.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
