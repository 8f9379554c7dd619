//! Throughline: a session gateway for the Model Context Protocol.
//!
//! Thin: arguments in, exit codes out. What the commands do is in the libraries.

mod admin;
mod call;
mod connector;
mod demo;
mod doctor;
mod endpoint;
mod health;
mod instance;
mod keys;
mod load;
mod logging;
mod manual;
mod reference;
mod serve;
mod sessions;
mod text;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

/// A request makes some twenty small allocations, and a session keeps a dozen: the system's allocator takes more time
/// for the first and more memory for the second.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A session gateway for the Model Context Protocol: put it between any MCP client and any MCP server, and the
/// session holds.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in front of an MCP server.
    Serve(serve::Arguments),
    /// Run a small MCP server to try the gateway with.
    Reference(reference::Arguments),
    /// Watch sessions survive: starts servers and gateways, kills some, and shows what clients see.
    Demo,
    #[command(hide = true)]
    Keep(serve::KeepArguments),
    /// Talk to an MCP server: list what it has, call a tool, take the tour.
    Call(call::Arguments),
    /// Load an MCP server with calls, and measure: latencies, errors, the share of each instance.
    Load(load::Arguments),
    /// Say whether a configuration file can be run, and everything that is wrong with it.
    CheckConfig(serve::CheckArguments),
    /// Write the custom connector by which Copilot Studio and Power Platform reach a gateway.
    Connector(connector::Arguments),
    /// Say what an MCP server is, and what each kind of client will meet there.
    Doctor(doctor::Arguments),
    /// Say whether a server is ready, by the exit code: for containers.
    Health(health::Arguments),
    /// See the sessions of a running gateway, and remove them.
    Sessions(sessions::Arguments),
    /// Make a key ring, or a new key in one.
    Keys(keys::Arguments),
    /// Print a shell's completions.
    Completions(manual::Arguments),
    /// Print the manual page.
    Man,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Reference(arguments) => reference::run(arguments),
        Command::Demo => demo::run(),
        Command::Keep(arguments) => serve::keep(&arguments),
        Command::Call(arguments) => return call::run(arguments),
        Command::Load(arguments) => return load::run(arguments),
        Command::CheckConfig(arguments) => serve::check(&arguments),
        Command::Connector(arguments) => connector::run(&arguments),
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Health(arguments) => health::run(arguments),
        Command::Sessions(arguments) => sessions::run(arguments),
        Command::Keys(arguments) => keys::run(arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man => manual::man(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughline: {error}");
            if error.is::<admin::NotThere>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

/// What a command fails with: one line, or one for each mistake.
type Failure = Box<dyn std::error::Error>;
