//! The upstream session behind a session of ours: made when it is first needed, made again when it is lost.
//!
//! One attempt per session at a time: whoever comes first starts a task, the others wait for what it makes.
//! The task is nobody's: a client that goes away while it waits takes nothing with it. Across replicas the
//! record decides, by compare-and-set: one binding wins, and a loser ends the upstream session it opened.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use throughline_store::{Binding, Millis, Record, RecordKey, State};
use throughline_wire::version::{ASSUMED, ProtocolVersion};
use throughline_wire::{jsonrpc, method};
use tokio::sync::watch;

use crate::app::{App, Core};
use crate::error::Fault;
use crate::initialize::{self, InitializeParams, Lists, Opened};
use crate::session::{Kind, Session, Updated, lock, millis};
use crate::upstream::{self, Address, Own};

/// First pause after a failed attempt, doubled up to [`BACKOFF_MAX`]: until then the same failure is answered.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What a session is bound to.
pub enum Slot {
    /// Nothing now; the last generation that was given out.
    Empty {
        /// Counted up at every binding.
        generation: u32,
    },
    /// A binding is being made.
    Making(watch::Receiver<Option<Made>>),
    /// An upstream session.
    Bound(Arc<Bound>),
    /// The last attempt failed.
    Failed {
        /// The last generation that was given out.
        generation: u32,
        /// Why.
        fault: Fault,
        /// How many attempts have failed in a row.
        attempts: u32,
        /// When the next may be made.
        until: Millis,
    },
    /// The session was ended.
    Closed,
}

/// An upstream session in use.
#[derive(Debug)]
pub struct Bound {
    /// Counted up with every binding of a session.
    pub generation: u32,
    /// Whose upstream it is: place in [`Core::endpoints`].
    pub route: usize,
    /// What puts a request into it.
    pub address: Address,
    /// Which lists the server announces changes of.
    pub lists: Lists,
    /// Whether everything that the session had could be restored.
    pub whole: bool,
}

/// How a request came by its binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Resumed,
    /// It was made in place of a lost one.
    Restored,
    /// It is the session's first.
    New,
}

impl Origin {
    /// The word in the `Throughline-Session` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Resumed => "resumed",
            Origin::Restored => "restored",
            Origin::New => "new",
        }
    }
}

/// What an attempt came to.
pub type Made = Result<(Arc<Bound>, Origin), Fault>;

/// The part of a binding that is sealed at rest: with it one could speak in the session.
#[derive(Serialize, Deserialize)]
struct Secret {
    session_id: Option<String>,
    #[serde(default)]
    lists: Lists,
}

impl Slot {
    /// As a record has it. A binding that cannot be unsealed (its key is gone) is as good as lost.
    pub fn of_record(app: &App, route: usize, key: RecordKey, record: &Record) -> Slot {
        match &record.state {
            State::Deleted => Slot::Closed,
            State::Open { binding, generation } => {
                match binding.as_ref().and_then(|binding| unseal(app, route, key, binding)) {
                    Some(bound) => Slot::Bound(Arc::new(bound)),
                    None => Slot::Empty { generation: *generation },
                }
            }
        }
    }

    fn generation(&self) -> u32 {
        match self {
            Slot::Empty { generation } | Slot::Failed { generation, .. } => *generation,
            Slot::Bound(bound) => bound.generation,
            Slot::Making(_) | Slot::Closed => 0,
        }
    }

    fn attempts(&self) -> u32 {
        match self {
            Slot::Failed { attempts, .. } => *attempts,
            _ => 0,
        }
    }
}

fn seal(app: &App, key: RecordKey, bound: &Bound) -> Binding {
    let text = |value: &Option<HeaderValue>| value.as_ref().and_then(|v| v.to_str().ok()).map(str::to_owned);
    let secret = Secret { session_id: text(&bound.address.session_id), lists: bound.lists };
    let plain = serde_json::to_vec(&secret).unwrap_or_default();
    Binding {
        generation: bound.generation,
        secret: app.keys.seal_secret(&key.0, &plain, app.effects.bytes()),
        protocol_version: text(&bound.address.version).unwrap_or_default(),
        endpoint: String::new(),
    }
}

fn unseal(app: &App, route: usize, key: RecordKey, binding: &Binding) -> Option<Bound> {
    let plain = app.keys.open_secret(&key.0, &binding.secret)?;
    let secret: Secret = serde_json::from_slice(&plain).ok()?;
    let session_id = match secret.session_id {
        Some(id) => Some(HeaderValue::from_str(&id).ok()?),
        None => None,
    };
    let version = HeaderValue::from_str(&binding.protocol_version).ok().filter(|version| !version.is_empty());
    Some(Bound {
        generation: binding.generation,
        route,
        address: Address { session_id, version },
        lists: secret.lists,
        whole: true,
    })
}

/// The session's binding, if it has one now. Makes none.
pub fn current(session: &Session) -> Option<Arc<Bound>> {
    match &*lock(&session.slot) {
        Slot::Bound(bound) => Some(Arc::clone(bound)),
        _ => None,
    }
}

/// Whether the session was ended.
pub fn is_closed(session: &Session) -> bool {
    matches!(*lock(&session.slot), Slot::Closed)
}

/// The session's binding; made if there is none, or if the one of generation `lost` is lost.
pub async fn bind(core: &Rc<Core>, session: &Arc<Session>, lost: Option<u32>) -> Made {
    let mut made = {
        let mut slot = lock(&session.slot);
        match &*slot {
            Slot::Bound(bound) if lost != Some(bound.generation) => {
                let origin = if lost.is_some() { Origin::Restored } else { Origin::Resumed };
                return Ok((Arc::clone(bound), origin));
            }
            Slot::Closed => return Err(Fault::SessionUnknown),
            Slot::Failed { until, fault, .. } if core.app.effects.now() < *until => return Err(fault.clone()),
            Slot::Making(made) => made.clone(),
            Slot::Bound(_) | Slot::Empty { .. } | Slot::Failed { .. } => {
                if core.app.is_stopping() {
                    return Err(Fault::Stopping);
                }
                start(core, session, &mut slot, lost)
            }
        }
    };
    match made.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone().unwrap_or(Err(Fault::UpstreamGarbled)),
        // The task ended without a word; its guard has emptied the slot, so the next request tries again.
        Err(_) => Err(Fault::UpstreamGarbled),
    }
}

fn start(
    core: &Rc<Core>,
    session: &Arc<Session>,
    slot: &mut Slot,
    lost: Option<u32>,
) -> watch::Receiver<Option<Made>> {
    let (tell, made) = watch::channel(None);
    let attempt = Attempt {
        session: Arc::clone(session),
        generation: slot.generation(),
        attempts: slot.attempts(),
        settled: false,
    };
    *slot = Slot::Making(made.clone());
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let outcome = make(&core, &attempt.session, lost).await;
        attempt.settle(&core.app, &outcome);
        let _ = tell.send(Some(outcome));
    });
    made
}

/// A running attempt: whatever becomes of its task, the slot does not stay in the making.
struct Attempt {
    session: Arc<Session>,
    generation: u32,
    attempts: u32,
    settled: bool,
}

impl Attempt {
    fn settle(mut self, app: &App, outcome: &Made) {
        let session = &self.session;
        let log_id = app.log_id(&session.key.0);
        let next = match outcome {
            Ok((bound, origin)) => {
                let (generation, origin) = (bound.generation, origin.as_str());
                tracing::info!(session = log_id, generation, origin, "session bound");
                Slot::Bound(Arc::clone(bound))
            }
            Err(Fault::SessionUnknown) => Slot::Closed,
            Err(fault) => {
                tracing::warn!(session = log_id, %fault, "session not bound");
                let pause = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(8)).min(BACKOFF_MAX);
                Slot::Failed {
                    generation: self.generation,
                    fault: fault.clone(),
                    attempts: self.attempts + 1,
                    until: Millis(app.effects.now().0.saturating_add(millis(pause))),
                }
            }
        };
        let mut slot = lock(&session.slot);
        // Ended in the meantime: it stays so.
        if !matches!(*slot, Slot::Closed) {
            *slot = next;
        }
        drop(slot);
        session.rebound.notify_waiters();
        self.settled = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            *lock(&self.session.slot) = Slot::Empty { generation: self.generation };
        }
    }
}

/// Makes a binding: opens an upstream session, restores in it what the session had, and makes it durable.
async fn make(core: &Rc<Core>, session: &Arc<Session>, lost: Option<u32>) -> Made {
    let app = &core.app;
    loop {
        if let Err(error) = session.refresh(app).await {
            tracing::error!(%error, "session store unavailable");
        }
        let record = session.record();
        let State::Open { binding, generation } = &record.state else { return Err(Fault::SessionUnknown) };
        let newer = binding.as_ref().filter(|binding| binding.generation > lost.unwrap_or(0));
        if let Some(bound) = newer.and_then(|binding| unseal(app, session.route.index, session.key, binding))
        {
            let origin = if lost.is_some() { Origin::Restored } else { Origin::Resumed };
            return Ok((Arc::new(bound), origin));
        }
        let generation = *generation;
        let opened = open(core, session, &record, lost.is_some()).await?;
        let whole = generation == 0 || restore(core, session, &record, &opened.address).await;
        let bound = Arc::new(Bound {
            generation: generation + 1,
            route: session.route.index,
            address: opened.address,
            lists: opened.lists,
            whole,
        });
        let sealed = seal(app, session.key, &bound);
        let stored = session.update(app, |record| match &mut record.state {
            State::Open { binding, generation: current } if *current == generation => {
                *binding = Some(sealed.clone());
                *current = generation + 1;
                true
            }
            _ => false,
        });
        let origin = if generation == 0 { Origin::New } else { Origin::Restored };
        match stored.await {
            Updated::Stored | Updated::Unstored => return Ok((bound, origin)),
            Updated::Deleted | Updated::Declined => {
                // Another replica was faster, or the session was deleted: the record says which.
                upstream::end(core.endpoint(&session.route), &bound.address).await;
            }
        }
    }
}

/// Opens an upstream session and tells it that the client is ready.
async fn open(core: &Rc<Core>, session: &Session, record: &Record, lost: bool) -> Result<Opened, Fault> {
    let params = InitializeParams::read(record.initialize.as_bytes())?;
    let mut opened = if lost {
        initialize::open(core, &session.route, &record.principal, &params).await?
    } else {
        initialize::open_or_take(core, &session.route, &record.principal, &params).await?
    };
    let told = initialized(core, session, &opened).await;
    if told.is_err() && opened.taken {
        // A session that was kept warm may have died of it.
        opened = initialize::open(core, &session.route, &record.principal, &params).await?;
        initialized(core, session, &opened).await?;
    } else {
        told?;
    }
    let negotiated = opened.address.version.as_ref().and_then(|version| version.to_str().ok());
    // Compared as it was told: a version that is not known here counts as the one that a missing header means.
    let meant = negotiated.and_then(ProtocolVersion::parse).unwrap_or(ASSUMED);
    match session.version {
        // The client speaks the version that it was told. Nothing here can translate yet, so it has to begin
        // again, and a 404 is what makes clients do so.
        Some(told) if told != meant => {
            tracing::warn!(told = told.as_str(), negotiated, "the upstream now negotiates another version");
            upstream::end(core.endpoint(&session.route), &opened.address).await;
            Err(Fault::SessionUnknown)
        }
        _ => Ok(opened),
    }
}

async fn initialized(core: &Rc<Core>, session: &Session, opened: &Opened) -> Result<(), Fault> {
    if opened.told {
        return Ok(());
    }
    let message = jsonrpc::notification(method::INITIALIZED, None);
    let endpoint = core.endpoint(&session.route);
    let status = upstream::tell(endpoint, &opened.address, message).await.map_err(upstream::fault_of)?;
    if status.is_success() { Ok(()) } else { Err(Fault::InitializeRefused(status.as_u16())) }
}

/// Does again, in order, what the client had set up in the session. False when a step fails.
async fn restore(core: &Rc<Core>, session: &Session, record: &Record, address: &Address) -> bool {
    let app = &core.app;
    let mut whole = true;
    for step in &record.restore {
        let id = app.unique_id();
        let Some(params) = app.keys.open_secret(&session.key.0, &step.params) else {
            whole = false;
            continue;
        };
        let body = jsonrpc::request(&id, &step.method, Some(&params));
        let limit = app.config.limits.answer_bytes;
        let done = upstream::ask(core.endpoint(&session.route), address, &id, body, limit).await;
        if !matches!(done, Ok(Own::Result(..))) {
            tracing::warn!(session = app.log_id(&session.key.0), step = step.method, "not restored");
            whole = false;
        }
    }
    whole
}

/// Gives the upstream session back, and keeps ours: the next request opens another.
pub async fn release(core: &Rc<Core>, session: &Arc<Session>) {
    let bound = {
        let mut slot = lock(&session.slot);
        let Slot::Bound(bound) = &*slot else { return };
        if !session.is_quiet() {
            return;
        }
        let bound = Arc::clone(bound);
        *slot = Slot::Empty { generation: bound.generation };
        bound
    };
    if session.kind != Kind::Isolated {
        let generation = bound.generation;
        let forget = |record: &mut Record| match &mut record.state {
            State::Open { binding, .. } if binding.as_ref().is_some_and(|b| b.generation == generation) => {
                *binding = None;
                true
            }
            _ => false,
        };
        session.update(&core.app, forget).await;
    }
    upstream::end(core.endpoint(&session.route), &bound.address).await;
}

/// Ends the session for good; the upstream's with it.
pub async fn close(core: &Rc<Core>, session: &Arc<Session>) {
    let before = std::mem::replace(&mut *lock(&session.slot), Slot::Closed);
    session.rebound.notify_waiters();
    if let Slot::Bound(bound) = before {
        upstream::end(core.endpoint(&session.route), &bound.address).await;
    }
}
