//! What is not a request's cost: new sessions, memory of open ones, start, and the return of the upstream.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::Failure;
use crate::proxy::{Programs, Setup};
use crate::restart::{self, Call};
use crate::sessions::{self, fill};
use crate::streams;
use crate::subject::Proxy;
use crate::table::{median, show};
use crate::upstream::Upstream;

/// How much of each there is to measure.
pub(crate) struct Extent {
    /// Sessions opened and kept open.
    pub(crate) sessions: usize,
    /// How often that is done with each subject.
    pub(crate) fills: usize,
    /// Standing streams opened and kept open.
    pub(crate) streams: usize,
    /// Starts of each kind.
    pub(crate) starts: usize,
    /// Restarts of the upstream with each subject.
    pub(crate) restarts: usize,
}

/// Everything that was found.
#[derive(Serialize)]
pub(crate) struct Lifecycle {
    fills: Vec<sessions::Figures>,
    streams: Vec<streams::Figures>,
    times: Vec<Times>,
    /// Writing 4 KiB and fsync, median: what no durable store can be faster than.
    fsync_us: f64,
}

/// A duration that was measured several times.
#[derive(Serialize)]
struct Times {
    what: String,
    median_ms: f64,
    slowest_ms: f64,
}

/// What is filled: as the table calls it, the proxy, and its store.
const FILLED: [(&str, Proxy, Option<&str>); 4] = [
    ("direct", Proxy::Direct, None),
    ("nginx", Proxy::Nginx, None),
    ("gateway, `memory:`", Proxy::Gateway, Some("memory:")),
    (EMBEDDED, Proxy::Gateway, None),
];
const EMBEDDED: &str = "gateway, `embedded:`";
const EMPTY_START: &str = "start to ready, no sessions";
const FULL_START: &str = "start to ready, sessions in the store";
const AFTER_CRASH: &str = "start to ready, the same after kill -9";

impl Lifecycle {
    /// Measures all of it.
    pub(crate) fn measure(
        programs: &Programs<'_>,
        upstream: &Upstream,
        extent: &Extent,
    ) -> Result<Self, Failure> {
        let (fills, streams, times) = (Vec::new(), Vec::new(), Vec::new());
        let mut found = Lifecycle { fills, streams, times, fsync_us: fsync(programs.scratch)? };
        let state = tempfile::tempdir_in(programs.scratch)?;
        found.fill(programs, upstream.address, extent, state.path())?;
        found.stand(programs, upstream, extent)?;
        found.start(programs, upstream.address, extent, state.path())?;
        found.restart(programs, extent)?;
        Ok(found)
    }

    /// The last filling of the embedded store stays in `state`.
    fn fill(
        &mut self,
        programs: &Programs<'_>,
        upstream: SocketAddr,
        extent: &Extent,
        state: &Path,
    ) -> Result<(), Failure> {
        for round in 1..=extent.fills {
            for (subject, proxy, store) in FILLED {
                let last = (round == extent.fills && subject == EMBEDDED).then_some(state);
                let setup = Setup { store, state: last, ..Setup::new(proxy, upstream) };
                let running = programs.start(setup)?;
                let address = running.as_ref().map_or(upstream, |running| running.address);
                let figures = fill(subject, address, running.as_ref(), extent.sessions, programs.workers)
                    .map_err(|error| format!("new sessions, {subject}: {error}"))?;
                eprintln!("round {round}: {subject}: {:.0} new sessions/s", figures.sessions_per_second);
                self.fills.push(figures);
            }
        }
        Ok(())
    }

    fn stand(
        &mut self,
        programs: &Programs<'_>,
        upstream: &Upstream,
        extent: &Extent,
    ) -> Result<(), Failure> {
        for (subject, proxy, store) in FILLED.into_iter().filter(|(_, proxy, _)| *proxy == Proxy::Gateway) {
            for _ in 0..extent.fills {
                let setup = Setup { store, ..Setup::new(proxy, upstream.address) };
                let running = programs.start(setup)?.ok_or("nothing was started")?;
                let figures = streams::open(subject, &running, upstream, extent.streams)
                    .map_err(|error| format!("standing streams, {subject}: {error}"))?;
                eprintln!("{subject}: {:.0} bytes for each standing stream", figures.bytes_per_stream);
                self.streams.push(figures);
            }
        }
        Ok(())
    }

    /// `full` is the state of a gateway that was stopped with sessions in its store.
    fn start(
        &mut self,
        programs: &Programs<'_>,
        upstream: SocketAddr,
        extent: &Extent,
        full: &Path,
    ) -> Result<(), Failure> {
        let empty = tempfile::tempdir_in(programs.scratch)?;
        for (what, state, crash) in
            [(EMPTY_START, empty.path(), false), (FULL_START, full, false), (AFTER_CRASH, full, true)]
        {
            let mut taken = Vec::new();
            // The first one does what only a first one does: it makes the key ring, or follows an orderly stop.
            for _ in 0..=extent.starts {
                let setup = Setup { state: Some(state), ..Setup::new(Proxy::Gateway, upstream) };
                let running = programs.start(setup)?.ok_or("nothing was started")?;
                taken.push(running.ready_after);
                if crash {
                    running.crash()?;
                }
            }
            self.time(what, &taken[1..]);
        }
        Ok(())
    }

    fn restart(&mut self, programs: &Programs<'_>, extent: &Extent) -> Result<(), Failure> {
        for (name, proxy, call) in [
            ("direct", Proxy::Direct, Call::After),
            ("nginx", Proxy::Nginx, Call::After),
            ("gateway", Proxy::Gateway, Call::After),
            ("gateway", Proxy::Gateway, Call::During),
        ] {
            let (taken, requests) = restart::first_calls(programs, proxy, call, extent.restarts)
                .map_err(|error| format!("restart of the upstream, {name}: {error}"))?;
            let when = match call {
                Call::After => "first call after the upstream's return",
                Call::During => "call that waits for the upstream's return",
            };
            let requests =
                if requests == 1 { "1 request".to_owned() } else { format!("{requests} requests") };
            self.time(&format!("{when}, {name} ({requests} of the client)"), &taken);
        }
        Ok(())
    }

    fn time(&mut self, what: &str, taken: &[Duration]) {
        let millis = || taken.iter().map(|taken| taken.as_secs_f64() * 1e3);
        let (median_ms, slowest_ms) = (median(millis()).unwrap_or(0.0), millis().fold(0.0, f64::max));
        eprintln!("{what}: {median_ms:.1} ms");
        self.times.push(Times { what: what.to_owned(), median_ms, slowest_ms });
    }

    /// The median over the fillings.
    fn filled(&self, subject: &str, value: fn(&sessions::Figures) -> Option<f64>) -> Option<f64> {
        median(self.fills.iter().filter(|fill| fill.subject == subject).filter_map(value))
    }

    /// New sessions a second, with the embedded store.
    pub(crate) fn sessions_per_second(&self) -> Option<f64> {
        self.filled(EMBEDDED, |fill| Some(fill.sessions_per_second))
    }

    /// Memory of an open session in bytes, with the embedded store and with the memory store.
    pub(crate) fn bytes_per_session(&self) -> [Option<f64>; 2] {
        [EMBEDDED, FILLED[2].0].map(|subject| self.filled(subject, |fill| fill.bytes_per_session))
    }

    /// Milliseconds until the gateway is ready: without and with sessions in the store.
    pub(crate) fn ready_ms(&self) -> [Option<f64>; 2] {
        [EMPTY_START, FULL_START]
            .map(|what| self.times.iter().find(|times| times.what == what).map(|times| times.median_ms))
    }

    /// In Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let sessions = self.fills.first().map_or(0, |fill| fill.sessions);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "## Sessions\n\n{sessions} new ones over 64 connections: `initialize`, `notifications/initialized` and a \
             first `tools/call` each.\nThe embedded store answers when a session is on the disk; one write of 4 KiB \
             with fsync takes {:.0} us here.\nMemory is the growth of resident memory, divided: all sessions stay \
             open.\n\n| subject | sessions/s | p50, ms | p99, ms | CPU per session, us | memory per open session, \
             bytes |\n|---|--:|--:|--:|--:|--:|",
            self.fsync_us,
        );
        for (subject, proxy, _) in FILLED {
            let of = |value, digits| show(self.filled(subject, value), digits, "");
            let bytes = if proxy == Proxy::Gateway { of(|f| f.bytes_per_session, 0) } else { String::new() };
            let cells = [
                of(|f| Some(f.sessions_per_second), 0),
                of(|f| Some(f.p50_ms), 1),
                of(|f| Some(f.p99_ms), 1),
                of(|f| f.cpu_us_per_session, 0),
                bytes,
            ];
            let _ = writeln!(text, "| {subject} | {} |", cells.join(" | "));
        }
        text.push_str(&streams::markdown(&self.streams));
        let _ = writeln!(
            text,
            "\n## Start and restart\n\nReady: from exec to the first 200 of `/readyz`; {sessions} sessions are in the \
             store where it has any. Return: from when the\nupstream, killed by `kill -9`, listens again, until a \
             client has the answer to its call. Without the gateway, it has to\nfind out that its session is gone and \
             begin another.\n\n| what | median, ms | slowest, ms |\n|---|--:|--:|",
        );
        for Times { what, median_ms, slowest_ms } in &self.times {
            let _ = writeln!(text, "| {what} | {median_ms:.1} | {slowest_ms:.1} |");
        }
        text
    }
}

/// Median time of a small durable write, in microseconds.
fn fsync(dir: &Path) -> Result<f64, Failure> {
    let file = tempfile::tempfile_in(dir)?;
    let write = |mut file: &File| -> Result<f64, Failure> {
        let begun = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let taken = (0..50).map(|_| write(&file)).collect::<Result<Vec<_>, _>>()?;
    Ok(median(taken.into_iter()).unwrap_or(0.0))
}
