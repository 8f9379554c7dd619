//! An upstream that is a program: the gateway starts it and speaks with it over stdin and stdout.

use std::path::PathBuf;

/// How an upstream's program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `command`: the program and its arguments, never empty.
    pub words: Vec<String>,
    /// `environment`: variables that it gets on top of the gateway's own. Default: none.
    pub environment: Vec<(String, String)>,
    /// `directory`: where it runs. Default (`None`): where the gateway does.
    pub directory: Option<PathBuf>,
    /// `processes`: how many may run at a time. Default 100.
    pub processes: usize,
    /// `shared`: whether one process serves all sessions, for a server that keeps nothing in them. Default: no, each has
    /// its own.
    pub shared: bool,
}

impl Default for Command {
    fn default() -> Self {
        Self { words: Vec::new(), environment: Vec::new(), directory: None, processes: 100, shared: false }
    }
}
