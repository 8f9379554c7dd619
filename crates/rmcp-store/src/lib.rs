//! Sessions of [rmcp] servers.

mod error;
mod load;
mod manager;
mod memory;
mod naming;
mod options;
mod place;
mod sessions;
mod settle;

pub use error::{Away, NotKept};
pub use manager::{Manager, ManagerError};
pub use options::{Clock, Options};
pub use place::OpenError;
pub use sessions::Sessions;
pub use throughline_store::{Millis, PlaceError, Store, StoreError};
