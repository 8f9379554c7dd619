//! Whether an endpoint is well, by what became of the requests that were sent to it.
//!
//! After [`EJECT_AFTER`] failures in a row it is taken out for a while. When that is over it is on trial: a success
//! brings it back, and one more failure takes it out again, for twice as long. All cores share it: a look at one that
//! is well reads an atomic, and only what changes something takes the lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use throughline_store::Millis;

use crate::session::{lock, millis};

/// Failures in a row after which an endpoint is taken out.
pub const EJECT_AFTER: u32 = 3;
/// How long the first time; doubled with every further time, up to [`OUT_MAX`].
const OUT_FIRST: Duration = Duration::from_secs(1);
const OUT_MAX: Duration = Duration::from_secs(30);
/// After so long without being taken out again, the next time counts as the first.
const FORGIVEN: Duration = Duration::from_secs(30);

/// The health of one endpoint. It begins well.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
    /// The end of the time for which it is out, in milliseconds since 1970.
    out_until: AtomicU64,
    /// There is something for a success to undo.
    troubled: AtomicBool,
    ejections: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    /// Failures in a row.
    failures: u32,
    /// Whether the last of them was that no connection was to be had.
    unreachable: bool,
    /// How often it was taken out without having been well for long.
    times: u32,
    /// When `times` no longer counts.
    forgiven: Millis,
}

#[derive(Debug, Default)]
enum Standing {
    #[default]
    Well,
    /// Out, and from `until` on trial.
    Out {
        /// The last failure.
        since: Millis,
        until: Millis,
    },
}

/// What a failure or success changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody need know.
    None,
    /// It is taken out for so long.
    Ejected(Duration),
    /// It is back.
    Returned,
}

impl Health {
    /// Whether it is to be spared now.
    pub fn is_out(&self, now: Millis) -> bool {
        now.0 < self.out_until.load(Ordering::Relaxed)
    }

    /// When it was last found ill; the beginning of time where it is well.
    pub fn ill_since(&self) -> Millis {
        match lock(&self.state).standing {
            Standing::Well => Millis(0),
            Standing::Out { since, .. } => since,
        }
    }

    /// Whether the last that was heard of it is that it takes no connections: an attempt shows whether it does again,
    /// and does no harm if it does not.
    pub fn is_unreachable(&self) -> bool {
        lock(&self.state).unreachable
    }

    /// How often it was taken out.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// A request failed; `unreachable`: since no connection was to be had.
    pub fn failed(&self, unreachable: bool, now: Millis) -> Change {
        let mut state = lock(&self.state);
        self.troubled.store(true, Ordering::Relaxed);
        let failures = state.failures.saturating_add(1);
        state.failures = failures;
        state.unreachable = unreachable;
        match &mut state.standing {
            // Sent before, or because there was no other.
            Standing::Out { since, until } if now < *until => {
                *since = now;
                return Change::None;
            }
            Standing::Well if failures < EJECT_AFTER => return Change::None,
            Standing::Well | Standing::Out { .. } => {}
        }
        if state.forgiven < now {
            state.times = 0;
        }
        let pause = OUT_FIRST.saturating_mul(1 << state.times.min(8)).min(OUT_MAX);
        let until = Millis(now.0.saturating_add(millis(pause)));
        state.times = state.times.saturating_add(1);
        state.forgiven = Millis(until.0.saturating_add(millis(FORGIVEN)));
        state.standing = Standing::Out { since: now, until };
        self.out_until.store(until.0, Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Change::Ejected(pause)
    }

    /// A request was answered.
    pub fn succeeded(&self) -> Change {
        if !self.troubled.load(Ordering::Relaxed) {
            return Change::None;
        }
        let mut state = lock(&self.state);
        self.troubled.store(false, Ordering::Relaxed);
        self.out_until.store(0, Ordering::Relaxed);
        state.failures = 0;
        state.unreachable = false;
        match std::mem::take(&mut state.standing) {
            Standing::Well => Change::None,
            Standing::Out { .. } => Change::Returned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Fails so often that it is taken out, and says for how long.
    fn eject(health: &Health, now: u64) -> Duration {
        for _ in 1..EJECT_AFTER {
            assert_eq!(health.failed(true, Millis(now)), Change::None);
        }
        match health.failed(true, Millis(now)) {
            Change::Ejected(pause) => pause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failures_count_in_a_row_only() {
        let health = Health::default();
        for _ in 0..10 {
            assert_eq!(health.failed(false, Millis(1)), Change::None);
            assert_eq!(health.failed(false, Millis(1)), Change::None);
            assert_eq!(health.succeeded(), Change::None);
        }
        assert!(!health.is_out(Millis(1)));
        assert_eq!(health.ejections(), 0);
    }

    #[test]
    fn the_time_out_grows_while_the_trials_fail() {
        let health = Health::default();
        let mut now = 1000;
        assert_eq!(eject(&health, now), SECOND);
        for seconds in [2, 4, 8, 16, 30, 30, 30] {
            assert!(health.is_out(Millis(now)));
            while health.is_out(Millis(now)) {
                now += 500;
            }
            assert_eq!(health.failed(true, Millis(now)), Change::Ejected(SECOND * seconds));
        }
        assert_eq!(health.ejections(), 8);
    }

    #[test]
    fn a_success_brings_it_back_and_is_soon_forgotten_when_it_fails_again() {
        let health = Health::default();
        assert_eq!(eject(&health, 1000), SECOND);
        assert_eq!(health.succeeded(), Change::Returned);
        assert!(!health.is_out(Millis(1000)));
        assert_eq!(health.succeeded(), Change::None);
        assert_eq!(eject(&health, 1500), SECOND * 2);
        assert_eq!(health.succeeded(), Change::Returned);
        // 3.5 s is when it would have been over, and half a minute later all is forgiven.
        assert_eq!(eject(&health, 33_500), SECOND * 4);
        assert_eq!(health.succeeded(), Change::Returned);
        assert_eq!(eject(&health, 67_501), SECOND);
    }

    #[test]
    fn failures_meanwhile_change_only_whose_turn_is_the_last() {
        let health = Health::default();
        assert_eq!(eject(&health, 1000), SECOND);
        assert_eq!(health.ill_since(), Millis(1000));
        assert!(health.is_unreachable());
        assert_eq!(health.failed(false, Millis(1900)), Change::None);
        assert_eq!(health.ill_since(), Millis(1900));
        assert!(!health.is_unreachable(), "the last word counts");
        assert!(health.is_out(Millis(1999)) && !health.is_out(Millis(2000)));
        assert_eq!(health.ejections(), 1);
    }
}
