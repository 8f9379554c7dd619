//! The doctor: what it says of real servers, directly and behind the gateway, and that it leaves nothing behind.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Upstream};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_throughline")).arg("doctor").args(arguments).output().expect("it runs")
}

fn report(arguments: &[&str]) -> (i32, Value) {
    let output = doctor(&[arguments, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().expect("a code"), report)
}

fn client<'a>(report: &'a Value, name: &str) -> &'a Value {
    let clients = report["clients"].as_array().expect("clients");
    clients.iter().find(|client| client["client"] == name).expect("it is named")
}

#[test]
fn a_server_with_sessions_has_troubles_and_behind_the_gateway_none() {
    for upstream in [Upstream::rmcp(), Upstream::python1(), Upstream::python2()] {
        let (code, direct) = report(&[&upstream.url()]);
        assert_eq!(
            (code, &direct["sessions"], &direct["well"]),
            (1, &json!(true), &json!(false)),
            "{direct}"
        );
        assert!(
            direct["revisions"].as_array().expect("revisions").contains(&json!("2025-11-25")),
            "{direct}"
        );
        assert_eq!(client(&direct, "Copilot Studio")["trouble"], true, "{direct}");
        assert_eq!(client(&direct, "Cursor")["trouble"], true);
        // Nothing was executed.
        assert_eq!(Mcp::connected(upstream.url()).call("total", json!({}))["total"], 0);

        let gateway = Gateway::with_config(&format!(
            "[upstream]\nurl = \"{}\"\nanonymous = \"shared\"\nprofile = \"copilot-studio\"\n",
            upstream.url()
        ));
        let (code, through) = report(&[&gateway.url()]);
        assert_eq!((code, &through["well"]), (0, &json!(true)), "{through:#}");
        assert_eq!(
            client(&through, "Copilot Studio"),
            &json!({"client": "Copilot Studio", "meets": "works", "trouble": false})
        );
    }
}

#[test]
fn it_can_be_read_and_its_configuration_runs() {
    let upstream = Upstream::rmcp();
    let output = doctor(&[&upstream.url(), "--call", "increment"]);
    let text = String::from_utf8(output.stdout).expect("text");
    for part in ["What clients will meet", "A session that is lost", "behind Throughline:", "increment: 200"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (_, report) = report(&[&upstream.url()]);
    let gateway = Gateway::with_config(report["configuration"].as_str().expect("a configuration"));
    let listed = Mcp::new(gateway.at("/studio/mcp")).request("tools/list", json!({}));
    assert!(listed.message()["result"]["tools"].is_array(), "{listed:?}");
}

#[test]
fn where_no_server_is_it_says_so() {
    let gateway = Gateway::start("http://127.0.0.1:9/mcp", &[]);
    for url in ["http://127.0.0.1:9/mcp", &gateway.at("/healthz")] {
        let output = doctor(&[url]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(3), 1), "{said}");
    }
    assert_eq!(doctor(&["not a url"]).status.code(), Some(2));
}

#[test]
fn a_server_without_handshake_is_for_few_clients_and_behind_the_gateway_for_all() {
    let upstream = Upstream::stateless(&[], &["--era", "modern"]);
    let (code, direct) = report(&[&upstream.url()]);
    assert_eq!((code, client(&direct, "older clients")["trouble"].clone()), (1, json!(true)), "{direct:#}");
    let gateway = Gateway::start(&upstream.url(), &[]);
    let (_, through) = report(&[&gateway.url()]);
    assert_eq!(through["revisions"].as_array().map(Vec::len), Some(5), "{through:#}");
    assert_eq!(client(&through, "SDK clients")["trouble"], false, "{through:#}");
}
