//! `throughline health`, by which containers are asked.

use std::process::{Command, Output};

use crate::harness::{Gateway, Upstream, free_port};

fn health(environment: &[&str], arguments: &[&str]) -> (bool, String, String) {
    let unset = ["THROUGHLINE_METRICS", "THROUGHLINE_LISTEN", "PORT", "WEBSITES_PORT"];
    let mut command = Command::new("env");
    for name in unset {
        command.args(["-u", name]);
    }
    let command = command.args(environment).args([env!("CARGO_BIN_EXE_throughline"), "health"]);
    let Output { status, stdout, stderr } = command.args(arguments).output().expect("the program");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

#[test]
fn the_exit_code_says_whether_a_server_is_ready() {
    let upstream = Upstream::stateless(&[], &[]);
    let gateway = Gateway::start(&upstream.url(), &[]);
    let address = gateway.at("").replace("http://", "");
    let listen = format!("THROUGHLINE_LISTEN={address}");
    let ready = (true, format!("http://{address}/readyz: 200 {{\"status\":\"ready\"}}\n"), String::new());
    assert_eq!(health(&[&listen], &[]), ready);
    assert_eq!(health(&[], &[&gateway.at("/readyz")]), ready);
    let port = format!("PORT={}", upstream.base().rsplit(':').next().expect("a port"));
    assert_eq!(health(&[&port], &[]).1, format!("{}/readyz: 200 ready\n", upstream.base()));
}

#[test]
fn what_is_not_there_or_not_well_is_one_line_and_a_failure() {
    let nowhere = format!("http://127.0.0.1:{}/readyz", free_port());
    let (ready, printed, said) = health(&[], &[&nowhere]);
    assert!(!ready && printed.is_empty(), "{printed}");
    assert!(said.starts_with(&format!("throughline: {nowhere}: ")) && said.lines().count() == 1, "{said}");
    let upstream = Upstream::stateless(&[], &[]);
    let (ready, _, said) = health(&[], &[&format!("{}/nothing", upstream.base())]);
    assert!(!ready && said.contains("/nothing: 404"), "{said}");
}
