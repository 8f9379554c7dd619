//! A running total without a session: the caller carries it, signed, or a handle that names it in a store that all
//! instances share, and any instance goes on from there.

mod shelf;

use std::io;
use std::time::Duration;

use redis::RedisError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StatelessConfig;
use super::keys::{Binding, Keys, Refused};
pub use shelf::TallyStore;
use shelf::{Named, Shelf};

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

impl Total {
    fn plus(self, amount: i64) -> Result<Self, NotAdded> {
        let total = self.total.checked_add(amount).filter(|total| (-LARGEST..=LARGEST).contains(total));
        Ok(Total { total: total.ok_or(NotAdded::TooLarge)?, count: self.count.saturating_add(1) })
    }
}

/// The totals of all callers. What a handle is, is known to this type alone.
pub(super) struct Tallies {
    keys: Keys,
    audience: String,
    lifetime: Duration,
    place: Place,
}

/// Where the totals are.
enum Place {
    /// In the handles. An old handle goes on from the total that it had.
    Handles,
    /// In Redis, so that a handle is good once.
    Shelf(Shelf),
}

/// Why there is no total.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAdded {
    Handle(Refused),
    /// The total would be larger than it may be.
    TooLarge,
    /// The store cannot be used now. What was to be added may have been: the same call again tells.
    Away,
}

impl From<RedisError> for NotAdded {
    fn from(error: RedisError) -> Self {
        tracing::warn!(%error, "the store of the tallies cannot be used");
        NotAdded::Away
    }
}

impl Tallies {
    /// In the handles, or in the store if there is one.
    pub(super) fn new(config: &StatelessConfig) -> io::Result<Self> {
        let place = match &config.tally_store {
            None => Place::Handles,
            Some(store) => Place::Shelf(
                Shelf::new(store, &config.audience, config.handle_lifetime).map_err(io::Error::other)?,
            ),
        };
        Ok(Self {
            keys: config.keys.clone(),
            audience: config.audience.clone(),
            lifetime: config.handle_lifetime,
            place,
        })
    }

    /// How long a handle is good.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Adds to the total that `handle` stands for, or to nought; gives the new total and its handle.
    pub(super) async fn add(
        &self,
        principal: Option<&str>,
        handle: Option<&str>,
        amount: i64,
    ) -> Result<(Total, String), NotAdded> {
        match (&self.place, handle) {
            (Place::Handles, handle) => {
                let before = handle.map_or(Ok(Total::default()), |handle| self.open(principal, handle))?;
                let after = before.plus(amount)?;
                Ok((after, self.seal(principal, &after)))
            }
            (Place::Shelf(shelf), None) => {
                let after = Total::default().plus(amount)?;
                Ok((after, self.seal(principal, &shelf.begin(after, amount).await?)))
            }
            (Place::Shelf(shelf), Some(handle)) => {
                let named: Named = self.open(principal, handle)?;
                let kept = shelf.read(&named).await?.ok_or(NotAdded::Handle(Refused::Expired))?;
                if kept.is_after(&named, amount) {
                    // A repetition: whoever is on the way may repeat what only reads, and says so of itself.
                    return Ok((kept.total, self.seal(principal, &named.at(kept.total))));
                }
                if !kept.is_newest(&named) {
                    return Err(NotAdded::Handle(Refused::Used));
                }
                let after = kept.total.plus(amount)?;
                let named = shelf.replace(named, after, amount).await?;
                let named = named.ok_or(NotAdded::Handle(Refused::Used))?;
                Ok((after, self.seal(principal, &named)))
            }
        }
    }

    /// The total that `handle` stands for.
    pub(super) async fn read(&self, principal: Option<&str>, handle: &str) -> Result<Total, NotAdded> {
        let shelf = match &self.place {
            Place::Handles => return self.open(principal, handle),
            Place::Shelf(shelf) => shelf,
        };
        let named: Named = self.open(principal, handle)?;
        let kept = shelf.read(&named).await?.ok_or(NotAdded::Handle(Refused::Expired))?;
        if kept.is_newest(&named) { Ok(kept.total) } else { Err(NotAdded::Handle(Refused::Used)) }
    }

    /// A handle for nought.
    pub(super) async fn anew(&self, principal: Option<&str>) -> Result<(Total, String), NotAdded> {
        let nought = Total::default();
        let handle = match &self.place {
            Place::Handles => self.seal(principal, &nought),
            Place::Shelf(shelf) => self.seal(principal, &shelf.begin(nought, 0).await?),
        };
        Ok((nought, handle))
    }

    fn open<T: DeserializeOwned>(&self, principal: Option<&str>, handle: &str) -> Result<T, NotAdded> {
        self.keys.open(&self.handles(principal), handle).map_err(NotAdded::Handle)
    }

    fn seal(&self, principal: Option<&str>, content: &impl Serialize) -> String {
        self.keys.seal(&self.handles(principal), content, self.lifetime)
    }

    /// A handle that holds its total is not taken for one that names it.
    fn handles<'a>(&'a self, principal: Option<&'a str>) -> Binding<'a> {
        let purpose = match &self.place {
            Place::Handles => "tally",
            Place::Shelf(_) => "kept tally",
        };
        self.binding(purpose, principal, "")
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
        Tallies::new(&StatelessConfig::default()).unwrap()
    }

    #[tokio::test]
    async fn a_total_does_not_go_further_than_its_readers_can_count() {
        let tallies = tallies();
        let (total, handle) = tallies.add(None, None, LARGEST).await.unwrap();
        assert_eq!(total, Total { total: LARGEST, count: 1 });
        assert_eq!(tallies.add(None, Some(&handle), 1).await, Err(NotAdded::TooLarge));
        assert_eq!(tallies.add(None, None, i64::MIN).await, Err(NotAdded::TooLarge));
        let less = tallies.add(None, Some(&handle), -1).await.unwrap();
        assert_eq!(less.0, Total { total: LARGEST - 1, count: 2 });
    }

    #[tokio::test]
    async fn a_question_belongs_to_its_handle_and_is_no_handle() {
        let tallies = tallies();
        let (_, one) = tallies.add(None, None, 1).await.unwrap();
        let (_, other) = tallies.add(None, None, 2).await.unwrap();
        let state = tallies.question(None, &one);
        assert_eq!(tallies.was_asked(None, &one, &state), Ok(()));
        assert_eq!(tallies.was_asked(None, &other, &state), Err(Refused::Changed));
        assert_eq!(tallies.was_asked(Some("ann"), &one, &state), Err(Refused::Changed));
        assert_eq!(tallies.read(None, &state).await, Err(NotAdded::Handle(Refused::Changed)));
        assert_eq!(tallies.was_asked(None, &one, &one), Err(Refused::Changed));
    }

    #[test]
    fn where_the_store_is_is_not_repeated() {
        let store: TallyStore = "redis://:secret@127.0.0.1:6379/1".parse().unwrap();
        assert_eq!(format!("{store:?}"), "TallyStore");
        let refused = "http://:secret@127.0.0.1".parse::<TallyStore>().unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
    }
}
