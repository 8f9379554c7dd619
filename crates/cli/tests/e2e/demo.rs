//! Promise 5: the demonstration runs, takes seconds, and tells of no failure.

use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Process, http};

/// The demonstration, with more in its environment; what it writes down goes to this directory.
fn start(dir: &TempDir, environment: &[&str]) -> Process {
    let temporary = format!("TMPDIR={}", dir.path().display());
    let program = [env!("CARGO_BIN_EXE_throughline"), "demo"];
    Process::start("demo", "/usr/bin/env", &[&[temporary.as_str()], environment, &program].concat())
}

/// What it prints, in order, up to its last line.
fn printed(demo: &mut Process) -> Vec<String> {
    demo.wait_for_line(0, |line| line.starts_with("All ").then_some(()));
    assert!(demo.succeeds(), "{}", demo.printed());
    demo.printed().lines().map(str::to_owned).collect()
}

/// The counts that a client saw, in the step of this number, each with the gateway that answered.
fn counts(printed: &[String], step: u32) -> Vec<(String, String)> {
    let heading = |line: &&String| line.starts_with(&format!("{step}. "));
    let from = printed.iter().position(|line| heading(&line)).expect("the step") + 1;
    let lines = printed[from..].iter().take_while(|line| line.starts_with(' '));
    let word_after = |line: &str, word: &str| {
        let mut words = line.split_whitespace().skip_while(|found| *found != word);
        words.nth(1).expect(word).to_owned()
    };
    lines
        .filter(|line| line.contains("tools/call increment"))
        .inspect(|line| assert!(line.contains(" 200 "), "{line}"))
        .map(|line| (word_after(line, "count"), word_after(line, "gateway")))
        .collect()
}

fn numbers(printed: &[String], step: u32) -> Vec<String> {
    counts(printed, step).into_iter().map(|(count, _)| count).collect()
}

/// The addresses that it has printed for what it starts.
fn addresses(printed: &str) -> Vec<String> {
    let urls = printed.lines().take_while(|line| !line.starts_with("1. "));
    urls.flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("http://"))
        .map(str::to_owned)
        .collect()
}

fn is_nothing_left(dir: &Path, printed: &str) {
    assert_eq!(std::fs::read_dir(dir).expect("the directory").count(), 0, "files");
    let addresses = addresses(printed);
    assert!(addresses.len() >= 5, "{printed}");
    for address in addresses {
        assert!(http::send("GET", &address, &[], None).is_err(), "{address} is still served");
    }
}

#[test]
fn with_redis_the_client_goes_on_at_the_other_gateway() {
    let dir = tempfile::tempdir().expect("a directory");
    // What the user has set for gateways of the user's own does not change it.
    let mut demo = start(&dir, &["THROUGHLINE_STORE=nonsense:", "http_proxy=http://127.0.0.1:9"]);
    let printed = printed(&mut demo);
    assert_eq!(numbers(&printed, 1), ["1", "2"]);
    assert_eq!(numbers(&printed, 2), ["1", "2"], "the counter's own memory is gone");
    let through = counts(&printed, 3);
    let through: Vec<_> = through.iter().map(|(count, gateway)| (count.as_str(), gateway.as_str())).collect();
    assert_eq!(through[..2], [("3", "B"), ("4", "B")]);
    assert_eq!(through[2].0, "5");
    assert_eq!(through[3].0, "6");
    assert_ne!(through[2].1, through[3].1, "both gateways know the session");
    assert_eq!(numbers(&printed, 4), ["1"]);
    assert_eq!(numbers(&printed, 5), ["1", "2", "3"]);
    check_the_servers(&printed);
    assert!(printed.iter().any(|line| line.starts_with("All 6 processes are stopped.")), "{printed:?}");
    is_nothing_left(dir.path(), &demo.printed());
}

#[test]
fn without_redis_there_is_one_gateway() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut demo = start(&dir, &["PATH=/nonexistent"]);
    let printed = printed(&mut demo);
    assert!(printed.iter().any(|line| line.contains("redis-server is not installed")), "{printed:?}");
    assert_eq!(numbers(&printed, 1), ["1", "2"]);
    assert_eq!(numbers(&printed, 2), ["1", "2"]);
    assert_eq!(counts(&printed, 3), [("3".to_owned(), "A".to_owned())]);
    assert_eq!(numbers(&printed, 4), ["1"]);
    assert_eq!(numbers(&printed, 5), ["1", "2", "3"]);
    check_the_servers(&printed);
    assert!(printed.iter().any(|line| line.starts_with("All 4 processes are stopped.")), "{printed:?}");
    is_nothing_left(dir.path(), &demo.printed());
}

/// The tour meets several of the three servers; once one is killed, the others answer.
fn check_the_servers(printed: &[String]) {
    let all = printed.join("\n");
    assert!(all.contains("tally +4 -> 10"), "{all}");
    assert!(all.contains("3 instances in 6 calls"), "{all}");
    let answered = printed.iter().filter_map(|line| line.trim().strip_prefix("tools/call whoami     200   "));
    let mut answered: Vec<_> = answered.collect();
    assert_eq!(answered.len(), 4, "{all}");
    answered.sort_unstable();
    answered.dedup();
    assert_eq!(answered, ["three", "two"]);
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut demo = start(&dir, &[]);
    demo.wait_for_line(0, |line| line.starts_with("2. ").then_some(()));
    demo.interrupt();
    assert_eq!(demo.exit_code(), Some(1), "{}", demo.printed());
    is_nothing_left(dir.path(), &demo.printed());
}
