//! The proxies, each a process of its own, and what they use.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::Failure;
use crate::subject::Proxy;

/// How long a proxy may take until it accepts connections.
const START: Duration = Duration::from_secs(10);
/// What /proc counts CPU time in: `USER_HZ`, 100 on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the programs are, and how many threads or processes each has for its work.
pub(crate) struct Programs<'a> {
    pub(crate) nginx: &'a Path,
    pub(crate) throughline: &'a Path,
    pub(crate) workers: usize,
    /// Where state goes: on a disk whose fsync means something.
    pub(crate) scratch: &'a Path,
}

/// What is to be started.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) proxy: Proxy,
    pub(crate) upstream: SocketAddr,
    /// The gateway keeps no sessions.
    pub(crate) stateless: bool,
    /// Where the gateway keeps records, as `--store` takes it.
    pub(crate) store: Option<&'a str>,
    /// The gateway's state directory; a new one by default.
    pub(crate) state: Option<&'a Path>,
}

impl Setup<'_> {
    /// With default settings.
    pub(crate) fn new(proxy: Proxy, upstream: SocketAddr) -> Self {
        Setup { proxy, upstream, stateless: false, store: None, state: None }
    }
}

/// A proxy that is up.
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// From exec until it accepted a connection (nginx) or said that it is ready (the gateway).
    pub(crate) ready_after: Duration,
    child: Child,
    _dir: TempDir,
}

/// What a proxy has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// CPU time in user and kernel mode, in seconds.
    pub(crate) cpu: f64,
    /// Memory that is resident now, in KiB.
    pub(crate) rss: u64,
    /// Most memory that was resident at a time, in KiB. Pages that nginx's processes share count for each.
    pub(crate) peak_rss: u64,
}

impl Programs<'_> {
    /// Starts a proxy with nothing to log; None for none.
    pub(crate) fn start(&self, setup: Setup<'_>) -> Result<Option<Running>, Failure> {
        let dir = tempfile::tempdir_in(self.scratch)?;
        let address = free_address()?;
        let mut command = match setup.proxy {
            Proxy::Direct => return Ok(None),
            Proxy::Nginx => self.nginx(dir.path(), address, setup.upstream)?,
            Proxy::Gateway => self.gateway(setup.state.unwrap_or(dir.path()), address, setup),
        };
        let begun = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut running = Running { address, ready_after: Duration::ZERO, child, _dir: dir };
        running.wait(setup.proxy)?;
        running.ready_after = begun.elapsed();
        Ok(Some(running))
    }

    fn gateway(&self, state: &Path, address: SocketAddr, setup: Setup<'_>) -> Command {
        let mut command = Command::new(self.throughline);
        command
            .arg("serve")
            .arg(format!("http://{}/mcp", setup.upstream))
            .args(["--listen", &address.to_string()])
            .arg("--state-dir")
            .arg(state)
            .args(setup.store.map(|store| format!("--store={store}")))
            .args(setup.stateless.then_some("--stateless"))
            .env("THROUGHLINE_LOG", "warn");
        command
    }

    fn nginx(&self, dir: &Path, address: SocketAddr, upstream: SocketAddr) -> io::Result<Command> {
        let config = NGINX
            .replace("WORKERS", &self.workers.to_string())
            .replace("LISTEN", &address.to_string())
            .replace("UPSTREAM", &upstream.to_string());
        fs::write(dir.join("nginx.conf"), config)?;
        let mut command = Command::new(self.nginx);
        command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(dir);
        Ok(command)
    }
}

/// A plain reverse proxy with keep-alive on both sides. Like the gateway it has a listening socket for each worker.
const NGINX: &str = "
daemon off;
worker_processes WORKERS;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream mcp {
        server UPSTREAM;
        keepalive 256;
        keepalive_requests 1000000000;
    }
    server {
        listen LISTEN reuseport;
        location / {
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
        }
    }
}
";

/// An address that nobody listens on.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Whether the gateway says that it is ready.
fn says_ready(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, START)?;
    stream.set_read_timeout(Some(START))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

impl Running {
    fn wait(&mut self, proxy: Proxy) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        loop {
            let up = match proxy {
                Proxy::Gateway => says_ready(self.address).unwrap_or(false),
                Proxy::Nginx | Proxy::Direct => TcpStream::connect_timeout(&self.address, START).is_ok(),
            };
            if up {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the proxy ended at once: {status}").into());
            }
            if Instant::now() > deadline {
                return Err("the proxy did not come up".into());
            }
            // Looking at it without a pause would take a core from it.
            thread::park_timeout(Duration::from_micros(200));
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn crash(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// What it has used, in all its processes.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let main = self.child.id();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        let children = children.split_whitespace().map(str::to_owned);
        let mut usage = Usage { cpu: 0.0, rss: 0, peak_rss: 0 };
        for pid in children.chain([main.to_string()]) {
            usage.cpu += cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            usage.rss += kib(&status, "VmRSS:")?;
            usage.peak_rss += kib(&status, "VmHWM:")?;
        }
        Ok(usage)
    }
}

/// `utime` and `stime`, the 14th and 15th field. Counted behind the name, which may contain anything.
fn cpu(stat: &str) -> Result<f64, Failure> {
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

fn kib(status: &str, name: &str) -> Result<u64, Failure> {
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no memory in /proc/PID/status")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have been killed before: its id could be another's by now.
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // Not SIGKILL: nginx's workers would outlive their master.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
