//! What is counted and logged of requests: docs/metrics.md is held against a real scrape, the access log against
//! what clients did.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{Client, Gw, Session, Upstream, call, lines, logged, request, until};

/// A scrape: each sample's value, by name and labels as they are written.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(client: &Client) -> Self {
        let answer = client.at("/metrics").get();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let form = answer.headers.get("content-type").unwrap();
        assert_eq!(form, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = answer.text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?} has no number")))
        });
        Scrape { samples: samples.collect(), text }
    }

    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not in\n{}", self.text))
    }

    /// The sum of a family's samples whose labels hold all of these.
    fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        let wanted =
            |name: &str| name.split('{').next() == Some(family) && labels.iter().all(|l| name.contains(l));
        self.samples.iter().filter(|(name, _)| wanted(name)).map(|(_, value)| value).sum()
    }

    /// Names of the families, with their kinds.
    fn families(&self) -> BTreeSet<(String, String)> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .map(|line| {
                let (name, kind) = line.split_once(' ').unwrap();
                let total = if kind == "counter" { "_total" } else { "" };
                (format!("{name}{total}"), kind.to_owned())
            })
            .collect()
    }
}

#[test]
fn the_document_names_what_a_scrape_has() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let document = include_str!("../../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `throughline_"));
    let documented: BTreeSet<_> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
            (format!("throughline_{}", cells.next().unwrap()), cells.next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(Scrape::of(&gateway.client()).families(), documented);
}

#[test]
fn requests_are_counted_by_what_they_are() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    session.count();
    session.post(request("1", "made/up", "{}"));
    gateway.client().post(call("1", "count"));
    gateway.client().at("/nowhere").post(call("1", "count"));
    gateway.client().with("host", "evil.example").post(call("1", "count"));
    gateway.client().post("{");
    session.client.with("mcp-session-id", "x").delete();
    let scrape = Scrape::of(&gateway.client());
    let requests =
        |labels: &str| scrape.get(&format!("throughline_requests_total{{route=\"/mcp\",{labels}}}"));
    assert_eq!(requests(r#"method="initialize",era="legacy",status="2xx""#), 1.0);
    assert_eq!(requests(r#"method="notifications/initialized",era="legacy",status="2xx""#), 1.0);
    assert_eq!(requests(r#"method="tools/call",era="legacy",status="2xx""#), 3.0);
    assert_eq!(requests(r#"method="other",era="legacy",status="2xx""#), 1.0);
    assert_eq!(requests(r#"method="DELETE",era="legacy",status="4xx""#), 1.0);
    assert_eq!(scrape.get(r#"throughline_refused_requests_total{status="4xx"}"#), 3.0);
    assert_eq!(scrape.get(r#"throughline_request_seconds_count{route="/mcp"}"#), 7.0);
    assert_eq!(scrape.get(r#"throughline_request_seconds_bucket{le="+Inf",route="/mcp"}"#), 7.0);
    assert!(scrape.get(r#"throughline_upstream_seconds_count{route="/mcp"}"#) >= 4.0);
    assert_eq!(scrape.get(r#"throughline_sessions{route="/mcp",kind="issued"}"#), 1.0);
    assert_eq!(scrape.get(r#"throughline_sessions{route="/mcp",kind="keyed"}"#), 1.0);
    assert_eq!(scrape.get(r#"throughline_upstream_sessions_opened_total{route="/mcp"}"#), 2.0);
    assert!(scrape.get("throughline_connections") >= 1.0, "the scrape's own");
    assert_eq!(scrape.get("throughline_requests_in_flight"), 0.0);
    assert_eq!(scrape.get(r#"throughline_store_errors_total{operation="put"}"#), 0.0);
    assert!(scrape.get("throughline_store_writes_total") >= 2.0);
}

#[test]
fn a_recovery_is_counted_once_however_many_wait_for_it() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let session = Session::open(&gateway.client());
    session.count();
    upstream.server().lose_sessions();
    let waiting: Vec<_> = (0..10).map(|_| session.client.begin("POST", call("1", "count"))).collect();
    waiting.into_iter().for_each(|sent| assert_eq!(sent.answer().whole().status, 200));
    let scrape = Scrape::of(&gateway.client());
    assert_eq!(
        scrape.get(r#"throughline_recoveries_total{route="/mcp",cause="404-session",outcome="restored"}"#),
        1.0
    );
    assert_eq!(scrape.sum("throughline_recoveries_total", &[]), 1.0);
}

#[test]
fn calls_without_their_client_are_counted_while_they_go_on() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let gate = upstream.hold(|request| request.tool() == "slow");
    let session = Session::open(&gateway.client());
    let sent = session.client.begin("POST", call("1", "slow"));
    upstream.wait_for("tools/call", 1);
    let client = gateway.client();
    assert_eq!(Scrape::of(&client).get("throughline_requests_in_flight"), 1.0);
    drop(sent);
    let detached = |count: f64| {
        until("the count of detached calls", || {
            Scrape::of(&client).get("throughline_detached_calls") == count
        });
    };
    detached(1.0);
    gate.open();
    detached(0.0);
    assert_eq!(Scrape::of(&client).get("throughline_requests_in_flight"), 0.0);
}

#[test]
fn a_scrape_is_for_this_machine_only() {
    let upstream = Upstream::start();
    let gateway = Gw::start(&upstream);
    let client = gateway.client().at("/metrics");
    for (name, value, status) in [
        ("host", "evil.example", 403),
        ("origin", "https://evil.example", 403),
        ("x-forwarded-for", "10.0.0.1", 404),
        ("via", "1.1 proxy", 404),
    ] {
        let answer = client.with(name, value).get();
        assert_eq!((answer.status, answer.text().contains("throughline_")), (status, false), "{name}");
    }
    let posted = client.post("{}");
    assert_eq!((posted.status, posted.headers.get("allow")), (405, Some("GET")));

    let open = Gw::start_with(&upstream, |config| {
        config.allowed_hosts = vec!["127.0.0.1".into()];
    });
    assert_eq!(open.client().at("/metrics").get().status, 200);
}

/// The access log's lines about a route.
fn access(route: &str) -> Vec<String> {
    lines(" throughline::access: ")
        .into_iter()
        .filter(|l| l.contains(&format!("route=\"/{route}/mcp\"")))
        .collect()
}

#[test]
fn the_access_log_says_what_happened_in_one_line_each() {
    let upstream = Upstream::start();
    let text = "[routes.logged]\nurl = \"UPSTREAM\"\nanonymous = \"shared\"\n";
    let gateway = Gw::start_file(&upstream, text);
    let client = gateway.client().at("/logged/mcp");
    let session = Session::open(&client);
    session.count();
    upstream.server().lose_sessions();
    session.count();
    client.post(call("1", "evil\\n\\u001b[31m2099-01-01 INFO tool"));
    session.client.with("mcp-session-id", "x").post(call("1", "count"));
    session.client.delete();
    drop(gateway);
    let lines = access("logged");
    let expect = |at: usize, parts: &[&str]| {
        for part in parts {
            assert!(lines[at].contains(part), "{part} is not in {}", lines[at]);
        }
    };
    assert_eq!(lines.len(), 7, "{lines:#?}");
    expect(0, &[r#"method="initialize""#, r#"kind="none""#, "status=200", r#"era="legacy""#]);
    expect(1, &[r#"method="notifications/initialized""#, r#"kind="issued""#, "status=202", "bytes=0"]);
    expect(
        2,
        &[r#"tool="count""#, r#"kind="issued""#, "recovered=false", "principal=\"", "session=\"", " ms="],
    );
    expect(3, &[r#"tool="count""#, "recovered=true", "status=200"]);
    expect(4, &[r#"tool="evil??[31m2099-01-01 INFO tool""#, r#"kind="keyed""#]);
    expect(5, &["status=404", r#"kind="none""#]);
    expect(6, &[r#"method="DELETE""#, "status=200"]);
    assert!(!lines[2].contains("bytes=0"));
}

#[test]
fn the_access_log_can_be_switched_off() {
    let upstream = Upstream::start();
    let text = "access_log = false\n[routes.unlogged]\nurl = \"UPSTREAM\"\n";
    let gateway = Gw::start_file(&upstream, text);
    let client = gateway.client().at("/unlogged/mcp");
    Session::open(&client).count();
    client.post(call("1", "count"));
    assert!(access("unlogged").is_empty());
    assert!(logged("session bound"));
}

#[test]
fn what_an_answer_costs_is_known_when_it_has_ended() {
    let upstream = Upstream::start();
    let text = "[routes.streamed]\nurl = \"UPSTREAM\"\n";
    let gateway = Gw::start_file(&upstream, text);
    let client = gateway.client().at("/streamed/mcp");
    let session = Session::open_as(&client, "2025-06-18", "{}");
    let stream = session.listen();
    assert_eq!(access("streamed").len(), 2, "the stream is open");
    drop(stream);
    until("the line about the stream", || access("streamed").len() == 3);
    let scrape = Scrape::of(&gateway.client());
    assert_eq!(scrape.sum("throughline_request_seconds_count", &[]), 2.0, "streams are not in it");
    assert_eq!(scrape.sum("throughline_requests_total", &["method=\"GET\""]), 1.0);
}
