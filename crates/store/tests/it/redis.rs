//! What only a store that is shared over a network can suffer.

mod away;
mod layout;
mod logs;
mod moved;
mod shared;
mod sign_in;

use throughline_store::Store;

use crate::servers::eventually;

/// Waits until the store works again, with signals.
async fn recovered(store: &Store) {
    eventually("the store to work again", async || store.trouble().is_none()).await;
}

/// Waits until the store says something of this.
async fn in_trouble(store: &Store, what: &str) {
    eventually(what, async || store.trouble().is_some_and(|trouble| trouble.contains(what))).await;
}
