//! What is wrong with a configuration, and where.

use std::fmt;

/// Everything that is wrong with a configuration. Displays as one line each:
/// `throughline.toml:12: limits.body: "4 MB" is not a size: write a number of bytes or 4MiB`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// A single error that is about no key.
    pub(super) fn one(place: Place, error: ValueError) -> Self {
        Self(vec![ConfigError { place, key: String::new(), message: error.0 }])
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was made.
    pub place: Place,
    /// The key that it is about, such as `limits.body`; empty if about none.
    pub key: String,
    /// What is wrong, and what to write instead. Never holds a URL's user name or password.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { name, line } => write!(f, "{name}:{line}: ")?,
            Place::Environment(name) | Place::Argument(name) => write!(f, "{name}: ")?,
            Place::Unknown => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file.
    File {
        /// The file, as it was named by the caller.
        name: String,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// An argument of the command line.
    Argument(&'static str),
    /// A default, or no longer known.
    Unknown,
}

/// Why a text is not a value of the wanted kind, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);
