//! The circuit breaker: whether commands go out at all.
//!
//! Closed, they go out on one shared link and have the place's time-out. The first one that shows that Redis is
//! away opens the circuit, and from then on calls fail at once, without a command. [`keep`] then tries, on new
//! connections, until a script may write and announce again. So an outage costs callers one time-out, at first.
//!
//! Where Redis can be read but takes no writes (out of memory, for one), only writes fail at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::dial::{Dial, Dialed, Link};
use super::failure::Failure;
use super::place::{Host, Place};
use super::script;
use crate::StoreError;
use crate::record::RecordKey;

/// Attempts come so soon after each other at first, and so late at last.
const ATTEMPTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A circuit that was closed for so long begins anew with the shortest wait.
const STEADY: Duration = Duration::from_secs(5);
/// Sentinels are asked so often whether the master is still the same.
const MASTER_EVERY: Duration = Duration::from_secs(2);

/// What a command does, so far as the circuit cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Whether commands go out, and on what.
pub(super) struct Circuit {
    place: Arc<Place>,
    /// What errors call the place.
    name: Arc<str>,
    // A std lock: nothing waits under it.
    state: RwLock<State>,
    /// Whether `state` is closed, for those who ask at every request.
    closed: AtomicBool,
    /// Wakes [`keep`].
    alarm: Notify,
}

enum State {
    /// Everything goes out.
    Closed(Line),
    /// Reads go out, writes fail with this.
    ReadOnly(Line, StoreError),
    /// Everything fails with this.
    Open { why: StoreError, suspect: Option<RecordKey> },
    /// The store is closed.
    Shut,
}

/// A link in use. What fails on an earlier one says nothing about it.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) link: Link,
    number: u64,
}

impl Circuit {
    /// An open circuit.
    pub(super) fn new(place: Arc<Place>) -> Circuit {
        let name: Arc<str> = place.to_string().into();
        let why = StoreError::Away { place: Arc::clone(&name), reason: "not connected yet".into() };
        let state = RwLock::new(State::Open { why, suspect: None });
        Circuit { place, name, state, closed: AtomicBool::new(false), alarm: Notify::new() }
    }

    /// What errors call the place.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The line to use, or why there is none.
    pub(super) fn line(&self, access: Access) -> Result<Line, StoreError> {
        match &*self.read() {
            State::Closed(line) => Ok(line.clone()),
            State::ReadOnly(line, _) if access == Access::Read => Ok(line.clone()),
            State::ReadOnly(_, why) | State::Open { why, .. } => Err(why.clone()),
            State::Shut => Err(StoreError::Closed),
        }
    }

    /// Waits for `answer`, which was asked for on `line`, no longer than `limit`. `key` is what it is about, if
    /// anything.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        line: &Line,
        key: Option<RecordKey>,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let failure = match timeout(limit, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::from(&error),
            Err(_) => Failure::slow("a command", limit),
        };
        Err(self.failed(line.number, key, failure))
    }

    /// Why not everything goes out.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        match &*self.read() {
            State::Closed(_) => None,
            State::ReadOnly(_, why) | State::Open { why, .. } => Some(why.brief()),
            State::Shut => Some(StoreError::Closed.to_string()),
        }
    }

    /// Ends it for good.
    pub(super) fn shut(&self) -> bool {
        let was = self.change(&mut self.write(), State::Shut);
        !matches!(was, State::Shut)
    }

    /// Takes note of a failure on the line of that number.
    fn failed(&self, number: u64, key: Option<RecordKey>, failure: Failure) -> StoreError {
        let error = failure.clone().at(&self.name);
        let mut state = self.write();
        let line = match &*state {
            State::Closed(line) | State::ReadOnly(line, _) if line.number == number => line.clone(),
            _ => return error,
        };
        let next = match failure {
            Failure::Away(_) | Failure::Refused(_) => State::Open { why: error.clone(), suspect: key },
            Failure::OutOfMemory(_) | Failure::NoWrites(_) => State::ReadOnly(line, error.clone()),
            Failure::Forbidden(_) | Failure::Unexpected(_) => return error,
        };
        self.change(&mut state, next);
        drop(state);
        tracing::warn!(%error, "the session store fails");
        self.alarm.notify_one();
        error
    }

    /// Takes note of what an attempt has shown.
    fn tried(&self, number: u64, shown: Result<(Link, Result<(), Failure>), Failure>) {
        let mut state = self.write();
        let before = match &*state {
            State::Shut => return,
            State::Closed(_) => None,
            State::ReadOnly(_, why) | State::Open { why, .. } => Some(why.brief()),
        };
        let suspect = if let State::Open { suspect, .. } = &*state { *suspect } else { None };
        let (next, now) = match shown {
            Ok((link, Ok(()))) => (State::Closed(Line { link, number }), None),
            Ok((link, Err(failure))) => {
                let why = failure.at(&self.name);
                (State::ReadOnly(Line { link, number }, why.clone()), Some(why))
            }
            Err(failure) => {
                let why = failure.at(&self.name);
                (State::Open { why: why.clone(), suspect }, Some(why))
            }
        };
        self.change(&mut state, next);
        drop(state);
        match now {
            None if before.is_some() => tracing::info!(store = %self.name, "the session store is there"),
            Some(error) if before != Some(error.brief()) => {
                tracing::warn!(%error, "the session store still fails");
            }
            _ => {}
        }
    }

    /// The key in which attempts write: in the slot of what failed, since another node of a cluster may be well.
    fn probe_key(&self) -> String {
        let suspect = if let State::Open { suspect, .. } = &*self.read() { *suspect } else { None };
        match suspect {
            Some(key) => self.place.key(&format!("probe:{{{key}}}")),
            None => self.place.key("probe"),
        }
    }

    fn change(&self, state: &mut State, next: State) -> State {
        self.closed.store(matches!(next, State::Closed(_)), Ordering::Release);
        std::mem::replace(state, next)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the circuit as soon as that can be, and again after each failure; never returns. `tried` is told of
/// each attempt.
pub(super) async fn keep(circuit: &Circuit, dialer: &dyn Dial, tried: impl Fn()) {
    let mut wait = ATTEMPTS.0;
    let mut end = End::Failed;
    for number in 1.. {
        let dialed = attempt(circuit, dialer).await;
        let (server, renew) = match &dialed {
            Ok((dialed, Ok(()))) => (dialed.server.clone(), dialed.renew),
            Ok((_, Err(_))) | Err(_) => (None, None),
        };
        let good = matches!(&dialed, Ok((_, Ok(()))));
        // A sign-in that could not be renewed still lasts for a while.
        if good || end != End::Old || circuit.trouble().is_some() {
            circuit.tried(number, dialed.map(|(dialed, writes)| (dialed.link, writes)));
        }
        tried();
        let since = Instant::now();
        if good {
            end = watch(circuit, dialer, server, renew).await;
        }
        if since.elapsed() >= STEADY {
            wait = ATTEMPTS.0;
        }
        // What fails as soon as it is used is not tried again at once.
        if !good || since.elapsed() < STEADY {
            sleep(super::jitter(wait)).await;
            wait = (wait * 2).min(ATTEMPTS.1);
        }
    }
}

/// Why a line is not watched any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A call has failed on it.
    Failed,
    /// Its sign-in runs out.
    Old,
    /// The master is another.
    Moved,
}

/// Makes a link and sees whether it is good for everything, or at least for reads.
async fn attempt(circuit: &Circuit, dialer: &dyn Dial) -> Result<(Dialed, Result<(), Failure>), Failure> {
    let dialed = dialer.dial().await?;
    let limit = circuit.place.timeout;
    let (key, channel) = (circuit.probe_key(), circuit.place.channel());
    let probe = script::probe(&dialed.link, &key, &channel);
    match timeout(limit, probe).await {
        Ok(Ok(_)) => Ok((dialed, Ok(()))),
        Ok(Err(error)) => match Failure::from(&error) {
            failure @ (Failure::OutOfMemory(_) | Failure::NoWrites(_)) => Ok((dialed, Err(failure))),
            failure => Err(failure),
        },
        Err(_) => Err(Failure::slow("a command", limit)),
    }
}

/// Waits for the end of a line that was good.
async fn watch(circuit: &Circuit, dialer: &dyn Dial, server: Option<Host>, renew: Option<Duration>) -> End {
    let old = async {
        match renew {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
    };
    let moved = async {
        let Some(server) = server else { return std::future::pending().await };
        loop {
            sleep(MASTER_EVERY).await;
            if !dialer.is_current(&server).await {
                tracing::info!(store = %circuit.name, %server, "the session store has another master now");
                return;
            }
        }
    };
    tokio::select! {
        () = circuit.alarm.notified() => End::Failed,
        () = old => End::Old,
        () = moved => End::Moved,
    }
}

#[cfg(test)]
mod tests;
