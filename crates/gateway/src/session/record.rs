//! A session's record: what is known of it here, changed by compare-and-set, and read again when another replica may
//! have changed it.
//!
//! The store may be away, and may come back without its last writes: what is known here can be ahead of it
//! ([`Known::unstored`]) until it is written back. Of two bindings that were made apart the one of the higher
//! generation stays, else the one that was stored first; the other's upstream session is ended.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use throughline_store::{Binding, Put, Record, State, StoreError, Stored, Version};
use tokio::time::Instant;

use super::{Kind, Session, lock};
use crate::app::{App, Core};
use crate::binding::{Bound, Slot};
use crate::config::OnStoreFailure;
use crate::metrics::StoreOperation;
use crate::upstream;

/// Value of [`Session::read_at`] when the record has to be read again, whatever the store's epoch is.
pub(super) const STALE: u64 = u64::MAX;

/// How long calls may go on in a binding that lost to another.
const LAST_CALLS: Duration = Duration::from_secs(30);

/// What the store is known to hold.
pub(super) struct Known {
    pub(super) record: Record,
    /// Which version of the record this is; None while the store has none.
    pub(super) version: Option<Version>,
    /// This is ahead of the store.
    pub(super) unstored: bool,
    /// The newest version that a signal told of.
    pub(super) heard: Option<Version>,
}

/// What became of an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Updated {
    /// It is durable.
    Stored,
    /// The store could not be reached; the session goes on without it, where its route allows that.
    Unstored,
    /// Somebody deleted the session.
    Deleted,
    /// The change was not wanted any more.
    Declined,
}

/// Which of two records stays.
#[derive(Debug, PartialEq, Eq)]
enum Stays {
    /// They are the same.
    Both,
    Known,
    Found,
}

impl Known {
    pub(super) fn new(record: Record, version: Option<Version>) -> Self {
        Known { record, version, unstored: false, heard: None }
    }

    fn against(&self, found: &Stored) -> Stays {
        let newer = self.version.is_none_or(|version| version < found.version);
        match (&self.record.state, &found.record.state) {
            (_, State::Deleted) => Stays::Found,
            (State::Deleted, State::Open { .. }) => Stays::Known,
            _ if self.version == Some(found.version) => Stays::Both,
            // The store has come back without its last writes.
            _ if !newer => Stays::Known,
            _ if self.unstored && generation(&self.record) > generation(&found.record) => Stays::Known,
            _ => Stays::Found,
        }
    }
}

fn generation(record: &Record) -> u32 {
    match record.state {
        State::Open { generation, .. } => generation,
        State::Deleted => 0,
    }
}

fn binding(record: &Record) -> Option<&Binding> {
    match &record.state {
        State::Open { binding, .. } => binding.as_ref(),
        State::Deleted => None,
    }
}

/// When a record was read that a session is then made of: signals that come before it is in the table are missed.
pub(super) struct Reading<'a> {
    app: &'a App,
    epoch: Option<u64>,
    heard: u64,
}

impl<'a> Reading<'a> {
    /// Before the record is read.
    pub(super) fn begin(app: &'a App) -> Self {
        Reading { app, epoch: app.store.epoch(), heard: app.sessions.heard() }
    }

    /// When the session is in the table.
    pub(super) fn entered(&self, session: &Session) {
        let missed = self.app.sessions.heard() != self.heard;
        let epoch = self.epoch.filter(|_| !missed).unwrap_or(STALE);
        let known = lock(&session.known);
        if known.heard <= known.version {
            session.read_at.store(epoch, Ordering::Release);
        }
    }
}

impl Session {
    /// A copy of the record as it is known here.
    pub fn record(&self) -> Record {
        lock(&self.known).record.clone()
    }

    /// Whether nothing that another replica has changed can have gone unnoticed.
    fn is_current(&self, app: &App) -> bool {
        !self.is_stored() || app.store.epoch() == Some(self.read_at.load(Ordering::Acquire))
    }

    /// Whether it has a record, or will have one: others may come to use it.
    pub fn is_stored(&self) -> bool {
        match self.kind {
            Kind::Isolated => false,
            Kind::Once => self.kept.load(Ordering::Acquire),
            Kind::Issued | Kind::Keyed | Kind::Bridged => true,
        }
    }

    /// Gives a session that lasts for one request a record, for as long as that may wait for its client.
    pub async fn keep(&self, core: &Rc<Core>) {
        if self.kind == Kind::Once && !self.kept.swap(true, Ordering::AcqRel) {
            self.update(core, |_| true).await;
        }
    }

    /// Reads the record again if another replica may have changed it. Costs nothing where none can have.
    ///
    /// # Errors
    /// As the store's; what is known stays then.
    pub async fn confirm(&self, core: &Rc<Core>) -> Result<(), StoreError> {
        if self.is_current(&core.app) { Ok(()) } else { self.refresh(core).await }
    }

    /// Reads the record again.
    ///
    /// # Errors
    /// As the store's; what is known stays then.
    pub async fn refresh(&self, core: &Rc<Core>) -> Result<(), StoreError> {
        let app = &core.app;
        if !self.is_stored() {
            return Ok(());
        }
        let epoch = app.store.epoch();
        let found = app.store.get(self.key, app.effects.now()).await.inspect_err(|error| {
            app.store_failed(StoreOperation::Get, error);
        })?;
        self.take_over(core, found);
        let known = lock(&self.known);
        // A signal that came meanwhile may be of a later change than what was read.
        if known.heard <= known.version {
            self.read_at.store(epoch.unwrap_or(STALE), Ordering::Release);
        }
        Ok(())
    }

    /// Notes that the record was changed. False where that is known.
    pub fn hear(&self, version: Version) -> bool {
        let mut known = lock(&self.known);
        let news = known.version.is_none_or(|known| known < version);
        if news {
            known.heard = known.heard.max(Some(version));
            self.read_at.store(STALE, Ordering::Release);
        }
        news
    }

    /// Changes the record and makes the change durable. `change` may run more than once, on a newer record each
    /// time; it says whether the change is still wanted.
    pub async fn update(&self, core: &Rc<Core>, change: impl Fn(&mut Record) -> bool) -> Updated {
        let app = &core.app;
        loop {
            let (mut record, version) = {
                let known = lock(&self.known);
                (known.record.clone(), known.version)
            };
            if record.state == State::Deleted {
                return Updated::Deleted;
            }
            if !change(&mut record) {
                return Updated::Declined;
            }
            if !self.is_stored() {
                lock(&self.known).record = record;
                return Updated::Stored;
            }
            // It was kept for a short time until the session is used.
            record.expires = self.expires;
            match app.store.put_if(self.key, version, record.clone(), app.effects.now()).await {
                Ok(Put::Stored(version)) => {
                    let mut known = lock(&self.known);
                    // Answers of the store may overtake each other.
                    if known.version.is_none_or(|known| known <= version) {
                        *known = Known { heard: known.heard, ..Known::new(record, Some(version)) };
                        // What was set up may have met another replica's change on its way.
                        self.recall(app, &known.record);
                    }
                    return Updated::Stored;
                }
                Ok(Put::Conflict(found)) => self.take_over(core, found),
                Err(error) => {
                    app.store_failed(StoreOperation::Put, &error);
                    if self.route.config.on_store_failure == OnStoreFailure::Serve {
                        let mut known = lock(&self.known);
                        known.record = record;
                        known.unstored = true;
                        self.recall(app, &known.record);
                    }
                    return Updated::Unstored;
                }
            }
        }
    }

    /// Whether the store lacks something that is known here.
    pub fn is_unstored(&self) -> bool {
        lock(&self.known).unstored
    }

    /// Gives the store what it lacks.
    pub async fn write_back(&self, core: &Rc<Core>) {
        let app = &core.app;
        if app.effects.now() >= self.expires {
            lock(&self.known).unstored = false;
            return;
        }
        if self.refresh(core).await.is_err() || !self.is_unstored() {
            return;
        }
        if self.record().state == State::Deleted {
            // Its failure was counted; the next turn tries again.
            let _ = self.bury(app).await;
        } else {
            self.update(core, |_| true).await;
        }
    }

    /// Leaves a tombstone, here first.
    pub(super) async fn bury(&self, app: &App) -> Result<(), StoreError> {
        let principal = {
            let mut known = lock(&self.known);
            known.record.state = State::Deleted;
            known.unstored = true;
            known.record.principal
        };
        let (route, now) = (self.route.digest, app.effects.now());
        match app.store.delete(self.key, self.expires, route, principal, now).await {
            Ok(_) => {
                lock(&self.known).unstored = false;
                Ok(())
            }
            Err(error) => {
                app.store_failed(StoreOperation::Delete, &error);
                Err(error)
            }
        }
    }

    /// Brings what is known and what the store has `found` together.
    fn take_over(&self, core: &Rc<Core>, found: Option<Stored>) {
        let app = &core.app;
        let mut known = lock(&self.known);
        let Some(found) = found else {
            // It was there, and is gone: lost, or evicted.
            known.unstored |= known.version.take().is_some();
            return;
        };
        let (beaten, held) = match known.against(&found) {
            Stays::Both => return,
            Stays::Known => {
                // Where it is older, it is one that was given up before.
                let apart = known.version.is_none_or(|version| version < found.version);
                let theirs = binding(&found.record).filter(|_| apart).cloned();
                known.version = Some(found.version);
                known.unstored = true;
                (theirs, None)
            }
            Stays::Found => {
                let mut record = found.record;
                record.initialize = app.texts.share(&record.initialize);
                let newer = Known { heard: known.heard, ..Known::new(record, Some(found.version)) };
                let ours = std::mem::replace(&mut *known, newer);
                let rebound = binding(&ours.record) != binding(&known.record);
                let held = if rebound || known.record.state == State::Deleted {
                    self.follow(app, &known.record)
                } else {
                    self.recall(app, &known.record);
                    None
                };
                // Whoever waits for another replica to bind the session looks again.
                self.rebound.notify_waiters();
                (binding(&ours.record).filter(|_| ours.unstored && rebound).cloned(), held)
            }
        };
        let unsealed = |it: Binding| Bound::unseal(app, self.route.index, self.key, &known.record, &it);
        let beaten = beaten.and_then(unsealed);
        drop(known);
        if let Some(bound) = beaten {
            let core = Rc::clone(core);
            tokio::task::spawn_local(async move {
                unused(held).await;
                upstream::end_later(&core, bound.address);
            });
        }
    }

    /// Lets a binding whose server keeps nothing know what the client has set up, here or at another replica.
    fn recall(&self, app: &App, record: &Record) {
        if let Slot::Bound(bound) = &*lock(&self.slot)
            && let Some(modern) = &bound.address.modern
        {
            modern.recall(app, self.key, record);
        }
    }

    /// Binds the session as its record has it, while no attempt of our own is under way: that one will see. Gives what it
    /// was bound to.
    fn follow(&self, app: &App, record: &Record) -> Option<Arc<Bound>> {
        let mut slot = lock(&self.slot);
        match (&*slot, &record.state) {
            (Slot::Closed, _) | (Slot::Making(_), State::Open { .. }) => None,
            _ => {
                match std::mem::replace(&mut *slot, Slot::of_record(app, self.route.index, self.key, record))
                {
                    Slot::Bound(bound) => Some(bound),
                    _ => None,
                }
            }
        }
    }
}

/// Returns when no call is under way in a binding that was given up, or has been for long enough. What is under way in
/// another replica's is not known here: that gets the whole time.
async fn unused(held: Option<Arc<Bound>>) {
    let until = Instant::now() + LAST_CALLS;
    while held.as_ref().is_none_or(|held| Arc::strong_count(held) > 1) && Instant::now() < until {
        tokio::time::sleep(LAST_CALLS / 60).await;
    }
}

#[cfg(test)]
mod tests {
    use throughline_store::{Millis, RecordKey, Store};

    use super::*;

    fn record(generation: u32, secret: &[u8]) -> Record {
        let binding = Binding {
            generation,
            secret: secret.into(),
            protocol_version: "2025-11-25".into(),
            endpoint: String::new(),
        };
        Record {
            kind: throughline_store::Kind::Issued,
            route: [0; 8],
            principal: [0; 16],
            created: Millis(1),
            expires: Millis(1000),
            state: State::Open { binding: Some(binding), generation, lease: None },
            initialize: "{}".into(),
            initialized: true,
            restore: Vec::new(),
        }
    }

    /// Two versions of a record, as a store gives them out.
    async fn versions() -> (Version, Version) {
        let (store, key) = (Store::memory(), RecordKey([1; 16]));
        let mut expected = None;
        let mut put = async || match store.put_if(key, expected, record(1, b"a"), Millis(1)).await {
            Ok(Put::Stored(version)) => {
                expected = Some(version);
                version
            }
            other => panic!("{other:?}"),
        };
        (put().await, put().await)
    }

    fn stored(record: Record, version: Version) -> Stored {
        Stored { record, version, touched: Millis(1) }
    }

    #[tokio::test]
    async fn the_newer_version_stays_and_the_end_is_final() {
        let (first, second) = versions().await;
        let known = Known::new(record(1, b"a"), Some(first));
        assert_eq!(known.against(&stored(record(1, b"a"), first)), Stays::Both);
        assert_eq!(known.against(&stored(record(2, b"b"), second)), Stays::Found);
        let deleted = Record { state: State::Deleted, ..record(1, b"a") };
        assert_eq!(known.against(&stored(deleted.clone(), first)), Stays::Found);
        let ended = Known { unstored: true, ..Known::new(deleted, Some(first)) };
        assert_eq!(ended.against(&stored(record(9, b"b"), second)), Stays::Known);
    }

    #[tokio::test]
    async fn what_a_store_has_forgotten_stays() {
        let (first, second) = versions().await;
        let known = Known::new(record(2, b"b"), Some(second));
        assert_eq!(known.against(&stored(record(1, b"a"), first)), Stays::Known);
    }

    #[tokio::test]
    async fn of_two_bindings_made_apart_the_higher_generation_stays_else_the_stored_one() {
        let (first, second) = versions().await;
        let apart =
            |generation| Known { unstored: true, ..Known::new(record(generation, b"a"), Some(first)) };
        assert_eq!(apart(3).against(&stored(record(2, b"b"), second)), Stays::Known);
        assert_eq!(apart(2).against(&stored(record(2, b"b"), second)), Stays::Found);
        assert_eq!(apart(1).against(&stored(record(2, b"b"), second)), Stays::Found);
        let unstored = Known { unstored: true, ..Known::new(record(1, b"a"), None) };
        assert_eq!(unstored.against(&stored(record(1, b"b"), first)), Stays::Found);
    }
}
