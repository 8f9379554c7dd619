//! Upstreams that are programs and speak over stdin and stdout (2025-11-25, Transports, "stdio").
//!
//! A bridge speaks Streamable HTTP with the gateway and lines with the programs: one process for each session, started by
//! its `initialize`, ended by DELETE or with the gateway. To everything else the route is an upstream like another, so
//! that a process that dies is a lost session, and recovered as such. The bridge listens on loopback; whoever does not
//! know its secret gets nothing.

mod bridge;
mod keep;
mod lines;
mod process;

pub use keep::keep;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use http::{HeaderName, HeaderValue, Uri};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Command, Config, Header, HeaderSource};
use crate::effects::Effects;

/// What the gateway shows that it is the gateway with.
const SECRET: HeaderName = HeaderName::from_static("throughline-bridge");

/// What every bridge needs to know.
struct Settings {
    command: Command,
    /// Runs a program such that it does not outlive the gateway: this, then the program and its arguments.
    keeper: Vec<PathBuf>,
    /// Longest line, in bytes.
    line: usize,
    secret: HeaderValue,
    effects: Effects,
}

/// A running bridge.
pub struct Bridge {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Bridge {
    /// Ends its processes, and returns when they have ended.
    pub fn shut_down(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("a bridge to programs panicked");
        }
    }
}

/// Starts a bridge for each route whose upstream is a program, and points the route to it.
///
/// # Errors
/// When there is no port or thread for it.
pub fn bridges(config: &mut Config, effects: Effects) -> io::Result<Vec<Bridge>> {
    let (line, keeper) = (config.limits.event_bytes, config.keeper.clone());
    let mut bridges = Vec::new();
    for route in &mut config.routes {
        let Some(command) = route.command.clone() else { continue };
        let secret = data_encoding::HEXLOWER.encode(&effects.bytes::<16>());
        let mut secret = HeaderValue::try_from(secret).map_err(io::Error::other)?;
        secret.set_sensitive(true);
        let settings = Settings { command, keeper: keeper.clone(), line, secret: secret.clone(), effects };
        let (bridge, port) = start(settings)?;
        let url = format!("http://127.0.0.1:{port}/mcp").parse::<Uri>().map_err(io::Error::other)?;
        route.upstream = vec![url];
        route.headers.push(Header { name: SECRET, value: HeaderSource::Value(secret) });
        bridges.push(bridge);
    }
    Ok(bridges)
}

fn start(settings: Settings) -> io::Result<(Bridge, u16)> {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("stdio".to_owned()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            match TcpListener::from_std(socket) {
                Ok(listener) => bridge::serve(Arc::new(settings), listener, stopped).await,
                Err(error) => tracing::error!(%error, "a bridge to programs cannot listen"),
            }
        });
    })?;
    Ok((Bridge { stop, thread }, port))
}
