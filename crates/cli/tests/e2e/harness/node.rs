//! Scripts of `tests/PACKAGE`, with the Node and the npm packages that `scripts/setup PACKAGE` installs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::process::Process;

/// Starts a script of `tests/PACKAGE`.
pub(crate) fn start(package: &str, script: &str, arguments: &[&str]) -> Process {
    let script = workspace().join("tests").join(package).join(script);
    let mut all = vec![script.into_os_string()];
    all.extend(arguments.iter().map(OsString::from));
    run(package, &format!("{package} fixture"), all)
}

/// Starts a module that came with one of the packages.
pub(crate) fn start_module(package: &str, module: &str, arguments: &[&str]) -> Process {
    let mut all = vec![installed(package).join("node_modules").join(module).into_os_string()];
    all.extend(arguments.iter().map(OsString::from));
    run(package, module, all)
}

fn run(package: &str, name: &str, arguments: Vec<OsString>) -> Process {
    let modules = installed(package).join("node_modules");
    // The packages are not where Node looks by itself, since they stay out of the repository.
    let mut all = vec![OsString::from("NODE_PATH="), modules.join(".bin/node").into_os_string()];
    all[0].push(&modules);
    all.extend(arguments);
    Process::start(name, "env", &all)
}

/// Where the packages are. The first test that asks has them installed if they are not there yet.
pub(crate) fn installed(package: &str) -> PathBuf {
    static DIRECTORIES: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = directories.get_or_insert_default().entry(package.to_owned());
    known.or_insert_with(|| set_up(package)).clone()
}

fn set_up(package: &str) -> PathBuf {
    let setup = Command::new(workspace().join("scripts/setup")).arg(package).output().expect("scripts/setup");
    assert!(setup.status.success(), "scripts/setup: {}", String::from_utf8_lossy(&setup.stderr));
    let printed = String::from_utf8(setup.stdout).expect("a path in UTF-8");
    printed.trim_end().split_once('=').expect("NAME=DIRECTORY").1.into()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
