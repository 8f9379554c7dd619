//! `throughline reference` as processes: instances that share a key, hosts that name a port, and its end.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Balancer, Client, Gateway, MODERN, Mcp, Process, Redis, Upstream, free_port, until};

const OLD: &str = "an-old-key-of-at-least-thirty-two-bytes";
const NEW: &str = "a-newer-key-of-at-least-thirty-two-bytes";

fn instance(name: &str, keys: &str) -> Upstream {
    let keys = format!("THROUGHLINE_REFERENCE_KEY={keys}");
    Upstream::stateless(&["-u", "HOSTNAME", &keys], &["--instance", name])
}

/// Adds one, by 2026-07-28.
fn tally(url: &str, handle: &Value) -> Value {
    let mut arguments = json!({});
    if handle.is_string() {
        arguments["handle"] = handle.clone();
    }
    let params = json!({"name": "tally", "arguments": arguments});
    Mcp::new(url).modern_request("tools/call", params).message()["result"].clone()
}

#[test]
fn a_total_goes_on_across_processes_restarts_and_rotations() {
    let (mut one, mut two) = (instance("one", OLD), instance("two", OLD));
    let mut handle = Value::Null;
    for count in 1..=10 {
        let server = if count % 2 == 0 { &one } else { &two };
        let tally = tally(&server.url(), &handle);
        assert_eq!(tally["structuredContent"]["total"], count);
        assert_eq!(tally["structuredContent"]["instance"], if count % 2 == 0 { "one" } else { "two" });
        handle = tally["structuredContent"]["handle"].clone();
    }
    one.restart();
    two.kill9();
    handle = tally(&one.url(), &handle)["structuredContent"]["handle"].clone();
    // What is rolled out next signs with the new key and takes the old one's.
    let next = instance("next", &format!("{NEW},{OLD}"));
    handle = tally(&next.url(), &handle)["structuredContent"]["handle"].clone();
    let last = instance("last", NEW);
    let goes_on = tally(&last.url(), &handle);
    assert_eq!(goes_on["structuredContent"]["total"], 13);

    let foreign = tally(&one.url(), &handle);
    assert_eq!(foreign["isError"], true);
    let said = foreign["content"][0]["text"].as_str().expect("a text");
    assert!(said.contains("a key that this server does not have"), "{said}");
}

#[test]
fn fifty_clients_keep_their_tallies_on_three_instances_behind_a_load_balancer() {
    let servers = ["one", "two", "three"].map(|name| instance(name, OLD));
    let balancer = Balancer::start(&servers.each_ref().map(Upstream::base));
    let url = balancer.url();
    let answered: Mutex<BTreeMap<String, usize>> = Mutex::default();
    thread::scope(|scope| {
        for client in 1..=50 {
            let (url, answered) = (&url, &answered);
            scope.spawn(move || {
                let mut handle = Value::Null;
                for count in 1..=20 {
                    let tally = tally(url, &handle)["structuredContent"].clone();
                    assert_eq!(
                        (&tally["total"], &tally["count"]),
                        (&json!(count), &json!(count)),
                        "client {client}"
                    );
                    let instance = tally["instance"].as_str().expect("a name").to_owned();
                    *answered.lock().unwrap().entry(instance).or_default() += 1;
                    handle = tally["handle"].clone();
                }
            });
        }
    });
    let answered = answered.into_inner().unwrap();
    println!("1,000 calls of 50 clients: {answered:?}");
    assert_eq!(answered.values().sum::<usize>(), 1000);
    // Each in its turn: none has been left out, and none had all the work.
    assert!(answered.len() == 3 && answered.values().all(|&calls| calls > 200), "{answered:?}");
}

#[test]
fn the_gateway_in_front_of_it_lets_both_eras_keep_a_tally() {
    let server = instance("behind", OLD);
    let gateway = Gateway::start(&server.url(), &[]);
    let first = tally(&gateway.url(), &Value::Null)["structuredContent"].clone();
    assert_eq!((&first["total"], &first["instance"]), (&json!(1), &json!("behind")));
    let legacy = Mcp::connected(gateway.url());
    let second = legacy.call("tally", json!({"handle": first["handle"]}));
    assert_eq!(second["total"], 2);
}

#[test]
fn the_official_clients_keep_a_tally() {
    let server = instance("one", OLD);
    // They hold what they send and get to the schemas, too.
    for sdk in ["mcp1", "mcp2"] {
        let mut client = Client::connect(sdk, &server.url(), &[]);
        let first = client.call("tally", json!({"amount": 2}));
        let second = client.call("tally", json!({"handle": first["handle"]}));
        assert_eq!((&second["total"], &second["count"]), (&json!(3), &json!(2)), "{sdk}");
    }
}

#[test]
fn a_host_gives_port_headers_and_names() {
    let port = free_port();
    let environment = [
        "-u",
        "THROUGHLINE_REFERENCE_KEY",
        &format!("PORT={port}"),
        "MCP_STRICT_HEADERS=1",
        "WEBSITE_INSTANCE_ID=0a1b2c",
        "WEBSITE_HOSTNAME=mcp.example",
        "WEBSITE_AUTH_ENABLED=True",
        env!("CARGO_BIN_EXE_throughline"),
        "reference",
    ];
    let mut server = Process::start("reference", "env", &environment);
    let ready = |line: &str| line.starts_with("ready ").then(|| line.to_owned());
    assert_eq!(server.wait_for_line(0, ready).0, format!("ready http://0.0.0.0:{port}/mcp"));
    server.wait_until_ok(&format!("http://127.0.0.1:{port}/healthz"));

    let client = Mcp::new(format!("http://127.0.0.1:{port}/mcp"))
        .with_header("Host", "mcp.example")
        .with_header("X-MS-CLIENT-PRINCIPAL-ID", "ann");
    let whoami = json!({"name": "whoami", "arguments": {}});
    let who =
        client.modern_request("tools/call", whoami.clone()).message()["result"]["structuredContent"].clone();
    assert_eq!((&who["instance"], &who["callerKnown"]), (&json!("0a1b2c"), &json!(true)));
    let contradicting = client.clone().with_header("MCP-Protocol-Version", MODERN).request(
        "tools/list",
        json!({
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        }),
    );
    assert_eq!((contradicting.status, contradicting.error_code()), (400, Some(-32020)));

    let logged = server.printed();
    assert!(logged.contains(r#""instance":"0a1b2c","tool":"whoami""#), "{logged}");
    assert!(server.terminate(), "SIGTERM is a way to end, not a failure");
}

#[test]
fn what_cannot_be_is_said_without_the_keys() {
    for (environment, arguments, said) in [
        (
            "THROUGHLINE_REFERENCE_KEY=secret",
            &[][..],
            "THROUGHLINE_REFERENCE_KEY: key 1 has 6 bytes, at least 32 are needed",
        ),
        ("PORT=http", &[][..], "PORT is \"http\", which is no port"),
        ("A=B", &["--stateful", "--era", "modern"][..], "2026-07-28 has no sessions"),
        ("A=B", &["--instance", "a b"][..], "a name has 1 to 128 printable ASCII characters"),
    ] {
        let output = Command::new("env")
            .args([environment, env!("CARGO_BIN_EXE_throughline"), "reference"])
            .args(arguments)
            .output()
            .expect("the program");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && printed.contains(said), "{environment} {arguments:?}: {printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}

fn keeping(name: &str, redis: &Redis, more: &[&str]) -> Upstream {
    let keys = format!("THROUGHLINE_REFERENCE_KEY={OLD}");
    let store = format!("THROUGHLINE_REFERENCE_TALLY_STORE={}", redis.url());
    Upstream::stateless(&["-u", "HOSTNAME", &keys, &store], &[&["--instance", name], more].concat())
}

fn refused(tally: &Value) -> &str {
    assert_eq!(tally["isError"], true, "{tally}");
    tally["content"][0]["text"].as_str().expect("a text")
}

#[test]
fn a_total_in_redis_goes_on_across_processes_and_each_handle_is_good_once() {
    let redis = Redis::standalone();
    let (mut one, two) = (keeping("one", &redis, &[]), keeping("two", &redis, &[]));
    let first = tally(&one.url(), &Value::Null)["structuredContent"]["handle"].clone();
    one.restart();
    let second = tally(&two.url(), &first);
    assert_eq!(second["structuredContent"]["total"], 2);
    // The answer may not have arrived, so the same call again gets it again, wherever it goes.
    let again = tally(&one.url(), &first);
    assert_eq!(again["structuredContent"]["total"], 2);
    let third = tally(&one.url(), &second["structuredContent"]["handle"]);
    assert_eq!(
        (&third["structuredContent"]["total"], &third["structuredContent"]["count"]),
        (&json!(3), &json!(3))
    );
    let used = tally(&two.url(), &first);
    assert!(refused(&used).starts_with("this handle has been used"), "{used}");
    // A handle names its total, and does not hold it.
    let signed = instance("signed", OLD);
    let foreign = tally(&signed.url(), &third["structuredContent"]["handle"]);
    assert!(refused(&foreign).contains("is not as it was given out"), "{foreign}");
    let carried = tally(&signed.url(), &Value::Null)["structuredContent"]["handle"].clone();
    assert!(refused(&tally(&one.url(), &carried)).contains("is not as it was given out"));
    let mut changed = third["structuredContent"]["handle"].as_str().expect("a handle").to_owned();
    changed.pop();
    assert!(refused(&tally(&one.url(), &json!(changed))).contains("is not as it was given out"));
    let elsewhere = keeping("elsewhere", &redis, &["--audience", "elsewhere"]);
    assert!(
        refused(&tally(&elsewhere.url(), &third["structuredContent"]["handle"])).contains("another server")
    );
}

#[test]
fn a_total_in_redis_expires_and_an_outage_adds_nothing_twice() {
    let mut redis = Redis::standalone();
    let brief = keeping("brief", &redis, &["--handle-lifetime", "1"]);
    let handle = tally(&brief.url(), &Value::Null)["structuredContent"]["handle"].clone();
    until("the handle to expire", || {
        // Read, not added to: that would make it young again.
        let reset = json!({"name": "reset_tally", "arguments": {"handle": handle}});
        let read = Mcp::new(brief.url()).modern_request("tools/call", reset).message();
        read["result"]["content"][0]["text"].as_str()?.contains("has expired").then_some(())
    });

    let server = keeping("one", &redis, &[]);
    let handle = tally(&server.url(), &Value::Null)["structuredContent"]["handle"].clone();
    redis.kill9(0);
    let away = tally(&server.url(), &handle);
    assert!(refused(&away).starts_with("the tallies cannot be reached now"), "{away}");
    redis.start_again(0);
    let total = until("the store to be back", || {
        let tally = tally(&server.url(), &handle);
        tally["structuredContent"]["total"].as_i64()
    });
    assert_eq!(total, 2);
}
