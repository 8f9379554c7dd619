//! The official Python SDK, in virtual environments that `scripts/setup` makes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::PATIENCE;
use super::process::Process;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of a fixture in `tests/python`.
pub(crate) fn fixture(name: &str) -> String {
    workspace().join("tests/python").join(name).to_str().expect("a path in UTF-8").to_owned()
}

/// The Python interpreter with this version of the SDK: `mcp1` or `mcp2`. The first test that asks has them
/// installed if they are not there yet.
pub(crate) fn interpreter(sdk: &str) -> PathBuf {
    static DIRECTORIES: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let directories = DIRECTORIES.get_or_init(|| {
        let setup = Command::new(workspace().join("scripts/setup")).output().expect("scripts/setup");
        assert!(setup.status.success(), "scripts/setup: {}", String::from_utf8_lossy(&setup.stderr));
        let printed = String::from_utf8(setup.stdout).expect("paths in UTF-8");
        let named = printed.lines().filter_map(|line| line.split_once('='));
        named.map(|(name, directory)| (name.to_owned(), directory.into())).collect()
    });
    directories[sdk].join("bin/python")
}

/// The official Python client, driven command by command; `tests/python/client.py` says what it understands.
pub(crate) struct PythonClient {
    process: Process,
    /// Up to which line events have been taken; they are read apart from the commands' results.
    events_taken: usize,
}

impl PythonClient {
    /// Starts a client of `url` and connects it.
    pub(crate) fn connect(sdk: &str, url: &str, arguments: &[&str]) -> Self {
        let script = fixture("client.py");
        let mut all = vec![script.as_str(), url];
        all.extend(arguments);
        let process = Process::start(&format!("client ({sdk})"), interpreter(sdk), &all);
        let mut client = Self { process, events_taken: 0 };
        client.run(json!({"do": "connect"}));
        client
    }

    /// Runs a command and returns its whole line: `done` or `failed`, `session`, `statuses`.
    pub(crate) fn try_run(&mut self, command: Value) -> Value {
        let from = self.process.line_count();
        self.process.write_line(&command.to_string());
        let finished = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            line.get("done").or(line.get("failed")).is_some().then_some(line)
        };
        self.process.wait_for_line(from, finished).0
    }

    /// Runs a command that must succeed without the client having seen a 404, and returns the whole line.
    pub(crate) fn run(&mut self, command: Value) -> Value {
        let line = self.try_run(command.clone());
        assert!(line.get("done").is_some(), "{command}: {line}");
        let statuses = line["statuses"].as_array().expect("statuses");
        assert!(!statuses.contains(&json!(404)), "{command}: {line}");
        line
    }

    /// Calls a tool and returns its structured content.
    pub(crate) fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let line = self.run(json!({"do": "call", "name": tool, "arguments": arguments}));
        assert_ne!(line["done"]["isError"], true, "{tool}: {line}");
        line["done"]["structuredContent"].clone()
    }

    /// The counter after one more increment.
    pub(crate) fn increment(&mut self) -> i64 {
        self.call("increment", json!({}))["value"].as_i64().expect("a number")
    }

    /// The parameters of the next event with this method; others before it are passed over.
    pub(crate) fn event(&mut self, method: &str) -> Value {
        self.event_within(PATIENCE, method).unwrap_or_else(|| panic!("no {method} came"))
    }

    /// The parameters of the next event with this method, if one comes soon.
    pub(crate) fn event_within_a_second(&mut self, method: &str) -> Option<Value> {
        self.event_within(Duration::from_secs(1), method)
    }

    fn event_within(&mut self, patience: Duration, method: &str) -> Option<Value> {
        let (params, taken) = self.process.find_line(self.events_taken, patience, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["event"]["method"] == method).then(|| line["event"]["params"].clone())
        })?;
        self.events_taken = taken;
        Some(params)
    }
}
