//! Where the gateway keeps what it has to remember: session records and keys.

use std::path::PathBuf;

use throughline_wire::keyring::KeyRing;

use super::{ValueError, value};

/// Which store holds the session records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `memory:` Records end with the process.
    Memory,
    /// `embedded:DIR` A database file in this directory, which survives a restart of this one node.
    /// `None` (`embedded:`) is the directory `store` in the state directory.
    Embedded(Option<PathBuf>),
    /// `redis://HOST` and its relatives: a Redis, which several gateways may share.
    Redis(Box<throughline_store::Place>),
}

/// Where the key ring is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRingPlace {
    /// In the state directory: of this gateway alone.
    StateDir,
    /// In a file that is given to every replica, and looked at again while they run.
    File(PathBuf),
    /// It was given as it is.
    Given(KeyRing),
}

impl StoreUrl {
    /// Whether several gateways may use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self, StoreUrl::Redis(_))
    }
}

impl std::str::FromStr for StoreUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        value::store(text)
    }
}

/// The state directory when none is configured: `$STATE_DIRECTORY` (set by systemd; the first, if several), else
/// `$XDG_STATE_HOME/throughline`, else `~/.local/state/throughline`. `None` without any of these variables.
/// Relative values of the last two do not count, as the XDG base directory specification has it.
#[must_use]
pub fn default_state_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(dirs) = set("STATE_DIRECTORY") {
        return dirs.split(':').find(|dir| !dir.is_empty()).map(PathBuf::from);
    }
    let absolute = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state_home = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state_home.join("throughline"))
}
