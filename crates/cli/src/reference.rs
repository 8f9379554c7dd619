//! `throughline reference`: a server to try the gateway with.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use throughline_reference::counter::{self, CounterConfig};
use tokio::net::TcpListener;

use crate::Failure;

/// A small MCP server, to try the gateway with.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline reference --stateful                 a counter in every session, at http://127.0.0.1:3000/mcp
  throughline reference --stateful --era dual      which speaks 2026-07-28 as well")]
pub(crate) struct Arguments {
    /// Where to listen.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Keep a counter in every session, in memory: what a gateway has to hold together. Required for now: the
    /// stateless server is not there yet.
    #[arg(long, required = true)]
    stateful: bool,
    /// Which revisions of the protocol to speak.
    #[arg(long, value_enum, default_value = "legacy")]
    era: Era,
    /// A file that every key of the tool `mark` is written to, also for whoever kills the server.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// Those, and 2026-07-28.
    Dual,
}

/// Runs until it is killed or interrupted.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let era = match arguments.era {
        Era::Legacy => counter::Era::Legacy,
        Era::Dual => counter::Era::Dual,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
            format!("cannot listen on {}: {error}; choose another with --listen", arguments.listen)
        })?;
        println!("ready http://{}/mcp", listener.local_addr()?);
        let interrupted = async {
            let _ = tokio::signal::ctrl_c().await;
        };
        counter::serve(
            listener,
            CounterConfig { era, journal: arguments.journal, ..CounterConfig::default() },
            interrupted,
        )
        .await?;
        Ok(())
    })
}
