//! The upstream session behind a session of ours: made when it is first needed, made again when it is lost.
//!
//! One attempt per session at a time: whoever comes first starts a task, the others wait for what it makes.
//! The task is nobody's: a client that goes away while it waits takes nothing with it. Across replicas the
//! record decides, by compare-and-set: one binding wins, and a loser ends the upstream session it opened.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use throughline_store::{Millis, Record, State};
use throughline_wire::loss::Sign;
use throughline_wire::version::{ASSUMED, ProtocolVersion};
use throughline_wire::{jsonrpc, method};
use tokio::sync::watch;

use crate::app::{App, Core};
use crate::binding::{Bound, Lost, Made, Origin, Slot};
use crate::config::{OnStoreFailure, UnsafeAfterLoss};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::initialize::{self, InitializeParams, Opened};
use crate::lease::{self, Turn as LeaseTurn};
use crate::restore;
use crate::session::{Session, Updated, lock, millis};
use crate::upstream::{self, Refusal};

/// First pause after a failed attempt, doubled up to [`BACKOFF_MAX`]. Requests wait it out.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How often one request looks at the slot again when nothing came of what it waited for.
const MAX_TURNS: usize = 4;

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

/// Who started an attempt.
#[derive(PartialEq)]
enum Whose {
    Own,
    Others,
}

/// What a look at the slot came to.
enum Turn {
    Bound(Arc<Bound>, Origin),
    /// For an attempt of this request's, or of another's.
    Wait(watch::Receiver<Option<Made>>, Whose),
    Pause(Duration),
}

/// The session's binding; made if there is none, or if the present one is `lost`.
/// `credentials` go with what has to be sent for it.
pub async fn bind(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
    lost: Option<Lost>,
) -> Made {
    let mut rested = false;
    for _ in 0..MAX_TURNS {
        match turn(core, session, credentials, lost, rested)? {
            Turn::Bound(bound, origin) => return Ok((bound, origin)),
            Turn::Pause(pause) => {
                tokio::time::sleep(pause).await;
                rested = true;
            }
            Turn::Wait(mut made, whose) => {
                if let Ok(outcome) = made.wait_for(Option::is_some).await {
                    let outcome = outcome.clone().unwrap_or(Err(Fault::NotBound));
                    let refused = matches!(outcome, Err(Fault::Challenged(_)));
                    if !refused || whose == Whose::Own || !credentials.are_at_hand() {
                        return outcome;
                    }
                    // It was made with what another request brought.
                }
                // The binding was given back, or the task that made one ended with its core: look again.
            }
        }
    }
    Err(if core.app.is_stopping() { Fault::Stopping } else { Fault::NotBound })
}

fn turn(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
    lost: Option<Lost>,
    rested: bool,
) -> Result<Turn, Fault> {
    let mut slot = lock(&session.slot);
    let (lost, attempts) = match &*slot {
        Slot::Bound(bound) if lost.is_none_or(|lost| lost.generation != bound.generation) => {
            let origin = if lost.is_some() { Origin::Restored } else { Origin::Resumed };
            return Ok(Turn::Bound(Arc::clone(bound), origin));
        }
        Slot::Closed => return Err(Fault::SessionUnknown),
        Slot::Making(made) => return Ok(Turn::Wait(made.clone(), Whose::Others)),
        Slot::Failed { lost: before, attempts, until, .. } => {
            let left = until.0.saturating_sub(core.app.effects.now().0);
            if left > 0 && !rested {
                return Ok(Turn::Pause(Duration::from_millis(left)));
            }
            (lost.or(*before), *attempts)
        }
        Slot::Bound(_) | Slot::Empty { .. } => (lost, 0),
    };
    if core.app.is_stopping() {
        return Err(Fault::Stopping);
    }
    let made = start(core, session, credentials, &mut slot, lost, attempts);
    Ok(Turn::Wait(made, Whose::Own))
}

fn start(
    core: &Rc<Core>,
    session: &Arc<Session>,
    credentials: &Credentials,
    slot: &mut Slot,
    lost: Option<Lost>,
    attempts: u32,
) -> watch::Receiver<Option<Made>> {
    let (tell, made) = watch::channel(None);
    let attempt = Attempt {
        session: Arc::clone(session),
        credentials: credentials.clone(),
        generation: slot.generation(),
        lost,
        attempts,
        settled: false,
    };
    *slot = Slot::Making(made.clone());
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let lost = lost.map(|lost| lost.generation);
        let outcome = make(&core, &attempt.session, &attempt.credentials, lost).await;
        let outcome = attempt.settle(&core, outcome);
        let _ = tell.send(Some(outcome));
    });
    made
}

/// A running attempt: whatever becomes of its task, the slot does not stay in the making.
struct Attempt {
    session: Arc<Session>,
    /// What the request brought that started it.
    credentials: Credentials,
    generation: u32,
    lost: Option<Lost>,
    attempts: u32,
    settled: bool,
}

impl Attempt {
    fn settle(mut self, core: &Rc<Core>, outcome: Made) -> Made {
        self.settled = true;
        let session = &self.session;
        let log_id = core.app.log_id(&session.key.0);
        if let Some(lost) = self.lost {
            core.counts(&session.route).recovery(lost.sign, outcome.is_ok());
        }
        let next = match &outcome {
            Ok((bound, origin)) => {
                let (generation, origin) = (bound.generation, origin.as_str());
                tracing::info!(session = log_id, generation, origin, "session bound");
                Slot::Bound(Arc::clone(bound))
            }
            Err(Fault::SessionUnknown) => Slot::Closed,
            Err(fault) => {
                tracing::warn!(session = log_id, %fault, "session not bound");
                self.failed(&core.app, fault)
            }
        };
        let closed = {
            let mut slot = lock(&session.slot);
            let closed = matches!(*slot, Slot::Closed);
            if !closed {
                *slot = next;
            }
            closed
        };
        session.rebound.notify_waiters();
        match outcome {
            // Ended in the meantime: it stays so, and what was just opened ends as well.
            Ok((bound, _)) if closed => {
                let address = bound.address.on_behalf(&self.credentials);
                upstream::end_later(core, address);
                Err(Fault::SessionUnknown)
            }
            outcome => outcome,
        }
    }

    fn failed(&self, app: &App, fault: &Fault) -> Slot {
        let pause = match fault {
            // The next request may bring what this one lacked.
            Fault::Challenged(_) => Duration::ZERO,
            _ => BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(8)).min(BACKOFF_MAX),
        };
        Slot::Failed {
            generation: self.generation,
            // An endpoint that was down may be back, with what it kept.
            lost: self.lost.filter(|lost| lost.sign != Sign::EndpointDown),
            attempts: self.attempts + 1,
            until: Millis(app.effects.now().0.saturating_add(millis(pause))),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut slot = lock(&self.session.slot);
        if !self.settled && matches!(*slot, Slot::Making(_)) {
            *slot = Slot::Empty { generation: self.generation };
        }
    }
}

/// Makes a binding: opens an upstream session, restores in it what the session had, and makes it durable.
async fn make(core: &Rc<Core>, session: &Arc<Session>, credentials: &Credentials, lost: Option<u32>) -> Made {
    let app = &core.app;
    loop {
        // Without the store the session goes on from what is known here.
        let _ = session.refresh(core).await;
        let record = session.record();
        let State::Open { binding, generation, .. } = &record.state else {
            return Err(Fault::SessionUnknown);
        };
        let newer = binding.as_ref().filter(|binding| binding.generation > lost.unwrap_or(0));
        if let Some(bound) =
            newer.and_then(|binding| Bound::unseal(app, session.route.index, session.key, &record, binding))
        {
            let origin = if lost.is_some() { Origin::Restored } else { Origin::Resumed };
            return Ok((Arc::new(bound), origin));
        }
        let generation = *generation;
        match lease::take(core, session, &record, lost.is_some()).await {
            LeaseTurn::Ours => {}
            LeaseTurn::LookAgain => continue,
        }
        let opened = match open(core, session, credentials, &record, lost.is_some()).await {
            Ok(opened) => opened,
            Err(fault) => {
                lease::give_back(core, session).await;
                return Err(not_executed(fault));
            }
        };
        let refuse = session.route.config.unsafe_after_loss == UnsafeAfterLoss::Refuse;
        let whole = generation == 0 || {
            let address = opened.address.on_behalf(credentials);
            restore::replay(core, session, &record, &address).await
        };
        let lossy = generation > 0 && (!whole || refuse);
        let bound = Arc::new(Bound {
            generation: generation + 1,
            address: opened.address,
            lists: opened.lists,
            mark: app.effects.bytes(),
            lossy,
            untold: AtomicBool::new(lossy),
        });
        let sealed = bound.seal(app, session.key);
        let stored = session.update(core, |record| match &mut record.state {
            State::Open { binding, generation: current, lease } if *current == generation => {
                *binding = Some(sealed.clone());
                *current = generation + 1;
                *lease = None;
                true
            }
            _ => false,
        });
        let origin = if generation == 0 { Origin::New } else { Origin::Restored };
        let faithful = session.route.config.on_store_failure == OnStoreFailure::Refuse;
        let outcome = stored.await;
        if let Some(modern) = &bound.address.modern {
            modern.recall(app, session.key, &session.record());
        }
        match outcome {
            Updated::Stored => return Ok((bound, origin)),
            Updated::Unstored if !faithful => return Ok((bound, origin)),
            Updated::Unstored | Updated::Deleted | Updated::Declined => {
                let address = bound.address.on_behalf(credentials);
                upstream::end_later(core, address);
            }
        }
        if outcome == Updated::Unstored {
            return Err(Fault::StoreAway);
        }
        // Another replica was faster, or the session was deleted: the record says which.
    }
}

/// A failure on the way to a session is none of the call that needs it: that was not sent, or was refused.
fn not_executed(fault: Fault) -> Fault {
    match fault {
        Fault::MayHaveExecuted
        | Fault::UpstreamTimeout
        | Fault::UpstreamGarbled
        | Fault::AnswerTooLarge(_) => Fault::NotBound,
        other => other,
    }
}

/// Opens an upstream session and tells it that the client is ready.
async fn open(
    core: &Rc<Core>,
    session: &Session,
    credentials: &Credentials,
    record: &Record,
    lost: bool,
) -> Result<Opened, Fault> {
    let params = InitializeParams::read(record.initialize.as_bytes())?;
    let (route, principal) = (&session.route, &record.principal);
    let mut opened = if lost {
        initialize::open(core, route, principal, credentials, &params).await?
    } else {
        initialize::open_or_take(core, route, principal, credentials, &params).await?
    };
    if opened.address.modern.is_some() {
        // A server without a handshake has no version to negotiate: what is told the client is kept to here.
        opened.introduce(&params, session.version);
        return Ok(opened);
    }
    let told = initialized(core, credentials, &opened).await;
    if told.is_err() && opened.taken {
        // A session that was kept warm may have died of it.
        opened = initialize::open(core, route, principal, credentials, &params).await?;
        initialized(core, credentials, &opened).await?;
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
            upstream::end_later(core, opened.address.on_behalf(credentials));
            Err(Fault::SessionUnknown)
        }
        _ => Ok(opened),
    }
}

async fn initialized(core: &Rc<Core>, credentials: &Credentials, opened: &Opened) -> Result<(), Fault> {
    if opened.told {
        return Ok(());
    }
    let message = jsonrpc::notification(method::INITIALIZED, None);
    let address = opened.address.on_behalf(credentials);
    let (status, headers) = upstream::tell(core, &address, message).await.map_err(upstream::fault_of)?;
    if status.is_success() {
        return Ok(());
    }
    Err(initialize::refused(Refusal { status, headers, body: Bytes::new() }))
}

/// Gives the upstream session back, and keeps ours: the next request opens another.
pub async fn release(core: &Rc<Core>, session: &Arc<Session>, credentials: &Credentials) {
    // Requests that come meanwhile wait for this sender to go, and then look again.
    let (_released, making) = watch::channel(None);
    let bound = {
        let mut slot = lock(&session.slot);
        let Slot::Bound(bound) = &*slot else { return };
        if !session.is_quiet() {
            return;
        }
        let bound = Arc::clone(bound);
        *slot = Slot::Making(making);
        bound
    };
    let generation = bound.generation;
    let forget = |record: &mut Record| match &mut record.state {
        State::Open { binding, .. } if binding.as_ref().is_some_and(|b| b.generation == generation) => {
            *binding = None;
            true
        }
        _ => false,
    };
    if session.is_stored() {
        session.update(core, forget).await;
    }
    let mut slot = lock(&session.slot);
    if matches!(*slot, Slot::Making(_)) {
        *slot = Slot::Empty { generation };
    }
    drop(slot);
    upstream::end_later(core, bound.address.on_behalf(credentials));
}

/// Gives the upstream session up, whatever is under way in it, and forgets what was set up in it: whoever uses the
/// session next begins anew. For sessions that are found by who calls: a tombstone would lock those callers out.
pub async fn forget(core: &Rc<Core>, session: &Arc<Session>) -> Updated {
    let (_forgotten, making) = watch::channel(None);
    let mut turns = 0;
    let (bound, generation) = loop {
        let mut made = {
            let mut slot = lock(&session.slot);
            match &*slot {
                Slot::Closed => return Updated::Deleted,
                Slot::Making(made) if turns < MAX_TURNS => made.clone(),
                Slot::Making(_) => return Updated::Declined,
                Slot::Bound(_) | Slot::Empty { .. } | Slot::Failed { .. } => {
                    let generation = slot.generation();
                    let before = std::mem::replace(&mut *slot, Slot::Making(making));
                    break (if let Slot::Bound(bound) = before { Some(bound) } else { None }, generation);
                }
            }
        };
        // An attempt ends by itself; what it made is given up then.
        let _ = made.wait_for(Option::is_some).await;
        turns += 1;
    };
    let clear = |record: &mut Record| match &mut record.state {
        State::Open { binding, .. } => {
            *binding = None;
            record.restore.clear();
            true
        }
        State::Deleted => false,
    };
    let updated = session.update(core, clear).await;
    let mut slot = lock(&session.slot);
    if matches!(*slot, Slot::Making(_)) {
        *slot = Slot::Empty { generation };
    }
    drop(slot);
    if let Some(bound) = bound {
        upstream::end_later(core, bound.address.clone());
    }
    updated
}

/// Ends the session for good; the upstream's with it.
pub fn close(core: &Rc<Core>, session: &Arc<Session>, credentials: &Credentials) {
    let before = std::mem::replace(&mut *lock(&session.slot), Slot::Closed);
    session.rebound.notify_waiters();
    if let Slot::Bound(bound) = before {
        upstream::end_later(core, bound.address.on_behalf(credentials));
    }
}
