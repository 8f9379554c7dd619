//! The servers, as clients over plain HTTP see them, and as rmcp's own client does.
#![cfg(test)]

mod counter;
mod handles;
mod host;
mod modern;
mod rmcp_client;
mod server;
mod status;
mod tools;

// The gateway's tests speak to servers in the same way; the client is theirs.
#[path = "../../../cli/tests/e2e/harness/http.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod http;
#[path = "../../../cli/tests/e2e/harness/mcp.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod mcp;
