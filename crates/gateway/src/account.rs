//! What one caller has under way, so that no caller takes what is there for all.
//!
//! Anonymous callers have no account of their own: the limits for all are theirs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use throughline_store::RecordKey;

use crate::error::Fault;
use crate::session::lock;

/// One principal's account.
#[derive(Debug, Default)]
pub struct Account {
    requests: AtomicUsize,
    sessions: Mutex<HashSet<RecordKey>>,
}

/// A request under way, counted until it is dropped; also one that goes on without its client.
#[derive(Debug)]
pub struct Turn(Arc<Account>);

impl Account {
    /// Counts a request in.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] when `limit` are under way.
    pub fn begin(self: &Arc<Self>, limit: usize) -> Result<Turn, Fault> {
        let turn = Turn(Arc::clone(self));
        // Counted before it is compared, so that of two at the limit not both come through.
        if self.requests.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(Fault::TooManyRequests);
        }
        Ok(turn)
    }

    /// Enters a session. If `limit` are entered already, one of them has to leave: `evict` is asked, and says which.
    ///
    /// # Errors
    /// [`Fault::TooManySessions`] when none can leave.
    pub fn admit(
        &self,
        key: RecordKey,
        limit: usize,
        evict: impl FnOnce(&mut HashSet<RecordKey>) -> Option<RecordKey>,
    ) -> Result<(), Fault> {
        let mut sessions = lock(&self.sessions);
        if sessions.contains(&key) {
            return Ok(());
        }
        if sessions.len() >= limit {
            let leaves = evict(&mut sessions).ok_or(Fault::TooManySessions)?;
            sessions.remove(&leaves);
        }
        sessions.insert(key);
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The accounts of all principals that have something under way.
#[derive(Debug, Default)]
pub struct Accounts {
    open: Mutex<HashMap<[u8; 16], Arc<Account>>>,
}

impl Accounts {
    /// The account of a principal.
    pub fn of(&self, principal: &[u8; 16]) -> Arc<Account> {
        Arc::clone(lock(&self.open).entry(*principal).or_default())
    }

    /// Closes accounts with nothing under way. `is_live` says whether a session is still in memory.
    pub fn tidy(&self, is_live: impl Fn(&RecordKey) -> bool) {
        lock(&self.open).retain(|_, account| {
            let mut sessions = lock(&account.sessions);
            sessions.retain(&is_live);
            !sessions.is_empty() || Arc::strong_count(account) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_until_they_end() {
        let account = Arc::new(Account::default());
        let first = account.begin(2).unwrap();
        let _second = account.begin(2).unwrap();
        assert_eq!(account.begin(2).unwrap_err(), Fault::TooManyRequests);
        drop(first);
        assert!(account.begin(2).is_ok());
    }

    #[test]
    fn a_session_more_than_allowed_displaces_one_that_can_leave() {
        let account = Account::default();
        let key = |n: u8| RecordKey([n; 16]);
        account.admit(key(1), 2, |_| None).unwrap();
        account.admit(key(2), 2, |_| None).unwrap();
        assert_eq!(account.admit(key(3), 2, |_| None), Err(Fault::TooManySessions));
        account.admit(key(1), 2, |_| None).unwrap();
        account.admit(key(3), 2, |_| Some(key(1))).unwrap();
        assert_eq!(account.admit(key(1), 2, |_| None), Err(Fault::TooManySessions));
    }

    #[test]
    fn accounts_without_anything_are_closed() {
        let accounts = Accounts::default();
        accounts.of(&[1; 16]).admit(RecordKey([1; 16]), 9, |_| None).unwrap();
        let held = accounts.of(&[2; 16]);
        accounts.of(&[3; 16]);
        accounts.tidy(|_| true);
        assert_eq!(lock(&accounts.open).len(), 2);
        drop(held);
        accounts.tidy(|_| false);
        assert_eq!(lock(&accounts.open).len(), 0);
    }
}
