//! What `scripts/setup` installs, and the scripts that run with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The directory of one of the environments that `scripts/setup` names. The first test that asks for it has it
/// installed if it is not there yet.
pub(crate) fn installed(name: &str) -> PathBuf {
    static DIRECTORIES: Mutex<Option<HashMap<String, Arc<OnceLock<PathBuf>>>>> = Mutex::new(None);
    let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = directories.get_or_insert_default().entry(name.to_owned()).or_default().clone();
    // So that a test that needs another one does not wait for this.
    drop(directories);
    directory.get_or_init(|| set_up(name)).clone()
}

fn set_up(name: &str) -> PathBuf {
    let setup = Command::new(workspace().join("scripts/setup")).arg(name).output().expect("scripts/setup");
    assert!(setup.status.success(), "scripts/setup: {}", String::from_utf8_lossy(&setup.stderr));
    let printed = String::from_utf8(setup.stdout).expect("a path in UTF-8");
    printed.trim_end().split_once('=').expect("NAME=DIRECTORY").1.into()
}

/// The path of a script in `tests`.
pub(crate) fn script(path: &str) -> PathBuf {
    workspace().join("tests").join(path)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
