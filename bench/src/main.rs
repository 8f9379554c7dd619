//! What a proxy costs per request: direct, nginx and the gateway under the same load, in one run.
//!
//! The steadiest figure on a shared machine is the proxy's CPU time per request. Throughput and latency are given
//! as well, but upstream, proxy and load generator share the cores, so they compare only within a run. Subjects
//! take turns (A B C, A B C), so that a slow minute of the machine meets all of them.

mod load;
mod proxy;
mod subject;
mod table;
mod upstream;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Parser;

use load::Load;
use proxy::Programs;
use subject::{SUBJECTS, Subject};
use table::Figures;

/// Measure what a proxy costs per request; prints a table in Markdown.
#[derive(Parser)]
struct Arguments {
    /// The gateway, as `throughline`.
    #[arg(long, value_name = "FILE")]
    throughline: PathBuf,
    /// nginx.
    #[arg(long, value_name = "FILE", default_value = "nginx")]
    nginx: PathBuf,
    /// How many connections at a time.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<usize>,
    /// How often each subject has its turn. Medians are reported.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How long each turn is measured.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// How long each turn is warmed up.
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    warm_up: f64,
    /// Only subjects whose name contains this, as in `issued, SSE`.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Where every turn's figures go, as JSON.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughline-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cores = available_parallelism()?.get();
    let programs = Programs { nginx: &arguments.nginx, throughline: &arguments.throughline, workers: cores };
    let upstream = upstream::start(cores)?;
    let subjects: Vec<&Subject> =
        SUBJECTS.iter().filter(|subject| subject.name().contains(&arguments.only)).collect();
    let mut figures = Vec::new();
    for round in 1..=arguments.rounds {
        for &connections in &arguments.connections {
            for subject in &subjects {
                // A process of its own for every turn, so that none inherits another's memory.
                let proxy = programs.start(subject.proxy, upstream)?;
                let load = Load {
                    address: proxy.as_ref().map_or(upstream, |proxy| proxy.address),
                    client: subject.client,
                    answer: subject.answer,
                    connections,
                    threads: cores.min(connections),
                    warm_up: Duration::try_from_secs_f64(arguments.warm_up)?,
                    measured: Duration::try_from_secs_f64(arguments.seconds)?,
                };
                let name = subject.name();
                let turn = load
                    .run(|| proxy.as_ref().map(proxy::Running::usage).transpose())
                    .map_err(|error| format!("{name}, {connections} connections: {error}"))?;
                let measured = Figures::new(subject, connections, round, &turn);
                eprintln!("round {round}: {measured}");
                figures.push(measured);
            }
        }
    }
    if let Some(path) = &arguments.raw {
        fs::write(path, serde_json::to_string_pretty(&figures)?)?;
    }
    print!("{}", table::markdown(&figures, &subjects, &arguments.connections));
    Ok(())
}

/// What goes wrong ends the run: half a table would mislead.
type Failure = Box<dyn Error + Send + Sync>;
