//! The load: a fixed number of connections, each of which sends its next request when it has its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::Failure;
use crate::client::{self, Caller};
use crate::proxy::Usage;
use crate::subject::{Answer, Client};

/// One turn of one subject.
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) answer: Answer,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What came of it.
pub(crate) struct Turn {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// How many of its own the upstream answered meanwhile.
    pub(crate) upstream_requests: u64,
    /// The proxy's, before and after.
    pub(crate) usage: Option<(Usage, Usage)>,
}

/// What is asked at both ends of the measured time: the proxy's usage, and the upstream's count of requests.
pub(crate) type Sample = (Option<Usage>, u64);

/// Phases of a turn, behind the warm-up.
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// What the generating threads and the one that measures have in common.
#[derive(Default)]
struct Shared {
    ready: AtomicUsize,
    phase: AtomicU8,
    requests: AtomicU64,
}

impl Load {
    /// Runs one turn; `sample` is asked at both ends of the measured time.
    pub(crate) fn run(self, sample: impl Fn() -> Result<Sample, Failure>) -> Result<Turn, Failure> {
        let load = Arc::new(self);
        let shared = Arc::new(Shared::default());
        let generators = (0..load.threads).map(|index| {
            let (load, shared) = (Arc::clone(&load), Arc::clone(&shared));
            thread::spawn(move || generate(&load, index, &shared))
        });
        let generators: Vec<Generator> = generators.collect();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let measured = runtime.block_on(measure(&load, &shared, &generators, sample));
        // Also after a failure, so that the generators end; theirs is the reason then.
        shared.phase.store(OVER, Ordering::Relaxed);
        let mut latency = histogram()?;
        for generator in generators {
            latency.add(generator.join().map_err(|_| "a generator panicked")??)?;
        }
        let Measured { requests, elapsed, samples: [before, after] } = measured?;
        let (upstream_requests, usage) = (after.1 - before.1, before.0.zip(after.0));
        Ok(Turn { requests, elapsed, latency, upstream_requests, usage })
    }
}

type Generator = JoinHandle<Result<Histogram<u64>, Failure>>;

struct Measured {
    requests: u64,
    elapsed: Duration,
    samples: [Sample; 2],
}

async fn measure(
    load: &Load,
    shared: &Shared,
    generators: &[Generator],
    sample: impl Fn() -> Result<Sample, Failure>,
) -> Result<Measured, Failure> {
    while shared.ready.load(Ordering::Relaxed) < load.connections {
        if generators.iter().any(JoinHandle::is_finished) {
            return Err("a generator gave up".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(load.warm_up).await;
    let start = (Instant::now(), shared.requests.load(Ordering::Relaxed), sample()?);
    shared.phase.store(MEASURED, Ordering::Relaxed);
    tokio::time::sleep(load.measured).await;
    let end = (Instant::now(), shared.requests.load(Ordering::Relaxed), sample()?);
    Ok(Measured { requests: end.1 - start.1, elapsed: end.0 - start.0, samples: [start.2, end.2] })
}

/// One minute at most, three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?)
}

/// One thread's share of the connections.
fn generate(load: &Arc<Load>, index: usize, shared: &Arc<Shared>) -> Result<Histogram<u64>, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let share = (index..load.connections).step_by(load.threads);
        let connections: Vec<_> =
            share.map(|_| tokio::task::spawn_local(call_on(Arc::clone(load), Arc::clone(shared)))).collect();
        let mut latency = histogram()?;
        for connection in connections {
            latency.add(connection.await??)?;
        }
        Ok(latency)
    })
}

/// Calls over one connection until the turn is over. Every answer has to be the right one.
async fn call_on(load: Arc<Load>, shared: Arc<Shared>) -> Result<Histogram<u64>, Failure> {
    let mut caller = Caller::connect(load.address).await?;
    if load.client == Client::Issued {
        caller.initialize().await?;
    }
    let call = client::call(load.answer);
    let first = caller.post(call.clone()).await?.1;
    client::check_echo(&first)?;
    shared.ready.fetch_add(1, Ordering::Relaxed);
    let mut latency = histogram()?;
    loop {
        let phase = shared.phase.load(Ordering::Relaxed);
        if phase == OVER {
            return Ok(latency);
        }
        let start = Instant::now();
        let (_, body) = caller.post(call.clone()).await?;
        if phase == MEASURED {
            latency.saturating_record(u64::try_from(start.elapsed().as_nanos())?);
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if body != first {
            return Err(format!("another answer than before: {}", String::from_utf8_lossy(&body)).into());
        }
    }
}
