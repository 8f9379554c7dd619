//! The first call after the upstream was killed and is back.
//!
//! The time counts from when the upstream listens again. A client without the gateway has to find out that its
//! session is gone, and begin another before it can call; one behind it just calls.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::StatusCode;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::client::{self, Caller};
use crate::proxy::{Programs, Setup, free_address};
use crate::subject::{Answer, Kind, Proxy};
use crate::upstream;

/// How long the upstream is away from a call that waits for it.
const AWAY: Duration = Duration::from_millis(300);
/// How long a client may take to have its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the upstream says when it listens.
const LISTENING: &str = "listening";

/// When the client makes its first call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// When the upstream is back.
    After,
    /// While it is away: the call waits for it.
    During,
}

/// The upstream as a process of its own, which can be killed.
struct Killable {
    address: SocketAddr,
    child: Child,
}

/// What that process does: serves until its standard input ends, so that it does not outlive this one.
pub(crate) fn serve(address: SocketAddr, cores: usize) -> Result<(), Failure> {
    upstream::serve_on(TcpListener::bind(address)?, cores, Kind::Sessions)?;
    println!("{LISTENING}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

impl Killable {
    fn start(address: SocketAddr) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the upstream has no output")?;
        let killable = Killable { address, child };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != LISTENING {
            return Err(format!("the upstream did not start, but said: {line}").into());
        }
        Ok(killable)
    }

    fn kill(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        // An error means that it has been killed already.
        let _ = self.kill();
    }
}

/// Kills and restarts the upstream `times` times. How long the first call took each time, and how many requests the
/// client needed for it.
pub(crate) fn first_calls(
    programs: &Programs<'_>,
    proxy: Proxy,
    call: Call,
    times: usize,
) -> Result<(Vec<Duration>, usize), Failure> {
    let mut upstream = Killable::start(free_address()?)?;
    let running = programs.start(Setup::new(proxy, upstream.address))?;
    let address = running.as_ref().map_or(upstream.address, |running| running.address);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut client = Client { caller: Caller::connect(address).await?, address, requests: 0 };
        client.caller.initialize().await?;
        let mut taken = Vec::new();
        for _ in 0..times {
            client.caller.post(client::call(Answer::Json)).await?;
            client.requests = 0;
            let (back, called);
            (upstream, back, called) = match call {
                Call::After => {
                    let (upstream, back) = restart(upstream, Duration::ZERO).await?;
                    (upstream, back, timeout(PATIENCE, client.call(proxy)).await)
                }
                Call::During => {
                    upstream.kill()?;
                    let (restarted, called) =
                        tokio::join!(restart(upstream, AWAY), timeout(PATIENCE, client.call(proxy)));
                    let (upstream, back) = restarted?;
                    (upstream, back, called)
                }
            };
            let answered = called.map_err(|_| format!("{proxy:?}: no answer after a restart"))??;
            taken.push(answered - back);
        }
        Ok((taken, client.requests))
    })
}

/// Kills the upstream, if it lives, and starts it again; when it listened.
async fn restart(mut upstream: Killable, away: Duration) -> Result<(Killable, Instant), Failure> {
    if upstream.child.try_wait()?.is_none() {
        upstream.kill()?;
    }
    sleep(away).await;
    let restarted = tokio::task::spawn_blocking(move || {
        let upstream = Killable::start(upstream.address).map_err(|error| error.to_string())?;
        Ok::<_, String>((upstream, Instant::now()))
    });
    Ok(restarted.await??)
}

struct Client {
    caller: Caller,
    address: SocketAddr,
    requests: usize,
}

impl Client {
    /// Does what it takes to have a call answered; when it was.
    async fn call(&mut self, proxy: Proxy) -> Result<Instant, Failure> {
        let call = client::call(Answer::Json);
        if proxy == Proxy::Gateway {
            self.requests += 1;
            let (_, body) = self.caller.post(call).await?;
            client::check_echo(&body)?;
            return Ok(Instant::now());
        }
        loop {
            self.requests += 1;
            match self.caller.send(call.clone()).await {
                Ok((StatusCode::OK, _, body)) => {
                    client::check_echo(&body)?;
                    return Ok(Instant::now());
                }
                Ok((StatusCode::NOT_FOUND, ..)) => {
                    self.requests += 2;
                    self.caller.initialize().await?;
                }
                Ok((StatusCode::BAD_GATEWAY, ..)) => {}
                Ok((status, ..)) => return Err(format!("unexpected: {status}").into()),
                // The server closed this connection when it died.
                Err(_) => self.caller.reconnect(self.address).await?,
            }
        }
    }
}
