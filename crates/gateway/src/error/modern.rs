//! Rows of the table that only requests of 2026-07-28 meet, where the server speaks an older revision.

use http::StatusCode;
use serde_json::{Value, json};
use throughline_wire::version::ProtocolVersion;

use super::{Row, code};

/// A failure that only a request of 2026-07-28 can meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Modern {
    /// The version is of a later revision, or of none; what was asked for.
    Version(String),
    /// The revision has no such method, or the bridge none.
    Method,
    /// The parameters are wrong; how.
    Params(String),
    /// The server asks for what the client has not declared; what it would have had to, as `ClientCapabilities`.
    Capability(Value),
    /// The user would not visit the URL that the server wants visited first.
    Declined,
    /// The answers to the server's questions did not come in time.
    Abandoned,
    /// Nothing is known any more of the call that waited for the answers.
    Gone,
}

impl Modern {
    pub(super) fn row(&self) -> Row {
        let row = |status, code, text: String| Row { status, code, text, data: None };
        match self {
            Modern::Version(requested) => Row {
                data: Some(json!({
                    "supported": [ProtocolVersion::V2026_07_28.as_str()],
                    "requested": requested,
                })),
                ..row(
                    StatusCode::BAD_REQUEST,
                    code::UNSUPPORTED_VERSION,
                    "Unsupported protocol version: use one of the supported versions".to_owned(),
                )
            },
            // Streamable HTTP, "Protocol Version Header" and those that follow: the status says it too.
            Modern::Method => {
                row(StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND, "Method not found".to_owned())
            }
            Modern::Params(how) => {
                row(StatusCode::BAD_REQUEST, code::INVALID_PARAMS, format!("Invalid params: {how}"))
            }
            Modern::Capability(required) => Row {
                data: Some(json!({ "requiredCapabilities": required })),
                ..row(
                    StatusCode::BAD_REQUEST,
                    code::MISSING_CAPABILITY,
                    "Missing client capability: the server asks for what this client has not declared; the call was \
                     cancelled"
                        .to_owned(),
                )
            },
            Modern::Declined => row(
                StatusCode::BAD_REQUEST,
                code::SERVER,
                "Declined: the server wants a URL to be visited before this call; it was not executed".to_owned(),
            ),
            Modern::Gone => Row {
                data: Some(json!({ "mayHaveExecuted": true })),
                ..row(
                    StatusCode::BAD_GATEWAY,
                    code::MAY_HAVE_EXECUTED,
                    "The call that waited for this input is gone, with the server or the gateway that kept it; it may \
                     have been executed in part, so it was not repeated; check its effect before you call again"
                        .to_owned(),
                )
            },
            Modern::Abandoned => Row {
                data: Some(json!({ "mayHaveExecuted": true })),
                ..row(
                    StatusCode::BAD_REQUEST,
                    code::SERVER,
                    "Abandoned: the input that the server asked for did not come in time, and the call was cancelled"
                        .to_owned(),
                )
            },
        }
    }
}
