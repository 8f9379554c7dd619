//! `throughline keys`: the key ring, in its file or in a running gateway.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use throughline_gateway::config::parse_duration;
use throughline_gateway::{Effects, keys};

use crate::Failure;
use crate::admin::Door;

/// How long a file may take to reach every replica: Kubernetes takes up to two minutes for a mounted secret.
const DISTRIBUTION: Duration = Duration::from_secs(600);

/// Make a key ring, or a new key in one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline keys new > keyring                  a new ring, printed: keep it secret
  throughline keys new --one-line                 the same, for THROUGHLINE_KEY_RING
  throughline keys rotate --admin 127.0.0.1:8809  in the running gateway and in its file
  throughline keys rotate                         in the file of the state directory, for the next start
  throughline keys rotate keyring                 in a file for several replicas: the new key seals in ten minutes")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    door: Door,
}

#[derive(Subcommand)]
enum Command {
    /// A new ring with one key: printed, or written to a file that is not there yet.
    New {
        /// The file.
        file: Option<PathBuf>,
        /// Print it in one line, for a variable of the environment.
        #[arg(long, conflicts_with = "file")]
        one_line: bool,
    },
    /// A new key at the head of a ring; what older keys sealed stays good.
    Rotate {
        /// The file, instead of a running gateway's ring [default without --admin: the one in the state directory].
        file: Option<PathBuf>,
        /// When the new key begins to seal: every replica must have it by then [default: 10m for FILE, else 0s].
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        seals_after: Option<Duration>,
    },
}

/// Does it.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, door } = arguments;
    match command {
        Command::New { file: None, one_line } => print!("{}", keys::generate(Effects::REAL, one_line)),
        Command::New { file: Some(file), .. } => {
            keys::create(&file, Effects::REAL)?;
            println!("{}: a new key ring; keep it secret", file.display());
        }
        Command::Rotate { file: None, seals_after: None } if door.is_known() => {
            let ring = door.ask(Method::POST, "/keys/rotate")?;
            println!(
                "the gateway now seals with key {}; older keys still open what they sealed",
                ring["active"]
            );
        }
        Command::Rotate { file, seals_after } => {
            let after = seals_after.unwrap_or(if file.is_some() { DISTRIBUTION } else { Duration::ZERO });
            rotate_file(file, after, door.state_dir.as_deref())?;
        }
    }
    Ok(())
}

fn rotate_file(file: Option<PathBuf>, after: Duration, state_dir: Option<&Path>) -> Result<(), Failure> {
    let file = match file {
        Some(file) => file,
        None => throughline_gateway::admin::token_file(state_dir)?.with_file_name(keys::FILE),
    };
    let status = keys::rotate(&file, after, Effects::REAL)?;
    let newest = status.newest;
    let file = file.display();
    if after.is_zero() {
        println!("{file}: key {newest} seals now; a gateway that is running takes it at its next start");
    } else {
        println!(
            "{file}: key {newest} opens now and seals in {} s; give the file to every replica before that",
            after.as_secs()
        );
    }
    Ok(())
}
