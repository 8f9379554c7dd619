//! Commands that run in the virtual environments that `scripts/setup` makes.

use std::ffi::OsString;

use super::setup;

/// A script of `tests/python`, in one of the environments: `mcp1` or `mcp2`, by the version of the official SDK
/// in it, or what is built on that.
pub(crate) fn fixture(environment: &str, script: &str) -> Vec<OsString> {
    let interpreter = setup::installed(environment).join("bin/python");
    vec![interpreter.into(), setup::script("python").join(script).into()]
}

/// A command of one of the environments, with a script of `tests/python`.
pub(crate) fn command(environment: &str, script: &str) -> std::process::Command {
    let words = fixture(environment, script);
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
