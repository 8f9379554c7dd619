//! Promise 5: the demonstration runs, takes seconds, and tells of no failure.

use crate::harness::Process;

#[test]
fn the_demonstration_succeeds() {
    let mut demo = Process::start("demo", env!("CARGO_BIN_EXE_throughline"), &["demo"]);
    assert!(demo.succeeds(), "{}", demo.printed());
}
