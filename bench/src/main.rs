//! What a proxy costs per request: direct, nginx and the gateway under the same load, in one run.
//!
//! The steadiest figure on a shared machine is the proxy's CPU time per request. Throughput and latency are given
//! as well, but upstream, proxy and load generator share the cores, so they compare only within a run. Subjects
//! take turns (A B C, A B C), so that a slow minute of the machine meets all of them.
//!
//! [`load`] is requests in sessions that are open, [`lifecycle`] is everything else: new sessions, memory, start,
//! and the return of the upstream.

mod client;
mod goals;
mod lifecycle;
mod load;
mod plot;
mod proxy;
mod restart;
mod sessions;
mod streams;
mod subject;
mod table;
mod upstream;

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use lifecycle::{Extent, Lifecycle};
use load::Load;
use proxy::{Programs, Setup};
use subject::{Client, Kind, SUBJECTS, Subject};
use table::{Figures, Table};
use upstream::Upstream;

/// Measure what a proxy costs per request, and what sessions cost; prints tables in Markdown.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The gateway.
    #[arg(long, value_name = "FILE", default_value = "throughline")]
    throughline: PathBuf,
    /// nginx.
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    nginx: PathBuf,
    /// How many connections at a time.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// How often each subject has its turn. Medians are reported.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long each turn is measured.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// How long each turn is warmed up.
    #[arg(long, value_name = "S", default_value_t = 0.3)]
    warm_up: f64,
    /// How many sessions are opened to see what they cost.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    sessions: usize,
    /// A smoke run: everything once or twice, briefly. The figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only subjects whose name contains this, as in `issued, SSE`; nothing but requests.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Nothing but sessions, standing streams, start and restart.
    #[arg(long, conflicts_with = "only")]
    no_load: bool,
    /// Where state of the gateway goes: on a disk whose fsync means something [default: the system's].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Where every turn's figures go, as JSON.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Where the plot goes, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Be the upstream that is killed and restarted.
    #[arg(long, hide = true)]
    serve: Option<SocketAddr>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughline-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments) -> Result<(), Failure> {
    let cores = available_parallelism()?.get();
    if let Some(address) = arguments.serve {
        return restart::serve(address, cores);
    }
    let mut extent =
        Extent { sessions: arguments.sessions, fills: 3, streams: 1000, starts: 11, restarts: 15 };
    if arguments.quick {
        (arguments.rounds, arguments.seconds, arguments.warm_up) = (1, 0.2, 0.1);
        extent = Extent { sessions: arguments.sessions / 10, fills: 1, streams: 200, starts: 2, restarts: 2 };
    }
    let scratch = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let programs = Programs {
        nginx: &arguments.nginx,
        throughline: &arguments.throughline,
        workers: cores,
        scratch: &scratch,
    };
    let upstreams = [upstream::start(cores, Kind::Sessions)?, upstream::start(cores, Kind::Sessionless)?];
    let only = arguments.only.as_deref();
    let wanted = |subject: &&Subject| !arguments.no_load && subject.name().contains(only.unwrap_or_default());
    let subjects: Vec<&Subject> = SUBJECTS.iter().filter(wanted).collect();
    let lifecycle = match only {
        None => Some(Lifecycle::measure(&programs, &upstreams[0], &extent)?),
        Some(_) => None,
    };
    let figures = requests(&arguments, &programs, &upstreams, &subjects)?;
    let table = Table { figures: &figures, subjects: &subjects };
    if let Some(path) = &arguments.raw {
        let raw = Raw { requests: &figures, lifecycle: lifecycle.as_ref() };
        fs::write(path, serde_json::to_string_pretty(&raw)?)?;
    }
    if let Some(path) = &arguments.plot {
        fs::write(path, plot::svg(&table, goals::JUDGED_AT))?;
    }
    println!("## Goals\n\nRequests: JSON, at {} connections.\n", goals::JUDGED_AT);
    println!("{}", goals::markdown(&table, lifecycle.as_ref()));
    if !subjects.is_empty() {
        println!("## Requests\n\n{}", table.markdown(&arguments.connections));
    }
    if let Some(lifecycle) = &lifecycle {
        print!("{}", lifecycle.markdown());
    }
    Ok(())
}

/// Every subject has its turn, in every round, at every number of connections.
fn requests(
    arguments: &Arguments,
    programs: &Programs<'_>,
    upstreams: &[Upstream; 2],
    subjects: &[&Subject],
) -> Result<Vec<Figures>, Failure> {
    let mut figures = Vec::new();
    for round in 1..=arguments.rounds {
        for &connections in &arguments.connections {
            for subject in subjects {
                let upstream = match subject.upstream {
                    Kind::Sessions => &upstreams[0],
                    Kind::Sessionless => &upstreams[1],
                };
                // A process of its own for every turn, so that none inherits another's memory.
                let stateless = subject.client == Client::Stateless;
                let setup = Setup { stateless, ..Setup::new(subject.proxy, upstream.address) };
                let proxy = programs.start(setup)?;
                let load = Load {
                    address: proxy.as_ref().map_or(upstream.address, |proxy| proxy.address),
                    client: subject.client,
                    answer: subject.answer,
                    connections,
                    threads: programs.workers.min(connections),
                    warm_up: Duration::try_from_secs_f64(arguments.warm_up)?,
                    measured: Duration::try_from_secs_f64(arguments.seconds)?,
                };
                let name = subject.name();
                let usage = || proxy.as_ref().map(proxy::Running::usage).transpose();
                let turn = load
                    .run(|| Ok((usage()?, upstream.requests())))
                    .map_err(|error| format!("{name}, {connections} connections: {error}"))?;
                let measured = Figures::new(subject, connections, round, &turn);
                eprintln!("round {round}: {measured}");
                figures.push(measured);
            }
        }
    }
    Ok(figures)
}

#[derive(Serialize)]
struct Raw<'a> {
    requests: &'a [Figures],
    lifecycle: Option<&'a Lifecycle>,
}

/// What goes wrong ends the run: half a table would mislead.
type Failure = Box<dyn Error + Send + Sync>;
