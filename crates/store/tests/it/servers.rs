//! Real `redis-server` processes: one, one with replicas and Sentinels, a cluster. Their data is in directories of
//! their own, and they are killed when the test is done with them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redis::{RedisResult, Value};
use tempfile::TempDir;
use throughline_store::{Place, Store};

/// How long anything that a test waits for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis.
pub(crate) struct Server {
    pub(crate) port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// One that keeps nothing over a restart, unless `more` says so.
    pub(crate) fn start(more: &[&str]) -> Server {
        Server::with(|_| Vec::new(), more)
    }

    /// The same, with a file in its directory.
    pub(crate) fn with(files: impl Fn(&Path) -> Vec<String>, more: &[&str]) -> Server {
        // Another process may take the port before Redis does.
        for _ in 0..10 {
            let mut server = Server::at(free_port(), &files, more);
            if server.run() {
                return server;
            }
        }
        panic!("no redis-server started");
    }

    /// One on this port, which must be free.
    pub(crate) fn start_at(port: u16) -> Server {
        let mut server = Server::at(port, &|_: &Path| Vec::new(), &[]);
        server.start_again();
        server
    }

    fn at(port: u16, files: &impl Fn(&Path) -> Vec<String>, more: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = files(dir.path());
        arguments.extend(["--port", &port.to_string(), "--bind", "127.0.0.1"].map(str::to_owned));
        arguments.extend(["--save", "", "--logfile", "log"].map(str::to_owned));
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Server { port, dir, arguments, process: None }
    }

    fn run(&mut self) -> bool {
        let process = Command::new("redis-server")
            .args(&self.arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "these tests need redis-server ({error}): run scripts/setup redis, or install it yourself"
                )
            });
        self.process = Some(process);
        until("the server to listen", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap().is_some();
            let answered = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            (ended || answered).then_some(!ended)
        })
    }

    /// Its address for the store. The time-out is one that only a server that hangs exceeds.
    pub(crate) fn url(&self) -> String {
        self.url_with("timeout=5s")
    }

    pub(crate) fn url_with(&self, parameters: &str) -> String {
        format!("redis://127.0.0.1:{}?{parameters}", self.port)
    }

    pub(crate) async fn store(&self) -> Store {
        store(&self.url()).await
    }

    /// The answer to a command.
    pub(crate) fn ask(&self, words: &[&str]) -> RedisResult<Value> {
        ask(self.port, words)
    }

    /// The same, which must be no error.
    pub(crate) fn must(&self, words: &[&str]) -> Value {
        self.ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// What INFO says.
    pub(crate) fn info(&self, section: &str, field: &str) -> Option<String> {
        let info: String = redis::from_redis_value(self.ask(&["INFO", section]).ok()?).ok()?;
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::to_owned)
    }

    /// What Redis calls `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        assert!(self.run(), "the server did not start again");
    }

    /// Stops it as it stands: it takes connections, and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A store at this address, which must be there.
pub(crate) async fn store(url: &str) -> Store {
    let store = Store::redis(&Place::parse(url).unwrap()).await.unwrap();
    assert_eq!(store.trouble(), None);
    store
}

pub(crate) fn ask(port: u16, words: &[&str]) -> RedisResult<Value> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(&mut connection)
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits on this thread until something is there.
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(there) = ready() {
            return there;
        }
        assert!(now() < deadline, "waited in vain for {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits, while others go on, until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let deadline = now() + PATIENCE;
    while !so().await {
        assert!(now() < deadline, "waited in vain for {what}");
        tick.tick().await;
    }
}

/// The clock of the test.
#[allow(clippy::disallowed_methods, reason = "the servers run on real time, so their tests do")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A master with two replicas, and three Sentinels that watch over them.
pub(crate) struct Guarded {
    pub(crate) servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Guarded {
    pub(crate) fn start() -> Guarded {
        let master = Server::start(&[]);
        let port = master.port.to_string();
        let replicas = (0..2)
            .map(|_| Server::start(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]));
        let servers: Vec<_> = [master].into_iter().chain(replicas).collect();
        for replica in &servers[1..] {
            until("a replica to follow", || {
                replica.info("replication", "master_link_status").filter(|status| status == "up")
            });
        }
        let file = |dir: &Path| {
            let path: PathBuf = dir.join("sentinel.conf");
            let text = format!(
                "sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 5000\n"
            );
            std::fs::write(&path, text).unwrap();
            vec![path.display().to_string(), "--sentinel".to_owned()]
        };
        let sentinels: Vec<_> = (0..3).map(|_| Server::with(file, &[])).collect();
        for sentinel in &sentinels {
            until("the sentinels to know each other", || {
                let known = sentinel.info("sentinel", "master0")?;
                known.contains("slaves=2,sentinels=3").then_some(())
            });
        }
        Guarded { servers, sentinels }
    }

    /// Has another master take over while this one lives.
    pub(crate) fn fail_over(&self) {
        self.sentinels[0].must(&["SENTINEL", "FAILOVER", "main"]);
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|it| format!("127.0.0.1:{}", it.port)).collect();
        format!("redis+sentinel://{}/main?timeout=5s", hosts.join(","))
    }
}

/// Three masters, each with a replica.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        let node = || {
            let bus = free_port().to_string();
            let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            let more: Vec<_> = more.iter().copied().chain(["--cluster-port", &bus]).collect();
            let server = Server::start(&[&more[..], &["--repl-diskless-sync-delay", "0"]].concat());
            (server, bus)
        };
        let starting: Vec<JoinHandle<_>> = (0..6).map(|_| thread::spawn(node)).collect();
        let (nodes, buses): (Vec<_>, Vec<_>) =
            starting.into_iter().map(|thread| thread.join().unwrap()).unzip();
        for (index, node) in nodes.iter().enumerate() {
            node.must(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (node, (first, last)) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            node.must(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            nodes[0].must(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let cluster = Cluster { nodes };
        cluster.wait_until("all nodes to know all", |info| info.contains("cluster_known_nodes:6"));
        for (master, replica) in [(0, 3), (1, 4), (2, 5)] {
            let id = cluster.nodes[master].must(&["CLUSTER", "MYID"]);
            let id: String = redis::from_redis_value(id).unwrap();
            until("a replica to know its master", || {
                cluster.nodes[replica].ask(&["CLUSTER", "REPLICATE", &id]).ok()
            });
        }
        cluster.wait_until("the cluster to be well", |info| info.contains("cluster_state:ok"));
        for replica in &cluster.nodes[3..] {
            until("a replica to follow", || {
                replica.info("replication", "master_link_status").filter(|status| status == "up")
            });
        }
        // Not before each node knows who follows whom will it agree to a failover.
        until("all nodes to know the replicas", || {
            cluster
                .nodes
                .iter()
                .all(|node| {
                    let nodes = node
                        .ask(&["CLUSTER", "NODES"])
                        .and_then(|it| Ok(redis::from_redis_value::<String>(it)?));
                    nodes.is_ok_and(|nodes| nodes.matches("slave").count() == 3)
                })
                .then_some(())
        });
        cluster
    }

    fn wait_until(&self, what: &str, so: impl Fn(&str) -> bool) {
        for node in &self.nodes {
            until(what, || {
                let info: String = redis::from_redis_value(node.must(&["CLUSTER", "INFO"])).unwrap();
                so(&info).then_some(())
            });
        }
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|it| format!("127.0.0.1:{}", it.port)).collect();
        format!("redis+cluster://{}?timeout=5s", hosts.join(","))
    }
}
