//! One process: what goes in and comes out of it, and its end.

use std::cell::{Cell, RefCell};
use std::io;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use throughline_wire::envelope::{self, Envelope, Limits, Message};
use throughline_wire::{jsonrpc, method};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, mpsc};

use super::Settings;
use super::lines::Lines;

/// Messages on their way in, and to one reader; then whoever writes waits.
const QUEUE: usize = 64;
/// How long a process may take to end when its stdin is closed, and then when it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// How long what a process said before its end is read.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Longest piece of a line of stderr that is logged, in bytes.
const STDERR_LINE: usize = 4096;
/// How long a reader of the standing stream may take nothing, before it is cut off for the sake of the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request is told.
pub(super) enum Said {
    /// Its response.
    Response(Bytes),
    /// Something on the way.
    Message(Bytes),
}

/// A process and those who wait for what it says.
pub(super) struct Process {
    stdin: mpsc::Sender<Bytes>,
    waiting: RefCell<Vec<Waiting>>,
    listener: RefCell<Option<mpsc::Sender<Bytes>>>,
    pub(super) dead: Cell<bool>,
    end: Notify,
}

struct Waiting {
    turn: u64,
    /// Raw JSON of the request's id, and of its progress token.
    id: Box<str>,
    token: Option<Box<str>>,
    to: mpsc::Sender<Said>,
}

/// A request that waits; when it is dropped, nobody does.
pub(super) struct Turn {
    process: Rc<Process>,
    turn: u64,
    /// What it is told. Ends when the process does.
    pub(super) said: mpsc::Receiver<Said>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.process.waiting.borrow_mut().retain(|waiting| waiting.turn != self.turn);
    }
}

impl Process {
    /// Starts one. `ended` is called when it has ended.
    pub(super) fn start(settings: &Settings, ended: impl FnOnce() + 'static) -> io::Result<Rc<Self>> {
        let mut words = settings.keeper.iter().map(|word| word.clone().into_os_string());
        let mut all = words.by_ref().chain(settings.command.words.iter().map(Into::into));
        let program = all.next().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(all).envs(settings.command.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &settings.command.directory {
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
        let process = Rc::new(Process {
            stdin: to_stdin,
            waiting: RefCell::default(),
            listener: RefCell::default(),
            dead: Cell::new(false),
            end: Notify::new(),
        });
        let id = child.id().unwrap_or_default();
        tokio::task::spawn_local(log(Lines::new(stderr, STDERR_LINE), id));
        tokio::task::spawn_local({
            let (process, limit) = (Rc::clone(&process), settings.line);
            async move {
                process.run(child, stdin, lines, Lines::new(stdout, limit)).await;
                ended();
            }
        });
        Ok(process)
    }

    async fn run(
        self: Rc<Self>,
        mut child: Child,
        stdin: ChildStdin,
        lines: mpsc::Receiver<Bytes>,
        stdout: Lines<ChildStdout>,
    ) {
        let writing = tokio::task::spawn_local(write(stdin, lines));
        let status = {
            let read = self.read(stdout);
            tokio::pin!(read);
            tokio::select! {
                status = child.wait() => {
                    // What it said last; its stdout may be held by others for longer.
                    let _ = tokio::time::timeout(LAST_WORDS, &mut read).await;
                    status.ok()
                }
                () = &mut read => None,
                () = self.end.notified() => None,
            }
        };
        self.dead.set(true);
        // With this its stdin is closed.
        writing.abort();
        let status = match status {
            Some(status) => Some(status),
            None => end(&mut child).await,
        };
        let code = status.map(|status| status.to_string());
        tracing::info!(process = child.id(), status = code, "a program ended");
        // Whoever waits learns it by the end of what it is told.
        self.waiting.borrow_mut().clear();
        self.listener.borrow_mut().take();
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.dead.set(true);
        self.end.notify_one();
    }

    /// Sends it a message; an error when it has ended.
    pub(super) async fn tell(&self, message: &[u8]) -> Result<(), io::Error> {
        if self.dead.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // A line end can only stand between the parts of a message, where a space says the same.
        let mut line: Vec<u8> =
            message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        line.push(b'\n');
        self.stdin.send(line.into()).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Sends it a request.
    pub(super) async fn ask(self: &Rc<Self>, turn: u64, id: &str, message: &[u8]) -> Result<Turn, io::Error> {
        let token = envelope::path(message, &["params", "_meta", "progressToken"]).ok().flatten();
        let token = token.and_then(|at| std::str::from_utf8(&message[at]).ok()).map(Into::into);
        let (to, said) = mpsc::channel(QUEUE);
        self.waiting.borrow_mut().push(Waiting { turn, id: id.into(), token, to });
        let asked = Turn { process: Rc::clone(self), turn, said };
        self.tell(message).await.map(|()| asked)
    }

    /// Opens the stream of what belongs to no request; None while another has it.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut listener = self.listener.borrow_mut();
        if listener.as_ref().is_some_and(|present| !present.is_closed()) {
            return None;
        }
        let (to, said) = mpsc::channel(QUEUE);
        *listener = Some(to);
        Some(said)
    }

    async fn read(&self, mut stdout: Lines<ChildStdout>) {
        let mut garbage = 0_u64;
        while let Some(line) = stdout.next().await {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match Envelope::parse(&line, &Limits::ANY_DEPTH) {
                Ok(envelope) => self.said(&line, &envelope.message).await,
                Err(_) => {
                    garbage += 1;
                    if garbage == 1 {
                        tracing::warn!(
                            "a program writes something to stdout that is no message; it is passed over"
                        );
                    }
                }
            }
        }
        let too_long = stdout.too_long;
        if garbage + too_long > 0 {
            tracing::warn!(garbage, too_long, "lines of a program were passed over");
        }
    }

    /// Brings a message to whom it is for.
    async fn said(&self, line: &Bytes, message: &Message<'_>) {
        let is_request = matches!(message, Message::Request { .. });
        let to = match message {
            Message::Response { id: Some(id), .. } => {
                let to = self.find(|waiting| *waiting.id == *id.raw());
                if let Some(to) = to {
                    let _ = to.send(Said::Response(line.clone())).await;
                }
                return;
            }
            Message::Response { id: None, .. } => self.find(|_| true),
            Message::Notification { method, params: Some(params), .. } if method == method::PROGRESS => {
                let at = envelope::member(&line[params.clone()], "progressToken").ok().flatten();
                let token = at.map(|at| params.start + at.start..params.start + at.end);
                let token = token.and_then(|at| std::str::from_utf8(&line[at]).ok());
                self.find(|waiting| token.is_some() && waiting.token.as_deref() == token)
            }
            // Which request it is about, it does not say: the newest, most likely.
            _ => self.find(|_| true),
        };
        if let Some(to) = to
            && to.send(Said::Message(line.clone())).await.is_ok()
        {
            return;
        }
        let listener = self.listener.borrow().clone();
        if let Some(to) = listener {
            match tokio::time::timeout(PATIENCE, to.send(line.clone())).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) => {}
                Err(_) => {
                    tracing::warn!("a reader of a program's stream was cut off: it took nothing");
                    self.listener.borrow_mut().take();
                }
            }
        }
        if let (true, Message::Request { id, method, .. }) = (is_request, message) {
            let answer = match &**method {
                method::PING => jsonrpc::result(id.raw(), b"{}"),
                _ => jsonrpc::error(Some(id.raw()), -32601, "Nobody is there to be asked", None),
            };
            let _ = self.tell(&answer).await;
        }
    }

    fn find(&self, which: impl Fn(&Waiting) -> bool) -> Option<mpsc::Sender<Said>> {
        self.waiting.borrow().iter().rev().find(|waiting| which(waiting)).map(|waiting| waiting.to.clone())
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
