//! Counting primes: work for a processor, done on threads of its own and given up when nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

/// The largest limit that is taken: a second or two of one core.
pub(super) const LARGEST: u64 = 1_000_000_000;
/// How many numbers are sieved at a time: between two pieces it is seen that the caller has gone. A byte each.
const PIECE: u64 = 1 << 17;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primes {
    pub(super) count: u64,
    /// Nought if there is none.
    pub(super) largest: u64,
}

/// How much of this work there is and was, since the process began.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) struct Computations {
    running: u64,
    finished: u64,
    /// Given up, because their caller had gone.
    abandoned: u64,
}

/// The processors' share of this work: so many computations at a time, the others wait for their turn.
pub(super) struct Workshop {
    places: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    running: AtomicU64,
    finished: AtomicU64,
    abandoned: AtomicU64,
}

impl Workshop {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), counts: Arc::default() }
    }

    pub(super) fn computations(&self) -> Computations {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Computations {
            running: count(&self.counts.running),
            finished: count(&self.counts.finished),
            abandoned: count(&self.counts.abandoned),
        }
    }

    /// Counts the primes up to `limit`; `None` if `cancelled` came first. `progress` shows how far it has got.
    ///
    /// # Errors
    ///
    /// Only if the counting panicked.
    pub(super) async fn count(
        &self,
        limit: u64,
        progress: watch::Sender<u64>,
        cancelled: CancellationToken,
    ) -> Result<Option<Primes>, JoinError> {
        let place = tokio::select! {
            place = self.places.clone().acquire_owned() => place,
            () = cancelled.cancelled() => return Ok(None),
        };
        let counts = self.counts.clone();
        counts.running.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || {
            let found = count(limit, |checked| {
                progress.send_replace(checked);
                !cancelled.is_cancelled()
            });
            let ended = if found.is_some() { &counts.finished } else { &counts.abandoned };
            ended.fetch_add(1, Ordering::Relaxed);
            counts.running.fetch_sub(1, Ordering::Relaxed);
            drop(place);
            found
        })
        .await
    }
}

/// A sieve in pieces. `go_on` is asked behind each, and told up to where all is checked.
fn count(limit: u64, mut go_on: impl FnMut(u64) -> bool) -> Option<Primes> {
    let factors = factors(limit.isqrt());
    let mut composite = vec![false; PIECE as usize];
    let mut found = Primes { count: 0, largest: 0 };
    let mut from = 2;
    while from <= limit {
        let to = limit.min(from + PIECE - 1);
        composite.fill(false);
        for &factor in factors.iter().take_while(|&&factor| factor * factor <= to) {
            let mut multiple = (factor * factor).max(from.next_multiple_of(factor));
            while multiple <= to {
                composite[(multiple - from) as usize] = true;
                multiple += factor;
            }
        }
        for (number, composite) in (from..=to).zip(&composite) {
            if !composite {
                found.count += 1;
                found.largest = number;
            }
        }
        if !go_on(to) {
            return None;
        }
        from = to + 1;
    }
    Some(found)
}

/// The primes up to `limit`, which is small here: a root.
fn factors(limit: u64) -> Vec<u64> {
    let mut primes: Vec<u64> = Vec::new();
    for number in 2..=limit {
        let divides = |prime: &u64| number % prime == 0;
        if !primes.iter().take_while(|&&prime| prime * prime <= number).any(divides) {
            primes.push(number);
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_across_the_pieces() {
        for (limit, primes, largest) in
            [(0, 0, 0), (1, 0, 0), (2, 1, 2), (10, 4, 7), (5_000, 669, 4_999), (1_000_000, 78_498, 999_983)]
        {
            assert_eq!(count(limit, |_| true), Some(Primes { count: primes, largest }), "up to {limit}");
        }
    }

    #[test]
    fn it_gives_up_when_it_is_told_to() {
        let mut asked = 0;
        assert_eq!(
            count(LARGEST, |_| {
                asked += 1;
                asked < 3
            }),
            None
        );
        assert_eq!(asked, 3);
    }
}
