//! Upstreams that are pipes of messages, in and out: programs that speak over stdin and stdout (2025-11-25, Transports,
//! "stdio"), and servers of HTTP with SSE (2024-11-05), each of whose sessions is a connection.
//!
//! A bridge speaks Streamable HTTP with the gateway and messages with the pipes: one for each session, opened by its
//! `initialize`, ended by DELETE or with the gateway. To everything else the route is an upstream like another, so that
//! a pipe that ends is a lost session, and recovered as such. The bridge listens on loopback; whoever does not know its
//! secret gets nothing.

mod bridge;
mod connection;
mod keep;
mod lines;
mod pipe;
mod program;
mod shared;

pub use connection::names_endpoint;
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
use crate::upstream::destination::Destination;

/// What the gateway shows that it is the gateway with.
const SECRET: HeaderName = HeaderName::from_static("throughline-bridge");

/// How the ids of sessions begin that a bridge to a server of HTTP with SSE gives.
pub const OLDER_SESSION: &str = "http-with-sse-";

/// What every bridge needs to know.
struct Settings {
    to: To,
    /// Longest message, in bytes.
    line: usize,
    secret: HeaderValue,
    effects: Effects,
}

/// What is at the other end.
enum To {
    /// A program.
    Program {
        command: Command,
        /// Runs it such that it does not outlive the gateway: this, then the program and its arguments.
        keeper: Vec<PathBuf>,
    },
    /// A server of HTTP with SSE.
    Server(Arc<Destination>),
}

impl To {
    /// Whether one process serves all sessions.
    fn is_shared(&self) -> bool {
        matches!(self, To::Program { command, .. } if command.shared)
    }

    /// How the ids of its sessions begin. Who meets one after a restart knows by it what the server speaks.
    fn prefix(&self) -> &'static str {
        match self {
            To::Program { .. } => "",
            To::Server(_) => OLDER_SESSION,
        }
    }
}

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Bridge {
    /// Begins to end its pipes.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Ends its pipes, and returns when they have ended.
    pub fn shut_down(self) {
        self.stop();
        if self.thread.join().is_err() {
            tracing::error!("a bridge panicked");
        }
    }
}

/// Starts a bridge for each route whose upstream is a program, and points the route to it.
///
/// # Errors
/// When there is no port or thread for it.
pub fn to_programs(config: &mut Config, effects: Effects) -> io::Result<Vec<Bridge>> {
    let (line, keeper) = (config.limits.event_bytes, config.keeper.clone());
    let mut bridges = Vec::new();
    for route in &mut config.routes {
        let Some(command) = route.command.clone() else { continue };
        let secret = secret(effects)?;
        let to = To::Program { command, keeper: keeper.clone() };
        let (bridge, url) = start(Settings { to, line, secret: secret.clone(), effects })?;
        route.upstream = vec![url];
        route.headers.push(Header { name: SECRET, value: HeaderSource::Value(secret) });
        bridges.push(bridge);
    }
    Ok(bridges)
}

/// Starts a bridge to a server of HTTP with SSE. What is returned with it stands for the server from then on.
///
/// # Errors
/// As [`to_programs`].
pub fn to_server(
    to: &Arc<Destination>,
    config: &Config,
    effects: Effects,
) -> io::Result<(Bridge, Destination)> {
    let (line, secret) = (config.limits.event_bytes, secret(effects)?);
    let settings = Settings { to: To::Server(Arc::clone(to)), line, secret: secret.clone(), effects };
    let (bridge, url) = start(settings)?;
    let stands_for = to.bridged(url, vec![(SECRET, secret)]).map_err(io::Error::other)?;
    Ok((bridge, stands_for))
}

fn secret(effects: Effects) -> io::Result<HeaderValue> {
    let secret = data_encoding::HEXLOWER.encode(&effects.bytes::<16>());
    let mut secret = HeaderValue::try_from(secret).map_err(io::Error::other)?;
    secret.set_sensitive(true);
    Ok(secret)
}

fn start(settings: Settings) -> io::Result<(Bridge, Uri)> {
    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let url = format!("http://127.0.0.1:{port}/mcp").parse::<Uri>().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::Builder::new().name("bridge".to_owned()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            match TcpListener::from_std(socket) {
                Ok(listener) => bridge::serve(Arc::new(settings), listener, stopped).await,
                Err(error) => tracing::error!(%error, "a bridge cannot listen"),
            }
        });
    })?;
    Ok((Bridge { stop, thread }, url))
}
