//! Starting and stopping: store, keys, one thread and runtime for each core.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use throughline_store::{Salvaged, Store, StoreError};
use throughline_telemetry::{Telemetry, Teller};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::admin;
use crate::app::{App, Core, Made};
use crate::config::{
    self, AdminAddress, Config, ConfigErrors, KeyRingPlace, StoreUrl, Transport, default_state_dir,
};
use crate::effects::Effects;
use crate::grants::Grants;
use crate::keys::{self, KeysError, LiveKeys};
use crate::lookout::Lookout;
use crate::metrics::push;
use crate::pipes::{self, Bridge};
use crate::session::lock;
use crate::tls::{Tls, TlsError};
use crate::tokens::Verifier;
use crate::upstream::http::TIDY_EVERY;
use crate::upstream::{certificates, destination, fleet::watch, older};
use crate::{background, listener, status};

/// How long work that no client waits for may go on after the last connection is done.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The administrator's address cannot be listened on.
    #[error("cannot listen on {address} for administration: {source}; choose another with --admin")]
    Admin {
        /// The address.
        address: AdminAddress,
        /// The system's reason.
        source: io::Error,
    },
    /// The address for metrics cannot be listened on.
    #[error("cannot listen on {address} for metrics: {source}; choose another with --metrics")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The administrator's token cannot be used.
    #[error("{}: {reason}", path.display())]
    AdminToken {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// No place for state.
    #[error("no state directory: set --state-dir, or HOME")]
    NoStateDir,
    /// The state directory cannot be used.
    #[error("cannot use {}: {source}; choose another state directory with --state-dir", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no key ring to be had.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The replicas that share the store would not understand each other's session ids.
    #[error(
        "the store is shared, so every replica needs the same key ring: make one with `throughline keys new FILE`, and give it to all with --key-ring FILE (key_ring in the configuration, or the text itself in THROUGHLINE_KEY_RING)"
    )]
    NoSharedKeys,
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The TLS certificate cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// No runtime or thread.
    #[error("cannot start: {0}")]
    System(io::Error),
}

/// A running gateway.
pub struct Gateway {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where the administrator connects.
    pub admin: Option<AdminAddress>,
    /// Where counts and health are shown to other machines.
    pub metrics: Option<SocketAddr>,
    app: Arc<App>,
    workers: Vec<JoinHandle<()>>,
    bridges: Vec<Bridge>,
    telemetry: Option<Telemetry>,
}

impl Gateway {
    /// Starts with this configuration. When it returns, connections are accepted.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(mut config: Config, effects: Effects) -> Result<Self, StartError> {
        config.check()?;
        // The first draw of the process seeds the generator, which takes tens of milliseconds: meanwhile, not after.
        std::thread::spawn(move || effects.bytes::<1>());
        config.resolve(&|name| std::env::var(name).ok())?;
        let bridges = pipes::to_programs(&mut config, effects).map_err(StartError::System)?;
        let destinations = destination::of_routes(&config)?;
        let tokens = Verifier::of(&config)?;
        let grants =
            config.routes.iter().map(|route| Grants::of(&config, route)).collect::<Result<_, _>>()?;
        let keys = open_keys(&config, effects)?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let store = runtime()?.block_on(open_store(&config))?;
        let workers = config.workers.map_or_else(cores, std::num::NonZero::get);
        let (address, sockets) = listener::bind(config.listen, workers)
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let admin = config.admin.as_ref().map(|at| admin::Door::open(at, &config, effects)).transpose()?;
        let lookout = config.metrics.map(Lookout::open).transpose()?;
        let room = Arc::new(Semaphore::new(config.limits.connections + workers));
        config.listen = address;
        let process = data_encoding::HEXLOWER.encode(&effects.bytes::<4>());
        let telemetry = Telemetry::from_env(Teller {
            service: "throughline",
            version: env!("CARGO_PKG_VERSION"),
            instance: config.instance.as_ref().unwrap_or(&process),
        });
        let tracer = telemetry.as_ref().and_then(Telemetry::tracer);
        let made = Made { destinations, tokens, grants, tracer, process };
        let app = App::new(config, effects, keys, store, made);
        if let Some(meter) = telemetry.as_ref().and_then(Telemetry::meter) {
            push::push(&app, &meter);
        }
        runtime()?.block_on(watch::first_look(&app));
        for route in app.routes.iter().filter(|route| route.config.transport == Transport::Sse) {
            route.fleet.listed().iter().for_each(|member| older::bridge(&app, member));
        }
        let at = admin.as_ref().map(|door| door.address.clone());
        let metrics = lookout.as_ref().map(|lookout| lookout.address);
        let (workers, app_of_all) = (Vec::new(), Arc::clone(&app));
        let mut started =
            Gateway { address, admin: at, metrics, app: app_of_all, workers, bridges, telemetry };
        if let Some(lookout) = lookout {
            let (app, runtime) = (Arc::clone(&app), runtime()?);
            let thread = std::thread::Builder::new().name("metrics".to_owned());
            started
                .workers
                .push(thread.spawn(move || lookout.serve(app, &runtime)).map_err(StartError::System)?);
        }
        if let Some(door) = admin {
            let (app, runtime) = (Arc::clone(&app), runtime()?);
            let thread = std::thread::Builder::new().name("core-admin".to_owned());
            started
                .workers
                .push(thread.spawn(move || door.serve(app, &runtime)).map_err(StartError::System)?);
        }
        for (index, socket) in sockets.into_iter().enumerate() {
            let worker =
                Worker { app: Arc::clone(&app), socket, room: Arc::clone(&room), tls: tls.clone(), index };
            let runtime = runtime()?;
            let thread = std::thread::Builder::new().name(format!("core-{index}"));
            started.workers.push(thread.spawn(move || worker.run(&runtime)).map_err(StartError::System)?);
        }
        let routes: Vec<_> = app.routes.iter().map(|route| describe(&route.config)).collect();
        tracing::info!(%address, store = app.store.describe(), routes = routes.join(", "), "listening");
        Ok(started)
    }

    /// Begins to stop: no new connections, requests in flight may end.
    pub fn stop(&self) {
        self.app.stop();
    }

    /// Stops, and returns when everything is done and written, or the time for it is over. Before, it is not ready for
    /// as long as `timeouts.drain` says, but goes on: load balancers hear of the end late.
    pub fn shut_down(self) {
        let drain = self.app.config.timeouts.drain;
        if !drain.is_zero() {
            self.app.leave();
            let waited = runtime().map(|runtime| runtime.block_on(async { tokio::time::sleep(drain).await }));
            if let Err(error) = waited {
                tracing::warn!(%error, "no time to drain");
            }
        }
        self.stop();
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        // Behind everything that may still speak with them.
        let to_servers = std::mem::take(&mut *lock(&self.app.bridges));
        for bridge in self.bridges.into_iter().chain(to_servers.into_iter().map(|(_, bridge)| bridge)) {
            bridge.shut_down();
        }
        let closed = runtime().map(|runtime| runtime.block_on(self.app.store.close()));
        if let Ok(Err(error)) = closed {
            tracing::error!(%error, "the store was not closed");
        }
        if let Some(telemetry) = self.telemetry {
            telemetry.shut_down();
        }
    }
}

/// A route as logs may show it.
fn describe(route: &config::Route) -> String {
    format!("{} -> {}", route.path, route.places())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn runtime() -> Result<Runtime, StartError> {
    Builder::new_current_thread().enable_all().build().map_err(StartError::System)
}

/// One core's share.
struct Worker {
    app: Arc<App>,
    socket: StdListener,
    room: Arc<Semaphore>,
    tls: Option<Tls>,
    index: usize,
}

impl Worker {
    fn run(self, runtime: &Runtime) {
        let local = LocalSet::new();
        let shutdown = self.app.config.timeouts.shutdown;
        let mut stop = self.app.stop_signal();
        local.block_on(runtime, async move {
            let core = Core::new(self.app);
            let listener = match TcpListener::from_std(self.socket) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
            };
            let housekeeping =
                (self.index == 0).then(|| tokio::task::spawn_local(background::run(Rc::clone(&core))));
            let following = (self.index == 0 && core.app.store.is_shared())
                .then(|| tokio::task::spawn_local(background::follow(Rc::clone(&core))));
            if self.index == 0 {
                tokio::task::spawn_local(LiveKeys::watch(Arc::clone(&core.app)));
                tokio::task::spawn_local(status::sample(Arc::clone(&core.app)));
                watch::start(&core);
                tokio::task::spawn_local(certificates::watch(Arc::clone(&core.app)));
            }
            tokio::task::spawn_local(tidy_pools(Rc::clone(&core)));
            if let (0, Some(tls)) = (self.index, self.tls.clone()) {
                tokio::task::spawn_local(tls.watch(Arc::clone(&core.app)));
            }
            let served = listener::serve(core, listener, self.room, self.tls);
            tokio::select! {
                () = served => {}
                () = async {
                    let _ = stop.wait_for(|stop| *stop).await;
                    tokio::time::sleep(shutdown).await;
                } => tracing::warn!("some connections were cut: they outlasted timeouts.shutdown"),
            }
            if let Some(housekeeping) = housekeeping {
                let _ = tokio::time::timeout(LAST_WORDS, housekeeping).await;
            }
            if let Some(following) = following {
                following.abort();
            }
        });
        // Sessions that are being ended upstream, answers on their way: nobody waits for them, so briefly.
        let _ = runtime.block_on(async { tokio::time::timeout(LAST_WORDS, local).await });
    }
}

/// Closes this core's idle connections to upstreams when they have been idle for long.
pub async fn tidy_pools(core: Rc<Core>) {
    let mut stop = core.app.stop_signal();
    let mut tick = tokio::time::interval(TIDY_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => core.tidy_pools(),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn open_keys(config: &Config, effects: Effects) -> Result<LiveKeys, StartError> {
    Ok(match &config.key_ring {
        KeyRingPlace::File(file) => LiveKeys::shared(file, effects)?,
        KeyRingPlace::Given(ring) => LiveKeys::given(ring.clone(), effects),
        KeyRingPlace::StateDir if config.store.is_shared() => return Err(StartError::NoSharedKeys),
        KeyRingPlace::StateDir => LiveKeys::open(&state_dir(config)?.join(keys::FILE), effects)?,
    })
}

/// Where the gateway keeps its secrets and, by default, its store.
///
/// # Errors
/// [`StartError::NoStateDir`].
pub fn state_dir(config: &Config) -> Result<PathBuf, StartError> {
    let env = |name: &str| std::env::var(name).ok();
    config.state_dir.clone().or_else(|| default_state_dir(&env)).ok_or(StartError::NoStateDir)
}

async fn open_store(config: &Config) -> Result<Store, StartError> {
    match (&config.store, store_dir(config)?) {
        (StoreUrl::Redis(place), _) => Ok(Store::redis(place).await?),
        (_, None) => Ok(Store::memory()),
        (_, Some(dir)) => Ok(Store::embedded(&dir).await?),
    }
}

/// Where the embedded store lives; None for another store.
fn store_dir(config: &Config) -> Result<Option<PathBuf>, StartError> {
    match &config.store {
        StoreUrl::Memory | StoreUrl::Redis(_) => Ok(None),
        StoreUrl::Embedded(Some(dir)) => Ok(Some(dir.clone())),
        StoreUrl::Embedded(None) => Ok(Some(state_dir(config)?.join("store"))),
    }
}

/// Moves a damaged embedded store aside and keeps every record of it that can be read. A store that can be opened
/// is left as it is; then the answer is None.
///
/// # Errors
/// When the store is in use, or its directory cannot be written.
pub fn salvage(config: &Config, effects: Effects) -> Result<Option<Salvaged>, StartError> {
    let Some(dir) = store_dir(config)? else { return Ok(None) };
    let runtime = runtime()?;
    match runtime.block_on(Store::embedded(&dir)) {
        Ok(store) => {
            runtime.block_on(store.close())?;
            Ok(None)
        }
        Err(StoreError::Corrupt { .. }) => Ok(Some(throughline_store::salvage(&dir, effects.now())?)),
        Err(error) => Err(error.into()),
    }
}
