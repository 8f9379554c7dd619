//! Messages, and a client that holds a session as the specification has it.

use super::client::{Client, Incoming, Response};

/// `initialize` with these capabilities.
pub(crate) fn initialize_body(version: &str, capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{{"name":"test","version":"1"}}}}}}"#
    )
}

/// A request; `id` and `params` are raw JSON.
pub(crate) fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// A call of a tool without arguments.
pub(crate) fn call(id: &str, tool: &str) -> String {
    request(id, "tools/call", &format!(r#"{{"name":"{tool}","arguments":{{}}}}"#))
}

/// A client that was given a session id and echoes it.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) id: String,
}

impl Session {
    /// Initialises, with what a rich client announces.
    pub(crate) fn open(client: &Client) -> Self {
        Self::open_as(
            client,
            "2025-06-18",
            r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{}}"#,
        )
    }

    pub(crate) fn open_as(client: &Client, version: &str, capabilities: &str) -> Self {
        let welcome = client.post(initialize_body(version, capabilities));
        assert_eq!(welcome.status, 200, "{}", welcome.text());
        let id = welcome.headers.get("mcp-session-id").expect("an id is given").to_owned();
        let client = client.with("mcp-session-id", &id).with("mcp-protocol-version", version);
        let told = client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!((told.status, told.text().as_str()), (202, ""));
        Session { client, id }
    }

    pub(crate) fn post(&self, body: impl AsRef<[u8]>) -> Response {
        self.client.post(body)
    }

    /// Counts up in the session, and says how far.
    pub(crate) fn count(&self) -> String {
        self.post(call("1", "count")).tool_text()
    }

    /// Opens the standing stream.
    pub(crate) fn listen(&self) -> Incoming {
        let stream = self.client.with("accept", "text/event-stream").open("GET", "");
        assert_eq!(stream.status, 200);
        stream
    }
}
