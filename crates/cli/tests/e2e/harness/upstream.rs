//! The servers behind the gateway: one stateful counter, in three implementations.

use super::http;
use super::process::{Process, free_port, until};
use super::python;

/// A server of the counter's tools, on a port that it keeps through its restarts.
pub(crate) struct Upstream {
    process: Process,
    base: String,
}

impl Upstream {
    /// The reference server, on rmcp.
    pub(crate) fn rmcp() -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["reference", "--stateful", "--listen", listen.as_str()];
        Self::start(Process::start("upstream (rmcp)", env!("CARGO_BIN_EXE_throughline"), &arguments), port)
    }

    /// The fixture on the official Python SDK, version 1.
    pub(crate) fn python1() -> Self {
        Self::python("mcp1", &[])
    }

    /// The fixture on the official Python SDK, version 2, which speaks the modern era too.
    pub(crate) fn python2() -> Self {
        Self::python("mcp2", &[])
    }

    /// The fixture on either Python SDK, with more arguments.
    pub(crate) fn python(sdk: &str, arguments: &[&str]) -> Self {
        let port = free_port();
        let script = python::fixture("counter_server.py");
        let own = [script.as_str(), "--port", &port.to_string()].map(str::to_owned);
        let arguments: Vec<String> =
            own.into_iter().chain(arguments.iter().map(|&argument| argument.to_owned())).collect();
        Self::start(Process::start(&format!("upstream ({sdk})"), python::interpreter(sdk), &arguments), port)
    }

    fn start(process: Process, port: u16) -> Self {
        let mut upstream = Self { process, base: format!("http://127.0.0.1:{port}") };
        upstream.wait_until_ready();
        upstream
    }

    fn wait_until_ready(&mut self) {
        self.process.wait_until_ok(&format!("{}/healthz", self.base));
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.base)
    }

    /// Kills it, and with it all its sessions.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again after [`Upstream::kill9`].
    pub(crate) fn start_again(&mut self) {
        self.process.start_again();
        self.wait_until_ready();
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        self.start_again();
    }

    /// Makes it forget its sessions, as an expiry would, and live on.
    pub(crate) fn drop_sessions(&self) {
        let (answer, _) =
            http::send("POST", &format!("{}/drop-sessions", self.base), &[], Some(b"")).expect("an answer");
        assert_eq!(answer.status, 204, "drop-sessions");
    }

    /// Waits until its last session has expired (the Python fixtures can tell).
    pub(crate) fn wait_until_no_session(&self) {
        until("the upstream's sessions to expire", || {
            let (answer, _connection) =
                http::send("GET", &format!("{}/sessions", self.base), &[], None).expect("an answer");
            let count = std::io::read_to_string(answer.into_body()).expect("a count");
            (count == "0").then_some(())
        });
    }
}
