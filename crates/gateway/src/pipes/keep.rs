//! Keeping a program from outliving the gateway that started it.

use std::io;
use std::os::unix::process::parent_id;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Signal, getpgrp, kill_process_group};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// How often it is looked whether the gateway is there.
const LOOK: Duration = Duration::from_millis(250);
/// How long the program may take to end without it, and then when it is told to.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a program with the stdin and stdout of this process, until it ends, or the process that started this one is gone:
/// then the program ends as well, and whatever it has started in its process group.
///
/// # Errors
/// When it cannot be started.
pub fn keep(words: &[String]) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let started_by = parent_id();
        // The signal is for the program; this process ends with it.
        let _heard = signal(SignalKind::terminate())?;
        let mut child = Command::new(program).args(arguments).spawn()?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                status = child.wait() => return status,
                _ = look.tick() => if parent_id() != started_by {
                    break;
                },
            }
        }
        // Its stdin is closed: that is how it is asked first.
        for end in [Signal::TERM, Signal::KILL] {
            if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
                return status;
            }
            let _ = kill_process_group(getpgrp(), end);
        }
        child.wait().await
    })
}
