//! The official conformance suite: directly against a server with everything that it asks for, and through the
//! gateway in front of that server; and directly against the stateless reference server, as far as that has what a
//! scenario is about.
//!
//! The suite can be fooled (empty lists pass, and so does an error in the place of a result), so it is not
//! enough to pass: through the gateway it must see just what it saw directly, and the server must have got
//! what it got directly.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Balancer, Gateway, Redis, Upstream, node};

/// A file of the suite's.
fn suite(path: &str) -> PathBuf {
    node::module("conformance", "@modelcontextprotocol/conformance").join(path)
}

#[test]
fn legacy_to_legacy() {
    compare("2025-11-25", 30, || Upstream::conformance_of("legacy"), &[]);
}

/// Clients with a handshake, and a server that refuses it. No scenario is impossible.
#[test]
fn legacy_to_modern() {
    // The suite counts event streams there; that server answers in JSON what needs no stream, as both eras allow.
    compare("2025-11-25", 30, || Upstream::conformance_of("modern"), &["server-sse-multiple-streams"]);
}

#[test]
fn modern_to_modern() {
    compare("2026-07-28", 37, || Upstream::conformance_of("modern"), &[]);
}

/// In front of a server of the legacy era alone, which asks for input by requests of its own.
#[test]
fn modern_to_legacy() {
    let upstream = Upstream::conformance_of("legacy");
    let gateway = Gateway::start(&upstream.url(), &[]);
    let report = Report::of(&gateway.url(), "2026-07-28");
    let required = required("2026-07-28");
    assert_eq!(required.len(), 37, "{required:?}");
    let troubles =
        required.iter().filter_map(|scenario| Some((scenario.as_str(), report.trouble(scenario)?)));
    let troubles: Vec<_> = troubles.collect();
    println!("2026-07-28 at a legacy server: {} of 37 passed", 37 - troubles.len());
    assert!(troubles.is_empty(), "{troubles:#?}\n{}", report.printed);
    report.assert_substance();
    let seen = arrived(&upstream);
    assert!(
        seen.contains("initialize") && seen.contains("tools/call test_input_required_result_multi_round")
    );
}

#[test]
fn legacy_to_legacy_over_three_replicas() {
    over_three_replicas(&Upstream::conformance());
}

#[test]
fn legacy_to_modern_over_three_replicas() {
    over_three_replicas(&Upstream::conformance_of("modern"));
}

/// Through three replicas behind a load balancer that sends each request to the next of them. What is not here needs a
/// stream that outlives its request's replica.
fn over_three_replicas(upstream: &Upstream) {
    let redis = Redis::standalone();
    let ring = tempfile::tempdir().expect("a directory");
    let replicas = Gateway::replicas(3, &upstream.url(), &redis, &ring.path().join("keyring"));
    let balancer = Balancer::start(&replicas.iter().map(|replica| replica.at("")).collect::<Vec<_>>());
    let revision = "2025-11-25";
    let report = Report::of(&balancer.url(), revision);
    let required = required(revision);
    let troubles =
        required.iter().filter_map(|scenario| Some((scenario.as_str(), report.trouble(scenario)?)));
    let troubles: Vec<_> = troubles.collect();
    println!(
        "{revision} over three replicas: {} of {} passed",
        required.len() - troubles.len(),
        required.len()
    );
    assert!(troubles.is_empty(), "{troubles:#?}");
}

/// What the reference server's own tools, resources and prompts are enough for. The other scenarios call tools, or
/// read resources, whose names are the suite's.
const REFERENCE_LEGACY: [&str; 6] =
    ["server-initialize", "ping", "tools-list", "resources-list", "prompts-list", "dns-rebinding-protection"];
const REFERENCE_MODERN: [&str; 8] = [
    "tools-list",
    "server-sse-multiple-streams",
    "resources-list",
    "sep-2164-resource-not-found",
    "prompts-list",
    "dns-rebinding-protection",
    "caching",
    "input-required-result-unsupported-methods",
];

#[test]
fn reference_by_2025_11_25() {
    let server = Upstream::stateless(&[], &[]);
    Report::of(&server.url(), "2025-11-25").assert_passed(&REFERENCE_LEGACY);
}

#[test]
fn reference_by_2026_07_28() {
    let server = Upstream::stateless(&[], &[]);
    let report = Report::of(&server.url(), "2026-07-28");
    report.assert_passed(&REFERENCE_MODERN);
    report.assert_stateless();
}

#[test]
fn reference_with_strict_headers() {
    let server = Upstream::stateless(&[], &["--era", "modern", "--strict-headers"]);
    let report = Report::of(&server.url(), "2026-07-28");
    report.assert_passed(&REFERENCE_MODERN);
    report.assert_passed(&["http-header-validation"]);
    report.assert_stateless();
}

/// Runs what this revision requires, so many scenarios, directly and through the gateway in front of another server, which
/// may be of another era. `may_differ`: scenarios that pass there too, but in another way.
fn compare(revision: &str, count: usize, behind: impl Fn() -> Upstream, may_differ: &[&str]) {
    let required = required(revision);
    assert_eq!(required.len(), count, "{revision}: {required:?}");

    let upstream = Upstream::conformance();
    let direct = Report::of(&upstream.url(), revision);
    let got_directly = arrived(&upstream);

    let upstream = behind();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let through = Report::of(&gateway.url(), revision);
    let got_through = arrived(&upstream);

    let mut table = format!("{revision:<48} direct  gateway\n");
    let mut troubles = Vec::new();
    let mut passed = [0, 0];
    for scenario in &required {
        let differs = || match may_differ.contains(&scenario.as_str()) {
            true => None,
            false => difference(direct.checks(scenario), through.checks(scenario)),
        };
        let outcomes = [direct.trouble(scenario), through.trouble(scenario).or_else(differs)];
        let [left, right] =
            outcomes.each_ref().map(|trouble| if trouble.is_none() { "ok" } else { "FAILED" });
        table += &format!("{scenario:<48} {left:<6}  {right}\n");
        for (way, trouble) in ["directly", "through the gateway"].into_iter().zip(&outcomes) {
            troubles.extend(trouble.as_ref().map(|trouble| format!("{scenario} {way}: {trouble}")));
        }
        for (count, trouble) in passed.iter_mut().zip(outcomes) {
            *count += usize::from(trouble.is_none());
        }
    }
    println!("{table}{:<48} {:<6}  {}\n", format!("passed, of {count}"), passed[0], passed[1]);

    direct.assert_substance();
    assert!(troubles.is_empty(), "{revision}:\n{}\n{}", troubles.join("\n"), through.printed);
    // What one era asks of a server, the other may not know; what a tool is called with, both do.
    let is_call = |seen: &&String| seen.contains(' ') && !seen.starts_with("resources/");
    let kept_back: Vec<_> = got_directly.difference(&got_through).filter(is_call).collect();
    assert!(kept_back.is_empty(), "{revision}: the gateway kept to itself: {kept_back:?}");
}

/// The scenarios that the suite scores for a revision.
fn required(revision: &str) -> Vec<String> {
    let file = suite(&format!("requirements/{revision}.yaml"));
    let text = fs::read_to_string(file).expect("the suite's requirements");
    let server = text.lines().skip_while(|line| *line != "server:").skip(1);
    let names = server.take_while(|line| line.starts_with("  - ") || line.is_empty());
    names.filter_map(|line| line.strip_prefix("  - ")).map(str::to_owned).collect()
}

/// Which messages the server has got: method, and the name in it.
fn arrived(upstream: &Upstream) -> BTreeSet<String> {
    let seen: BTreeMap<String, u64> = serde_json::from_str(&upstream.get("/seen")).expect("an object");
    seen.into_keys().collect()
}

/// What one run of the suite found.
struct Report {
    checks: BTreeMap<String, Vec<Value>>,
    /// What it printed.
    printed: String,
}

impl Report {
    fn of(url: &str, revision: &str) -> Self {
        let results = tempfile::tempdir().expect("a directory for results");
        let output = Command::new(node::module("conformance", ".bin/node"))
            .arg(suite("dist/index.js"))
            .args(["server", "--url", url, "--requirements", revision, "--output-dir"])
            .arg(results.path())
            .output()
            .expect("the suite");
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Self { checks: read(results.path()), printed: printed.into_owned() }
    }

    fn checks(&self, scenario: &str) -> &[Value] {
        self.checks.get(scenario).map_or(&[], Vec::as_slice)
    }

    /// Why a scenario has not passed, if it has not.
    fn trouble(&self, scenario: &str) -> Option<String> {
        let checks = self.checks(scenario);
        // The suite itself lets warnings and skipped checks pass.
        let good = |check: &&Value| check["status"] == "SUCCESS" || check["status"] == "INFO";
        if let Some(check) = checks.iter().find(|check| !good(check)) {
            return Some(format!("{} {}: {}", check["id"], check["status"], check["errorMessage"]));
        }
        // A check of every scenario's messages says nothing of what this one is about.
        let own = |check: &Value| check["status"] == "SUCCESS" && check["id"] != "wire-schema-valid";
        (!checks.iter().any(own)).then(|| "nothing was checked".to_owned())
    }

    /// Fails the test if the reference server has not passed these, or has passed because there was nothing to it.
    fn assert_passed(&self, scenarios: &[&str]) {
        let trouble = |scenario: &&str| Some(format!("{scenario}: {}", self.trouble(scenario)?));
        let troubles: Vec<String> = scenarios.iter().filter_map(trouble).collect();
        assert!(troubles.is_empty(), "{}\n{}", troubles.join("\n"), self.printed);
        for (scenario, what, count) in [
            ("tools-list", "/details/toolCount", 6),
            ("resources-list", "/details/resourceCount", 8),
            ("prompts-list", "/details/promptCount", 1),
        ] {
            let check = &self.checks(scenario)[0];
            assert_eq!(check.pointer(what), Some(&json!(count)), "{scenario}: {check}");
        }
    }

    /// Fails the test if the reference server has not passed those checks of `server-stateless` that do without the
    /// suite's own tools, or without lists that change.
    fn assert_stateless(&self) {
        let checks = self.checks("server-stateless");
        let untestable = |check: &&Value| {
            let said = check["errorMessage"].as_str().unwrap_or_default();
            check["status"] == "SKIPPED"
                || said.starts_with("Not testable: server does not list the diagnostic tool")
        };
        let (aside, own): (Vec<_>, Vec<_>) = checks.iter().partition(untestable);
        let failed: Vec<_> = own.iter().filter(|check| check["status"] != "SUCCESS").collect();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!((own.len(), aside.len()), (24, 6), "{}", self.printed);
    }

    /// Fails the test if what passes, passes because there is nothing to it.
    fn assert_substance(&self) {
        let text = "This is a simple text response for testing.";
        for (scenario, what, value) in [
            ("tools-list", "/details/toolCount", json!(25)),
            ("resources-list", "/details/resourceCount", json!(3)),
            ("prompts-list", "/details/promptCount", json!(5)),
            ("tools-call-simple-text", "/details/result/content", json!([{"type": "text", "text": text}])),
            ("input-required-result-validate-input", "/details/result/resultType", json!("input_required")),
        ] {
            let Some(check) = self.checks(scenario).first() else { continue };
            assert_eq!(check.pointer(what), Some(&value), "{scenario}: {check}");
        }
    }
}

/// The suite's results: a directory for each scenario, `server-SCENARIO-TIME/checks.json`.
fn read(results: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut checks = BTreeMap::new();
    for entry in fs::read_dir(results).expect("the suite's results") {
        let directory = entry.expect("a result").path();
        let name = directory.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        let name = name.strip_prefix("server-").expect("a scenario of servers");
        let scenario = &name[..name.len() - "-2026-11-20T08-25-13-110Z".len()];
        // Without one, the scenario could not be run.
        let Ok(text) = fs::read_to_string(directory.join("checks.json")) else { continue };
        checks.insert(scenario.to_owned(), serde_json::from_str(&text).expect("a list of checks"));
    }
    checks
}

/// Where two runs of a scenario differ first, except in what is different in every run.
fn difference(direct: &[Value], through: &[Value]) -> Option<String> {
    let [direct, through] = [direct, through].map(|checks| constant(Value::from(checks)));
    let (at, direct, through) = first_difference(String::new(), &direct, &through)?;
    Some(format!("{at}: {direct:.400} directly, {through:.400} here"))
}

/// The pointer to the first difference, and the two values there.
fn first_difference(at: String, one: &Value, other: &Value) -> Option<(String, String, String)> {
    let pairs: Vec<_> = match (one, other) {
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => items
            .iter()
            .zip(others)
            .enumerate()
            .map(|(at, (one, other))| (at.to_string(), one, other))
            .collect(),
        (Value::Object(members), Value::Object(others)) if members.keys().eq(others.keys()) => {
            members.iter().zip(others.values()).map(|((at, one), other)| (at.clone(), one, other)).collect()
        }
        _ => return (one != other).then(|| (at, one.to_string(), other.to_string())),
    };
    pairs.into_iter().find_map(|(inner, one, other)| first_difference(format!("{at}/{inner}"), one, other))
}

/// Whether this is the code of a request that does not say of itself what it must, or says it in two ways.
fn is_misstated(code: &Value) -> bool {
    [-32602, -32020].map(Value::from).contains(code)
}

/// A check without what is different in every run: times, addresses and what is minted.
fn constant(mut check: Value) -> Value {
    match &mut check {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = constant(item.take())),
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                *value = match name.as_str() {
                    "timestamp" | "serverUrl" | "hostHeader" | "originHeader" => Value::Null,
                    "sessionId" | "sessionIdSent" | "requestState" => json!(value.is_string()),
                    "subscriptionId" | "io.modelcontextprotocol/subscriptionId" => json!(!value.is_null()),
                    // Only of the refusal of a foreign Host, which is in the gateway's own words, and of
                    // `initialize`, which the gateway answers in JSON.
                    "body" => Value::Null,
                    // Refused by whoever reads it first; the words are their own, the code is the specification's.
                    "response" if value.pointer("/error/code").is_some_and(is_misstated) => {
                        json!([value.pointer("/error/code"), value["id"]])
                    }
                    _ => constant(value.take()),
                };
            }
        }
        _ => {}
    }
    check
}
