//! What whoever runs the gateway asks of it, with the program's own commands; and what they print without one.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Gateway, Mcp, Ran, Upstream, run};

/// A gateway whose administrator has a socket file, and how commands find it.
struct Administered {
    gateway: Gateway,
    admin: String,
    _dir: tempfile::TempDir,
}

impl Administered {
    fn start(upstream: &Upstream) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let admin = format!("unix:{}", dir.path().join("admin.sock").display());
        let gateway = Gateway::start(&upstream.url(), &["--admin", &admin]);
        Self { gateway, admin, _dir: dir }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let state = path(self.gateway.state_dir());
        run(&[arguments, &["--admin", &self.admin, "--state-dir", &state]].concat())
    }

    fn sessions(&self) -> Vec<Value> {
        let ran = self.run(&["sessions", "ls", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.json().as_array().expect("an array").clone()
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn sessions_are_listed_shown_and_removed() {
    let upstream = Upstream::rmcp();
    let mut administered = Administered::start(&upstream);
    let client = Mcp::connected(administered.gateway.url());
    assert_eq!(client.increment(), 1);
    let idless = Mcp::new(administered.gateway.url());
    assert_eq!(idless.increment(), 1);

    let listed = administered.run(&["sessions"]);
    let lines: Vec<_> = listed.stdout.lines().collect();
    assert_eq!((listed.code, lines.len()), (0, 3), "{}{}", listed.stdout, listed.stderr);
    assert!(lines[0].starts_with("ID          KIND"), "{}", lines[0]);
    let id_of = |kind: &str| {
        let line = lines.iter().find(|line| line.contains(kind)).expect("a line");
        line.split_whitespace().next().expect("a digest").to_owned()
    };
    let (issued, keyed) = (id_of("issued"), id_of("keyed"));
    let shown = administered.run(&["sessions", "show", &issued]);
    assert!(shown.stdout.contains("kind        issued\n"), "{}", shown.stdout);
    assert_eq!(administered.run(&["sessions", "show", &issued, "--json"]).json()["id"], issued);

    let removed = administered.run(&["sessions", "rm", &issued]);
    assert_eq!((removed.code, removed.stdout.as_str()), (0, format!("{issued} has ended\n").as_str()));
    assert_eq!(client.bare("DELETE").status, 404, "it is gone");
    assert_eq!(administered.run(&["sessions", "rm", &issued]).code, 3, "no such session");
    assert_eq!(administered.run(&["sessions", "rm", &keyed]).code, 0);
    assert_eq!(idless.increment(), 1, "its callers begin anew");
    administered.gateway.restart();
    assert_eq!(administered.sessions().len(), 1);
    assert_eq!(idless.increment(), 2);
}

#[test]
fn keys_rotate_and_sessions_go_on() {
    let upstream = Upstream::rmcp();
    let mut administered = Administered::start(&upstream);
    let client = Mcp::connected(administered.gateway.url());
    assert_eq!(client.increment(), 1);
    let rotated = administered.run(&["keys", "rotate"]);
    assert!(rotated.stdout.contains("key 2"), "{}{}", rotated.stdout, rotated.stderr);
    assert_eq!(client.increment(), 2);
    // In the file alone: the next start takes it.
    let state = path(administered.gateway.state_dir());
    let rotated = run(&["keys", "rotate", "--state-dir", &state]);
    assert!(rotated.stdout.contains("key 3 seals now"), "{}{}", rotated.stdout, rotated.stderr);
    administered.gateway.restart();
    assert_eq!(client.increment(), 3);
}

#[test]
fn a_ring_is_printed_or_made_and_never_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = path(&dir.path().join("ring"));
    let printed = run(&["keys", "new"]);
    assert!(printed.stdout.contains("\nkey.1 = \"") && printed.stdout != run(&["keys", "new"]).stdout);
    assert_eq!(run(&["keys", "new", &file]).code, 0);
    let made = std::fs::read_to_string(&file).expect("the file");
    assert_eq!(run(&["keys", "new", &file]).code, 1);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), made);
    assert_eq!(run(&["keys", "rotate", &file]).code, 0);
    assert_eq!(run(&["keys", "rotate", &path(dir.path())]).code, 1);
}

#[test]
fn who_cannot_get_in_is_told_why() {
    let upstream = Upstream::rmcp();
    let administered = Administered::start(&upstream);
    let elsewhere = tempfile::tempdir().expect("a directory");
    std::fs::write(elsewhere.path().join("admin-token"), "not-the-right-token").expect("a file");
    let refused = run(&["sessions", "--admin", &administered.admin, "--state-dir", &path(elsewhere.path())]);
    assert!(refused.code == 1 && refused.stderr.contains("does not take this token"), "{}", refused.stderr);
    std::fs::remove_file(elsewhere.path().join("admin-token")).expect("the file");
    let unread = run(&["sessions", "--admin", &administered.admin, "--state-dir", &path(elsewhere.path())]);
    assert!(unread.code == 1 && unread.stderr.contains("THROUGHLINE_ADMIN_TOKEN"), "{}", unread.stderr);
    let nowhere = run(&["sessions"]);
    assert!(nowhere.code == 1 && nowhere.stderr.contains("--admin"), "{}", nowhere.stderr);
    assert_eq!(run(&["sessions", "--admin", "0.0.0.0:1"]).code, 2);
}

#[test]
fn requests_are_in_the_log_without_secrets() {
    let upstream = Upstream::rmcp();
    let administered = Administered::start(&upstream);
    let client = Mcp::connected(administered.gateway.url());
    client.increment();
    administered.run(&["sessions"]);
    let line = crate::harness::until("the line in the access log", || {
        let log = administered.gateway.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["target"] == "throughline::access" && line["tool"] == "increment")
    });
    assert_eq!(
        (&line["status"], &line["kind"], &line["recovered"]),
        (&200.into(), &"issued".into(), &false.into())
    );
    assert_eq!(line["session"], administered.sessions()[0]["id"]);
    let log = administered.gateway.log();
    let token =
        std::fs::read_to_string(administered.gateway.state_dir().join("admin-token")).expect("a token");
    assert!(!log.contains(token.trim()) && !log.contains(client.session.as_deref().expect("an id")));
}

#[test]
fn completions_and_the_manual_know_every_command() {
    let manual = run(&["man"]);
    assert_eq!(manual.code, 0);
    assert!(
        manual.stdout.starts_with(".ie") && manual.stdout.contains(".TH throughline 1"),
        "{}",
        manual.stdout
    );
    for command in [
        "serve",
        "reference",
        "demo",
        "call",
        "load",
        "check-config",
        "sessions",
        "keys",
        "completions",
        "man",
    ] {
        assert!(
            manual.stdout.contains(&format!(".SH \"THROUGHLINE {}\"", command.to_uppercase())),
            "{command}"
        );
        for shell in ["bash", "zsh", "fish"] {
            let script = run(&["completions", shell]);
            assert!(script.code == 0 && script.stdout.contains(command), "{shell}: {command}");
        }
    }
}
