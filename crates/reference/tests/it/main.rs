//! The counter server, as a client over plain HTTP sees it.
#![cfg(test)]

mod counter;

// The gateway's tests speak to servers in the same way; the client is theirs.
#[path = "../../../cli/tests/e2e/harness/http.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod http;
#[path = "../../../cli/tests/e2e/harness/mcp.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod mcp;
