//! What rmcp is told when something fails. It passes the text on to the client, so nothing about the store is in it;
//! the log has that.

/// The store could not be asked, and this process does not know the session by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session store is away, so it is not known whether this session exists: try again")]
#[non_exhaustive]
pub struct Away;

/// Why the store did not take a session, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotKept {
    /// The parameters of `initialize` are longer than 64 KiB: the session lives in this process only.
    #[error("the client's initialize parameters are longer than 64 KiB: its session is kept in memory only")]
    TooLarge,
    /// The store is away, and more has to be written behind its back already than is remembered.
    #[error("the session store is away and too much waits for it: this session is as it is in memory only")]
    TooMany,
    /// A session of this id was ended before.
    #[error("a session of this id was ended: session ids are not used again")]
    Ended,
}
