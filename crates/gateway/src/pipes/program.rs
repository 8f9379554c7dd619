//! A program: started, written to, read, and ended.

use std::io;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::lines::Lines;
use super::pipe::{Inlet, Pipe, QUEUE, Use};
use crate::config;

/// How long a process may take to end when its stdin is closed, and then when it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// How long what a process said before its end is read.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Longest piece of a line of stderr that is logged, in bytes.
const STDERR_LINE: usize = 4096;

/// Starts one, whose lines may be `limit` bytes long. `ended` is called when it has ended.
pub(super) fn start(
    program: &config::Command,
    keeper: &[PathBuf],
    limit: usize,
    of: Use,
    ended: impl FnOnce() + 'static,
) -> io::Result<Rc<Pipe>> {
    let words = keeper.iter().map(|word| word.clone().into_os_string());
    let mut all = words.chain(program.words.iter().map(Into::into));
    let mut command = Command::new(all.next().ok_or(io::ErrorKind::InvalidInput)?);
    command.args(all).envs(program.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &program.directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn()?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (to_stdin, lines) = mpsc::channel(QUEUE);
    let pipe = Pipe::new(Inlet::Lines(to_stdin), of);
    let id = child.id().unwrap_or_default();
    tokio::task::spawn_local(log(Lines::new(stderr, STDERR_LINE), id));
    tokio::task::spawn_local({
        let pipe = Rc::clone(&pipe);
        async move {
            run(&pipe, child, stdin, lines, Lines::new(stdout, limit)).await;
            ended();
        }
    });
    Ok(pipe)
}

async fn run(
    pipe: &Pipe,
    mut child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<Bytes>,
    stdout: Lines<ChildStdout>,
) {
    let writing = tokio::task::spawn_local(write(stdin, lines));
    let status = {
        let read = read(pipe, stdout);
        tokio::pin!(read);
        tokio::select! {
            status = child.wait() => {
                // What it said last; its stdout may be held by others for longer.
                let _ = tokio::time::timeout(LAST_WORDS, &mut read).await;
                status.ok()
            }
            () = &mut read => None,
            () = pipe.ending() => None,
        }
    };
    pipe.dead.set(true);
    // With this its stdin is closed.
    writing.abort();
    let status = match status {
        Some(status) => Some(status),
        None => end(&mut child).await,
    };
    let code = status.map(|status| status.to_string());
    tracing::info!(process = child.id(), status = code, "a program ended");
    pipe.ended();
}

async fn read(pipe: &Pipe, mut stdout: Lines<ChildStdout>) {
    while let Some(line) = stdout.next().await {
        pipe.heard(&line).await;
    }
    let (garbage, too_long) = (pipe.garbage(), stdout.too_long);
    if garbage + too_long > 0 {
        tracing::warn!(garbage, too_long, "lines of a program were passed over");
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Waits for the end of a process whose stdin is closed; makes it end if it does not. Its whole group ends.
async fn end(child: &mut Child) -> Option<std::process::ExitStatus> {
    let group = child.id();
    let mut status = tokio::time::timeout(GRACE, child.wait()).await.ok().and_then(Result::ok);
    if status.is_none() {
        signal(group, "TERM");
        status = tokio::time::timeout(GRACE, child.wait()).await.ok().and_then(Result::ok);
    }
    if status.is_none() {
        signal(group, "KILL");
        let _ = child.start_kill();
        status = child.wait().await.ok();
    }
    status
}

/// Signals a process group.
fn signal(group: Option<u32>, name: &str) {
    let group = group.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let signal = if name == "KILL" { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
    if let Some(group) = group {
        // It may have ended by itself.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// What a program writes to stderr is its log.
async fn log(mut lines: Lines<tokio::process::ChildStderr>, process: u32) {
    while let Some(line) = lines.next().await {
        let text = String::from_utf8_lossy(&line[..line.len().min(STDERR_LINE)]);
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        tracing::info!(target: "throughline::program", process, "{text}");
    }
}
