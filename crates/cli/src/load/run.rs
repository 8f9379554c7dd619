//! The run: threads with their clients, and what is shown meanwhile.

use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;

use super::client::{Client, Job};
use super::plan::Begun;
use super::stats::{Stats, Times, at};
use crate::Failure;

/// How often what is shown meanwhile is brought up to date.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// Time for threads and connections to come up before the first call is due.
pub(crate) const PREPARATION: Duration = Duration::from_millis(50);
const BAR: usize = 20;

/// What the threads have in common.
struct Shared {
    job: Arc<Job>,
    begun: Begun,
    /// Calls of the open loop that a client has taken.
    taken: AtomicU64,
}

type Counts = Arc<Mutex<Stats>>;

/// Runs it, and adds up. Ctrl-C ends it early, with what there is by then.
pub(crate) fn run(job: &Arc<Job>, begun: Begun, threads: usize) -> Result<(Stats, Ended), Failure> {
    let shared = Arc::new(Shared { job: Arc::clone(job), begun, taken: AtomicU64::new(0) });
    let mut counts: Vec<Counts> = Vec::new();
    let (done, finished) = tokio::sync::oneshot::channel();
    let mut generators = Vec::new();
    for index in 0..threads {
        let mine: Counts = Arc::new(Mutex::new(Stats::new()?));
        counts.push(Arc::clone(&mine));
        let shared = Arc::clone(&shared);
        generators.push(thread::spawn(move || generate(&shared, index, threads, &mine)));
    }
    thread::spawn(move || {
        let outcomes: Vec<_> = generators.into_iter().map(thread::JoinHandle::join).collect();
        done.send(outcomes)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(watch(&counts, begun, finished))?;
    Ok((total(&counts)?, ended))
}

/// How the run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    AsPlanned,
    Interrupted,
}

type Outcome = thread::Result<Result<(), std::io::Error>>;

async fn watch(
    counts: &[Counts],
    begun: Begun,
    mut finished: tokio::sync::oneshot::Receiver<Vec<Outcome>>,
) -> Result<Ended, Failure> {
    let shows = std::io::stderr().is_terminal();
    let mut every = tokio::time::interval(SHOW_EVERY);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let ended = loop {
        tokio::select! {
            outcomes = &mut finished => {
                for outcome in outcomes? {
                    outcome.map_err(|_| "a thread of clients gave up")??;
                }
                break Ended::AsPlanned;
            }
            _ = &mut interrupted => break Ended::Interrupted,
            _ = every.tick(), if shows => show(&total(counts)?, begun),
        }
    };
    if shows {
        eprint!("\r\u{1b}[K");
    }
    Ok(ended)
}

fn total(counts: &[Counts]) -> Result<Stats, Failure> {
    let mut total = Stats::new()?;
    for counts in counts {
        total.merge(&counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
    Ok(total)
}

/// One line, which the next one replaces.
fn show(stats: &Stats, begun: Begun) {
    let (gone, all) = (begun.start.elapsed().as_secs_f64(), begun.plan.ends().as_secs_f64());
    let full = ((gone / all * BAR as f64) as usize).min(BAR);
    let measuring = (gone - begun.plan.measured_from().as_secs_f64()).max(0.0);
    let rate = if measuring > 0.0 { stats.calls as f64 / measuring } else { 0.0 };
    let line = format!(
        "[{}{}] {:.0}/{all:.0} s  {rate:.0} calls/s  p50 {:.1} ms  p99 {:.1} ms  p99.9 {:.1} ms  {} errors",
        "#".repeat(full),
        "-".repeat(BAR - full),
        gone.min(all),
        at(&stats.latency, 50.0),
        at(&stats.latency, 99.0),
        at(&stats.latency, 99.9),
        stats.failed(),
    );
    let mut screen = std::io::stderr().lock();
    // Nobody is left to tell if this fails.
    let _ = write!(screen, "\r\u{1b}[K{line}").and_then(|()| screen.flush());
}

/// One thread's share of the clients.
fn generate(
    shared: &Arc<Shared>,
    index: usize,
    threads: usize,
    counts: &Counts,
) -> Result<(), std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let clients: Vec<_> = (index..shared.begun.plan.clients)
            .step_by(threads)
            .map(|number| {
                let worker = Rc::new((Arc::clone(shared), Arc::clone(counts)));
                tokio::task::spawn_local(async move { work(&worker.0, number, &worker.1).await })
            })
            .collect();
        for client in clients {
            client.await.map_err(std::io::Error::other)?;
        }
        Ok(())
    })
}

/// When a client begins its next call.
struct Next {
    /// From when the call's latency counts.
    due: Instant,
    /// How late this program is, if the client had been free.
    lag: Option<Duration>,
}

async fn work(shared: &Shared, number: usize, counts: &Counts) {
    let mut client = Client::new(Arc::clone(&shared.job));
    let begun = shared.begun;
    tokio::time::sleep_until(begun.start + begun.plan.begins(number)).await;
    while let Some(next) = next(shared, counts).await {
        let sent = Instant::now();
        let answer = client.call().await;
        let ended = Instant::now();
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.sessions_opened += std::mem::take(&mut client.opened.sessions);
        counts.connections += std::mem::take(&mut client.opened.connections);
        if begun.counts(next.due) {
            let times = Times { latency: ended - next.due, service: ended - sent };
            counts.record(times, &answer.told, answer.outcome);
            if let Some(lag) = next.lag {
                counts.late(lag);
            }
        }
    }
    client.close().await;
}

/// Waits for the next call; None at the end of the run.
///
/// In the open loop a client takes the next call that is due. If it was free by then, the call's time begins when
/// it is sent: a timer's delay is this program's, and is counted as its lag. If it was not, the call has waited,
/// and its time begins when it was due: what is slow would otherwise hide the calls that it kept from being sent.
async fn next(shared: &Shared, counts: &Counts) -> Option<Next> {
    let begun = shared.begun;
    loop {
        let now = Instant::now();
        let number = shared.taken.fetch_add(1, Ordering::Relaxed);
        let Some(due) = begun.plan.due(number) else {
            // The closed loop: now.
            return (now < begun.end()).then_some(Next { due: now, lag: None });
        };
        let due = begun.start + due;
        if due >= begun.end() {
            return None;
        }
        if due > now {
            tokio::time::sleep_until(due).await;
            let awake = Instant::now();
            // Still within what counts, however late the timer was.
            let from = if begun.counts(due) == begun.counts(awake) { awake } else { due };
            return Some(Next { due: from, lag: Some(awake - due) });
        }
        // What is overdue is still sent behind the end, as long as one answer may take.
        if now < begun.end() + shared.job.timeout {
            return Some(Next { due, lag: None });
        }
        if begun.counts(due) {
            counts.lock().unwrap_or_else(PoisonError::into_inner).unsent(now - due);
        }
    }
}
