//! `throughline call`: the bundled client.

mod client;
mod form;
mod list;
mod person;
mod raw;
mod show;
mod tour;
mod transport;

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::endpoint::{self, Endpoint, Usage};
use crate::instance::{self, Shares};
use crate::text;
use client::{Client, Ended};
use raw::Raw;

/// Talk to an MCP server: list what it has, call a tool, take the tour.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline call http://127.0.0.1:3000/mcp                         tools, prompts and resources
  throughline call http://127.0.0.1:3000/mcp increment '{\"by\":2}'    calls a tool
  throughline call http://127.0.0.1:3000 whoami --repeat 9 --json    nine results, a line of JSON each
  throughline call http://127.0.0.1:3000 --tour                      what the server can do, step by step
  throughline call https://example.com/mcp --raw                     the wire, on standard error

A URL without a path is asked at /mcp. Every request goes over a connection of its own, so that a load balancer
chooses each time. What a server asks in the middle of a call (elicitation) is answered at the terminal; where
there is none, it is declined. HTTP_PROXY, HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE are honoured.

Exit codes: 0 done, 1 the tool reports an error, 2 wrong usage, 3 no answer: the server cannot be reached, refuses,
or does not speak MCP.")]
pub(crate) struct Arguments {
    /// The server's endpoint.
    url: String,
    /// The tool to call; without one, what the server has is listed.
    tool: Option<String>,
    /// The tool's arguments, a JSON object; - reads it from standard input.
    #[arg(value_name = "JSON", default_value = "{}")]
    arguments: String,
    /// Which revisions of the protocol to speak: what the server speaks, the newest first; those with a
    /// handshake (2025-11-25 and before); those without (2026-07-28).
    #[arg(long, value_enum, default_value = "auto")]
    era: Era,
    #[command(flatten)]
    options: endpoint::Options,
    /// Print results as the server sent them, each on a line.
    #[arg(long)]
    json: bool,
    /// Print requests and answers as they go over the wire, on standard error, without secrets.
    #[arg(long)]
    raw: bool,
    /// Call so many times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Show a newcomer around: who the server is, its lists and how long they may be kept, which instance
    /// answers, and a total that goes on across instances.
    #[arg(long, conflicts_with_all = ["tool", "arguments", "json", "repeat"])]
    tour: bool,
    /// How long a call may take, with what it asks, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    Auto,
    Legacy,
    Modern,
}

/// How it went, for scripts.
enum Outcome {
    Done,
    ToolError,
}

/// Does it.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let mut secrets = Vec::new();
    let outcome = prepare(arguments).and_then(|prepared| {
        secrets.clone_from(&prepared.endpoint.secrets);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| Ended::Failed(error.to_string()))?.block_on(prepared.run())
    });
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ToolError) => ExitCode::from(1),
        Err(ended) => {
            // A server may repeat in its errors what it was sent.
            person::say(&text::without(&secrets, &format!("throughline: {ended}")));
            ended.code()
        }
    }
}

impl From<Usage> for Ended {
    fn from(usage: Usage) -> Self {
        Ended::Usage(usage.0)
    }
}

/// What is to be done, with everything read that can be wrong before it begins.
struct Prepared {
    endpoint: Arc<Endpoint>,
    raw: Option<Arc<Raw>>,
    era: Era,
    json: bool,
    patience: Duration,
    task: Task,
}

enum Task {
    List,
    Tour,
    Call { tool: String, arguments: Map<String, Value>, times: u64 },
}

fn prepare(arguments: Arguments) -> Result<Prepared, Ended> {
    let endpoint = Endpoint::new(&arguments.url, &arguments.options)?;
    let task = match arguments.tool {
        Some(tool) => {
            let given = tool_arguments(&arguments.arguments)?;
            Task::Call { tool, arguments: given, times: arguments.repeat }
        }
        None if arguments.tour => Task::Tour,
        None if arguments.repeat > 1 => {
            return Err(Ended::Usage("--repeat needs a TOOL to call".to_owned()));
        }
        None => Task::List,
    };
    Ok(Prepared {
        raw: arguments.raw.then(|| Arc::new(Raw::new(endpoint.secrets.clone()))),
        endpoint: Arc::new(endpoint),
        era: arguments.era,
        json: arguments.json,
        patience: Duration::from_secs(arguments.timeout),
        task,
    })
}

/// Arguments from the command line, or from standard input.
pub(crate) fn tool_arguments(given: &str) -> Result<Map<String, Value>, Usage> {
    let mut read = String::new();
    let text = if given == "-" {
        let input = std::io::stdin().read_to_string(&mut read);
        input.map_err(|error| Usage(format!("the arguments on standard input: {error}")))?;
        &read
    } else {
        given
    };
    serde_json::from_str(text)
        .map_err(|error| Usage(format!("the arguments are no JSON object: {error}; write '{{\"by\":2}}'")))
}

fn print(text: &str) -> Result<(), Ended> {
    text::print(text).map_err(|error| Ended::Failed(format!("nobody takes the output: {error}")))
}

impl Prepared {
    async fn run(self) -> Result<Outcome, Ended> {
        let interrupted = async {
            // Without a handler for it, SIGINT does what it always does.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(interrupted);
        let client = tokio::select! {
            client = self.connect() => client?,
            () = &mut interrupted => return Err(Ended::Interrupted),
        };
        let outcome = tokio::select! {
            outcome = self.work(&client) => outcome,
            () = &mut interrupted => Err(Ended::Interrupted),
        };
        client.close().await;
        outcome
    }

    async fn connect(&self) -> Result<Client, Ended> {
        let connecting = Client::connect(&self.endpoint, self.raw.as_ref(), self.era);
        tokio::time::timeout(self.patience, connecting).await.map_err(|_| self.too_long())?
    }

    async fn work(&self, client: &Client) -> Result<Outcome, Ended> {
        match &self.task {
            Task::List => {
                let lists = tokio::time::timeout(self.patience, list::all(client));
                let lists = lists.await.map_err(|_| self.too_long())??;
                print(&if self.json { lists.json(client) } else { lists.table(client) })?;
                Ok(Outcome::Done)
            }
            Task::Tour => {
                let tour = tokio::time::timeout(self.patience, tour::take(client));
                tour.await.map_err(|_| self.too_long())?
            }
            Task::Call { tool, arguments, times } => self.calls(client, tool, arguments, *times).await,
        }
    }

    async fn calls(
        &self,
        client: &Client,
        tool: &str,
        arguments: &Map<String, Value>,
        times: u64,
    ) -> Result<Outcome, Ended> {
        let (mut errors, mut instances, mut answered_by) = (0, Shares::default(), Shares::default());
        for _ in 0..times {
            let answer = tokio::time::timeout(self.patience, client.call(tool, arguments.clone()));
            let answer = answer.await.map_err(|_| self.too_long())??;
            let shown = if self.json { answer.line() + "\n" } else { show::result(&answer.result) };
            print(&shown)?;
            if let Some(name) = instance::of_result(&answer.result) {
                instances.count(name);
            }
            if let Some(name) = &answer.answered_by {
                answered_by.count(name);
            }
            if answer.is_error() {
                errors += 1;
                person::say(&format!("throughline: {tool} reports an error"));
            }
        }
        if times > 1 {
            person::say(&format!("{times} calls, {errors} of them with an error"));
            if !instances.is_empty() {
                person::say(&format!("instances: {}", instances.in_words()));
            }
            if !answered_by.is_empty() && answered_by != instances {
                person::say(&format!("answered by: {}", answered_by.in_words()));
            }
        }
        Ok(if errors == 0 { Outcome::Done } else { Outcome::ToolError })
    }

    fn too_long(&self) -> Ended {
        Ended::Failed(format!(
            "nothing came of it in {} seconds; --timeout gives it longer",
            self.patience.as_secs()
        ))
    }
}
