//! Who plays: the processes of the demonstration, where they are, and their end.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use throughline_gateway::{Effects, keys};

use crate::Failure;

/// The stateful server.
pub(super) const COUNTER: &str = "counter";
/// The stateless ones.
pub(super) const SERVERS: [&str; 3] = ["one", "two", "three"];
/// The gateways; the second is there only where Redis is.
pub(super) const GATEWAYS: [&str; 2] = ["A", "B"];
const REDIS: &str = "redis";

/// What signs the handles of the three servers, which live for seconds on this machine: nothing to be kept secret.
const SERVERS_KEY: &str = "the key of a demonstration that everybody knows";
/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How often a process is asked whether it is ready.
const LOOK: Duration = Duration::from_millis(10);
/// Ports from here on, below those that systems give to outgoing connections: nobody takes one while its owner is dead.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 8_000;

/// All who play. Nobody outlives it, if it is ended or dropped.
pub(super) struct Cast {
    program: PathBuf,
    /// Only this user can look into it.
    dir: PathBuf,
    ports: BTreeMap<&'static str, u16>,
    children: Mutex<Children>,
}

enum Children {
    /// Those that run.
    Playing(BTreeMap<&'static str, Child>),
    /// No more are started.
    Over,
}

impl Cast {
    /// A directory and a port for each; nobody plays yet.
    pub(super) fn new() -> Result<Self, Failure> {
        let names = [COUNTER, REDIS].into_iter().chain(SERVERS).chain(GATEWAYS);
        let mut free = free_ports();
        let ports: BTreeMap<_, _> = names.zip(&mut free).collect();
        if ports.len() < 2 + SERVERS.len() + GATEWAYS.len() {
            let last = FIRST_PORT + PORTS - 1;
            return Err(format!("too few ports of {FIRST_PORT} to {last} are free on 127.0.0.1").into());
        }
        Ok(Self {
            program: std::env::current_exe()?,
            dir: directory()?,
            ports,
            children: Mutex::new(Children::Playing(BTreeMap::new())),
        })
    }

    /// Starts everybody, in order; gives where the gateways are, without a path.
    pub(super) fn set(&self) -> Result<Vec<String>, Failure> {
        self.start(COUNTER)?;
        for name in SERVERS {
            self.start(name)?;
        }
        let gateways = if self.start_redis()? { &GATEWAYS[..] } else { &GATEWAYS[..1] };
        let servers = SERVERS.map(|name| self.url(name));
        let store = if gateways.len() == 1 {
            format!("embedded:{}", self.dir.join("store").display())
        } else {
            format!("redis://{}", self.address(REDIS))
        };
        let config = format!(
            "store = {store:?}\n[routes.counter]\nurl = {:?}\nanonymous = \"shared\"\n\
             [routes.servers]\nurl = {servers:?}\n",
            self.url(COUNTER)
        );
        std::fs::write(self.config(), config)?;
        keys::create(&self.key_ring(), Effects::REAL)?;
        for name in gateways {
            self.start(name)?;
        }
        Ok(gateways.iter().map(|name| format!("http://{}", self.address(name))).collect())
    }

    /// Starts one, for the first time or again, and waits until it is ready.
    pub(super) fn start(&self, name: &'static str) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        if GATEWAYS.contains(&name) {
            command.args(["serve", "--listen", &self.address(name), "--config"]).arg(self.config());
            command.arg("--key-ring").arg(self.key_ring()).arg("--state-dir").arg(&self.dir);
            quiet(&mut command).env("THROUGHLINE_LOG", "error").stdout(Stdio::null());
            self.spawn(name, &mut command)?;
            return self.wait_for(name, || is_ready(&self.address(name)));
        }
        command.args(["reference", "--listen", &self.address(name)]);
        if name == COUNTER {
            command.arg("--stateful");
        } else {
            command.args(["--instance", name]);
        }
        quiet(&mut command).env("THROUGHLINE_REFERENCE_KEY", SERVERS_KEY);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let out = self.spawn(name, &mut command)?.ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.starts_with("ready") { Ok(()) } else { Err(format!("{name} did not start").into()) }
    }

    /// Whether there is one: where `redis-server` is installed.
    fn start_redis(&self) -> Result<bool, Failure> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.ports[REDIS].to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(&self.dir);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        match self.spawn(REDIS, &mut command) {
            Ok(_) => {
                self.wait_for(REDIS, || TcpStream::connect(self.address(REDIS)).is_ok())?;
                Ok(true)
            }
            Err(error) if is_not_installed(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spawn(&self, name: &'static str, command: &mut Command) -> Result<Option<ChildStdout>, Failure> {
        // A group of its own, so that Ctrl-C reaches the demonstration alone, which ends the others.
        command.stdin(Stdio::null()).process_group(0);
        match &mut *self.lock() {
            Children::Over => Err("it is over".into()),
            Children::Playing(children) => {
                let mut child = command.spawn()?;
                let out = child.stdout.take();
                children.insert(name, child);
                Ok(out)
            }
        }
    }

    fn wait_for(&self, name: &'static str, ready: impl Fn() -> bool) -> Result<(), Failure> {
        let deadline = now() + READY;
        while !ready() {
            if !self.runs(name)? || now() > deadline {
                return Err(format!("{name} did not start at {}", self.address(name)).into());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    fn runs(&self, name: &'static str) -> Result<bool, Failure> {
        match &mut *self.lock() {
            Children::Over => Ok(false),
            Children::Playing(children) => {
                children.get_mut(name).map_or(Ok(false), |child| Ok(child.try_wait()?.is_none()))
            }
        }
    }

    /// SIGKILL: no handler, no goodbye.
    pub(super) fn kill(&self, name: &'static str) -> Result<(), Failure> {
        let child = match &mut *self.lock() {
            Children::Over => None,
            Children::Playing(children) => children.remove(name),
        };
        if let Some(mut child) = child {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends everybody who still plays, and gives how many those were. Nobody is started after that.
    pub(super) fn end(&self) -> usize {
        let mut ended = 0;
        if let Children::Playing(children) = std::mem::replace(&mut *self.lock(), Children::Over) {
            ended = children.len();
            for mut child in children.into_values() {
                // Either may fail because it has ended by itself, which is what they are for.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        ended
    }

    /// The MCP endpoint of one that is no gateway.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/mcp", self.address(name))
    }

    /// This program.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    fn address(&self, name: &str) -> String {
        format!("127.0.0.1:{}", self.ports[name])
    }

    fn config(&self) -> PathBuf {
        self.dir.join("throughline.toml")
    }

    fn key_ring(&self) -> PathBuf {
        self.dir.join("keyring")
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        self.end();
    }
}

/// The command without what the user's environment says of gateways and servers of the user's own.
pub(super) fn quiet(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let proxies =
            ["http_proxy", "https_proxy", "all_proxy"].iter().any(|known| text.eq_ignore_ascii_case(known));
        if proxies
            || text.starts_with("THROUGHLINE_")
            || text.starts_with("MCP_")
            || text.starts_with("WEBSITE_")
            || text.starts_with("OTEL_")
            || ["HOSTNAME", "APPLICATIONINSIGHTS_CONNECTION_STRING"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
}

fn is_not_installed(error: &Failure) -> bool {
    // Permission is denied where PATH has a directory that this user cannot look into.
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    error.downcast_ref::<io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
}

fn is_ready(address: &str) -> bool {
    let agent = ureq::Agent::config_builder().proxy(None).timeout_global(Some(READY)).build();
    ureq::Agent::from(agent).get(format!("http://{address}/readyz")).call().is_ok()
}

/// A new directory that only this user can look into.
fn directory() -> Result<PathBuf, Failure> {
    let base = std::env::temp_dir();
    // One that was killed and had the same process id may have left its own behind.
    for attempt in 0..100 {
        let dir = base.join(format!("throughline-demo-{}-{attempt}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(format!("{}: {error}; set TMPDIR to another place", dir.display()).into());
            }
        }
    }
    Err(format!("{} is full of throughline-demo-*; remove them", base.display()).into())
}

/// Ports that nobody listens on. Each process begins elsewhere, so that two do not choose the same.
fn free_ports() -> impl Iterator<Item = u16> {
    let start = u16::try_from(std::process::id() % 80 * 100).unwrap_or_default();
    let ports = (0..PORTS).map(move |offset| FIRST_PORT + (start + offset) % PORTS);
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}

#[allow(clippy::disallowed_methods, reason = "shown to the user, and the bound of a wait")]
pub(super) fn now() -> Instant {
    Instant::now()
}
