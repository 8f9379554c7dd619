//! A session as the client knows it, whatever becomes of the upstream session behind it.
//!
//! [`resolve`] finds the session that a request belongs to. What the session is bound to upstream is in
//! [`recover`]; how the store and other replicas hear of it, and it of them, in `session/record.rs`.

mod bridged;
mod cancel;
mod progress;
mod record;
mod table;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use throughline_store::{Kind as RecordKind, Millis, Record, RecordKey, State, StoreError, Stored};
use throughline_wire::seal::SessionToken;
use throughline_wire::version::{Era, ProtocolVersion};
use tokio::sync::Notify;

pub use bridged::{bridged, opened, rejoined};
pub use cancel::Cancellable;
pub use progress::Awaited;
pub use record::Updated;
use record::{Known, Reading};
pub use table::Table;

use crate::account::Turn;
use crate::app::{App, Core, Route};
use crate::binding::Slot;
use crate::classify::{Accepts, Arrived, version_of};
use crate::config::{Mode, OnStoreFailure, OnStoreMiss};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::initialize::InitializeParams;
use crate::listen::Listener;
use crate::metrics::StoreOperation;
use crate::principal::{Caller, Continuity};
use crate::probe;
use crate::recover;

/// How long a record waits for its client's first request, on a store that others share.
const ANNOUNCED: Duration = Duration::from_secs(3600);

/// How a client holds its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It echoes the id that it was given.
    Issued,
    /// It echoes nothing, but is known.
    Keyed,
    /// It echoes nothing and is not known: the session lasts for one request.
    Isolated,
    /// It speaks a revision without sessions, but is known.
    Bridged,
    /// The same, but it is not known: the session lasts for one request, however many round trips that has.
    Once,
}

impl Kind {
    /// Whether the bridge speaks in it, for clients that know nothing of it.
    pub fn is_bridged(self) -> bool {
        matches!(self, Kind::Bridged | Kind::Once)
    }

    /// The word in logs and answers to the administrator.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Issued => "issued",
            Kind::Keyed => "keyed",
            Kind::Isolated => "isolated",
            Kind::Bridged => "bridged",
            Kind::Once => "once",
        }
    }
}

/// What a request is carried in.
pub enum Holding {
    /// An upstream session.
    Session(Arc<Session>),
    /// One that the client knows nothing of: its era has none, the upstream's has.
    Bridged,
    /// None: the protocol has no sessions in this era.
    Sessionless,
}

/// One session of ours.
pub struct Session {
    /// Key of its record; of an issued session also the random part of its id.
    pub key: RecordKey,
    /// How the client holds it.
    pub kind: Kind,
    /// Where it lives.
    pub route: Arc<Route>,
    /// When it ends for good.
    pub expires: Millis,
    /// The protocol version that the client was told, where it was told one with its id.
    pub version: Option<ProtocolVersion>,
    /// What it is bound to upstream.
    pub slot: Mutex<Slot>,
    /// Wakes whoever must follow a new binding.
    pub rebound: Notify,
    /// The client's standing stream.
    pub listener: Mutex<Option<Listener>>,
    known: Mutex<Known>,
    /// Under which epoch of the store that was read.
    read_at: AtomicU64,
    calls: Mutex<Vec<Call>>,
    awaited: Mutex<Vec<progress::Call>>,
    waiting: Mutex<Vec<cancel::Waiting>>,
    used: AtomicU64,
    in_flight: AtomicU32,
    /// Lets a call that waits for the first word of its answer go on without: the server has asked something elsewhere.
    pub hurry: Notify,
    /// The last binding in which the upstream had no standing stream for it.
    pub streamless: AtomicU32,
    /// Of one that lasts for a request: others have to find it while that waits for its client.
    kept: AtomicBool,
}

/// A request in flight whose id was made unique: what the client called it.
struct Call {
    ours: Box<str>,
    theirs: Box<str>,
}

/// Locks, whatever happened to the last holder: nothing here is left half-changed by a panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// A session without a record yet.
    pub fn new(
        app: &App,
        kind: Kind,
        route: &Arc<Route>,
        key: RecordKey,
        principal: [u8; 16],
        params: &InitializeParams,
    ) -> Self {
        let record = new_record(app, kind, route, principal, params);
        Self::with(app, kind, route, key, Known::new(record, None), Slot::Empty { generation: 0 })
    }

    /// A session as its record has it.
    fn stored(app: &App, kind: Kind, route: &Arc<Route>, key: RecordKey, mut stored: Stored) -> Self {
        stored.record.initialize = app.texts.share(&stored.record.initialize);
        let slot = Slot::of_record(app, route.index, key, &stored.record);
        let known = Known::new(stored.record, Some(stored.version));
        Self::with(app, kind, route, key, known, slot)
    }

    fn with(app: &App, kind: Kind, route: &Arc<Route>, key: RecordKey, known: Known, slot: Slot) -> Self {
        // Its record may say less: that of a client that has not made a request yet is kept for a short time.
        let expires = Millis(known.record.created.0.saturating_add(millis(app.config.sessions.absolute)));
        Session {
            key,
            kind,
            route: Arc::clone(route),
            expires,
            version: None,
            slot: Mutex::new(slot),
            rebound: Notify::new(),
            listener: Mutex::new(None),
            known: Mutex::new(known),
            read_at: AtomicU64::new(record::STALE),
            calls: Mutex::new(Vec::new()),
            awaited: Mutex::new(Vec::new()),
            waiting: Mutex::new(Vec::new()),
            used: AtomicU64::new(app.effects.now().0),
            in_flight: AtomicU32::new(0),
            hurry: Notify::new(),
            streamless: AtomicU32::new(0),
            kept: AtomicBool::new(false),
        }
    }

    /// Notes that changes may have gone unnoticed. Whether a client listens, so that they have to be looked for now.
    pub fn doubt(&self) -> bool {
        self.read_at.store(record::STALE, Ordering::Release);
        lock(&self.listener).is_some()
    }

    /// Notes use.
    pub fn touch(&self, now: Millis) {
        self.used.store(now.0, Ordering::Relaxed);
    }

    /// When it was last used.
    pub fn used(&self) -> Millis {
        Millis(self.used.load(Ordering::Relaxed))
    }

    /// How many requests are under way in it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether nothing is under way in it.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Counts a request in, under the unique id it was given, if any.
    pub fn begin(self: &Arc<Self>, core: &Rc<Core>, caller: &Caller, ids: Option<(&str, &str)>) -> InFlight {
        self.touch(core.app.effects.now());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let ours = ids.map(|(ours, theirs)| {
            lock(&self.calls).push(Call { ours: ours.into(), theirs: theirs.into() });
            ours.into()
        });
        let turn = caller.account.as_ref().map(|(_, turn)| Arc::clone(turn));
        let credentials = caller.credentials.clone();
        InFlight { session: Arc::clone(self), core: Rc::clone(core), ours, credentials, _turn: turn }
    }

    /// The unique id of the one request in flight that the client calls `theirs`; None if there are several,
    /// since cancelling somebody else's would be worse than cancelling nothing.
    pub fn unique_match(&self, theirs: &str) -> Option<String> {
        let calls = lock(&self.calls);
        let mut found = calls.iter().filter(|call| &*call.theirs == theirs);
        let first = found.next()?;
        found.next().is_none().then(|| first.ours.to_string())
    }
}

/// The record of a session that begins now.
fn new_record(
    app: &App,
    kind: Kind,
    route: &Route,
    principal: [u8; 16],
    params: &InitializeParams,
) -> Record {
    let now = app.effects.now();
    let expires = Millis(now.0.saturating_add(millis(app.config.sessions.absolute)));
    Record {
        // What is found by who calls is ended in another way than what an id names.
        kind: if kind == Kind::Issued { RecordKind::Issued } else { RecordKind::Keyed },
        route: route.digest,
        principal,
        created: now,
        expires,
        state: State::Open { binding: None, generation: 0, lease: None },
        initialize: app.texts.share(&params.raw),
        initialized: false,
        restore: Vec::new(),
    }
}

/// A request under way. Dropped when its answer has been read, or nobody wants it any more.
pub struct InFlight {
    session: Arc<Session>,
    core: Rc<Core>,
    ours: Option<Box<str>>,
    /// What it brought for the upstream, to end its session by.
    credentials: Credentials,
    _turn: Option<Arc<Turn>>,
}

impl InFlight {
    /// The session that it is under way in.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let was_last = self.session.in_flight.fetch_sub(1, Ordering::Relaxed) == 1;
        self.session.touch(self.core.app.effects.now());
        if let Some(ours) = &self.ours {
            lock(&self.session.calls).retain(|call| call.ours != *ours);
        }
        if was_last && matches!(self.session.kind, Kind::Isolated | Kind::Once) {
            let (core, session) = (Rc::clone(&self.core), Arc::clone(&self.session));
            let credentials = std::mem::take(&mut self.credentials);
            tokio::task::spawn_local(async move {
                recover::release(&core, &session, &credentials).await;
                core.app.sessions.remove(&session);
            });
        }
    }
}

/// The session that this request is carried in.
pub async fn resolve(core: &Rc<Core>, arrived: &Arrived) -> Result<Holding, Fault> {
    match arrived.era {
        Era::Modern if probe::speaks_modern(core, arrived).await? => Ok(Holding::Sessionless),
        Era::Modern => Ok(Holding::Bridged),
        Era::Legacy => {
            if core.app.store.trouble().is_some() {
                store_away(arrived)?;
            }
            let session = legacy(core, arrived).await?;
            arrived.seen.session(&session);
            Ok(Holding::Session(session))
        }
    }
}

async fn legacy(core: &Rc<Core>, arrived: &Arrived) -> Result<Arc<Session>, Fault> {
    if arrived.route.config.mode == Mode::Stateless {
        return Ok(isolated(core, arrived));
    }
    match (&arrived.session_id, arrived.caller.continuity) {
        (Some(id), _) => issued(core, arrived, id).await,
        (None, Continuity::Keyed(key)) => keyed(core, arrived, key).await,
        (None, Continuity::Isolated) => Ok(isolated(core, arrived)),
    }
}

/// The session that a client's id names, if it is this client's.
pub async fn issued(core: &Rc<Core>, arrived: &Arrived, id: &HeaderValue) -> Result<Arc<Session>, Fault> {
    let app = &core.app;
    let token = open_id(app, arrived, id).ok_or(Fault::SessionUnknown)?;
    let key = RecordKey(token.id);
    if let Some(session) = app.sessions.get(&key) {
        confirm(core, arrived, &session).await?;
        return if recover::is_closed(&session) { Err(Fault::SessionUnknown) } else { Ok(session) };
    }
    make_room(core, &arrived.caller, key)?;
    // A client of the oldest transport got its id before it said what it speaks.
    let version = (arrived.accepts != Accepts::Messages).then_some(token.version);
    let told = |session| Session { version, ..session };
    let fresh = |params: &InitializeParams| {
        told(Session::new(app, Kind::Issued, &arrived.route, key, token.principal, params))
    };
    let reading = Reading::begin(app);
    let session = match read(core, arrived, key).await? {
        Some(stored) if stored.record.state == State::Deleted => return Err(Fault::SessionUnknown),
        Some(stored) => told(Session::stored(app, Kind::Issued, &arrived.route, key, stored)),
        None => match app.sessions.adopt(key, &reading, fresh) {
            Some(session) => return Ok(session),
            None if arrived.route.config.on_store_miss == OnStoreMiss::NotFound
                && app.store.trouble().is_none() =>
            {
                return Err(Fault::SessionUnknown);
            }
            None => {
                tracing::warn!(
                    session = app.log_id(&key.0),
                    "no record of a valid session; rebuilt from its id (degraded)"
                );
                fresh(&InitializeParams::synthetic(token.version, token.capabilities))
            }
        },
    };
    Ok(app.sessions.insert(session, &reading))
}

/// Lets other replicas know what a client announced that has not made a request yet, for a while: its first may reach any
/// of them. A session that exists under this key stays as it is.
pub async fn announce(
    core: &Core,
    arrived: &Arrived,
    kind: Kind,
    key: RecordKey,
    params: &InitializeParams,
) -> Result<(), Fault> {
    let app = &core.app;
    if !app.store.is_shared() || app.sessions.get(&key).is_some() {
        return Ok(());
    }
    let mut record = new_record(app, kind, &arrived.route, arrived.caller.principal, params);
    record.expires = record.expires.min(Millis(app.effects.now().0.saturating_add(millis(ANNOUNCED))));
    match app.store.put_if(key, None, record, app.effects.now()).await {
        Ok(_) => Ok(()),
        Err(error) => {
            app.store_failed(StoreOperation::Put, &error);
            store_away(arrived)
        }
    }
}

/// What a failure of the store means on this route.
fn store_away(arrived: &Arrived) -> Result<(), Fault> {
    match arrived.route.config.on_store_failure {
        OnStoreFailure::Serve => Ok(()),
        OnStoreFailure::Refuse => Err(Fault::StoreAway),
    }
}

/// The record of a session that is not in memory. A store that is away says nothing about the session: a 404 would
/// make the client throw it away, so it goes on as if there were none, unless the route says otherwise.
async fn read(core: &Core, arrived: &Arrived, key: RecordKey) -> Result<Option<Stored>, Fault> {
    let app = &core.app;
    match app.store.get(key, app.effects.now()).await {
        Ok(stored) => Ok(stored),
        Err(error) => {
            app.store_failed(StoreOperation::Get, &error);
            store_away(arrived).map(|()| None)
        }
    }
}

/// Sees to it that a session in memory is as its record has it, as far as the store can tell.
async fn confirm(core: &Rc<Core>, arrived: &Arrived, session: &Session) -> Result<(), Fault> {
    match session.confirm(core).await {
        Ok(()) => Ok(()),
        Err(_) => store_away(arrived),
    }
}

/// The key of the session that an id names; None when it is not a valid id of this caller on this route.
pub fn key_of(app: &App, arrived: &Arrived, id: &HeaderValue) -> Option<RecordKey> {
    open_id(app, arrived, id).map(|token| RecordKey(token.id))
}

/// Opens a client's session id; None when it is not a valid id of this caller on this route.
fn open_id(app: &App, arrived: &Arrived, id: &HeaderValue) -> Option<SessionToken> {
    let token = app.keys.open_session(id.to_str().ok()?).ok()?;
    let issued = Millis(u64::from(token.issued_at) * 1000);
    let expires = issued.0.saturating_add(millis(app.config.sessions.absolute));
    let is_theirs = token.route == arrived.route.digest && token.principal == arrived.caller.principal;
    (is_theirs && app.effects.now().0 < expires).then_some(token)
}

/// The session in memory that is found by who calls, if it has not expired.
async fn present(core: &Rc<Core>, arrived: &Arrived, key: RecordKey) -> Result<Option<Arc<Session>>, Fault> {
    let app = &core.app;
    let Some(session) = app.sessions.get(&key) else { return Ok(None) };
    if app.effects.now() < session.expires {
        confirm(core, arrived, &session).await?;
        return Ok(Some(session));
    }
    app.sessions.remove(&session);
    Ok(None)
}

async fn keyed(core: &Rc<Core>, arrived: &Arrived, key: RecordKey) -> Result<Arc<Session>, Fault> {
    let app = &core.app;
    if let Some(session) = present(core, arrived, key).await? {
        return Ok(session);
    }
    make_room(core, &arrived.caller, key)?;
    // Many callers share it, none of them can be asked anything: it announces no capabilities.
    let fresh = |params: &InitializeParams| {
        let params = params.without_capabilities();
        Session::new(app, Kind::Keyed, &arrived.route, key, arrived.caller.principal, &params)
    };
    let reading = Reading::begin(app);
    let session = match read(core, arrived, key).await? {
        Some(stored) if stored.record.state != State::Deleted => {
            Session::stored(app, Kind::Keyed, &arrived.route, key, stored)
        }
        _ => match app.sessions.adopt(key, &reading, fresh) {
            Some(session) => return Ok(session),
            None => fresh(&synthetic(arrived)),
        },
    };
    Ok(app.sessions.insert(session, &reading))
}

/// Sees that one more session fits, for this caller and for all. Who has to leave is the idlest, never one that is in
/// use. A caller's own gives its upstream session back; where only memory is short, it leaves just that.
fn make_room(core: &Rc<Core>, caller: &Caller, key: RecordKey) -> Result<(), Fault> {
    let (sessions, limits) = (&core.app.sessions, &core.app.config.limits);
    if let Some((account, _)) = &caller.account {
        account.admit(key, limits.sessions_per_caller, |entered| {
            entered.retain(|key| sessions.get(key).is_some());
            let live =
                entered.iter().filter_map(|key| sessions.get(key)).filter(|session| session.is_quiet());
            let idlest = live.min_by_key(|session| session.used())?;
            sessions.remove(&idlest);
            let (core, leaves) = (Rc::clone(core), idlest.key);
            tokio::task::spawn_local(
                async move { recover::release(&core, &idlest, &Credentials::NONE).await },
            );
            Some(leaves)
        })?;
    }
    if sessions.len() >= limits.sessions {
        let start = usize::from(core.app.effects.bytes::<1>()[0]);
        sessions.remove(&sessions.idle_one(start).ok_or(Fault::TooManySessions)?);
    }
    Ok(())
}

fn isolated(core: &Rc<Core>, arrived: &Arrived) -> Arc<Session> {
    let key = RecordKey(core.app.effects.bytes());
    let params = synthetic(arrived);
    Arc::new(Session::new(&core.app, Kind::Isolated, &arrived.route, key, arrived.caller.principal, &params))
}

/// Parameters for a caller that never sent its own.
fn synthetic(arrived: &Arrived) -> InitializeParams {
    InitializeParams::synthetic(version_of(arrived.version.as_ref()), Default::default())
}

/// A session as its record has it, not entered into memory. None where its route is gone, or it was ended.
pub fn of_record(app: &App, key: RecordKey, stored: Stored) -> Option<Arc<Session>> {
    let route = app.routes.iter().find(|route| route.digest == stored.record.route)?;
    let kind = match (&stored.record.state, stored.record.kind) {
        (State::Deleted, _) => return None,
        (State::Open { .. }, RecordKind::Issued) => Kind::Issued,
        (State::Open { .. }, RecordKind::Keyed) => Kind::Keyed,
    };
    Some(Arc::new(Session::stored(app, kind, route, key, stored)))
}

/// Ends the session that a client's id names.
pub async fn close(core: &Rc<Core>, arrived: &Arrived) -> Result<(), Fault> {
    let id = arrived.session_id.as_ref().ok_or(Fault::Method("POST"))?;
    let session = issued(core, arrived, id).await?;
    // The client has done its part; that its word could not be stored is logged.
    let _ = end(core, &session, &arrived.caller.credentials).await;
    Ok(())
}

/// Ends a session for good, upstream with these credentials.
///
/// # Errors
/// When that could not be stored: then it holds in this process only.
pub async fn end(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
) -> Result<(), StoreError> {
    recover::close(core, session, credentials);
    if let Err(error) = core.app.store.events().remove(session.key).await {
        core.app.store_failed(StoreOperation::Append, &error);
    }
    // Durable before it is answered: a session that was ended must not come back with the process.
    session.bury(&core.app).await.inspect_err(|_| {
        tracing::warn!("the end of a session was not stored; it holds in this process only, until it can be");
    })
}

/// A duration in the unit that records use.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
