//! `throughline serve -- COMMAND`: a real server over stdin and stdout, and what is left of it after a kill.

use serde_json::json;

use crate::harness::{Gateway, Mcp, node, until};

/// How many processes have this word in their command line.
fn running(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    // The gateway has it too, as the command that it was given.
    let is_one = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.contains(word) && !line.contains("\0serve\0")
    };
    lines.filter(is_one).count()
}

#[test]
fn server_everything_works_and_does_not_outlive_a_kill() {
    let word = format!("throughline-test-{}", std::process::id());
    let program = node::dependency("peers", "@modelcontextprotocol/server-everything/dist/index.js");
    let mut words: Vec<_> =
        program.iter().map(|word| word.to_str().expect("a path in UTF-8").to_owned()).collect();
    words.extend(["stdio".to_owned(), word.clone()]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut gateway = Gateway::start("--", &words);

    let client = Mcp::connected_with(gateway.url(), json!({}));
    let echo = |text: &str| {
        let answer = client.request("tools/call", json!({"name": "echo", "arguments": {"message": text}}));
        answer.message()["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
    };
    assert!(echo("one").contains("one"));
    assert!(running(&word) > 0);

    gateway.kill9();
    until("its processes to end", || (running(&word) == 0).then_some(()));
    gateway.start_again();
    assert!(echo("two").contains("two"), "the same session, in another process");
    gateway.terminate();
    assert_eq!(running(&word), 0);
}
