//! Real `redis-server` processes.

use std::io::{Read, Write};
use std::net::TcpStream;

use tempfile::TempDir;

use super::process::{Process, free_port, until};

/// One Redis that writes its log before it answers, so that nothing it has acknowledged ends with its process.
pub(crate) struct Redis {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Redis {
    /// Alone.
    pub(crate) fn standalone() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let arguments = [
            "--port".to_owned(),
            port.to_string(),
            "--dir".to_owned(),
            dir.path().to_str().expect("a path in UTF-8").to_owned(),
            "--appendonly".to_owned(),
            "yes".to_owned(),
            "--save".to_owned(),
            String::new(),
        ];
        let process = Process::start("redis", "redis-server", &arguments);
        let redis = Redis { process, port, _dir: dir };
        redis.wait_until_ready();
        redis
    }

    fn wait_until_ready(&self) {
        until("redis to answer", || (self.ask("PING")? == "+PONG").then_some(()));
    }

    /// What it answers to an inline command: the first line, if it answers.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(socket, "{command}\r\nQUIT\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        answer.lines().next().map(str::to_owned)
    }

    /// For `--store`.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again after [`Redis::kill9`].
    pub(crate) fn start_again(&mut self) {
        self.process.start_again();
        self.wait_until_ready();
    }
}
