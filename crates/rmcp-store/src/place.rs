//! A store by its URL.

use std::path::{Path, PathBuf};

use throughline_store::{Store, StoreError};

/// Why a store could not be opened. The message is for whoever runs the server; it holds no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is none of a store.
    #[error("the store's URL is not one of {FORMS}: correct it")]
    Url,
    /// Another process has the directory.
    #[error("the session store in {} is in use by another process: stop that one, or give each a directory of its own", .0.display())]
    InUse(PathBuf),
    /// As the store says.
    #[error("the session store cannot be opened: {0}")]
    Store(#[source] StoreError),
}

/// What can be written as a URL.
const FORMS: &str = "memory: and embedded:DIR";

pub(crate) async fn open(url: &str) -> Result<Store, OpenError> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Store::memory()),
        Some(("embedded", dir)) if !dir.is_empty() => {
            Store::embedded(Path::new(dir)).await.map_err(|error| match error {
                StoreError::Locked { .. } => OpenError::InUse(dir.into()),
                error => OpenError::Store(error),
            })
        }
        _ => Err(OpenError::Url),
    }
}
