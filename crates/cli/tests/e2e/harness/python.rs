//! Commands that run in the virtual environments that `scripts/setup` makes.

use std::ffi::OsString;
use std::process::Command;

use super::setup;

/// A script of `tests/python`, in one of the environments: `mcp1` or `mcp2`, by the version of the official SDK
/// in it, or what is built on that.
pub(crate) fn fixture(environment: &str, script: &str) -> Vec<OsString> {
    let interpreter = setup::installed(environment).join("bin/python");
    vec![interpreter.into(), setup::script("python").join(script).into()]
}

/// The Python of one of the environments.
pub(crate) fn command(environment: &str) -> Command {
    Command::new(setup::installed(environment).join("bin/python"))
}
