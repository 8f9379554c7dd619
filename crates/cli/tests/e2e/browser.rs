//! The status pages in a browser: with their script and without JavaScript, in light and in dark.
//!
//! Headless Chromium, with a profile of its own for each look.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Gateway, Mcp, Process, Upstream, installed};

/// Prints the colour of the first pixel of a PNG. Whatever the first row's filter is, its first pixel stands as it is.
const FIRST_PIXEL: &str = "\
import struct, sys, zlib
png, at, packed = open(sys.argv[1], 'rb').read(), 8, b''
while at < len(png):
    length, kind = struct.unpack('>I4s', png[at:at + 8])
    if kind == b'IDAT':
        packed += png[at + 8:at + 8 + length]
    at += 12 + length
print(zlib.decompress(packed)[1:4].hex())
";
/// The page's background, as its style sheet has it.
const LIGHT: &str = "fbfbfa";
const DARK: &str = "16181b";

/// Whether pages may run JavaScript.
#[derive(PartialEq)]
enum Script {
    On,
    Off,
}

/// Starts a browser that looks at a page and ends; its profile goes to this directory.
fn browser(url: &str, profile: &TempDir, arguments: &[&str]) -> Process {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let always = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
    let program = installed("browser").join("chromium");
    Process::start("chromium", program, &[&always[..], arguments, &[url]].concat())
}

/// What is on the page after a few seconds of its own time.
fn shown(url: &str, script: Script) -> String {
    let profile = tempfile::tempdir().expect("a directory");
    if script == Script::Off {
        // As a user turns it off: the engine's own switch would leave --dump-dom without words, too.
        let default = profile.path().join("Default");
        std::fs::create_dir(&default).expect("a directory");
        let off = json!({"profile": {"default_content_setting_values": {"javascript": 2}}});
        std::fs::write(default.join("Preferences"), off.to_string()).expect("a file");
    }
    let mut browser = browser(url, &profile, &["--virtual-time-budget=5000", "--dump-dom"]);
    browser.wait_for_line(0, |line| line.contains("</html>").then_some(()));
    assert!(browser.succeeds(), "{}", browser.printed());
    browser.printed()
}

/// The colour in the page's upper left corner, as RRGGBB.
fn background(url: &str, arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("page.png");
    let file = file.to_str().expect("a path in UTF-8");
    let screenshot = format!("--screenshot={file}");
    let mut browser = browser(url, &dir, &[&["--window-size=800,600", &screenshot], arguments].concat());
    assert!(browser.succeeds(), "{}", browser.printed());
    let reader = Process::start("the first pixel", "python3", &["-c", FIRST_PIXEL, file]);
    reader.wait_for_line(0, |line| Some(line.to_owned())).0
}

/// The text between these two, which must be there.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = page.split_once(before).unwrap_or_else(|| panic!("{before} is not in {page}"));
    rest.split_once(after).unwrap_or_else(|| panic!("{after} is not in {page}")).0
}

/// Looks at the page in every way; `figures` have to be on it each time.
fn check(base: &str, instance: &str, figures: &[&str]) {
    let url = format!("{base}/");
    let live = shown(&url, Script::On);
    let still = shown(&url, Script::Off);
    for page in [&live, &still] {
        assert_eq!(between(page, r#"<strong id="instance">"#, "<"), instance);
        for figure in figures {
            assert!(page.contains(figure), "{figure} in {page}");
        }
    }
    let fresh = between(&live, r#"<p id="fresh">"#, "</p>");
    assert!(fresh.starts_with("As of ") && fresh.ends_with(&format!(", by {instance}.")), "{fresh}");
    let answered = between(&live, r#"<ul id="instances">"#, "</ul>");
    assert!(answered.contains(&format!("{instance}: ")), "{answered}");
    let loaded = between(&still, r#"<p id="fresh">"#, "</p>");
    assert!(loaded.starts_with("As of the moment it was loaded."), "{loaded}");
    assert_eq!(between(&still, r#"<ul id="instances">"#, "</ul>"), "");

    assert_eq!(background(&url, &[]), LIGHT, "{base}");
    assert_eq!(background(&url, &["--force-dark-mode"]), DARK, "{base}");
}

#[test]
fn the_gateways_page_is_shown() {
    let upstream = Upstream::rmcp();
    let gateway = Gateway::start(&upstream.url(), &[]);
    let client = Mcp::connected(gateway.url());
    client.increment();
    let answer = client.try_call("value", json!({}));
    let instance = answer.header("throughline-instance").expect("its name");
    check(
        &gateway.at(""),
        instance,
        &["<h2>Upstreams</h2>", &upstream.url(), "<dt>Sessions in memory</dt><dd>1</dd>"],
    );
}

#[test]
fn the_reference_servers_page_is_shown() {
    let server = Upstream::stateless(&[], &["--instance", "web-1"]);
    Mcp::new(server.url()).call("echo", json!({"message": "hi"}));
    check(
        &server.base(),
        "web-1",
        &["<h2>Tools</h2>", "<td>echo</td><td>1</td>", "<dt>Requests</dt><dd>1</dd>"],
    );
}

#[test]
fn the_counter_servers_page_is_shown() {
    let server = Upstream::rmcp();
    let client = Mcp::connected(server.url());
    client.increment();
    let instance = client.call("session", json!({}))["instance"].as_str().expect("a name").to_owned();
    check(&server.base(), &instance, &["<h2>Tools</h2>", "<td>increment</td><td>1</td>"]);
}
