//! A gateway in this process, on a free port, with a state directory of its own.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use throughline_gateway::config::{AdminAddress, Overrides};
use throughline_gateway::{Config, Effects, Gateway};
use throughline_store::Millis;

use super::client::Client;
use super::logs;
use super::server::Server;
use super::upstream::Upstream;

/// How far a test has moved its clock; the function in [`Effects`] is one for each number.
pub(crate) struct Clock<const N: usize>;

static AHEAD: [AtomicU64; 32] = [const { AtomicU64::new(0) }; 32];

impl<const N: usize> Clock<N> {
    /// Effects whose clock this test moves. Each test takes another `N`.
    pub(crate) const EFFECTS: Effects = Effects { now: Self::now, ..Effects::REAL };

    fn now() -> Millis {
        Millis(Effects::REAL.now().0 + AHEAD[N].load(Ordering::Relaxed))
    }

    pub(crate) fn advance(by: Duration) {
        AHEAD[N].fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

/// A running gateway. When it is dropped, it has neither panicked nor logged a session id.
pub(crate) struct Gw {
    pub(crate) address: SocketAddr,
    pub(crate) config: Config,
    effects: Effects,
    gateway: Option<Gateway>,
    state: Arc<TempDir>,
    secrets: Arc<Mutex<Vec<String>>>,
    servers: Vec<Arc<Server>>,
}

impl Gw {
    /// As `throughline serve URL` starts it.
    pub(crate) fn start(upstream: &Upstream) -> Self {
        Self::start_with(upstream, |_| {})
    }

    pub(crate) fn start_with(upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::for_upstream(&upstream.url()).unwrap();
        change(&mut config);
        Self::run(upstream, config, Effects::REAL)
    }

    /// With a configuration file, in which `UPSTREAM` stands for the upstream's URL.
    pub(crate) fn start_file(upstream: &Upstream, text: &str) -> Self {
        let text = text.replace("UPSTREAM", &upstream.url());
        Self::run(upstream, Config::parse(&text, "test.toml").unwrap(), Effects::REAL)
    }

    pub(crate) fn run(upstream: &Upstream, config: Config, effects: Effects) -> Self {
        Self::run_over(std::slice::from_ref(upstream), config, effects)
    }

    /// In front of an upstream of these endpoints.
    pub(crate) fn over(upstreams: &[Upstream], change: impl FnOnce(&mut Config)) -> Self {
        let urls: Vec<_> = upstreams.iter().map(Upstream::url).collect();
        let mut config = Config::for_upstreams(&urls).unwrap();
        change(&mut config);
        Self::run_over(upstreams, config, Effects::REAL)
    }

    pub(crate) fn run_over(upstreams: &[Upstream], mut config: Config, effects: Effects) -> Self {
        logs::record();
        let state = Arc::new(TempDir::new().unwrap());
        config.apply(Overrides {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            state_dir: Some(state.path().to_owned()),
            workers: config.workers.or(NonZeroUsize::new(2)),
            ..Overrides::default()
        });
        config.timeouts.shutdown = config.timeouts.shutdown.min(Duration::from_secs(10));
        let gateway = Gateway::start(config.clone(), effects).unwrap();
        Gw {
            address: gateway.address,
            config,
            effects,
            gateway: Some(gateway),
            state,
            secrets: Arc::default(),
            servers: upstreams.iter().map(|upstream| Arc::clone(upstream.server())).collect(),
        }
    }

    /// Stops it, does what is to be done while it is down, and starts it again on the same state.
    pub(crate) fn restart(&mut self, while_down: impl FnOnce(&std::path::Path)) {
        self.gateway.take().unwrap().shut_down();
        while_down(self.state.path());
        self.restart_after_stop();
    }

    /// Starts it again that was stopped.
    pub(crate) fn restart_after_stop(&mut self) {
        let gateway = Gateway::start(self.config.clone(), self.effects).unwrap();
        self.address = gateway.address;
        self.gateway = Some(gateway);
    }

    /// Begins to stop it; the thread ends when it has stopped.
    pub(crate) fn begin_stop(&mut self) -> std::thread::JoinHandle<()> {
        let gateway = self.gateway.take().unwrap();
        gateway.stop();
        std::thread::spawn(move || gateway.shut_down())
    }

    /// Another gateway that begins with what this one has on disk at this moment, as after a kill.
    pub(crate) fn after_a_crash(&self) -> Self {
        let state = TempDir::new().unwrap();
        copy(self.state.path(), state.path());
        let mut config = self.config.clone();
        config.state_dir = Some(state.path().to_owned());
        let gateway = Gateway::start(config.clone(), self.effects).unwrap();
        Gw {
            address: gateway.address,
            config,
            effects: self.effects,
            gateway: Some(gateway),
            state: Arc::new(state),
            secrets: Arc::clone(&self.secrets),
            servers: self.servers.clone(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, Arc::clone(&self.secrets))
    }

    /// The administrator, with the token that the gateway made.
    pub(crate) fn admin(&self) -> Client {
        let Some(AdminAddress::Tcp(address)) = self.gateway.as_ref().unwrap().admin else {
            panic!("no address for administration");
        };
        let token = std::fs::read_to_string(self.state.path().join("admin-token")).unwrap();
        let client = Client::new(address, Arc::clone(&self.secrets));
        client.with("authorization", &format!("Bearer {}", token.trim()))
    }

    /// Whoever watches the process.
    pub(crate) fn watcher(&self) -> Client {
        let address = self.gateway.as_ref().unwrap().metrics.expect("an address for metrics");
        Client::new(address, Arc::clone(&self.secrets))
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    /// Asserts that it still works: nothing that came before has broken it.
    pub(crate) fn assert_well(&self) {
        assert_eq!(self.client().at("/healthz").get().status, 200);
        assert_eq!(logs::panics(), Vec::<String>::new());
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

impl Drop for Gw {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.shut_down();
        }
        if std::thread::panicking() {
            return;
        }
        assert_eq!(logs::panics(), Vec::<String>::new());
        let ours = self.secrets.lock().unwrap().clone();
        for secret in ours.into_iter().chain(self.servers.iter().flat_map(|server| server.given())) {
            assert!(!logs::holds(&secret), "a session id is in the log: {secret}");
        }
    }
}
