//! A running total without a session: the caller carries it, signed, and any instance goes on from there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keys::{Binding, Keys, Refused};

/// How far a total goes in either direction: what a number of JavaScript holds exactly.
const LARGEST: i64 = (1 << 53) - 1;
/// How long a user may think about a question.
const QUESTION_LIFETIME: Duration = Duration::from_secs(600);

/// What a handle stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Total {
    pub(super) total: i64,
    /// How many amounts have been added.
    pub(super) count: u64,
}

/// The totals of all callers, none of which is kept here.
///
/// What a handle is, is known to this type alone. One that kept its totals in a shared store would sign an id in the
/// place of a [`Total`] and could then refuse a handle's second use, which this one cannot: an old handle goes on
/// from the total that it had.
pub(super) struct Tallies {
    keys: Keys,
    audience: String,
    lifetime: Duration,
}

/// Why an amount was not added.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAdded {
    Handle(Refused),
    /// The total would be larger than it may be.
    TooLarge,
}

impl Tallies {
    pub(super) fn new(keys: Keys, audience: String, lifetime: Duration) -> Self {
        Self { keys, audience, lifetime }
    }

    /// How long a handle is good.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Adds to the total that `handle` stands for, or to nought; gives the new total and its handle.
    pub(super) fn add(
        &self,
        principal: Option<&str>,
        handle: Option<&str>,
        amount: i64,
    ) -> Result<(Total, String), NotAdded> {
        let before = match handle {
            Some(handle) => self.read(principal, handle).map_err(NotAdded::Handle)?,
            None => Total::default(),
        };
        let total = before.total.checked_add(amount).filter(|total| (-LARGEST..=LARGEST).contains(total));
        let after = Total { total: total.ok_or(NotAdded::TooLarge)?, count: before.count.saturating_add(1) };
        Ok((after, self.handle(principal, after)))
    }

    /// The total that `handle` stands for.
    pub(super) fn read(&self, principal: Option<&str>, handle: &str) -> Result<Total, Refused> {
        self.keys.open(&self.binding("tally", principal, ""), handle)
    }

    /// A handle for `total`.
    pub(super) fn handle(&self, principal: Option<&str>, total: Total) -> String {
        self.keys.seal(&self.binding("tally", principal, ""), &total, self.lifetime)
    }

    /// The state of a question about `handle`. The client sends it back with the answer, and so might send that of
    /// another question: an answer must not count for what was not asked.
    pub(super) fn question(&self, principal: Option<&str>, handle: &str) -> String {
        self.keys.seal(&self.binding("reset_tally", principal, handle), &(), QUESTION_LIFETIME)
    }

    /// Whether `state` is that of a question to this caller about this handle.
    pub(super) fn was_asked(
        &self,
        principal: Option<&str>,
        handle: &str,
        state: &str,
    ) -> Result<(), Refused> {
        self.keys.open(&self.binding("reset_tally", principal, handle), state)
    }

    fn binding<'a>(
        &'a self,
        purpose: &'static str,
        principal: Option<&'a str>,
        subject: &'a str,
    ) -> Binding<'a> {
        Binding { purpose, audience: &self.audience, principal, subject }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies() -> Tallies {
        Tallies::new(Keys::random(), "here".to_owned(), Duration::from_secs(60))
    }

    #[test]
    fn a_total_does_not_go_further_than_its_readers_can_count() {
        let tallies = tallies();
        let (total, handle) = tallies.add(None, None, LARGEST).unwrap();
        assert_eq!(total, Total { total: LARGEST, count: 1 });
        assert_eq!(tallies.add(None, Some(&handle), 1), Err(NotAdded::TooLarge));
        assert_eq!(tallies.add(None, None, i64::MIN), Err(NotAdded::TooLarge));
        assert_eq!(tallies.add(None, Some(&handle), -1).unwrap().0, Total { total: LARGEST - 1, count: 2 });
    }

    #[test]
    fn a_question_belongs_to_its_handle_and_is_no_handle() {
        let tallies = tallies();
        let (_, one) = tallies.add(None, None, 1).unwrap();
        let (_, other) = tallies.add(None, None, 2).unwrap();
        let state = tallies.question(None, &one);
        assert_eq!(tallies.was_asked(None, &one, &state), Ok(()));
        assert_eq!(tallies.was_asked(None, &other, &state), Err(Refused::Changed));
        assert_eq!(tallies.was_asked(Some("ann"), &one, &state), Err(Refused::Changed));
        assert_eq!(tallies.read(None, &state), Err(Refused::Changed));
        assert_eq!(tallies.was_asked(None, &one, &one), Err(Refused::Changed));
    }
}
