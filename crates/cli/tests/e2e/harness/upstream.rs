//! The servers behind the gateway: one stateful counter, in several implementations, and a server of many
//! features.

use std::ffi::OsString;
use std::path::Path;

use super::http;
use super::node;
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
        Self::reference(&["--stateful"])
    }

    /// The same, of both eras.
    pub(crate) fn rmcp_dual() -> Self {
        Self::reference(&["--stateful", "--era", "dual"])
    }

    fn reference(more: &[&str]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = [&["reference", "--listen", listen.as_str()], more].concat();
        Self::start(Process::start("upstream (rmcp)", env!("CARGO_BIN_EXE_throughline"), &arguments), port)
    }

    /// The reference server, with a journal of what it has executed.
    pub(crate) fn journaled(journal: &Path) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let journal = journal.to_str().expect("a path in UTF-8");
        let arguments = ["reference", "--stateful", "--listen", listen.as_str(), "--journal", journal];
        Self::start(Process::start("upstream (rmcp)", env!("CARGO_BIN_EXE_throughline"), &arguments), port)
    }

    /// The stateless reference server, on rmcp, with more in its environment (`NAME=VALUE`) and more arguments.
    pub(crate) fn stateless(environment: &[&str], arguments: &[&str]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = environment.to_vec();
        command.extend([env!("CARGO_BIN_EXE_throughline"), "reference", "--listen", listen.as_str()]);
        command.extend(arguments);
        Self::start(Process::start("upstream (stateless)", "env", &command), port)
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
        let mut command = python::fixture(sdk, "counter_server.py");
        command.extend(["--port".into(), port.to_string().into()]);
        command.extend(arguments.iter().map(OsString::from));
        Self::start(Process::start(&format!("upstream ({sdk})"), &command[0], &command[1..]), port)
    }

    /// The fixture on the official TypeScript SDK, version 1.
    pub(crate) fn typescript1() -> Self {
        Self::typescript("1", "dual")
    }

    /// The fixture on the official TypeScript SDK, version 2, which speaks the modern era too.
    pub(crate) fn typescript2() -> Self {
        Self::typescript("2", "dual")
    }

    /// The same, which refuses clients of the era before.
    pub(crate) fn typescript_modern() -> Self {
        Self::typescript("2", "modern")
    }

    fn typescript(version: &str, era: &str) -> Self {
        let port = free_port();
        let mut command = node::fixture("peers", "counter_server.cjs");
        command.extend([
            version.into(),
            "--port".into(),
            port.to_string().into(),
            "--era".into(),
            era.into(),
        ]);
        let name = format!("upstream (typescript{version})");
        Self::start(Process::start(&name, &command[0], &command[1..]), port)
    }

    /// `@modelcontextprotocol/server-everything`, whose tools are others.
    pub(crate) fn everything() -> Self {
        Self::everything_over("streamableHttp")
    }

    /// The same over another transport of its: `sse`, HTTP with SSE.
    pub(crate) fn everything_over(transport: &str) -> Self {
        let port = free_port();
        let mut command = node::dependency("peers", "@modelcontextprotocol/server-everything/dist/index.js");
        command.insert(1, format!("PORT={port}").into());
        command.push(transport.into());
        Self::start(Process::start("upstream (everything)", &command[0], &command[1..]), port)
    }

    /// The conformance suite's fixture, on the official TypeScript SDK, which speaks both eras.
    pub(crate) fn conformance() -> Self {
        Self::conformance_of("dual")
    }

    /// The same, for clients of this era alone: `legacy`, with sessions and requests to the client, or `modern`.
    pub(crate) fn conformance_of(era: &str) -> Self {
        Self::conformance_at(free_port(), era)
    }

    /// Kills it, and starts the suite's fixture of this era in its place.
    pub(crate) fn replaced_by(self, era: &str) -> Self {
        let port = self.base.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        drop(self);
        Self::conformance_at(port, era)
    }

    fn conformance_at(port: u16, era: &str) -> Self {
        let mut command = node::fixture("conformance", "server.cjs");
        command.extend(["--port".into(), port.to_string().into(), "--era".into(), era.into()]);
        Self::start(Process::start("upstream (conformance)", &command[0], &command[1..]), port)
    }

    fn start(process: Process, port: u16) -> Self {
        let mut upstream = Self { process, base: format!("http://127.0.0.1:{port}") };
        upstream.wait_until_ready();
        upstream
    }

    fn wait_until_ready(&mut self) {
        // Not all of them have anything there; what answers at all is ready.
        self.process.wait_until_answered(&format!("{}/healthz", self.base));
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.base)
    }

    /// Where clients of HTTP with SSE reach it, if they do.
    pub(crate) fn sse_url(&self) -> String {
        format!("{}/sse", self.base)
    }

    /// Where it is, without a path.
    pub(crate) fn base(&self) -> String {
        self.base.clone()
    }

    /// Kills it, and with it all its sessions.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        assert!(self.process.terminate(), "it ends well");
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
        until("the upstream's sessions to expire", || (self.get("/sessions") == "0").then_some(()));
    }

    /// What it says of itself at this path.
    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.base);
        let (answer, _connection) = http::send("GET", &url, &[], None).expect("an answer");
        std::io::read_to_string(answer.into_body()).expect("text")
    }
}
