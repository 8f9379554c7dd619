//! `throughline doctor`: what a server is, what each kind of client will meet there, and what the gateway would change.
//!
//! It asks what any client asks, and calls no tool unless it is told which.

mod ask;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use throughline_gateway::config::parse_duration;

use crate::Failure;
use ask::Patient;
use report::Report;

/// Say what an MCP server is, and what each kind of client will meet there.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline doctor http://127.0.0.1:3000/mcp
  throughline doctor https://mcp.example.com/mcp --header 'authorization: Bearer TOKEN' --json
  throughline doctor http://127.0.0.1:3000/mcp --idle 10m

Exit codes: 0 nothing to mend, 1 something that a client will meet, 3 no MCP server there.
It opens a session, lists the tools, and ends the session. It calls no tool unless --call names one.")]
pub(crate) struct Arguments {
    /// The server's MCP endpoint.
    #[arg(value_name = "URL")]
    url: Uri,
    /// A header that every request carries.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// A tool to call, without arguments, as the last of all.
    #[arg(long, value_name = "TOOL")]
    call: Option<String>,
    /// Leave the session alone for so long, and see whether it is still there.
    #[arg(long, value_name = "DURATION", value_parser = idle)]
    idle: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| "that is no name of a header")?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| "that is no value of a header")?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn idle(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Examines a server.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match examine(arguments) {
        Ok(report) => {
            let shown = if arguments.json { report.json() } else { report.text() };
            println!("{shown}");
            if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("throughline: {error}");
            ExitCode::from(3)
        }
    }
}

fn examine(arguments: &Arguments) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let patient = Patient::at(&arguments.url, arguments.header.clone())?;
        let facts = patient.examine(arguments.idle, arguments.call.as_deref()).await?;
        Ok(Report::of(arguments.url.to_string(), facts))
    })
}
