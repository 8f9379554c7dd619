//! The gateway under test.

use std::path::Path;

use tempfile::TempDir;

use super::http;
use super::process::{Process, free_port, until};
use super::redis::Redis;

/// A running `throughline serve`, with a state directory of its own that survives its restarts.
pub(crate) struct Gateway {
    process: Process,
    base: String,
    state: TempDir,
}

impl Gateway {
    /// Starts several replicas in front of `upstream`, which share their sessions.
    pub(crate) fn replicas(count: usize, upstream: &str, redis: &Redis, ring: &Path) -> Vec<Self> {
        if !ring.exists() {
            throughline_gateway::keys::create(ring, throughline_gateway::Effects::REAL).expect("a key ring");
        }
        let (store, ring) = (redis.url(), ring.to_str().expect("a path in UTF-8"));
        (0..count).map(|_| Self::start(upstream, &["--store", &store, "--key-ring", ring])).collect()
    }

    /// Starts a gateway in front of `upstream`, and waits until it is ready.
    pub(crate) fn start(upstream: &str, arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        Self::start_in(state, &[&[upstream], arguments].concat())
    }

    /// Starts a gateway with this configuration file, and waits until it is ready.
    pub(crate) fn configured(text: &str) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        let file = state.path().join("throughline.toml");
        std::fs::write(&file, text).expect("a configuration file");
        Self::start_in(state, &["--config", file.to_str().expect("a path in UTF-8")])
    }

    /// Starts a gateway in front of `upstream` with more in its environment (`NAME=VALUE`).
    pub(crate) fn in_environment(environment: &[&str], upstream: &str, arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        Self::start_by(environment, state, &[&[upstream], arguments].concat())
    }

    fn start_in(state: TempDir, arguments: &[&str]) -> Self {
        Self::start_by(&[], state, arguments)
    }

    fn start_by(environment: &[&str], state: TempDir, arguments: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let state_dir = state.path().to_str().expect("a path in UTF-8");
        let mut all = environment.to_vec();
        all.extend([
            env!("CARGO_BIN_EXE_throughline"),
            "serve",
            "--listen",
            &listen,
            "--state-dir",
            state_dir,
        ]);
        all.extend(arguments);
        let process = Process::start("gateway", "env", &all);
        let mut gateway = Self { process, base: format!("http://{listen}"), state };
        gateway.wait_until_ready();
        gateway
    }

    /// Starts a gateway with this configuration, whose state directory and address are added to it.
    pub(crate) fn with_config(config: &str) -> Self {
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

    /// Waits until it is ready and nothing troubles it.
    pub(crate) fn wait_until_well(&mut self) {
        until("the gateway to be well", || {
            let (answer, _connection) = http::send("GET", &self.at("/readyz"), &[], None).ok()?;
            let said = std::io::read_to_string(answer.into_body()).ok()?;
            said.contains(r#""status":"ready""#).then_some(())
        });
    }

    /// Kills it.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        assert!(self.process.terminate(), "it ends well");
    }

    /// Starts it again after [`Gateway::kill9`], with what it had written down until then.
    pub(crate) fn start_again(&mut self) {
        self.process.start_again();
        self.wait_until_ready();
    }

    /// Kills it and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        self.start_again();
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
