//! The gateway under test.

use std::path::Path;

use tempfile::TempDir;

use super::process::{Process, free_port};

/// A running `throughline serve`, with a state directory of its own that survives its restarts.
pub(crate) struct Gateway {
    process: Process,
    base: String,
    state: TempDir,
}

impl Gateway {
    /// Starts a gateway in front of `upstream`, and waits until it is ready.
    pub(crate) fn start(upstream: &str, arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        let listen = format!("127.0.0.1:{}", free_port());
        let state_dir = state.path().to_str().expect("a path in UTF-8");
        let mut all = vec!["serve", upstream, "--listen", &listen, "--state-dir", state_dir];
        all.extend(arguments);
        let process = Process::start("gateway", env!("CARGO_BIN_EXE_throughline"), &all);
        let mut gateway = Self { process, base: format!("http://{listen}"), state };
        gateway.wait_until_ready();
        gateway
    }

    /// Starts a gateway with this configuration, whose state directory and address are added to it.
    pub(crate) fn configured(config: &str) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        let file = state.path().join("throughline.toml");
        std::fs::write(&file, config).expect("a file");
        let listen = format!("127.0.0.1:{}", free_port());
        let (file, state_dir) = (file.to_str().expect("UTF-8"), state.path().to_str().expect("UTF-8"));
        let all = ["serve", "--config", file, "--listen", &listen, "--state-dir", state_dir];
        let process = Process::start("gateway", env!("CARGO_BIN_EXE_throughline"), &all);
        let mut gateway = Self { process, base: format!("http://{listen}"), state };
        gateway.wait_until_ready();
        gateway
    }

    fn wait_until_ready(&mut self) {
        self.process.wait_until_ok(&self.at("/readyz"));
    }

    /// A URL on it.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Its MCP endpoint.
    pub(crate) fn url(&self) -> String {
        self.at("/mcp")
    }

    /// Kills it and starts it again, with what it had written down until then.
    pub(crate) fn restart(&mut self) {
        self.process.kill9();
        self.process.start_again();
        self.wait_until_ready();
    }

    /// Its state directory.
    pub(crate) fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.printed()
    }
}
