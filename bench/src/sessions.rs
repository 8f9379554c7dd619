//! New sessions: how many a second, and what memory each takes while it is open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::Failure;
use crate::client::{self, Caller};
use crate::load::histogram;
use crate::proxy::{Running, Usage};
use crate::subject::Answer;

/// Clients that begin sessions at the same time, each over one connection.
const CLIENTS: usize = 64;
/// Sessions before the measured ones: buffers and caches that do not grow with sessions are filled by then.
const WARM_UP: usize = 1024;

/// Figures of one filling.
#[derive(Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) subject: &'static str,
    pub(crate) sessions: usize,
    pub(crate) sessions_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// None where there is no proxy.
    pub(crate) cpu_us_per_session: Option<f64>,
    /// Growth of resident memory; None where nothing is kept.
    pub(crate) bytes_per_session: Option<f64>,
}

/// Opens `sessions` sessions: `initialize`, `notifications/initialized` and one call each. They stay open.
pub(crate) fn fill(
    subject: &'static str,
    address: SocketAddr,
    proxy: Option<&Running>,
    sessions: usize,
    threads: usize,
) -> Result<Figures, Failure> {
    let usage = || proxy.map(Running::usage).transpose();
    open(address, WARM_UP.min(sessions), threads)?;
    let (before, begun) = (usage()?, Instant::now());
    let latency = open(address, sessions, threads)?;
    let (after, elapsed) = (usage()?, begun.elapsed());
    let grown = |value: fn(&Usage) -> f64| Some((value(&after?) - value(&before?)) / sessions as f64);
    let millis = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Figures {
        subject,
        sessions,
        sessions_per_second: sessions as f64 / elapsed.as_secs_f64(),
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
        cpu_us_per_session: grown(|usage| usage.cpu * 1e6),
        bytes_per_session: grown(|usage| usage.rss as f64 * 1024.0),
    })
}

/// How long each session took until its first call was answered.
fn open(address: SocketAddr, sessions: usize, threads: usize) -> Result<Histogram<u64>, Failure> {
    let begun = Arc::new(AtomicUsize::new(0));
    let clients = CLIENTS / threads.clamp(1, CLIENTS);
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let begun = Arc::clone(&begun);
            thread::spawn(move || open_some(address, sessions, clients, &begun))
        })
        .collect();
    let mut latency = histogram()?;
    for thread in threads {
        latency.add(thread.join().map_err(|_| "a client panicked")??)?;
    }
    Ok(latency)
}

fn open_some(
    address: SocketAddr,
    sessions: usize,
    clients: usize,
    begun: &Arc<AtomicUsize>,
) -> Result<Histogram<u64>, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let clients: Vec<_> = (0..clients)
            .map(|_| tokio::task::spawn_local(client(address, sessions, Arc::clone(begun))))
            .collect();
        let mut latency = histogram()?;
        for client in clients {
            latency.add(client.await??)?;
        }
        Ok(latency)
    })
}

async fn client(
    address: SocketAddr,
    sessions: usize,
    begun: Arc<AtomicUsize>,
) -> Result<Histogram<u64>, Failure> {
    let mut caller = Caller::connect(address).await?;
    let call = client::call(Answer::Json);
    let mut latency = histogram()?;
    while begun.fetch_add(1, Ordering::Relaxed) < sessions {
        let start = Instant::now();
        caller.initialize().await?;
        let (_, body) = caller.post(call.clone()).await?;
        client::check_echo(&body)?;
        latency.saturating_record(nanos(start.elapsed()));
    }
    Ok(latency)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
