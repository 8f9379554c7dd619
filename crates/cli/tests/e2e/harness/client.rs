//! Clients that others wrote, each driven command by command; `tests/python/driver.py` says what they
//! understand.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::PATIENCE;
use super::process::Process;
use super::{node, python};

/// A client that lives as long as its test wants.
pub(crate) struct Client {
    process: Process,
    /// From which line on the result of the last command is.
    commanded: usize,
    /// Up to which line events have been taken; they are read apart from the commands' results.
    events_taken: usize,
    /// For those that keep files of their own.
    _home: TempDir,
}

impl Client {
    /// Starts a client of `url` and connects it. It is one of
    ///
    /// - `mcp1`, `mcp2`: the official Python SDK's in either major version,
    /// - `typescript1`, `typescript2`: the official TypeScript SDK's,
    /// - `mcp-remote`: that, driven over stdio by `typescript1`,
    /// - `fastmcp`, `langchain`: FastMCP's, and LangChain's adapter.
    pub(crate) fn connect(name: &str, url: &str, arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a home directory");
        let mut command = command(name, &home);
        command.push(url.into());
        command.extend(arguments.iter().map(OsString::from));
        let process = Process::start(&format!("client ({name})"), &command[0], &command[1..]);
        let mut client = Self { process, commanded: 0, events_taken: 0, _home: home };
        client.run(json!({"do": "connect"}));
        client
    }

    /// Runs a command and returns its whole line: `done` or `failed`, `session`, `statuses`.
    pub(crate) fn try_run(&mut self, command: Value) -> Value {
        self.start(&command);
        self.finish()
    }

    /// Begins a command; [`Client::finish`] waits for its end.
    pub(crate) fn start(&mut self, command: &Value) {
        self.commanded = self.process.line_count();
        self.process.write_line(&command.to_string());
    }

    /// The whole line of the command that was begun last.
    pub(crate) fn finish(&mut self) -> Value {
        let finished = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            line.get("done").or(line.get("failed")).is_some().then_some(line)
        };
        self.process.wait_for_line(self.commanded, finished).0
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

    /// The parameters of all events with this method that have come by now and were not taken.
    pub(crate) fn events(&mut self, method: &str) -> Vec<Value> {
        std::iter::from_fn(|| self.event_within(Duration::ZERO, method)).collect()
    }

    /// Passes over the events that have come so far.
    pub(crate) fn forget_events(&mut self) {
        self.events_taken = self.process.line_count();
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

fn command(name: &str, home: &TempDir) -> Vec<OsString> {
    let mut command = match name {
        "mcp1" | "mcp2" => return python::fixture(name, "client.py"),
        "fastmcp" => return python::fixture(name, "fastmcp_client.py"),
        "langchain" => return python::fixture(name, "langchain_client.py"),
        _ => node::fixture("peers", "client.cjs"),
    };
    match name {
        "typescript1" => command.push("1".into()),
        "typescript2" => command.push("2".into()),
        "mcp-remote" => {
            let mut config = OsString::from("MCP_REMOTE_CONFIG_DIR=");
            config.push(home.path());
            command.insert(1, config);
            let program = node::module("peers", "mcp-remote/dist/proxy.js");
            command.extend(["1".into(), "--via".into(), program.into()]);
        }
        _ => panic!("no client named {name}"),
    }
    command
}
