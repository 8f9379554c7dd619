//! What other replicas have to say to the one that holds something of a session: through the event log, as a stream that
//! many write to and one reads. Whoever holds it keeps the stream, by which others know that there is somebody.

use std::time::Duration;

use throughline_store::{Appended, Keep, RecordKey, StoreError, StreamKey, Tail};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::app::App;
use crate::metrics::StoreOperation;
use crate::outlet::{GONE, is_alive};
use crate::sealed_log;

/// How often the holder shows that it is there.
const BEAT: Duration = Duration::from_secs(2);
/// Bytes that are read at a time.
const PAGE: usize = 256 * 1024;
/// How often two who write at a time try again.
const TURNS: usize = 64;

/// An inbox.
#[derive(Clone, Copy)]
pub struct Inbox(StreamKey);

impl Inbox {
    /// Of what is called `of` in this session.
    pub fn new(session: RecordKey, of: [u8; 8]) -> Self {
        Inbox(StreamKey { session, stream: of })
    }

    /// Whether another replica holds it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_held(self, app: &App) -> Result<bool, StoreError> {
        if !app.store.is_shared() {
            return Ok(false);
        }
        let state = app.store.events().read(self.0, u64::MAX, 1, app.effects.now()).await?;
        Ok(is_alive(app, &state))
    }

    /// Says something to the holder. False when there is no room.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn write(self, app: &App, plain: &[u8]) -> Result<bool, StoreError> {
        let mut after = 0;
        for _ in 0..TURNS {
            let sealed = sealed_log::seal(app, self.0, after + 1, plain);
            let (keep, now) = (keep(app, Duration::ZERO), app.effects.now());
            match app.store.events().append(self.0, after, vec![sealed], keep, now).await? {
                Appended::Stored(_) => return Ok(true),
                Appended::Conflict(last) => after = last,
                Appended::Full => break,
            }
        }
        Ok(false)
    }

    /// Holds it from now on; while the store is away, from when it is back. None where there are no other replicas.
    pub async fn hold(self, app: &App) -> Option<Held> {
        if !app.store.is_shared() {
            return None;
        }
        let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = Held { inbox: self, tail: None, last: 0, beat };
        if let Err(error) = held.begin(app).await {
            app.store_failed(StoreOperation::Append, &error);
        }
        Some(held)
    }

    /// Shows that nobody holds it any more.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn let_go(self, app: &App) -> Result<(), StoreError> {
        if app.store.is_shared() {
            self.keep_on(app, 0, GONE).await?;
        }
        Ok(())
    }

    /// Keeps the stream, for `less` than it is kept otherwise. `last`: the number of its last event, as far as known.
    async fn keep_on(self, app: &App, mut last: u64, less: Duration) -> Result<u64, StoreError> {
        for _ in 0..TURNS {
            let log = app.store.events();
            match log.append(self.0, last, Vec::new(), keep(app, less), app.effects.now()).await? {
                Appended::Conflict(newer) => last = newer,
                Appended::Stored(_) | Appended::Full => break,
            }
        }
        Ok(last)
    }
}

/// Who does not read it in time loses what is oldest: nothing stays in any case.
fn keep(app: &App, less: Duration) -> Keep {
    sealed_log::keep(app, app.config.streams.keep.saturating_sub(less), u64::MAX)
}

/// An inbox, for who holds it.
pub struct Held {
    inbox: Inbox,
    /// None until the store has taken note of it.
    tail: Option<Tail>,
    last: u64,
    beat: Interval,
}

impl Held {
    async fn begin(&mut self, app: &App) -> Result<(), StoreError> {
        self.last = self.inbox.keep_on(app, self.last, Duration::ZERO).await?;
        self.tail = Some(app.store.events().tail(self.inbox.0, self.last));
        Ok(())
    }

    /// What is said next, in its order; of a store that is away, when it is back. The inbox is held only while this is
    /// waited for; dropping the future loses nothing.
    pub async fn next(&mut self, app: &App) -> Vec<Vec<u8>> {
        loop {
            match self.read(app).await {
                Ok(said) => return said,
                Err(error) => app.store_failed(StoreOperation::Read, &error),
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    async fn read(&mut self, app: &App) -> Result<Vec<Vec<u8>>, StoreError> {
        if self.tail.is_none() {
            self.begin(app).await?;
        }
        let Some(tail) = &mut self.tail else { return Ok(Vec::new()) };
        loop {
            tokio::select! {
                page = tail.next(PAGE, app.effects.now) => {
                    let events = page?.events;
                    self.last = events.last().map_or(self.last, |event| event.number);
                    let open = |event: &throughline_store::Event| {
                        sealed_log::open(app, self.inbox.0, event.number, &event.payload)
                    };
                    return Ok(events.iter().filter_map(open).collect());
                }
                _ = self.beat.tick() => self.last = self.inbox.keep_on(app, self.last, Duration::ZERO).await?,
            }
        }
    }
}
