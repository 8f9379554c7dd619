//! A real `redis-server`, which tests kill, stop and start again.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::until;

/// One process with a port and a directory of its own; it ends when it is dropped.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// One that writes its log before it answers: what it has acknowledged outlives it.
    pub(crate) fn start() -> Self {
        let dir = TempDir::new().unwrap();
        // Whoever else asks the system for a port gets another while this is remembered.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let redis = Redis { child: spawn(port, &dir), port, dir };
        redis.wait();
        redis
    }

    fn wait(&self) {
        until("redis to answer", || self.ask("PING").is_some_and(|answer| answer.starts_with("+PONG")));
    }

    /// What it answers to an inline command, if it answers.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// For `store`. On a machine that builds or tests much else 50 ms are over now and then.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}?timeout=2s", self.port)
    }

    /// The same, as a user of its own, whom [`Redis::silence`] keeps from hearing signals.
    pub(crate) fn url_of_user(&self, user: &str) -> String {
        self.ask(&format!("ACL SETUSER {user} on nopass ~* &* +@all")).expect("a user");
        format!("redis://{user}:x@127.0.0.1:{}?timeout=2s", self.port)
    }

    pub(crate) fn silence(&self, user: &str) {
        self.ask(&format!("ACL SETUSER {user} resetchannels")).expect("a user");
    }

    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.port, &self.dir);
        self.wait();
    }

    /// Leaves its connections open and answers nothing.
    pub(crate) fn hang(&self) {
        self.signal("STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// How many commands on records it has executed: none but those of the gateways come here.
    pub(crate) fn commands(&self) -> u64 {
        let stats = self.ask("INFO commandstats").unwrap();
        let counts = stats.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let is_background = ["ping", "info", "quit", "subscribe", "client", "hello", "set"].iter();
            if is_background.into_iter().any(|it| name.starts_with(it)) {
                return None;
            }
            rest.split(',').next()?.parse::<u64>().ok()
        });
        counts.sum()
    }
}

fn spawn(port: u16, dir: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--appendonly", "yes", "--appendfsync", "no"])
        .args(["--save", "", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server: install it with scripts/setup redis")
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.signal("CONT");
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
