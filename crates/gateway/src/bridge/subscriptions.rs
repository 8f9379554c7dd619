//! `subscriptions/listen` at a legacy server (2026-07-28, Subscriptions): all subscribers of a session share its one
//! standing stream upstream, which the bridge reads as a legacy client would ([`listen`]). Resources are
//! subscribed to while somebody wants to hear of them.
//!
//! Requests under way hear it too (`hear`): many servers ask there what they need for a call. At each replica a hub reads
//! all of the stream; of those that get a question the first answers it, and one that can ask nobody leaves it to others
//! for a moment.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::json;
use throughline_store::{RecordKey, StreamKey};
use throughline_wire::bridge::to_legacy::answer;
use throughline_wire::bridge::to_legacy::request::Asking;
use throughline_wire::bridge::to_legacy::subscription::{Filter, closure};
use throughline_wire::envelope::{Envelope, Limits, Message};
use throughline_wire::{jsonrpc, method, sse};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::kept::{Claim, claim};
use super::reading::Reading;
use super::{beside, params};
use crate::app::{App, Core, first};
use crate::classify::{Arrived, Held, reads_streams};
use crate::error::Fault;
use crate::initialize::{self, InitializeParams};
use crate::listen;
use crate::reply::{self, ReplyBody};
use crate::session::{self, InFlight, Kind, Session, lock};
use crate::{call, recover};

/// Messages that wait for a subscriber; one that takes none of them is let go.
const QUEUE: usize = 64;
/// How long requests wait for their session's stream.
const OPENS: Duration = Duration::from_secs(1);
/// How long a question that nobody can be asked here is left to other replicas, and how many are.
const ELSEWHERE: Duration = Duration::from_secs(1);
const MAX_ELSEWHERE: usize = 16;

/// The hubs of sessions that have subscribers here.
#[derive(Default)]
pub struct Hubs(Mutex<HashMap<RecordKey, Arc<Hub>>>);

impl Hubs {
    /// Tells a session's subscribers of what the server said elsewhere than on its standing stream.
    pub(super) fn tell(&self, session: RecordKey, data: &[u8]) {
        let hub = lock(&self.0).get(&session).cloned();
        hub.inspect(|hub| hub.tell(data));
    }

    /// Whether a subscriber here wants to hear of this resource.
    fn want(&self, session: &RecordKey, uri: &str) -> bool {
        lock(&self.0).get(session).is_some_and(|hub| lock(&hub.members).resources.contains_key(uri))
    }
}

/// All subscribers of one session.
struct Hub {
    members: Mutex<Members>,
    /// Whether the server has a standing stream; None while that is found out.
    opened: watch::Sender<Option<bool>>,
    /// Since when that is.
    since: Instant,
    /// Wakes the task that reads it: somebody has joined or left.
    changed: Notify,
}

#[derive(Default)]
struct Members {
    subscribers: Vec<Subscriber>,
    /// Requests under way whose client can be asked.
    conversations: Vec<(u64, mpsc::Sender<Bytes>)>,
    /// How many want to hear of a resource.
    resources: BTreeMap<String, usize>,
    turns: u64,
    /// The stream has ended: nobody joins any more.
    closed: bool,
}

struct Subscriber {
    turn: u64,
    /// Raw JSON of the id of its request.
    id: String,
    filter: Filter,
    to: mpsc::Sender<Bytes>,
}

/// What a request hears of its session's stream: questions that the server does not ask where it should. Dropped, it
/// hears no more.
pub(super) struct Ear {
    hub: Arc<Hub>,
    turn: u64,
    /// The questions, as a client of the session would get them.
    pub(super) questions: mpsc::Receiver<Bytes>,
}

/// A subscriber's place. Dropped, it has left.
struct Place {
    core: Rc<Core>,
    hub: Arc<Hub>,
    turn: u64,
    /// The request, as a legacy client's, and what it holds of the session.
    arrived: Rc<Arrived>,
    in_use: InFlight,
    resources: Vec<String>,
}

/// Answers `subscriptions/listen`.
///
/// # Errors
/// As where a request is carried.
pub(super) async fn listen(
    core: &Rc<Core>,
    arrived: &Arrived,
    held: &Held,
    asking: &Asking<'_>,
) -> Result<Response<ReplyBody>, Fault> {
    let filter = Filter::read(held.raw_params());
    let filter = filter.ok_or_else(|| params(&"notifications must say what to listen to"))?;
    if !reads_streams(&arrived.headers) {
        return Err(Fault::NotAcceptable);
    }
    let params = Arc::new(InitializeParams::read(&asking.initialize_params())?);
    let said = initialize::result(core, &arrived.route, &arrived.caller, &params).await?;
    let session = session::bridged(core, arrived, &params).await?;
    arrived.seen.session(&session);
    let id = held.raw_id().unwrap_or("null");
    let (to, mut messages) = mpsc::channel(QUEUE);
    let in_use = session.begin(core, &arrived.caller, None);
    let arrived = Rc::new(arrived.in_legacy(Held::notification(method::LISTEN)));
    let (hub, turn) = join(core, &arrived, &session, |members, turn| {
        let (id, to) = (id.to_owned(), to.clone());
        members.subscribers.push(Subscriber { turn, id, filter: Filter::default(), to });
    });
    drop(to);
    let mut place = Place { core: Rc::clone(core), hub, turn, arrived, in_use, resources: Vec::new() };
    let mut opened = place.hub.opened.subscribe();
    let is_open = opened.wait_for(Option::is_some).await.is_ok_and(|opened| *opened == Some(true));
    let mut granted = if is_open { filter.granted(&said) } else { Filter::default() };
    let mut refused = Vec::new();
    for uri in &granted.uris {
        if !place.subscribe(uri).await {
            refused.push(uri.clone());
        }
    }
    granted.uris.retain(|uri| !refused.contains(uri));
    let acknowledgement = sse::event(&granted.acknowledgement(id), None);
    place.hub.begin(place.turn, granted);
    let (to, body) = mpsc::channel(1);
    let id = id.to_owned();
    tokio::task::spawn_local(async move {
        if to.send(acknowledgement).await.is_ok() {
            pass(&place.core, &id, &mut messages, &to).await;
        }
    });
    Ok(reply::channel(&core.app, body))
}

/// Passes on what comes, until the client or the hub goes; if the gateway does, that is said.
async fn pass(core: &Rc<Core>, id: &str, messages: &mut mpsc::Receiver<Bytes>, to: &mpsc::Sender<Bytes>) {
    let mut stop = core.app.stop_signal();
    loop {
        let message = tokio::select! {
            biased;
            () = to.closed() => return,
            message = messages.recv() => message,
            _ = stop.wait_for(|stop| *stop) => None,
            () = tokio::time::sleep(core.app.config.streams.heartbeat) => Some(Bytes::from_static(sse::HEARTBEAT)),
        };
        let Some(message) = message else { break };
        if to.send(message).await.is_err() {
            return;
        }
    }
    if core.app.is_stopping() {
        let _ = to.send(sse::event(&closure(id), None)).await;
    }
}

/// Lets a request hear what its server asks elsewhere than in the course of it: many ask on the session's stream. None
/// where there is no such stream, or where opening one would cost as much as the request.
pub(super) async fn hear(core: &Rc<Core>, arrived: &Rc<Arrived>, session: &Arc<Session>) -> Option<Ear> {
    let is_streamless = recover::current(session)
        .is_some_and(|bound| bound.generation == session.streamless.load(Ordering::Relaxed));
    if session.kind == Kind::Once || is_streamless {
        return None;
    }
    let (to, questions) = mpsc::channel(QUEUE);
    let (hub, turn) = join(core, arrived, session, |members, turn| {
        members.conversations.push((turn, to.clone()));
    });
    let (mut opened, until) = (hub.opened.subscribe(), hub.since + OPENS);
    let ear = Ear { hub, turn, questions };
    // What is asked before it is open reaches nobody. Some servers say nothing until they ask: one request waits for that.
    let opened = tokio::time::timeout_at(until, opened.wait_for(Option::is_some)).await;
    let is_refused = matches!(opened, Ok(Ok(opened)) if *opened == Some(false));
    (!is_refused).then_some(ear)
}

/// Enters somebody; the first starts the task that reads the session's stream.
fn join(
    core: &Rc<Core>,
    arrived: &Rc<Arrived>,
    session: &Arc<Session>,
    enter: impl Fn(&mut Members, u64),
) -> (Arc<Hub>, u64) {
    loop {
        let (hub, is_new) = {
            let mut hubs = lock(&core.app.hubs.0);
            match hubs.get(&session.key) {
                Some(hub) => (Arc::clone(hub), false),
                None => {
                    let hub = Arc::new(Hub {
                        members: Mutex::default(),
                        opened: watch::Sender::new(None),
                        since: Instant::now(),
                        changed: Notify::new(),
                    });
                    hubs.insert(session.key, Arc::clone(&hub));
                    (hub, true)
                }
            }
        };
        let turn = {
            let mut members = lock(&hub.members);
            (!members.closed).then(|| {
                members.turns += 1;
                let turn = members.turns;
                enter(&mut members, turn);
                turn
            })
        };
        if is_new {
            let (core, arrived) = (Rc::clone(core), Rc::clone(arrived));
            tokio::task::spawn_local(read(core, arrived, Arc::clone(session), Arc::clone(&hub)));
        }
        match turn {
            Some(turn) => {
                hub.changed.notify_waiters();
                return (hub, turn);
            }
            // It has just ended, and makes room for another.
            None => leave(&core.app, session.key, &hub),
        }
    }
}

/// Takes a hub out that has ended.
fn leave(app: &App, key: RecordKey, hub: &Arc<Hub>) {
    let mut hubs = lock(&app.hubs.0);
    if hubs.get(&key).is_some_and(|present| Arc::ptr_eq(present, hub)) {
        hubs.remove(&key);
    }
}

/// Reads a session's stream for as long as somebody listens, and a little longer.
async fn read(core: Rc<Core>, arrived: Rc<Arrived>, session: Arc<Session>, hub: Arc<Hub>) {
    let _end = End { app: Arc::clone(&core.app), key: session.key, hub: Arc::clone(&hub) };
    let linger = if session.kind == Kind::Once { Duration::ZERO } else { core.app.config.streams.away };
    let left_alone = hub.left_alone(linger);
    tokio::pin!(left_alone);
    let answer = tokio::select! {
        answer = listen::attend(&core, &arrived, Arc::clone(&session)) => answer,
        () = &mut left_alone => return,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => {
            tracing::debug!(%fault, "the upstream gave no stream for subscribers");
            if let (Fault::Method(_), Some(bound)) = (&fault, recover::current(&session)) {
                session.streamless.store(bound.generation, Ordering::Relaxed);
            }
            hub.opened.send_replace(Some(false));
            return hub.left_alone(Duration::ZERO).await;
        }
    };
    let Ok(Reading::Events(mut events)) = Reading::of(&core, answer).await else { return };
    hub.opened.send_replace(Some(true));
    // Ids of questions that nobody can be asked here, and until when another replica may take them.
    let mut others: VecDeque<(String, Instant)> = VecDeque::new();
    loop {
        let until = others.front().map(|(_, until)| *until);
        let frame = tokio::select! {
            () = &mut left_alone => return,
            frame = events.next() => frame,
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                if let Some((id, _)) = others.pop_front() {
                    answer_if_first(&core, &arrived, &session, &id, cannot_ask(&id)).await;
                }
                continue;
            }
        };
        let Ok(Some(frame)) = frame else { return };
        let Some(data) = frame.data().filter(|data| frame.is_message() && !data.is_empty()) else { continue };
        match Envelope::parse(&data, &Limits::ANY_DEPTH).map(|envelope| envelope.message) {
            Ok(Message::Request { id, method, .. }) => {
                let id = id.raw();
                if method == method::PING {
                    answer_if_first(&core, &arrived, &session, id, jsonrpc::result(id, b"{}")).await;
                } else if hub.has_conversations() {
                    if is_first(&core, &session, id).await && !hub.ask(&data) {
                        respond(&core, &arrived, &session, cannot_ask(id)).await;
                    }
                } else if core.app.store.is_shared() && others.len() < MAX_ELSEWHERE {
                    others.push_back((id.to_owned(), Instant::now() + ELSEWHERE));
                } else {
                    answer_if_first(&core, &arrived, &session, id, cannot_ask(id)).await;
                }
            }
            Ok(Message::Notification { .. }) => hub.tell(&data),
            _ => {}
        }
    }
}

/// Whether this replica is the first to take a question: all that read the session's stream get it.
async fn is_first(core: &Core, session: &Session, id: &str) -> bool {
    let app = &core.app;
    if !app.store.is_shared() {
        return true;
    }
    let stream = first(&app.keys.digest("question", &[id.as_bytes()]));
    let key = StreamKey { session: session.key, stream };
    matches!(claim(core, key, app.effects.bytes()).await, Claim::Ours)
}

async fn answer_if_first(
    core: &Rc<Core>,
    arrived: &Rc<Arrived>,
    session: &Arc<Session>,
    id: &str,
    answer: Vec<u8>,
) {
    if is_first(core, session, id).await {
        respond(core, arrived, session, answer).await;
    }
}

async fn respond(core: &Rc<Core>, arrived: &Rc<Arrived>, session: &Arc<Session>, answer: Vec<u8>) {
    if let Ok(held) = Held::response(answer.into())
        && let Err(fault) = call::respond(core, arrived, &held, session).await
    {
        tracing::info!(%fault, "an answer did not reach the upstream");
    }
}

fn cannot_ask(id: &str) -> Vec<u8> {
    let text = "The client can be asked only in the course of one of its requests, if it is clear of which";
    jsonrpc::error(Some(id), answer::METHOD_NOT_FOUND as i32, text, None)
}

/// The end of the task that reads, however it comes.
struct End {
    app: Arc<App>,
    key: RecordKey,
    hub: Arc<Hub>,
}

impl Drop for End {
    fn drop(&mut self) {
        leave(&self.app, self.key, &self.hub);
        {
            let mut members = lock(&self.hub.members);
            members.closed = true;
            members.subscribers.clear();
            members.conversations.clear();
        }
        self.hub.opened.send_if_modified(|opened| opened.is_none() && opened.replace(false).is_none());
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        lock(&self.hub.members).conversations.retain(|(turn, _)| *turn != self.turn);
        self.hub.changed.notify_waiters();
    }
}

impl Hub {
    /// Lets a subscriber hear what it was granted.
    fn begin(&self, turn: u64, filter: Filter) {
        let mut members = lock(&self.members);
        if let Some(subscriber) = members.subscribers.iter_mut().find(|one| one.turn == turn) {
            subscriber.filter = filter;
        }
    }

    fn tell(&self, data: &[u8]) {
        lock(&self.members).subscribers.retain(|one| match one.filter.outward(data, &one.id) {
            // Who does not take what waits for it hears nothing more, and finds that out by the end of its stream.
            Some(message) => one.to.try_send(sse::event(&message, None)).is_ok(),
            None => true,
        });
    }

    fn has_conversations(&self) -> bool {
        !lock(&self.members).conversations.is_empty()
    }

    /// Gives a question to the request whose client can be asked. False where there is none, or several: which it is about
    /// is not said, and nobody shall be asked for what is another's.
    fn ask(&self, data: &[u8]) -> bool {
        match &lock(&self.members).conversations[..] {
            [(_, to)] => to.try_send(Bytes::copy_from_slice(data)).is_ok(),
            _ => false,
        }
    }

    /// Ready when nobody has been here for so long; then nobody joins any more.
    async fn left_alone(&self, linger: Duration) {
        loop {
            // First the ear, then the look.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !lock(&self.members).is_empty() {
                changed.await;
            } else if tokio::time::timeout(linger, changed).await.is_err() {
                let mut members = lock(&self.members);
                members.closed = members.is_empty();
                if members.closed {
                    return;
                }
            }
        }
    }
}

impl Members {
    fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.conversations.is_empty()
    }
}

impl Place {
    /// Sees that the server tells of this resource. False where it will not.
    async fn subscribe(&mut self, uri: &str) -> bool {
        let is_first = {
            let mut members = lock(&self.hub.members);
            let wanted = members.resources.entry(uri.to_owned()).or_default();
            *wanted += 1;
            *wanted == 1
        };
        self.resources.push(uri.to_owned());
        if !is_first
            || beside(
                &self.core,
                &self.arrived,
                self.in_use.session(),
                method::SUBSCRIBE,
                &json!({ "uri": uri }),
            )
            .await
        {
            return true;
        }
        self.resources.pop();
        let _ = self.hub.release(uri);
        false
    }
}

impl Hub {
    /// One less wants to hear of a resource; whether nobody does now.
    fn release(&self, uri: &str) -> bool {
        let mut members = lock(&self.members);
        let Some(wanted) = members.resources.get_mut(uri) else { return false };
        *wanted -= 1;
        let is_last = *wanted == 0;
        if is_last {
            members.resources.remove(uri);
        }
        is_last
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.hub.members).subscribers.retain(|one| one.turn != self.turn);
        self.hub.changed.notify_waiters();
        let unwanted: Vec<_> = self.resources.iter().filter(|uri| self.hub.release(uri)).cloned().collect();
        // Of what others listen to at another replica nothing is known here: the server goes on telling of it then, for as
        // long as it has the session.
        if unwanted.is_empty() || self.core.app.store.is_shared() {
            return;
        }
        let (core, arrived) = (Rc::clone(&self.core), Rc::clone(&self.arrived));
        let session = Arc::clone(self.in_use.session());
        tokio::task::spawn_local(async move {
            let wanted = |uri: &str| core.app.hubs.want(&session.key, uri);
            for uri in unwanted.into_iter().filter(|uri| !wanted(uri)) {
                let params = json!({ "uri": uri });
                beside(&core, &arrived, &session, method::UNSUBSCRIBE, &params).await;
                // Who wanted it meanwhile may have been heard first.
                if wanted(&uri) {
                    beside(&core, &arrived, &session, method::SUBSCRIBE, &params).await;
                }
            }
        });
    }
}
