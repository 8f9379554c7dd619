//! Commands that run with the Node and the npm packages that `scripts/setup PACKAGE` installs. Each begins with
//! `env`, so that more of `NAME=VALUE` may be inserted behind that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::setup;

/// A script of `tests/PACKAGE`.
pub(crate) fn fixture(package: &str, script: &str) -> Vec<OsString> {
    command(package, &setup::script(package).join(script))
}

/// A script that came with one of the packages.
pub(crate) fn dependency(package: &str, script: &str) -> Vec<OsString> {
    command(package, &module(package, script))
}

/// Where a file of one of the packages is.
pub(crate) fn module(package: &str, path: &str) -> PathBuf {
    modules(package).join(path)
}

fn modules(package: &str) -> PathBuf {
    setup::installed(package).join("node_modules")
}

fn command(package: &str, script: &Path) -> Vec<OsString> {
    // They are not where Node looks by itself, since they stay out of the repository.
    let mut path = OsString::from("NODE_PATH=");
    path.push(modules(package));
    vec!["env".into(), path, module(package, ".bin/node").into(), script.into()]
}
