//! The load test's counts, held against the server's own. Times are not judged: they are the machine's.

use serde_json::{Value, json};

use crate::harness::{Gateway, Mcp, Process, Ran, Upstream, run, until};

fn load(arguments: &[&str]) -> Ran {
    run(&[&["load"], arguments].concat())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(shares: &Value) -> u64 {
    shares.as_object().expect("shares").values().map(number).sum()
}

/// What has to hold of every report.
fn consistent(report: &Value) {
    let calls = number(&report["calls"]);
    assert_eq!(calls, number(&report["ok"]) + number(&report["errors"]["count"]), "{report}");
    let kinds = report["errors"]["kinds"].as_object().expect("kinds");
    let by_kind: u64 = kinds.values().map(|errors| number(&errors["count"])).sum();
    assert_eq!(by_kind, number(&report["errors"]["count"]), "{report}");
    assert!(number(&report["latency_ms"]["count"]) <= calls, "{report}");
    assert!(sum(&report["instances"]) <= calls && sum(&report["answered_by"]) <= calls, "{report}");
}

fn total(upstream: &Upstream) -> u64 {
    number(&Mcp::connected(upstream.url()).call("total", json!({}))["total"])
}

#[test]
fn every_call_is_counted_once() {
    let (legacy, dual) = (Upstream::rmcp(), Upstream::rmcp_dual());
    let gateway = Gateway::start(&legacy.url(), &[]);
    let mut before = 0;
    for (upstream, url, client, clients) in [
        (&legacy, legacy.url(), ["issued", "once"], 3),
        (&legacy, gateway.url(), ["issued", "each-call"], 3),
        (&legacy, gateway.url(), ["id-less", "once"], 3),
        (&legacy, gateway.url(), ["id-less", "each-call"], 2),
        (&legacy, gateway.url(), ["id-less", "never"], 2),
        (&dual, dual.url(), ["modern", "once"], 3),
    ] {
        let clients_text = clients.to_string();
        let ran = load(&[
            &url,
            "increment",
            "--duration",
            "300ms",
            "--warm-up",
            "0s",
            "--json",
            "--clients",
            &clients_text,
            "--client",
            client[0],
            "--initialize",
            client[1],
            "--expect-errors",
            "0",
        ]);
        assert_eq!(ran.code, 0, "{client:?}: {}{}", ran.stdout, ran.stderr);
        let report = ran.json();
        consistent(&report);
        let calls = number(&report["calls"]);
        assert!(calls > 0 && calls == number(&report["ok"]), "{report}");
        assert_eq!(number(&report["latency_ms"]["count"]), calls);
        // All of them, and the first one that shows whether it works.
        let from = if std::ptr::eq(upstream, &dual) { 0 } else { before };
        let after = total(upstream);
        assert_eq!(after - from, calls + 1, "{client:?}: {report}");
        before = after;
        let sessions = number(&report["sessions"]["opened"]);
        match client {
            ["modern", _] | [_, "never"] => assert_eq!(sessions, 0, "{report}"),
            [_, "once"] => assert_eq!(sessions, clients, "{report}"),
            _ => assert_eq!(sessions, calls, "{report}"),
        }
        let through = if url == gateway.url() { calls } else { 0 };
        assert_eq!(sum(&report["answered_by"]), through, "{report}");
        let connections = number(&report["connections"]);
        assert!(connections >= clients && connections * 2 <= calls.max(clients * 2), "kept alive: {report}");
    }
}

#[test]
fn instances_are_counted_and_kinds_are_found_out() {
    let (legacy, dual) = (Upstream::rmcp(), Upstream::rmcp_dual());
    for (upstream, client) in [(&legacy, "issued"), (&dual, "modern")] {
        let ran = load(&[&upstream.url(), "session", "--duration", "200ms", "--warm-up", "0", "--json"]);
        let report = ran.json();
        consistent(&report);
        assert_eq!((report["client"].as_str(), report["loop"].as_str()), (Some(client), Some("closed")));
        let instances = report["instances"].as_object().expect("instances");
        assert_eq!(instances.len(), 1, "{report}");
        assert_eq!(sum(&report["instances"]), number(&report["calls"]), "{report}");
    }
    // Without a tool, and without whoami, the list of tools is asked for.
    let report = load(&[&legacy.url(), "--duration", "100ms", "--warm-up", "0", "--json"]).json();
    assert_eq!(report["asked"], "tools/list");
    assert!(number(&report["ok"]) > 0, "{report}");
}

#[test]
fn what_is_due_is_counted_whether_or_not_it_is_sent() {
    let upstream = Upstream::rmcp_dual();
    let easy = ["value", "--rate", "100", "--duration", "500ms", "--warm-up", "200ms", "--json"];
    let report = load(&[&[upstream.url().as_str()][..], &easy].concat()).json();
    consistent(&report);
    assert_eq!((number(&report["calls"]), number(&report["ok"])), (50, 50), "{report}");

    // One client, and an answer takes 200 ms: five each second, where twenty are due.
    let ran = load(&[
        &upstream.url(),
        "sleep",
        r#"{"ms":200}"#,
        "--rate",
        "20",
        "--clients",
        "1",
        "--duration",
        "1s",
        "--warm-up",
        "0",
        "--timeout",
        "1s",
        "--json",
        "--max-error-rate",
        "0.1",
    ]);
    let report = ran.json();
    consistent(&report);
    assert_eq!(number(&report["calls"]), 20, "{report}");
    let unsent = number(&report["errors"]["kinds"]["unsent"]["count"]);
    // Ten at most are sent until a second behind the end.
    assert!(unsent >= 10, "{report}");
    assert_eq!(number(&report["latency_ms"]["count"]), 20, "what was never sent has waited too: {report}");
    let (latency, service) = (&report["latency_ms"]["p99"], &report["service_ms"]["max"]);
    assert!(latency.as_f64() > service.as_f64(), "waiting for a free client counts: {report}");
    assert_eq!((ran.code, report["expected"][0]["met"].as_bool()), (1, Some(false)), "{report}");
}

#[test]
fn exit_codes_tell_whether_expectations_were_met() {
    let upstream = Upstream::rmcp();
    let brief = ["--duration", "100ms", "--warm-up", "0", "--clients", "2"];
    let url = upstream.url();
    let run = |more: &[&str]| load(&[&[url.as_str()], &brief[..], more].concat());
    let met = run(&["--expect-p99", "60000", "--expect-errors", "0", "--max-error-rate", "0"]);
    assert_eq!(met.code, 0, "{}{}", met.stdout, met.stderr);
    assert!(met.stdout.contains("errors <= 0: met"), "{}", met.stdout);
    let missed = run(&["--p99", "0.0001"]);
    assert_eq!(missed.code, 1, "{}{}", missed.stdout, missed.stderr);
    assert!(missed.stdout.contains("NOT MET"), "{}", missed.stdout);
    for wrong in
        [&["--rate", "0"][..], &["--client", "issued", "--initialize", "never"], &["--duration", "1 day"]]
    {
        assert_eq!(run(wrong).code, 2, "{wrong:?}");
    }
    for first in [&[url.as_str(), "no-such-tool"][..], &["http://127.0.0.1:1"]] {
        let failed = load(first);
        assert_eq!(failed.code, 3, "{}", failed.stderr);
        assert!(failed.stderr.contains("the first call failed"), "{}", failed.stderr);
    }
}

#[test]
fn errors_are_counted_by_kind_and_recoveries_are_seen() {
    let mut upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let start = |url: &str| {
        let arguments =
            ["load", url, "increment", "--client", "issued", "--duration", "2s", "--warm-up", "0", "--json"];
        Process::start("load", env!("CARGO_BIN_EXE_throughline"), &arguments)
    };
    let report = |load: &Process| {
        let line = load.wait_for_line(0, |line| line.starts_with('{').then(|| line.to_owned())).0;
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    // Behind the gateway the clients' sessions are restored; directly they are lost, and the clients begin anew.
    for (url, is_gateway) in [(gateway.url(), true), (upstream.url(), false)] {
        let before = total(&upstream);
        let mut load = start(&url);
        until("the load to be under way", || (total(&upstream) > before + 20).then_some(()));
        upstream.drop_sessions();
        assert!(load.succeeds(), "{}", load.printed());
        let report = report(&load);
        consistent(&report);
        let sessions = &report["sessions"];
        if is_gateway {
            assert!(number(&sessions["restored"]) >= 1 && number(&sessions["lost"]) == 0, "{report}");
            assert_eq!(number(&sessions["opened"]), 10, "{report}");
        } else {
            let lost = number(&sessions["lost"]);
            assert!(
                lost >= 1 && number(&report["errors"]["kinds"]["session lost"]["count"]) == lost,
                "{report}"
            );
            let opened = number(&sessions["opened"]);
            assert!(opened > 10 && opened <= 10 + lost, "{report}");
        }
    }
    // A server that goes away: refused and broken connections, and no answer that was not there.
    let before = total(&upstream);
    let mut load = start(&upstream.url());
    until("the load to be under way", || (total(&upstream) > before + 20).then_some(()));
    upstream.kill9();
    assert!(load.succeeds(), "{}", load.printed());
    let report = report(&load);
    consistent(&report);
    assert!(number(&report["errors"]["kinds"]["connect"]["count"]) > 0, "{report}");
    assert_eq!(
        number(&report["latency_ms"]["count"]),
        number(&report["ok"]),
        "refusals are no answers: {report}"
    );
}
