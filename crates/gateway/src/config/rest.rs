//! `rest`: a route's REST face.

use super::read::Key;

/// Plain REST beside MCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// `rest.enabled`: whether there is any. Default: yes.
    pub enabled: bool,
    /// `rest.tool_errors`: the HTTP status of a tool's own failure. Default [`ToolErrors::Ok`].
    pub tool_errors: ToolErrors,
    /// `rest.session_in_query`: whether a session may be named in the URL, as `sessionId`. Default: no, since URLs end
    /// up in logs.
    pub session_in_query: bool,
}

impl Default for Rest {
    fn default() -> Self {
        Self { enabled: true, tool_errors: ToolErrors::Ok, session_in_query: false }
    }
}

/// The HTTP status of a tool's own failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolErrors {
    /// `"200"`: connectors show their users nothing of other statuses.
    Ok,
    /// `"422"`.
    Unprocessable,
}

pub(super) const REST: &[Key<Rest>] = &[
    Key::new("enabled", |r, f| f.flag(&mut r.enabled)),
    Key::new("tool_errors", |r, f| {
        f.choice(&mut r.tool_errors, &[("200", ToolErrors::Ok), ("422", ToolErrors::Unprocessable)]);
    }),
    Key::new("session_in_query", |r, f| f.flag(&mut r.session_in_query)),
];
