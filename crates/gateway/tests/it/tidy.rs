//! The architecture's rules that can be read from the code. ARCHITECTURE.md explains them.

use std::fs;
use std::path::{Path, PathBuf};

/// Longer than this, and a file holds two subjects.
const MAX_LINES: usize = 550;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All files below a directory with this extension, with their text.
fn files(below: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(below)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} files below {below}");
    found
}

fn dependencies(manifest: &str) -> String {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let from = text.find("[dependencies]").unwrap();
    let to = text.find("[dev-dependencies]").unwrap_or(text.len());
    text[from..to].to_owned()
}

#[test]
fn wire_is_pure() {
    let dependencies = dependencies("crates/wire/Cargo.toml");
    for banned in ["tokio", "hyper", "axum", "reqwest", "rand", "getrandom"] {
        assert!(!dependencies.contains(banned), "wire may not depend on {banned}");
    }
    for (name, text) in files("crates/wire/src", "rs") {
        for banned in ["SystemTime", "Instant::", "rand::fill", "std::net", "std::fs"] {
            assert!(!text.contains(banned), "{name} uses {banned}: pass it in");
        }
    }
}

#[test]
fn crates_keep_their_distance() {
    for (manifest, banned) in [
        ("crates/gateway/Cargo.toml", &["rmcp", "redb", "axum", "throughline-reference"][..]),
        ("crates/store/Cargo.toml", &["throughline-wire", "throughline-gateway", "hyper"]),
        ("crates/rmcp-store/Cargo.toml", &["throughline-gateway"]),
        ("crates/telemetry/Cargo.toml", &["throughline-", "tokio", "reqwest"]),
        ("crates/reference/Cargo.toml", &["throughline-gateway", "throughline-store"]),
    ] {
        let dependencies = dependencies(manifest);
        for banned in banned {
            assert!(!dependencies.contains(banned), "{manifest} may not depend on {banned}");
        }
    }
}

#[test]
fn the_era_is_decided_once() {
    const MAY: [&str; 2] = ["classify.rs", "session.rs"];
    for (name, text) in files("crates/gateway/src", "rs") {
        let may = MAY.iter().any(|file| name.ends_with(&format!("src/{file}")));
        assert!(
            may || !text.contains("Era::"),
            "{name} asks for the era; let classify say what you need in a word"
        );
    }
}

#[test]
fn a_requests_life_fits_on_a_page() {
    let text = fs::read_to_string(root().join("crates/gateway/src/exchange.rs")).unwrap();
    assert!(text.lines().count() <= 100);
    for banned in ["mcp-", "MCP_", "HeaderName", "Era", "store"] {
        assert!(!text.contains(banned), "exchange.rs mentions {banned}");
    }
}

#[test]
fn files_hold_one_subject() {
    for (name, text) in files("crates", "rs") {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines; split it by subject");
    }
}

#[test]
fn tests_wait_for_conditions() {
    // Put together here, so that this file does not find itself.
    let banned = [["#[ig", "nore"].concat(), ["thread::sl", "eep"].concat(), ["time::sl", "eep("].concat()];
    for (name, text) in files("crates", "rs") {
        if !name.contains("/tests/") {
            continue;
        }
        for banned in &banned {
            let excused = |line: &str| line.contains("// not to synchronise:");
            let found = text.lines().find(|line| line.contains(banned.as_str()) && !excused(line));
            assert!(found.is_none(), "{name}: {found:?}; wait for a condition");
        }
    }
}

#[test]
fn every_module_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (name, _) in files("crates/gateway/src", "rs") {
        let module = name.trim_start_matches("crates/gateway/src/");
        let known = module == "lib.rs" || module.starts_with("config/") || map.contains(module);
        assert!(known, "ARCHITECTURE.md does not say what {module} is");
    }
}
