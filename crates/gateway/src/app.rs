//! What the whole gateway shares ([`App`]), and what one core of it owns ([`Core`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use http::HeaderValue;
use throughline_status::History;
use throughline_store::{Store, StoreError};
use throughline_telemetry::Tracer;
use tokio::sync::{Semaphore, watch};

use crate::account::Accounts;
use crate::bridge::parked::Parked;
use crate::bridge::subscriptions::Hubs;
use crate::config::{self, Config};
use crate::deadlines::Deadlines;
use crate::effects::Effects;
use crate::front::rest::Running;
use crate::front::sse2024::Channels;
use crate::grants::Grants;
use crate::initialize::InitializeCache;
use crate::keys::LiveKeys;
use crate::lists::Lists;
use crate::metadata;
use crate::metrics::{Metrics, RouteCounts, Shard, StoreOperation};
use crate::outlet::Outlets;
use crate::principal::Directory;
use crate::probe::EraCache;
use crate::room::Room;
use crate::session::Table;
use crate::shape::Shape;
use crate::texts::Texts;
use crate::tokens::Verifier;
use crate::upstream::destination::Destination;
use crate::upstream::fleet::{Fleet, Member};
use crate::upstream::http::Endpoint;
use crate::upstream::modern::questions::Questions;
use crate::upstream::older::Standing;

/// State shared by all cores. Nothing in it is locked over an await.
pub struct App {
    /// The configuration, as checked at start.
    pub config: Config,
    /// Clock and randomness.
    pub effects: Effects,
    /// Keys derived from the ring, one per purpose.
    pub keys: LiveKeys,
    /// What is counted.
    pub metrics: Metrics,
    /// Session records.
    pub store: Store,
    /// What is served, in the order of the configuration.
    pub routes: Vec<Arc<Route>>,
    /// Live sessions.
    pub sessions: Table,
    /// Parameters that many of them have in common.
    pub texts: Texts,
    /// Which gateway process this is: random, new at each start. Part of ids that must be unique over replicas.
    pub process: String,
    /// What this instance is called toward people: as configured, else as the process.
    pub instance: String,
    /// The same, for the header.
    pub instance_header: HeaderValue,
    /// What begins the spans of requests; None where traces are not exported.
    pub tracer: Option<Tracer>,
    /// The principals that the configuration knows.
    pub directory: Directory,
    /// The issuers whose tokens prove who callers are; None where there are none.
    pub tokens: Option<Verifier>,
    /// What each principal has under way.
    pub accounts: Accounts,
    /// Streams toward clients that can be resumed.
    pub outlets: Outlets,
    /// Streams of clients that speak HTTP with SSE.
    pub channels: Channels,
    /// Calls whose clients ask for the result later.
    pub running: Running,
    /// What clients are asked for servers that cannot ask them.
    pub questions: Questions,
    /// How many requests there were lately.
    pub history: Mutex<History>,
    /// Bridges to upstreams that speak another transport.
    pub bridges: Mutex<Vec<Standing>>,
    /// Calls that go on without their client.
    pub detached: Arc<AtomicUsize>,
    /// Calls that wait for what their client has to be asked.
    pub parked: Parked,
    /// Who listens in sessions whose clients hold no id of them.
    pub hubs: Hubs,
    /// How much is being answered.
    pub room: Room,
    stopping: watch::Sender<bool>,
    /// The same, where it is asked often.
    is_stopping: AtomicBool,
    is_leaving: AtomicBool,
    next_id: AtomicU64,
}

/// One upstream and the path it is served at.
pub struct Route {
    /// As configured.
    pub config: config::Route,
    /// Place in [`App::routes`].
    pub index: usize,
    /// Names the route in sealed ids and keys: a digest of its name, so that reordering changes nothing.
    pub digest: [u8; 8],
    /// Answers to `initialize`.
    pub initialize: InitializeCache,
    /// Which era the upstream speaks.
    pub era: EraCache,
    /// Lists that need not be asked for again.
    pub lists: Lists,
    /// What its profile and its selection of tools change; None where they change nothing.
    pub shape: Option<Shape>,
    /// The tokens that its requests carry; None where they carry none.
    pub grants: Option<Grants>,
    /// Where the upstream says that its OAuth metadata is.
    pub metadata: metadata::Named,
    /// Where the upstream is, and how it is reached.
    pub fleet: Arc<Fleet>,
}

/// What is made of the configuration and the environment before there is anything to serve.
pub struct Made {
    /// The endpoints of the routes, in their order.
    pub destinations: Vec<Vec<Arc<Destination>>>,
    /// [`App::tokens`].
    pub tokens: Option<Verifier>,
    /// [`Route::grants`], in the order of the routes.
    pub grants: Vec<Option<Grants>>,
    /// [`App::tracer`].
    pub tracer: Option<Tracer>,
    /// [`App::process`].
    pub process: String,
}

impl App {
    /// Puts the shared state together.
    pub fn new(config: Config, effects: Effects, keys: LiveKeys, store: Store, made: Made) -> Arc<Self> {
        let Made { destinations, tokens, grants, tracer, process } = made;
        let instance = config.instance.clone().unwrap_or_else(|| process.clone());
        let routes = config.routes.iter().zip(destinations).zip(grants).enumerate().map(
            |(index, ((route, to), grants))| {
                let digest = keys.digest("route", &[route.name.as_bytes()]);
                Arc::new(Route {
                    config: route.clone(),
                    index,
                    digest: first(&digest),
                    initialize: InitializeCache::default(),
                    lists: Lists::default(),
                    era: EraCache::default(),
                    shape: Shape::of(route),
                    grants,
                    metadata: metadata::Named::default(),
                    fleet: Fleet::new(to, route.resolve, effects.bytes::<1>()[0]),
                })
            },
        );
        Arc::new(App {
            routes: routes.collect(),
            sessions: Table::default(),
            texts: Texts::default(),
            instance_header: HeaderValue::from_str(&instance).unwrap_or(HeaderValue::from_static("unknown")),
            instance,
            process,
            tracer,
            directory: Directory::new(&config.callers, &keys),
            tokens,
            accounts: Accounts::default(),
            outlets: Outlets::default(),
            channels: Channels::default(),
            running: Running::default(),
            questions: Questions::default(),
            history: Mutex::default(),
            bridges: Mutex::default(),
            detached: Arc::default(),
            parked: Parked::default(),
            hubs: Hubs::default(),
            room: Room::default(),
            metrics: Metrics::new(effects.now()),
            stopping: watch::Sender::new(false),
            is_stopping: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            config,
            effects,
            keys,
            store,
        })
    }

    /// The route that serves this path, with or without a slash at its end.
    pub fn route(&self, path: &str) -> Option<&Arc<Route>> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.routes.iter().find(|route| route.config.path == path)
    }

    /// A JSON-RPC id (raw JSON, a string) that no other request of any replica carries.
    pub fn unique_id(&self) -> String {
        format!("\"{}-{}\"", self.process, self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether new work is refused because the process is about to end.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Whether readiness is false: the process is about to stop, or stopping.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Makes readiness false, and goes on otherwise.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    /// Makes readiness false, ends standing streams and refuses new bindings.
    pub fn stop(&self) {
        self.leave();
        // First the flag: who was woken by the signal finds it set.
        self.is_stopping.store(true, Ordering::Release);
        self.stopping.send_replace(true);
    }

    /// Returns when the gateway stops.
    pub async fn stopped(&self) {
        // The sender is here, so it cannot be gone.
        let _ = self.stop_signal().wait_for(|stop| *stop).await;
    }

    /// Becomes true when the gateway stops.
    pub fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Notes that the store failed: in the log, and in the count.
    pub fn store_failed(&self, operation: StoreOperation, error: &StoreError) {
        // Of a store that is away each request would say so; the store has said it once.
        if error.is_away() {
            tracing::debug!(%error, ?operation, "session store failed");
        } else {
            tracing::error!(%error, ?operation, "session store failed");
        }
        self.metrics.store_failed(operation);
    }

    /// A session id as logs may show it: enough to follow one session, useless to take it over.
    pub fn log_id(&self, key: &[u8; 16]) -> String {
        short(&first(&self.keys.digest("log", &[key])))
    }
}

/// Connections of one core to one endpoint, for as long as somebody knows it.
struct Pool {
    of: Weak<Member>,
    endpoint: Rc<Endpoint>,
}

/// What one core owns: connections to upstreams, without locks.
pub struct Core {
    /// The shared part.
    pub app: Arc<App>,
    /// Time-outs of this core's requests.
    pub deadlines: Rc<Deadlines>,
    /// Its connections, by endpoint.
    pools: RefCell<HashMap<u64, Pool>>,
    /// Where the keys of token issuers are, in the order of [`Verifier::destinations`].
    pub key_sets: Vec<Rc<Endpoint>>,
    /// Where tokens for each route's upstream are given.
    pub grants: Vec<Option<Rc<Endpoint>>>,
    /// What this core has counted.
    pub metrics: Arc<Shard>,
    /// Places for what is told to upstreams while nobody waits for it.
    telling: Arc<Semaphore>,
}

/// How much is told at a time.
const TELLING: usize = 256;

impl Core {
    /// Runs what tells an upstream something that nobody waits for. One too many at a time is not told: who asks faster
    /// than it takes answers has to do without.
    pub fn tell_later(&self, telling: impl Future<Output = ()> + 'static) {
        let Ok(place) = Arc::clone(&self.telling).try_acquire_owned() else {
            tracing::warn!("too many answers are on their way to upstreams; one was dropped");
            return;
        };
        tokio::task::spawn_local(async move {
            telling.await;
            drop(place);
        });
    }

    /// For one core's runtime.
    pub fn new(app: Arc<App>) -> Rc<Self> {
        let deadlines = Deadlines::new();
        let key_sets = app.tokens.iter().flat_map(Verifier::destinations);
        let key_sets =
            key_sets.map(|to| Endpoint::new(Arc::clone(to), app.effects, Rc::clone(&deadlines))).collect();
        let granting = |route: &Arc<Route>| {
            route
                .grants
                .as_ref()
                .map(|grants| Endpoint::new(Arc::clone(grants.to()), app.effects, Rc::clone(&deadlines)))
        };
        let grants = app.routes.iter().map(granting).collect();
        let metrics = app.metrics.shard(app.routes.len());
        let (pools, telling) = (RefCell::default(), Arc::new(Semaphore::new(TELLING)));
        Rc::new(Core { app, deadlines, pools, key_sets, grants, metrics, telling })
    }

    /// This core's connections to an endpoint.
    pub fn endpoint(&self, member: &Arc<Member>) -> Rc<Endpoint> {
        let mut pools = self.pools.borrow_mut();
        let open = || {
            let to = Arc::clone(member.destination());
            Endpoint::new(to, self.app.effects, Rc::clone(&self.deadlines))
        };
        let pool =
            pools.entry(member.id).or_insert_with(|| Pool { of: Arc::downgrade(member), endpoint: open() });
        if !std::ptr::eq(pool.endpoint.destination(), &**member.destination()) {
            pool.endpoint = open();
        }
        Rc::clone(&pool.endpoint)
    }

    /// Closes connections that have been idle for long, and all to endpoints that are gone.
    pub fn tidy_pools(&self) {
        let mut pools = self.pools.borrow_mut();
        pools.retain(|_, pool| pool.of.strong_count() > 0);
        pools.values().for_each(|pool| pool.endpoint.tidy());
    }

    /// What this core has counted on a route.
    pub fn counts(&self, route: &Route) -> &RouteCounts {
        self.metrics.route(route.index)
    }
}

/// The beginning of a keyed digest, as logs show it.
pub fn short(digest: &[u8; 16]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..5])
}

/// The first bytes of a digest.
pub fn first<const N: usize>(digest: &[u8; 32]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&digest[..N]);
    out
}
