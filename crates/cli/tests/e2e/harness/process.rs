//! A process that a test starts, watches, kills and starts again.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{self, PATIENCE};

/// A child process. It is killed when it is dropped, and if the test has failed by then its output is shown.
pub(crate) struct Process {
    name: String,
    program: OsString,
    arguments: Vec<OsString>,
    child: Child,
    output: Arc<Output>,
}

impl Process {
    /// Starts `program`; `name` is what its output is headed with when a test fails.
    pub(crate) fn start<A: AsRef<OsStr>>(name: &str, program: impl AsRef<OsStr>, arguments: &[A]) -> Self {
        let program = program.as_ref().to_owned();
        let arguments: Vec<OsString> =
            arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let output = Arc::default();
        let child = spawn(&program, &arguments, &output);
        Self { name: name.to_owned(), program, arguments, child, output }
    }

    /// Starts it again, with the same arguments. It must have been killed before.
    pub(crate) fn start_again(&mut self) {
        assert!(self.has_ended(), "{} is still running", self.name);
        self.child = spawn(&self.program, &self.arguments, &self.output);
    }

    /// Kills it with SIGKILL, which no process can answer by tidying up, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().expect("a process to kill");
        self.child.wait().expect("its end");
    }

    /// Interrupts it, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        self.signal("-INT");
    }

    /// Asks it to end, as an orchestrator does, and waits until it has; whether it then reported success.
    pub(crate) fn terminate(&mut self) -> bool {
        self.signal("-TERM");
        self.succeeds()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(sent.success(), "{} has ended", self.name);
    }

    /// Waits for it to end by itself; whether it then reported success.
    pub(crate) fn succeeds(&mut self) -> bool {
        self.exit_code() == Some(0)
    }

    /// Waits for it to end by itself; its exit code, unless a signal ended it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        until(&format!("{} to end", self.name), || self.child.try_wait().expect("its status")).code()
    }

    /// Waits until `GET url` answers 200, unless the process ends before.
    pub(crate) fn wait_until_ok(&mut self, url: &str) {
        self.wait_until_status(url, |status| status == 200);
    }

    /// Waits until `GET url` is answered, whatever it is, unless the process ends before.
    pub(crate) fn wait_until_answered(&mut self, url: &str) {
        self.wait_until_status(url, |_| true);
    }

    fn wait_until_status(&mut self, url: &str, right: impl Fn(u16) -> bool) {
        until(&format!("{} at {url}", self.name), || {
            assert!(!self.has_ended(), "{} ended at its start", self.name);
            http::send("GET", url, &[], None).is_ok_and(|(answer, _)| right(answer.status)).then_some(())
        });
    }

    /// The first line of its stdout from number `from` on that `find` finds something in, and the number of
    /// the line behind it.
    pub(crate) fn wait_for_line<T>(&self, from: usize, find: impl Fn(&str) -> Option<T>) -> (T, usize) {
        let found = self.find_line(from, PATIENCE, find);
        found.unwrap_or_else(|| panic!("{}: the expected line did not come", self.name))
    }

    /// [`Process::wait_for_line`], for at most so long.
    pub(crate) fn find_line<T>(
        &self,
        from: usize,
        patience: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> Option<(T, usize)> {
        let lines = self.output.lock();
        let mut found = None;
        let waited = self.output.more.wait_timeout_while(lines, patience, |lines| {
            let stdout = lines.iter().enumerate().skip(from).filter(|(_, line)| line.stdout);
            found = stdout.into_iter().find_map(|(at, line)| Some((find(&line.text)?, at + 1)));
            found.is_none()
        });
        drop(waited);
        found
    }

    /// How many lines it has printed so far.
    pub(crate) fn line_count(&self) -> usize {
        self.output.lock().len()
    }

    /// Everything it has printed so far, to stdout and stderr.
    pub(crate) fn printed(&self) -> String {
        self.output.lock().iter().map(|line| line.text.clone() + "\n").collect()
    }

    /// Writes a line to its stdin.
    pub(crate) fn write_line(&mut self, line: &str) {
        let stdin: &mut ChildStdin = self.child.stdin.as_mut().expect("its stdin");
        writeln!(stdin, "{line}").expect("that it reads its stdin");
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either may fail because it has ended already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("---- {}, which printed:\n{}", self.name, self.printed());
        }
    }
}

fn spawn(program: &OsStr, arguments: &[OsString], output: &Arc<Output>) -> Child {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    collect(child.stdout.take().expect("its stdout"), true, output.clone());
    collect(child.stderr.take().expect("its stderr"), false, output.clone());
    child
}

/// The lines that a process has printed, all its lives long.
#[derive(Default)]
struct Output {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

struct Line {
    stdout: bool,
    text: String,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads to the end, which comes with the process's; a full pipe would stop it.
fn collect(pipe: impl Read + Send + 'static, stdout: bool, output: Arc<Output>) {
    thread::spawn(move || {
        for text in BufReader::new(pipe).lines().map_while(Result::ok) {
            output.lock().push(Line { stdout, text });
            output.more.notify_all();
        }
    });
}

/// Waits until `ready` has something to give; [`PATIENCE`] is the limit.
#[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// A port that nothing else will take, even while the test's process on it is dead.
///
/// Such ports lie below those that the system gives to outgoing connections (32768 and up on Linux). The
/// tests of this process count upwards; those of another start elsewhere.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 120 * 100;
    until("a free port", || {
        let offset = (start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 12_000;
        let port = 20_000 + u16::try_from(offset).expect("less than 12,000");
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    })
}
