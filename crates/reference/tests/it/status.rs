//! The status page of both servers.

use std::time::Duration;

use serde_json::{Value, json};
use throughline_reference::counter::CounterConfig;
use throughline_reference::instance::Instance;
use throughline_reference::stateless::{Hosts, StatelessConfig};

use crate::counter::Counter;
use crate::http::PATIENCE;
use crate::mcp::{Answer, Mcp};
use crate::server::{Stateless, content, quick};

/// How often a page is looked at that is to change.
const LOOK: Duration = Duration::from_millis(50);

fn get(base: &str, path: &str) -> Answer {
    Mcp::new(format!("{base}{path}")).bare("GET")
}

fn status(base: &str) -> Value {
    serde_json::from_str(&get(base, "/status.json").body).expect("JSON")
}

fn fact(status: &Value, name: &str) -> String {
    let facts = status["facts"].as_array().expect("facts");
    let found = facts.iter().find(|fact| fact["name"] == name).expect(name);
    found["value"].as_str().expect("a text").to_owned()
}

/// How often this tool has been called.
fn calls(status: &Value, tool: &str) -> String {
    let rows = status["tables"][0]["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row[0] == tool).expect(tool);
    row[1].as_str().expect("a text").to_owned()
}

fn check_page(base: &str, parts: &[&str]) {
    let page = get(base, "/");
    assert_eq!(page.status, 200);
    for part in parts {
        assert!(page.body.contains(part), "{part} in {}", page.body);
    }
    for (path, kind) in [
        ("/", "text/html"),
        ("/status.json", "application/json"),
        ("/status.css", "text/css"),
        ("/status.js", "text/javascript"),
    ] {
        let part = get(base, path);
        assert_eq!(part.status, 200, "{path}");
        assert!(part.header("content-type").expect("a type").starts_with(kind), "{path}");
        let policy = part.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(part.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(part.header("cache-control"), Some("no-store"), "{path}");
        let from_elsewhere = Mcp::new(format!("{base}{path}")).with_header("Host", "attacker.example");
        assert_eq!(from_elsewhere.bare("GET").status, 403, "{path}");
        assert_eq!(Mcp::new(format!("{base}{path}")).bare("POST").status, 405, "{path}");
    }
}

#[test]
fn the_stateless_server_shows_instance_and_calls() {
    let instance = Instance::named("web-1").expect("a name");
    let server = Stateless::start(StatelessConfig { instance, host: "machine".to_owned(), ..quick() });
    for _ in 0..2 {
        content(&server.client(), "echo", json!({"message": "hi"}));
    }
    server.client().try_call("no-such-tool", json!({}));
    assert_eq!(get(&server.base, "/nothing").status, 404);
    check_page(&server.base, &["Throughline reference server", "web-1", "machine", "dual", "compute_primes"]);
    let shown = status(&server.base);
    assert_eq!((calls(&shown, "echo").as_str(), calls(&shown, "tally").as_str()), ("2", "0"));
    assert_eq!(shown["tables"][0]["rows"].as_array().map(Vec::len), Some(6), "no row for what is no tool");
    assert_eq!(fact(&shown, "Requests"), "3", "what is not for MCP is not counted");
}

#[test]
fn a_name_that_the_server_answers_to_is_one_for_the_page() {
    let page = |server: &Stateless, host: &str| {
        Mcp::new(format!("{}/", server.base)).with_header("Host", host).bare("GET").status
    };
    let hosts = Hosts::Named(vec!["mcp.example".to_owned(), "other.example:8443".to_owned()]);
    let public = Stateless::start(StatelessConfig { hosts, ..quick() });
    for (host, expected) in [
        ("mcp.example", 200),
        ("MCP.example:443", 200),
        ("other.example:8443", 200),
        ("other.example", 403),
        ("[::1]:3000", 200),
        ("mcp.example.attacker.example", 403),
        ("a b", 403),
    ] {
        assert_eq!(page(&public, host), expected, "{host}");
    }
    let any = Stateless::start(StatelessConfig { hosts: Hosts::Any, ..quick() });
    assert_eq!(page(&any, "whatever.example"), 200);
}

#[test]
fn the_counter_server_shows_sessions_and_calls() {
    let server = Counter::start(CounterConfig::default());
    let client = server.connect();
    client.increment();
    client.increment();
    let instance = client.call("session", json!({}))["instance"].as_str().expect("a name").to_owned();
    check_page(&server.url, &["Throughline counter server", &instance, "legacy", "increment"]);
    let shown = status(&server.url);
    assert_eq!(shown["instance"], instance);
    assert_eq!((calls(&shown, "increment").as_str(), calls(&shown, "mark").as_str()), ("2", "0"));
    assert_eq!((fact(&shown, "Sessions opened").as_str(), fact(&shown, "Increments").as_str()), ("1", "2"));
    // Handshake (two), and three calls.
    assert_eq!(fact(&shown, "Requests"), "5");
}

#[test]
fn requests_over_time_come_step_by_step() {
    let (stateless, counter) = (Stateless::start(quick()), Counter::start(CounterConfig::default()));
    content(&stateless.client(), "echo", json!({"message": "hi"}));
    counter.connect();
    for (base, expected) in [(&stateless.base, 1), (&counter.url, 2)] {
        let shown = || {
            let counts = status(base)["requests"].as_array().expect("counts").clone();
            counts.iter().filter_map(Value::as_u64).sum::<u64>()
        };
        let looks = PATIENCE.as_millis() / LOOK.as_millis();
        let seen = (0..looks).any(|_| {
            std::thread::park_timeout(LOOK);
            shown() == expected
        });
        assert!(seen, "{base}");
    }
}
