//! Real `redis-server` processes: one, one with replicas and Sentinels, a cluster.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, free_port, until};

/// How the servers of a [`Redis`] hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// One server.
    Standalone,
    /// A master with two replicas, watched by three Sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
}

/// A Redis whose servers write their logs before they answer, so that nothing that one has acknowledged ends with its
/// process.
pub(crate) struct Redis {
    nodes: Vec<Node>,
    /// Those that only watch.
    _sentinels: Vec<Node>,
    url: String,
    _dir: TempDir,
}

struct Node {
    process: Process,
    port: u16,
}

impl Redis {
    /// One server.
    pub(crate) fn standalone() -> Self {
        Self::start(Engine::Standalone)
    }

    /// Of this kind, ready to be used.
    pub(crate) fn start(engine: Engine) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        match engine {
            Engine::Standalone => {
                let node = Node::data(dir.path(), &[]);
                let url = format!("redis://127.0.0.1:{}", node.port);
                Redis { nodes: vec![node], _sentinels: Vec::new(), url, _dir: dir }
            }
            Engine::Sentinel => Self::guarded(dir),
            Engine::Cluster => Self::cluster(dir),
        }
    }

    fn guarded(dir: TempDir) -> Self {
        let master = Node::data(dir.path(), &[]);
        let follow = format!("127.0.0.1 {}", master.port);
        let mut nodes: Vec<_> = (0..2).map(|_| Node::data(dir.path(), &["--replicaof", &follow])).collect();
        nodes.insert(0, master);
        let sentinels: Vec<_> = (0..3).map(|_| Node::sentinel(dir.path(), nodes[0].port)).collect();
        for sentinel in &sentinels {
            until("the Sentinels to know each other", || {
                let said = sentinel.ask("SENTINEL MASTER main")?;
                let value =
                    |name: &str| said.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
                (value("num-other-sentinels")? == "2" && value("num-slaves")? == "2").then_some(())
            });
        }
        let places: Vec<_> = sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let url = format!("redis+sentinel://{}/main", places.join(","));
        Redis { nodes, _sentinels: sentinels, url, _dir: dir }
    }

    fn cluster(dir: TempDir) -> Self {
        let nodes: Vec<_> = (0..6)
            .map(|_| {
                // Its own choice would be among the ports of outgoing connections.
                let bus = free_port().to_string();
                let arguments =
                    ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
                Node::data(dir.path(), &arguments)
            })
            .collect();
        let places: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&places)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        for node in &nodes {
            until("the cluster to be whole", || {
                let said = node.ask("CLUSTER INFO")?;
                let all = said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:6");
                all.then_some(())
            });
        }
        let url = format!("redis+cluster://{}", places[..3].join(","));
        Redis { nodes, _sentinels: Vec::new(), url, _dir: dir }
    }

    /// How many servers hold data.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// For `--store`.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Kills one of the servers that hold data.
    pub(crate) fn kill9(&mut self, at: usize) {
        self.nodes[at].process.kill9();
    }

    /// Starts it again after [`Redis::kill9`].
    pub(crate) fn start_again(&mut self, at: usize) {
        self.nodes[at].process.start_again();
        self.nodes[at].wait_until_ready();
    }
}

impl Node {
    /// One that holds data.
    fn data(dir: &Path, more: &[&str]) -> Self {
        let port = free_port();
        let dir = dir.join(port.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        let (dir, port_text) = (dir.to_str().expect("a path in UTF-8"), port.to_string());
        let mut arguments = vec!["--port", &port_text, "--dir", dir, "--save", ""];
        // What it has written outlives its process; the disk need not have it yet.
        arguments.extend(["--appendonly", "yes", "--appendfsync", "no"]);
        arguments.extend(more);
        Self::start(Process::start("redis", "redis-server", &arguments), port)
    }

    /// One that watches a master.
    fn sentinel(dir: &Path, master: u16) -> Self {
        let port = free_port();
        let file = dir.join(format!("sentinel-{port}.conf"));
        let text = format!(
            "port {port}\nsentinel monitor main 127.0.0.1 {master} 2\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        std::fs::write(&file, text).expect("the configuration");
        let file = file.to_str().expect("a path in UTF-8");
        Self::start(Process::start("sentinel", "redis-server", &[file, "--sentinel"]), port)
    }

    fn start(process: Process, port: u16) -> Self {
        let node = Node { process, port };
        node.wait_until_ready();
        node
    }

    fn wait_until_ready(&self) {
        until("redis to answer", || self.ask("PING")?.starts_with("+PONG").then_some(()));
    }

    /// What it answers to an inline command, if it answers.
    fn ask(&self, command: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(socket, "{command}\r\n").ok()?;
        // It answers what it has got, and closes: a Sentinel knows no QUIT.
        socket.shutdown(Shutdown::Write).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}
