//! `throughline load`: a load test that knows sessions and instances.

mod client;
mod plan;
mod report;
mod run;
mod stats;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use throughline_wire::era::Probe;
use tokio::time::Instant;

use crate::call::tool_arguments;
use crate::endpoint::{Endpoint, Options, Usage};
use crate::{Failure, text};
use client::{Behaviour, Client, Handshake, Job};
use plan::{Begun, Pace, Plan, duration};
use report::{Expected, Report};
use run::{Ended, PREPARATION};
use stats::{Failed, Stats, at};

/// More would need more than this machine has ports for.
const MAX_CLIENTS: i64 = 20_000;
const MAX_RATE: f64 = 1_000_000.0;

/// Load an MCP server with calls, and measure.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline load http://127.0.0.1:3000/mcp                           ten clients, ten seconds
  throughline load http://127.0.0.1:3000 echo '{\"message\":\"hello\"}' --clients 50 --duration 1m
  throughline load http://127.0.0.1:8808 whoami --rate 200 --ramp 10s  200 calls a second, however slow
  throughline load http://127.0.0.1:8808 --client id-less --initialize each-call
  throughline load https://example.com/mcp --expect-p99 250 --expect-errors 0 --json > load.json

Closed loop (the default): each client calls again when it has its answer. Open loop (--rate): calls are due at a
rate, and the time of one that had to wait for a free client begins when it was due, so that a server that stalls
cannot hide the calls that it kept from being sent (coordinated omission).

Without TOOL, whoami is called where the server has it, else its list of tools is asked for. Instances are counted
by what the tool's result calls instance, and by the header Throughline-Instance of whoever answered. A first call,
which is not measured, shows whether it works at all.

Exit codes: 0 done, 1 an expectation was not met, 2 wrong usage, 3 the first call failed, 130 interrupted.")]
pub(crate) struct Arguments {
    /// The server's endpoint.
    url: String,
    /// The tool to call.
    tool: Option<String>,
    /// The tool's arguments, a JSON object; - reads it from standard input.
    #[arg(value_name = "JSON", default_value = "{}")]
    arguments: String,
    /// How clients behave.
    #[arg(long, value_enum, default_value = "auto")]
    client: Behaviour,
    /// When clients with a handshake shake hands.
    #[arg(long, value_enum, default_value = "once")]
    initialize: Handshake,
    /// How many clients there are, each with a connection.
    #[arg(long, short, visible_alias = "connections", value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(i64).range(1..=MAX_CLIENTS))]
    clients: i64,
    /// How many calls are due each second, by all clients together: the open loop.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// How long to measure.
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How long to go on before anything is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// How long the load grows before that.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    ramp: Duration,
    /// How long a call may take, with the handshake that it needs.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Make a connection for each request: load balancers that spread connections then spread calls.
    #[arg(long)]
    new_connections: bool,
    #[command(flatten)]
    options: Options,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    /// The most that the 99th percentile of the latency may be, in milliseconds.
    #[arg(long, visible_alias = "p99", value_name = "MS")]
    expect_p99: Option<f64>,
    /// The most calls that may be errors.
    #[arg(long, value_name = "N")]
    expect_errors: Option<u64>,
    /// The largest share of calls that may be errors, from 0 to 1.
    #[arg(long, value_name = "SHARE")]
    max_error_rate: Option<f64>,
}

/// Why there is nothing to report.
enum Stopped {
    Usage(String),
    /// The first call failed.
    First(String),
    Failed(Failure),
}

impl From<Usage> for Stopped {
    fn from(usage: Usage) -> Self {
        Stopped::Usage(usage.0)
    }
}

impl From<Failure> for Stopped {
    fn from(error: Failure) -> Self {
        Stopped::Failed(error)
    }
}

/// Does it.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (text, code) = match measure(arguments) {
        Ok(code) => return code,
        Err(Stopped::Usage(text)) => (text, 2),
        Err(Stopped::First(text)) => (text, 3),
        Err(Stopped::Failed(error)) => (error.to_string(), 3),
    };
    eprintln!("throughline: {}", text::printable(&text));
    ExitCode::from(code)
}

fn measure(arguments: Arguments) -> Result<ExitCode, Stopped> {
    let plan = planned(&arguments)?;
    let mut job = Job {
        endpoint: Arc::new(Endpoint::new(&arguments.url, &arguments.options)?),
        behaviour: arguments.client,
        handshake: arguments.initialize,
        new_connections: arguments.new_connections,
        timeout: arguments.timeout,
        method: "tools/list".to_owned(),
        params: json!({}),
    };
    let asked = match &arguments.tool {
        Some(tool) => Some((tool.clone(), Value::Object(tool_arguments(&arguments.arguments)?))),
        None => None,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from)?;
    let asked = runtime.block_on(prepare(&mut job, asked))?;
    drop(runtime);

    let job = Arc::new(job);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(plan.clients);
    let begun = Begun { plan, start: Instant::now() + PREPARATION };
    let (stats, ended) = run::run(&job, begun, threads)?;
    let expected = expectations(&arguments, &stats);
    let gone = Instant::now().saturating_duration_since(begun.start + plan.measured_from());
    let report = Report {
        url: job.endpoint.shown(),
        asked: &asked,
        behaviour: job.behaviour,
        handshake: job.handshake,
        plan,
        measured: gone.min(plan.measured),
        interrupted: ended == Ended::Interrupted,
        stats: &stats,
        expected: &expected,
    };
    let shown = if arguments.json { format!("{}\n", report.json()) } else { report.text() };
    text::print(&shown).map_err(Failure::from)?;
    Ok(match ended {
        Ended::Interrupted => ExitCode::from(130),
        Ended::AsPlanned if expected.iter().all(Expected::is_met) => ExitCode::SUCCESS,
        Ended::AsPlanned => ExitCode::from(1),
    })
}

/// The plan, if it can be run.
fn planned(arguments: &Arguments) -> Result<Plan, Usage> {
    let wrong = |text: &str| Err(Usage(text.to_owned()));
    let pace = match arguments.rate {
        None => Pace::Answers,
        Some(rate) if rate > 0.0 && rate <= MAX_RATE => Pace::Rate(rate),
        Some(_) => return wrong("--rate is a number of calls per second, above 0 and up to a million"),
    };
    if arguments.duration.is_zero() || arguments.timeout.is_zero() {
        return wrong("--duration and --timeout are longer than nothing");
    }
    if arguments.client == Behaviour::Issued && arguments.initialize == Handshake::Never {
        return wrong("a client that keeps a session id needs a handshake: --client id-less needs none");
    }
    Ok(Plan {
        pace,
        clients: usize::try_from(arguments.clients).unwrap_or(1),
        ramp: arguments.ramp,
        warm_up: arguments.warm_up,
        measured: arguments.duration,
    })
}

/// Finds out what is open, and makes a first call. Returns what is called.
async fn prepare(job: &mut Job, asked: Option<(String, Value)>) -> Result<String, Stopped> {
    if job.behaviour == Behaviour::Auto {
        job.behaviour = match attempt(job, async |client| client.probe().await).await? {
            Probe::Modern => Behaviour::Modern,
            Probe::Legacy | Probe::Inconclusive if job.handshake == Handshake::Never => Behaviour::IdLess,
            Probe::Legacy | Probe::Inconclusive => Behaviour::Issued,
        };
    }
    let asked = match asked {
        Some(asked) => Some(asked),
        None => {
            let page = attempt(job, async |client| client.ask("tools/list", json!({})).await).await?;
            let tools = page["tools"].as_array();
            let has_whoami = tools.is_some_and(|tools| tools.iter().any(|tool| tool["name"] == "whoami"));
            has_whoami.then(|| ("whoami".to_owned(), json!({})))
        }
    };
    let name = match asked {
        Some((tool, arguments)) => {
            job.method = "tools/call".to_owned();
            job.params = json!({ "name": tool, "arguments": arguments });
            tool
        }
        None => job.method.clone(),
    };
    attempt(job, async |client| client.call().await.outcome).await?;
    Ok(name)
}

/// Lets a client of this kind do something, once.
async fn attempt<T>(
    job: &mut Job,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, Failed>,
) -> Result<T, Stopped> {
    let copy = Arc::new(job.clone());
    let mut client = Client::new(Arc::clone(&copy));
    let worked = tokio::time::timeout(copy.timeout, work(&mut client)).await;
    client.close().await;
    match worked {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(failed)) => {
            let says = client::quotable(&copy, &failed.says);
            Err(Stopped::First(format!(
                "the first call failed, so there is nothing to measure: {}: {says}",
                failed.kind
            )))
        }
        Err(_) => {
            Err(Stopped::First("the first call was not answered in time; --timeout gives it longer".into()))
        }
    }
}

fn expectations(arguments: &Arguments, stats: &Stats) -> Vec<Expected> {
    let called = stats.calls > 0;
    let p99 = arguments.expect_p99.map(|limit| Expected {
        name: "p99 in ms",
        limit,
        value: at(&stats.latency, 99.0),
        known: !stats.latency.is_empty(),
    });
    let errors = arguments.expect_errors.map(|limit| Expected {
        name: "errors",
        limit: limit as f64,
        value: stats.failed() as f64,
        known: called,
    });
    let rate = arguments.max_error_rate.map(|limit| Expected {
        name: "error rate",
        limit,
        value: stats.error_rate(),
        known: called,
    });
    [p99, errors, rate].into_iter().flatten().collect()
}
