//! The proxies, each a process of its own, and what they use.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
}

/// A proxy that is up.
pub(crate) struct Running {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

/// What a proxy has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// CPU time in user and kernel mode, in seconds.
    pub(crate) cpu: f64,
    /// Most memory that was resident at a time, in KiB. Pages that nginx's processes share count for each.
    pub(crate) peak_rss: u64,
}

impl Programs<'_> {
    /// Starts a proxy with default settings, a state of its own and nothing to log; None for none.
    pub(crate) fn start(&self, proxy: Proxy, upstream: SocketAddr) -> Result<Option<Running>, Failure> {
        let dir = tempfile::tempdir()?;
        let address = free_address()?;
        let mut command = match proxy {
            Proxy::Direct => return Ok(None),
            Proxy::Nginx => self.nginx(dir.path(), address, upstream)?,
            Proxy::Gateway => self.gateway(dir.path(), address, upstream),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut running = Running { address, child, _dir: dir };
        running.wait()?;
        Ok(Some(running))
    }

    fn gateway(&self, dir: &Path, address: SocketAddr, upstream: SocketAddr) -> Command {
        let mut command = Command::new(self.throughline);
        command
            .arg("serve")
            .arg(format!("http://{upstream}/mcp"))
            .args(["--listen", &address.to_string()])
            .arg("--state-dir")
            .arg(dir)
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

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Running {
    /// Until it accepts connections.
    fn wait(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        while TcpStream::connect_timeout(&self.address, START).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the proxy ended at once: {status}").into());
            }
            if Instant::now() > deadline {
                return Err("the proxy did not come up".into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What it has used, in all its processes.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let main = self.child.id();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        let children = children.split_whitespace().map(str::to_owned);
        let mut usage = Usage { cpu: 0.0, peak_rss: 0 };
        for pid in children.chain([main.to_string()]) {
            usage.cpu += cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
            usage.peak_rss += peak_rss(&fs::read_to_string(format!("/proc/{pid}/status"))?)?;
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

fn peak_rss(status: &str) -> Result<u64, Failure> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not SIGKILL: nginx's workers would outlive their master.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
