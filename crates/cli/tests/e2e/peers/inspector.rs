//! The Inspector's command line: a client for one command, which opens a session and leaves it behind.

use serde_json::{Value, json};

use crate::harness::{Gateway, Process, Upstream, node};

/// What it prints of a successful command.
fn inspect(url: &str, arguments: &[&str]) -> Value {
    let home = tempfile::tempdir().expect("a home directory");
    let mut command =
        node::dependency("peers", "@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    command.insert(1, format!("HOME={}", home.path().display()).into());
    command.extend(["--cli", url, "--format", "json", "--quiet"].map(Into::into));
    command.extend(arguments.iter().map(Into::into));
    let mut process = Process::start("the Inspector", &command[0], &command[1..]);
    assert!(process.succeeds(), "{arguments:?}");
    process.wait_for_line(0, |line| serde_json::from_str::<Value>(line).ok()).0["result"].take()
}

#[test]
fn it_works_through_kills() {
    // What shakes hands has a session for its one command; where only the gateway does, it finds it again.
    for (mut upstream, era, behind_the_gateway) in [
        (Upstream::rmcp(), "legacy", 1),
        (Upstream::rmcp(), "auto", 2),
        (Upstream::typescript2(), "auto", 1),
        (Upstream::typescript2(), "modern", 1),
    ] {
        let mut gateway = Gateway::start(&upstream.url(), &[]);
        for disaster in ["nothing", "upstream", "gateway"] {
            match disaster {
                "upstream" => upstream.restart(),
                "gateway" => gateway.restart(),
                _ => {}
            }
            let url = gateway.url();
            let tools = inspect(&url, &["--protocol-era", era, "--method", "tools/list"]);
            // The counter's; which of them there are beside these differs between the fixtures.
            let listed: Vec<_> = tools["tools"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|tool| tool["name"].as_str())
                .collect();
            for name in ["increment", "value", "total", "sleep", "session", "ask", "log"] {
                assert!(listed.contains(&name), "{era} after {disaster}: {name} in {tools}");
            }
            let call = ["--protocol-era", era, "--method", "tools/call", "--tool-name", "increment"];
            let counted = inspect(&url, &call);
            let count = if disaster == "gateway" { behind_the_gateway } else { 1 };
            assert_eq!(counted["structuredContent"], json!({"value": count}), "{era} after {disaster}");
        }
    }
}

#[test]
fn it_calls_a_tool_many_times_at_once() {
    let mut upstream = Upstream::typescript1();
    let mut gateway = Gateway::start(&upstream.url(), &[]);
    for disaster in ["upstream", "gateway"] {
        let load = ["--load", "--load-requests", "50", "--load-concurrency", "10"];
        let call = ["--method", "tools/call", "--tool-name", "increment"];
        let report = inspect(&gateway.url(), &[&call[..], &load].concat());
        assert_eq!((&report["ok"], &report["errors"]), (&json!(50), &json!(0)), "{report}");
        match disaster {
            "upstream" => upstream.restart(),
            _ => gateway.restart(),
        }
    }
}
