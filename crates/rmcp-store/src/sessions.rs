//! The sessions of one server: what rmcp asks its [`SessionStore`], answered from the store and, while that is
//! away, from memory.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionState, SessionStore, SessionStoreError};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use throughline_store::{Kind, Millis, Put, Record, State, Store, StoreError, Stored};

use crate::error::{Away, NotKept};
use crate::events::Events;
use crate::load::Loads;
use crate::manager::Manager;
use crate::memory::{Memory, Owed, Use};
use crate::naming::{Name, Naming};
use crate::options::Options;
use crate::place::{self, OpenError};
use crate::scoped::Scope;
use crate::settle;

/// Longer `initialize` parameters are not kept: nobody needs them, and everybody may send them.
const MAX_INITIALIZE: usize = 64 * 1024;

/// The sessions of one server, in a store that outlives its process. Clones share them.
///
/// [`Sessions::service`] is all that most servers need; the [front page](crate) has an example.
#[derive(Clone)]
pub struct Sessions {
    pub(crate) shared: Arc<Shared>,
}

/// What the clones have in common.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) options: Options,
    naming: Naming,
    pub(crate) loads: Loads,
    memory: Mutex<Memory>,
    /// Whether the log says that the store is away.
    away: AtomicBool,
}

/// Whether a session that rmcp has in memory may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Alive,
    /// It was ended elsewhere, or has expired.
    Ended,
}

impl Sessions {
    /// Opens the store at `url` with the default [`Options`]: `memory:`, `embedded:DIR`, or a Redis as the
    /// [front page](crate#stores) says. A Redis that is away does not keep the server from starting.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says which and what to do.
    pub async fn open(url: &str) -> Result<Sessions, OpenError> {
        Sessions::open_with(url, Options::default()).await
    }

    /// [`Sessions::open`] with other options.
    ///
    /// # Errors
    ///
    /// As [`Sessions::open`].
    pub async fn open_with(url: &str, options: Options) -> Result<Sessions, OpenError> {
        Ok(Sessions::with_options(place::open(url).await?, options))
    }

    /// The sessions in a store that is open already, with the default [`Options`].
    #[must_use]
    pub fn new(store: Store) -> Sessions {
        Sessions::with_options(store, Options::default())
    }

    /// [`Sessions::new`] with other options.
    #[must_use]
    pub fn with_options(store: Store, options: Options) -> Sessions {
        let naming = Naming::new(&options.server);
        let shared = Shared {
            store,
            options,
            naming,
            loads: Loads::default(),
            memory: Mutex::default(),
            away: AtomicBool::new(false),
        };
        Sessions { shared: Arc::new(shared) }
    }

    /// The Streamable HTTP service of a server whose sessions are these: rmcp's, with `config.session_store` set and
    /// rmcp's [`LocalSessionManager`] within a [`Manager`].
    pub fn service<S>(
        &self,
        server: impl Fn() -> Result<S, std::io::Error> + Send + Sync + 'static,
        mut config: StreamableHttpServerConfig,
    ) -> StreamableHttpService<S, Manager<LocalSessionManager>>
    where
        S: rmcp::ServerHandler + Send + 'static,
    {
        config.session_store = Some(Arc::new(self.clone()));
        let manager = match self.events() {
            Some(events) => LocalSessionManager::default().with_event_store(Arc::new(events)),
            None => LocalSessionManager::default(),
        };
        StreamableHttpService::new(server, Arc::new(self.manager(manager)), config)
    }

    /// A session manager that also says when sessions are used. For a manager with a configuration of its own; it needs
    /// these sessions as `session_store` of the service's configuration too.
    pub fn manager<M>(&self, inner: M) -> Manager<M> {
        Manager::new(inner, self.clone())
    }

    /// The events of streams, in the same store, for the manager inside; None unless [`Options::with_events`] is set.
    #[must_use]
    pub fn events(&self) -> Option<Events> {
        let keep = self.shared.options.events?;
        Some(Events::new(self.shared.store.events(), self.shared.naming.clone(), keep))
    }

    /// Makes event ids of a session's.
    pub(crate) fn scope(&self, session_id: &str) -> Scope {
        Scope::new(self.shared.naming.clone(), session_id)
    }

    /// Tells the store what it has still to be told, and closes it. For a server that stops in order; one that is killed
    /// loses at most the last minute's uses.
    ///
    /// # Errors
    ///
    /// What the store reports; it is closed nevertheless.
    pub async fn close(&self) -> Result<(), StoreError> {
        let told = settle::once(&self.shared).await;
        self.shared.store.close().await.and(told)
    }

    /// Whether there is such a session; `Err` if nobody can say now.
    pub(crate) async fn exists(&self, session_id: &str) -> Result<bool, Away> {
        self.shared.load(self.shared.naming.name(session_id)).await.map(|record| record.is_some())
    }

    /// Notes a request in a session that rmcp has in memory, and says whether it may be used. Once a minute its record
    /// is looked at; all other times cost a digest and a lock.
    pub(crate) async fn used(&self, session_id: &str) -> Standing {
        let shared = &self.shared;
        let name = shared.naming.name(session_id);
        let now = shared.now();
        let last = match shared.memory().used(name.key, now, shared.options.look_every()) {
            Use::Known => return Standing::Alive,
            Use::Expired => return Standing::Ended,
            Use::Look { last } => last,
        };
        match shared.store.get(name.key, now).await {
            Ok(Some(stored)) => {
                if !shared.is_good(name, &stored, last, now) {
                    shared.memory().forget(name.key);
                    return Standing::Ended;
                }
                shared.touch(name, now);
            }
            Ok(None) => shared.put_back(name),
            Err(error) => {
                shared.is_away(&error);
                // Another process may have used it since; who can say is away.
                if shared.options.is_idle(last, now) {
                    shared.memory().forget(name.key);
                    return Standing::Ended;
                }
            }
        }
        Standing::Alive
    }

    /// The session has left rmcp's memory.
    pub(crate) fn released(&self, session_id: &str) {
        let key = self.shared.naming.name(session_id).key;
        self.shared.memory().released(key);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("store", &self.shared.store.describe())
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

/// What rmcp calls. The errors are [`Away`] and [`NotKept`].
#[async_trait::async_trait]
impl SessionStore for Sessions {
    async fn load(&self, session_id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        let Some(record) = self.shared.load(self.shared.naming.name(session_id)).await? else {
            return Ok(None);
        };
        match serde_json::from_str(&record.initialize) {
            Ok(params) => Ok(Some(SessionState::new(params))),
            Err(error) => {
                // Its text may quote what the client sent.
                tracing::warn!(
                    line = error.line(),
                    "a session's initialize parameters cannot be read by this rmcp: its client has to begin again"
                );
                Ok(None)
            }
        }
    }

    /// Durable when it returns, unless the store is away: then the session is in memory, and is written as soon as
    /// the store is back.
    async fn store(&self, session_id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        let initialize = serde_json::to_string(&state.initialize_params)?;
        if initialize.len() > MAX_INITIALIZE {
            return Err(NotKept::TooLarge.into());
        }
        let shared = &self.shared;
        let name = shared.naming.name(session_id);
        let now = shared.now();
        let record = shared.record(name, initialize, now);
        shared.memory().saw(name.key, record.clone(), now);
        match shared.write(name, &record, now).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                shared.memory().forget(name.key);
                Err(NotKept::Ended.into())
            }
            Err(error) => {
                shared.is_away(&error);
                shared.owe(name, Owed::Record(record))
            }
        }
    }

    /// Durable when it returns, unless the store is away: then the session is ended in this process, and in the store
    /// as soon as it is back.
    async fn delete(&self, session_id: &str) -> Result<(), SessionStoreError> {
        let shared = &self.shared;
        let name = shared.naming.name(session_id);
        let now = shared.now();
        let was_owed = shared.memory().forget(name.key);
        // What never was needs no tombstone: anybody can make up ids.
        let known = async { Ok(was_owed || shared.store.get(name.key, now).await?.is_some()) };
        let ended = match known.await {
            Ok(false) => Ok(()),
            Ok(true) => shared.end(name, shared.options.end(now), now).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => Ok(()),
            Err(error) => {
                shared.is_away(&error);
                shared.owe(name, Owed::End { until: shared.options.end(now) })
            }
        }
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Millis {
        (self.options.clock)()
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, name: Name, initialize: String, now: Millis) -> Record {
        Record {
            kind: Kind::Issued,
            route: self.naming.route,
            principal: name.rest,
            created: now,
            expires: self.options.end(now),
            state: State::Open { binding: None, generation: 0, lease: None },
            initialize: initialize.into(),
            initialized: true,
            restore: Vec::new(),
        }
    }

    /// Whether what stands in the store is this session, and may be used at `now`. `last` is when it was last used
    /// here, if it was.
    pub(crate) fn is_good(&self, name: Name, stored: &Stored, last: Millis, now: Millis) -> bool {
        matches!(stored.record.state, State::Open { .. })
            && stored.record.principal == name.rest
            && !self.options.is_idle(stored.touched.max(last), now)
    }

    /// Writes a session's record. False if it was ended.
    pub(crate) async fn write(&self, name: Name, record: &Record, now: Millis) -> Result<bool, StoreError> {
        match self.store.put_if(name.key, None, record.clone(), now).await? {
            Put::Stored(_) => Ok(true),
            // rmcp stores a session once; who stores it again has nothing else to say.
            Put::Conflict(Some(stands)) => Ok(self.is_good(name, &stands, now, now)),
            Put::Conflict(None) => Ok(false),
        }
    }

    /// Leaves a tombstone.
    pub(crate) async fn end(&self, name: Name, until: Millis, now: Millis) -> Result<(), StoreError> {
        self.store.delete(name.key, until, self.naming.route, name.rest, now).await.map(drop)
    }

    /// Has the store told that the session is in use.
    pub(crate) fn touch(self: &Arc<Self>, name: Name, now: Millis) {
        self.memory().touches.insert(name.key, now);
        settle::soon(self);
    }

    /// Has a record written again that the store has lost: its session is in use.
    pub(crate) fn put_back(self: &Arc<Self>, name: Name) {
        let Some((record, _)) = self.memory().copy(name.key) else { return };
        // If there is no room for it, the next look finds it missing again.
        let _ = self.owe(name, Owed::Record(record));
    }

    fn owe(self: &Arc<Self>, name: Name, owed: Owed) -> Result<(), SessionStoreError> {
        self.memory().owe(name.key, owed).map_err(|_| NotKept::TooMany)?;
        settle::soon(self);
        Ok(())
    }

    /// Says so in the log, once for each time that the store is away.
    pub(crate) fn is_away(&self, error: &StoreError) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the session store is away: sessions go on from memory, others wait");
        }
    }

    /// Says that the store takes what it is told again. That it can be read is not enough: a full one can.
    pub(crate) fn is_back(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the session store is back");
        }
    }
}
