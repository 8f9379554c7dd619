//! `throughline keys`: the key ring, in its file or in a running gateway.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use throughline_gateway::{Effects, keys};

use crate::Failure;
use crate::admin::Door;

/// Make a key ring, or a new key in one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  throughline keys new > keyring                  a new ring, printed: keep it secret
  throughline keys rotate --admin 127.0.0.1:8809  in the running gateway and in its file
  throughline keys rotate                         in the file of the state directory, for the next start")]
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
    },
    /// A new key at the head of a ring; what older keys sealed stays good.
    Rotate {
        /// The file, instead of a running gateway's ring [default without --admin: the one in the state directory].
        file: Option<PathBuf>,
    },
}

/// Does it.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, door } = arguments;
    match command {
        Command::New { file: None } => print!("{}", keys::generate(Effects::REAL)),
        Command::New { file: Some(file) } => {
            keys::create(&file, Effects::REAL)?;
            println!("{}: a new key ring; keep it secret", file.display());
        }
        Command::Rotate { file: None } if door.is_known() => {
            let ring = door.ask(Method::POST, "/keys/rotate")?;
            println!(
                "the gateway now seals with key {}; older keys still open what they sealed",
                ring["active"]
            );
        }
        Command::Rotate { file } => rotate_file(file, door.state_dir.as_deref())?,
    }
    Ok(())
}

fn rotate_file(file: Option<PathBuf>, state_dir: Option<&Path>) -> Result<(), Failure> {
    let file = match file {
        Some(file) => file,
        None => throughline_gateway::admin::token_file(state_dir)?.with_file_name(keys::FILE),
    };
    let status = keys::rotate(&file, Effects::REAL)?;
    let active = status.ids.first().copied().unwrap_or_default();
    println!(
        "{}: key {active} seals now; a gateway that is running takes it at its next start",
        file.display()
    );
    Ok(())
}
