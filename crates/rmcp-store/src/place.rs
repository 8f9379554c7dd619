//! A store by its URL.

use std::path::{Path, PathBuf};

use throughline_store::{Place, PlaceError, Store, StoreError};

/// Why a store could not be opened. The message is for whoever runs the server; it holds no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is none of a store.
    #[error("this is not the URL of a session store: write memory:, embedded:DIR or redis://HOST")]
    Url,
    /// It is one of Redis, but not a right one.
    #[error("the session store's URL is wrong: {0}")]
    Redis(#[from] PlaceError),
    /// Another process has the directory.
    #[error("the session store in {} is in use by another process: stop that one, or use Redis for several", .0.display())]
    InUse(PathBuf),
    /// As the store says.
    #[error("the session store cannot be opened: {0}")]
    Store(#[source] StoreError),
}

pub(crate) async fn open(url: &str) -> Result<Store, OpenError> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Store::memory()),
        Some(("embedded", dir)) if !dir.is_empty() => {
            Store::embedded(Path::new(dir)).await.map_err(|error| match error {
                StoreError::Locked { .. } => OpenError::InUse(dir.into()),
                error => OpenError::Store(error),
            })
        }
        // Azure's form has commas.
        Some((scheme, _)) if scheme.starts_with("redis") || url.contains(',') => {
            Store::redis(&Place::parse(url)?).await.map_err(OpenError::Store)
        }
        _ => Err(OpenError::Url),
    }
}
