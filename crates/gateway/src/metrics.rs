//! What is counted. Each core counts for itself, in plain atomics that no other core writes; a scrape adds them up
//! ([`export`]). docs/metrics.md explains every name.

pub mod export;
pub mod families;
pub mod push;
pub mod summary;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use throughline_store::Millis;
use throughline_wire::loss::Sign;
use throughline_wire::method;

use crate::session::lock;

/// Upper bounds of the buckets of every latency, in microseconds; one more bucket takes what is longer.
pub const BOUNDS: [u64; 16] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// Methods that are counted under their own names. What a client makes up is `other`, so that no client can make
/// a scrape grow.
const METHODS: [&str; 25] = [
    method::INITIALIZE,
    method::INITIALIZED,
    method::CANCELLED,
    method::PROGRESS,
    method::ROOTS_CHANGED,
    method::PING,
    method::TOOLS_LIST,
    method::TOOLS_CALL,
    method::RESOURCES_LIST,
    method::TEMPLATES_LIST,
    method::RESOURCES_READ,
    method::SUBSCRIBE,
    method::UNSUBSCRIBE,
    method::PROMPTS_LIST,
    method::PROMPTS_GET,
    method::COMPLETE,
    method::SET_LEVEL,
    method::DISCOVER,
    method::LISTEN,
    method::TASKS_GET,
    method::TASKS_RESULT,
    method::TASKS_LIST,
    method::TASKS_CANCEL,
    RESPONSE,
    OTHER,
];
/// What a client's answer to a question of the server's is counted as.
pub const RESPONSE: &str = "response";
/// What GET is counted as.
pub const GET: &str = "GET";
/// What DELETE is counted as.
pub const DELETE: &str = "DELETE";
const OTHER: &str = "other";

/// By what a session is recognised as lost, for the count of recoveries.
const SIGNS: [Sign; 14] = [
    Sign::SessionNotFound,
    Sign::BareError,
    Sign::UnexplainedNotFound,
    Sign::IdRefused,
    Sign::InitializeExpected,
    Sign::Unauthorized,
    Sign::Conflict,
    Sign::Gone,
    Sign::Unavailable,
    Sign::UnknownSessionCode,
    Sign::ErrorInSuccess,
    Sign::HandshakeInSuccess,
    Sign::OtherStatus,
    Sign::EndpointDown,
];

/// Names of methods: the known ones, then GET and DELETE.
const NAMES: usize = METHODS.len() + 2;
/// `1xx` to `5xx`.
const CLASSES: usize = 5;
const ERAS: [&str; 2] = ["legacy", "modern"];

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// Reading a record.
    Get,
    /// Compare-and-set.
    Put,
    /// Leaving a tombstone.
    Delete,
    /// Writing down use.
    Touch,
    /// Reading through the records.
    List,
    /// Removing what has expired.
    Sweep,
    /// Writing to the event log.
    Append,
    /// Reading from the event log.
    Read,
}

impl StoreOperation {
    const ALL: [StoreOperation; 8] = [
        StoreOperation::Get,
        StoreOperation::Put,
        StoreOperation::Delete,
        StoreOperation::Touch,
        StoreOperation::List,
        StoreOperation::Sweep,
        StoreOperation::Append,
        StoreOperation::Read,
    ];

    fn as_str(self) -> &'static str {
        match self {
            StoreOperation::Get => "get",
            StoreOperation::Put => "put",
            StoreOperation::Delete => "delete",
            StoreOperation::Touch => "touch",
            StoreOperation::List => "list",
            StoreOperation::Sweep => "sweep",
            StoreOperation::Append => "append",
            StoreOperation::Read => "read",
        }
    }
}

/// A number that only grows, or, for what is open now, moves both ways.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, by [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BOUNDS.len() + 1],
    micros: Count,
}

impl Histogram {
    /// Counts one in.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < micros)].up();
        self.micros.add(micros);
    }
}

/// What one core has counted.
#[derive(Debug)]
pub struct Shard {
    routes: Vec<RouteCounts>,
    /// Refused before a route was found for them, by class of status.
    refused: [Count; CLASSES],
    /// Requests that are being answered.
    pub in_flight: Count,
    /// Connections of clients that are open.
    pub connections: Count,
}

/// What one core has counted on one route.
#[derive(Debug)]
pub struct RouteCounts {
    /// By method, era and class of status.
    requests: Vec<Count>,
    /// From a request's arrival to the end of its answer.
    pub latency: Histogram,
    /// From sending to the beginning of the upstream's answer.
    pub upstream: Histogram,
    /// By sign of the loss; restored and failed.
    recoveries: [[Count; 2]; SIGNS.len()],
    /// Upstream sessions opened.
    pub opened: Count,
}

impl RouteCounts {
    fn new() -> Self {
        RouteCounts {
            requests: (0..NAMES * ERAS.len() * CLASSES).map(|_| Count::default()).collect(),
            latency: Histogram::default(),
            upstream: Histogram::default(),
            recoveries: Default::default(),
            opened: Count::default(),
        }
    }

    /// Counts an answered request. `method` is one of the protocol's, [`RESPONSE`], [`GET`] or [`DELETE`].
    pub fn request(&self, method: &str, modern: bool, status: StatusCode) {
        let place = (name(method) * ERAS.len() + usize::from(modern)) * CLASSES + class(status);
        self.requests[place].up();
    }

    /// Counts an attempt to recover a session that was found lost by this sign.
    pub fn recovery(&self, sign: Sign, restored: bool) {
        let place = SIGNS.iter().position(|known| *known == sign).unwrap_or(SIGNS.len() - 1);
        self.recoveries[place][usize::from(!restored)].up();
    }
}

impl Shard {
    /// What was counted on the route at this place.
    pub fn route(&self, index: usize) -> &RouteCounts {
        &self.routes[index]
    }

    /// Counts a request that was refused before it was understood.
    pub fn refused(&self, status: StatusCode) {
        self.refused[class(status)].up();
    }
}

/// Counts of all cores.
#[derive(Debug)]
pub struct Metrics {
    shards: Mutex<Vec<Arc<Shard>>>,
    store_errors: [Count; StoreOperation::ALL.len()],
    /// When the process started.
    pub started: Millis,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(now: Millis) -> Self {
        Metrics { shards: Mutex::default(), store_errors: Default::default(), started: now }
    }

    /// A place for one more core to count in.
    pub fn shard(&self, routes: usize) -> Arc<Shard> {
        let shard = Arc::new(Shard {
            routes: (0..routes).map(|_| RouteCounts::new()).collect(),
            refused: Default::default(),
            in_flight: Count::default(),
            connections: Count::default(),
        });
        lock(&self.shards).push(Arc::clone(&shard));
        shard
    }

    /// Counts a failure of the store.
    pub fn store_failed(&self, operation: StoreOperation) {
        self.store_errors[operation as usize].up();
    }
}

fn sum(shards: &[Arc<Shard>], of: impl Fn(&Shard) -> &Count) -> u64 {
    // Wrapping: of what goes up on one core and down on another, single shards may stand below zero.
    shards.iter().fold(0, |sum, shard| sum.wrapping_add(of(shard).get()))
}

/// The place of a method's name.
fn name(method: &str) -> usize {
    match method {
        GET => METHODS.len(),
        DELETE => METHODS.len() + 1,
        _ => METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1),
    }
}

/// The name that a method is counted under.
fn label(place: usize) -> &'static str {
    match place.checked_sub(METHODS.len()) {
        None => METHODS[place],
        Some(0) => GET,
        Some(_) => DELETE,
    }
}

fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_places_of_their_own_and_made_up_ones_share_one() {
        let places: std::collections::HashSet<_> =
            METHODS.iter().chain(&[GET, DELETE]).map(|method| name(method)).collect();
        assert_eq!(places.len(), NAMES);
        assert!((0..NAMES).all(|place| name(label(place)) == place));
        assert_eq!(label(name("x/made-up")), OTHER);
    }

    #[test]
    fn durations_fall_into_the_bucket_that_ends_with_them_or_later() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 300_000_000, 300_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts: Vec<_> = histogram.buckets.iter().map(Count::get).collect();
        assert_eq!((counts[0], counts[1], counts[15], counts[16]), (2, 1, 1, 1));
    }

    #[test]
    fn every_status_has_a_class() {
        let classes = [100, 200, 404, 503, 999].map(|code| class(StatusCode::from_u16(code).unwrap()));
        assert_eq!(classes, [0, 1, 3, 4, 4]);
    }
}
