//! The task that reads the answer of a call which its client can come back for. It goes on when the client has gone, and
//! ends with the response, or with an error in its place.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use throughline_wire::sse::{Frame, SseDecoder};
use throughline_wire::{jsonrpc, method};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::entry::Entry;
use super::{EventId, Followed, Opener, Outlet, Say, Writer, elsewhere, follow, is_alive, primes, watch};
use crate::app::Core;
use crate::binding::Bound;
use crate::bridge::parked::{Parked, Waiting};
use crate::call::{kept_headers, listen_headers};
use crate::classify::Arrived;
use crate::credentials::Credentials;
use crate::error::{Fault, Modern};
use crate::metrics::StoreOperation;
use crate::recover;
use crate::reply::{self, Asked, Detached, ReplyBody};
use crate::session::{InFlight, Session};
use crate::translate::{Outward, Tagger};
use crate::upstream::AnswerBody;
use crate::upstream::{self};

/// Pause before the upstream is asked for the rest of an answer, where it named none; doubled up to the most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often it is asked in a row without saying anything new.
const ATTEMPTS: u32 = 8;

/// An answer whose beginning has been read.
pub struct Beginning {
    /// Its frames.
    pub frames: Vec<Frame>,
    /// What cuts the rest into frames.
    pub decoder: SseDecoder,
    /// The rest.
    pub body: AnswerBody,
}

/// Reads an answer on, for a client that may go and come back. What is returned is the body of its present connection.
pub fn begin(
    core: &Rc<Core>,
    beginning: Beginning,
    bound: &Arc<Bound>,
    asked: &Asked<'_>,
    in_flight: InFlight,
) -> mpsc::Receiver<Bytes> {
    let session = Arc::clone(in_flight.session());
    let writer = loop {
        let outlet = Outlet::new(Outlet::fresh_key(&core.app, &session), Opener::Call, asked.id, 0);
        // Of all random names this one may be taken.
        if let Ok(writer) = Writer::new(core, outlet, bound.generation) {
            break writer;
        }
    };
    let outlet = Arc::clone(&writer.outlet);
    let connection = follow(core, &outlet, 0, false);
    let prime = primes(&session).then_some((Say::Prime, false));
    let Beginning { frames, decoder, body } = beginning;
    let mut answer =
        Answer::new(core, session, Arc::clone(bound), writer, asked.headers, asked.credentials, in_flight);
    tokio::task::spawn_local(async move {
        let mut events: Vec<_> = prime.into_iter().collect();
        for frame in &frames {
            answer.take(frame, &mut events);
        }
        answer.write(events).await;
        answer.run(Source::Open(body, decoder)).await;
    });
    connection
}

/// Lets a client follow the answer of a call that nobody here reads: it has ended, or whoever read it is gone.
pub async fn resume(
    core: &Rc<Core>,
    arrived: &Arrived,
    session: &Arc<Session>,
    id: EventId,
) -> Result<Response<ReplyBody>, Fault> {
    let app = &core.app;
    let stands = last_of(core, id).await?;
    let (alive, behind) = (stands.alive, stands.is_behind(id));
    let Some((last, entry)) = stands.last else { return Err(Fault::StreamGone) };
    // What the log could not take is with whoever reads the call, for as long as that one lives.
    if behind {
        return Err(if alive { Fault::StoreAway } else { Fault::StreamGone });
    }
    if alive && !entry.response {
        return Ok(reply::channel(app, watch(core, id, primes(session))));
    }
    let outlet = Outlet::new(id.key, Opener::Call, Some(&entry.request), last);
    let connect =
        |outlet: &Arc<Outlet>| Ok(reply::channel(app, follow(core, outlet, id.number, primes(session))));
    if entry.response {
        outlet.end();
        return connect(&outlet);
    }
    let mut writer = match Writer::new(core, Arc::clone(&outlet), entry.generation) {
        Ok(writer) => writer,
        // Another connection was faster.
        Err(present) => return connect(&present),
    };
    tracing::info!(session = app.log_id(&session.key.0), "the answer of a call that was left is read on");
    writer.upstream_id = entry.upstream_id;
    let in_flight = session.begin(core, &arrived.caller, None);
    let bound = recover::current(session).filter(|bound| bound.generation == entry.generation);
    let credentials = &arrived.caller.credentials;
    tokio::task::spawn_local({
        let (core, session) = (Rc::clone(core), Arc::clone(session));
        let (headers, credentials) = (arrived.headers.clone(), credentials.clone());
        async move {
            match bound {
                Some(bound) => {
                    let answer =
                        Answer::new(&core, session, bound, writer, &headers, &credentials, in_flight);
                    answer.run(Source::Broken).await;
                }
                None => {
                    let error = Fault::MayHaveExecuted.body(writer.outlet.request.as_deref());
                    writer.write(vec![(Say::Message(error), true)]).await;
                }
            }
        }
    });
    connect(&outlet)
}

/// How a stream stands in the log.
pub struct Last {
    /// Another replica writes to it.
    pub alive: bool,
    /// Its last event, with its number; None where there is none.
    last: Option<(u64, Entry)>,
}

impl Last {
    /// Whether the client has got more than this event and those before it: the log failed then.
    pub fn is_behind(&self, id: EventId) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| *last < id.number)
    }

    /// The number of its last event; generation, and the upstream's last event id.
    pub fn left_off(self) -> Option<(u64, (u32, Vec<u8>))> {
        self.last.map(|(number, entry)| (number, (entry.generation, entry.upstream_id)))
    }
}

/// Looks in the log how a stream stands.
pub async fn last_of(core: &Rc<Core>, id: EventId) -> Result<Last, Fault> {
    let app = &core.app;
    let failed = |error| {
        app.store_failed(StoreOperation::Read, &error);
        Fault::StoreAway
    };
    let state = elsewhere::state(app, id.key).await.map_err(failed)?;
    let alive = is_alive(app, &state);
    let before = state.last.saturating_sub(1);
    let page = app.store.events().read(id.key, before, 1, app.effects.now()).await.map_err(failed)?;
    let last = page.events.first().and_then(|event| {
        let id = EventId { number: event.number, ..id };
        Some((page.last.max(event.number), Entry::open(app, &id, &event.payload)?))
    });
    Ok(Last { alive, last })
}

/// Where an answer comes from.
enum Source {
    /// The upstream's stream.
    Open(AnswerBody, SseDecoder),
    /// It broke, or ended without the response.
    Broken,
    /// It is over.
    Ended,
}

/// Why there will be no response of the upstream's.
enum Stopped {
    /// The stream is gone, and its rest is not to be had; or something else went wrong.
    Failed(Fault),
    /// Nobody follows, and too many calls go on like that.
    Unwanted,
}

/// A call that nobody follows is one of a limited number.
enum Left {
    /// Of those that go on without their client.
    Detached { _count: Detached },
    /// Of those that wait for what their client has to be asked; how long it may take.
    Waiting { _count: Waiting, until: Instant },
}

struct Answer {
    core: Rc<Core>,
    session: Arc<Session>,
    bound: Arc<Bound>,
    tagger: Tagger,
    writer: Writer,
    headers: HeaderMap,
    credentials: Credentials,
    until: Instant,
    /// The response has gone by.
    answered: bool,
    /// How long the upstream wants to be left alone before it is asked again.
    retry: Option<Duration>,
    /// The event that the upstream was asked to go on behind, until it does.
    behind: Vec<u8>,
    /// Held while nobody follows.
    left: Option<Left>,
    _in_flight: InFlight,
}

impl Answer {
    fn new(
        core: &Rc<Core>,
        session: Arc<Session>,
        bound: Arc<Bound>,
        writer: Writer,
        headers: &HeaderMap,
        credentials: &Credentials,
        in_flight: InFlight,
    ) -> Self {
        Answer {
            core: Rc::clone(core),
            session,
            tagger: Tagger::new(&core.app, &bound),
            // All that is needed of them, so that the rest does not stay.
            headers: kept_headers(headers),
            credentials: credentials.clone(),
            bound,
            writer,
            until: Instant::now() + core.app.config.timeouts.call,
            answered: false,
            retry: None,
            behind: Vec::new(),
            left: None,
            _in_flight: in_flight,
        }
    }

    async fn run(mut self, source: Source) {
        let fault = match self.read(source).await {
            Ok(()) => return,
            Err(Stopped::Unwanted) => {
                tracing::warn!("too many calls go on without their client; one was dropped");
                return self.cancel("Too many calls wait for their clients").await;
            }
            Err(Stopped::Failed(fault)) => fault,
        };
        if !self.answered {
            tracing::warn!(%fault, "the answer of a call broke off");
            self.answered = true;
            let error = fault.body(self.writer.outlet.request.as_deref());
            self.write(vec![(Say::Message(error), true)]).await;
        }
    }

    async fn read(&mut self, mut source: Source) -> Result<(), Stopped> {
        let outlet = Arc::clone(&self.writer.outlet);
        let mut keep = tokio::time::interval(self.writer.beat());
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempts = 0;
        loop {
            // First the ear, then the look.
            let changed = outlet.changed();
            if outlet.is_cancelled() {
                return Err(Stopped::Failed(Fault::Cancelled));
            }
            self.hold(outlet.followed())?;
            let abandoned = self.until.min(self.left_until());
            if matches!(source, Source::Broken) && !self.answered {
                attempts += 1;
                source = self.reopen(attempts).await.map_err(Stopped::Failed)?;
                continue;
            }
            let Source::Open(body, decoder) = &mut source else { return Ok(()) };
            let reads = self.writer.has_room() || outlet.followed() == Followed::Never;
            let next = tokio::select! {
                biased;
                () = changed => continue,
                () = tokio::time::sleep_until(abandoned) => return Err(self.abandon().await),
                _ = keep.tick() => {
                    self.writer.keep().await;
                    continue;
                }
                next = upstream::next_frame(body, decoder), if reads => next,
            };
            match next {
                Ok(Some(frame)) => {
                    attempts = 0;
                    let mut events = Vec::new();
                    self.take(&frame, &mut events);
                    while let Ok(Some(frame)) = decoder.next_frame() {
                        self.take(&frame, &mut events);
                    }
                    self.write(events).await;
                }
                Ok(None) if self.answered => source = Source::Ended,
                Ok(None) => source = Source::Broken,
                Err(error) => {
                    tracing::debug!(%error, "the answer of a call broke off");
                    source = Source::Broken;
                }
            }
        }
    }

    /// Counts a call that nobody follows.
    fn hold(&mut self, followed: Followed) -> Result<(), Stopped> {
        if followed == Followed::Now {
            self.left = None;
        } else if self.left.is_none() {
            let app = &self.core.app;
            let left = if self.session.kind.is_bridged() {
                let until = Instant::now() + app.config.timeouts.parked;
                let principal = self.session.record().principal;
                Parked::enter(app, principal).map(|_count| Left::Waiting { _count, until })
            } else {
                Detached::enter(app).map(|_count| Left::Detached { _count })
            };
            self.left = Some(left.ok_or(Stopped::Unwanted)?);
        }
        Ok(())
    }

    fn left_until(&self) -> Instant {
        match &self.left {
            Some(Left::Waiting { until, .. }) => *until,
            _ => self.until,
        }
    }

    /// It has taken too long, or its client has.
    async fn abandon(&mut self) -> Stopped {
        if Instant::now() >= self.until {
            self.cancel("The request has taken too long").await;
            return Stopped::Failed(Fault::UpstreamTimeout);
        }
        self.cancel("The client's input did not come in time").await;
        Stopped::Failed(Fault::Modern(Modern::Abandoned))
    }

    /// Lets the server know that it need not wait any more for what nobody will say. A legacy client does that itself.
    async fn cancel(&self, reason: &str) {
        if !self.session.kind.is_bridged() {
            return;
        }
        let request = self.writer.outlet.request.as_deref().unwrap_or("null");
        let params = format!(r#"{{"requestId":{request},"reason":"{reason}"}}"#);
        let message = jsonrpc::notification(method::CANCELLED, Some(params.as_bytes()));
        let address = self.bound.address.on_behalf(&self.credentials);
        if let Err(error) = upstream::tell(&self.core, &address, message).await {
            tracing::info!(%error, "a call that was given up was not cancelled");
        }
    }

    /// What the client gets of a frame.
    fn take(&mut self, frame: &Frame, events: &mut Vec<(Say, bool)>) {
        if let Some(retry) = frame.retry() {
            self.retry = Some(Duration::from_millis(retry));
        }
        if let Some(id) = frame.id().filter(|id| !id.is_empty()) {
            // Some servers begin with the very event that they are to go on behind (rmcp 3.8 does).
            if std::mem::take(&mut self.behind) == id {
                return;
            }
            self.writer.upstream_id = id.to_vec();
        }
        let Some(data) = frame.data().filter(|data| !data.is_empty()) else { return };
        let changed = match frame.is_message() {
            true => {
                self.answered |= upstream::is_response(&data);
                self.session.route.lists.heard(&data);
                self.tagger.outward(&data)
            }
            false => Outward::Keep,
        };
        let changed = if let Outward::Replace(data) = changed { Some(data) } else { None };
        events.push((Say::Frame(frame.clone(), changed), self.answered));
    }

    async fn write(&mut self, events: Vec<(Say, bool)>) {
        // A client that has no id to come back with will not come back.
        if !events.is_empty() && self.writer.outlet.followed() != Followed::Never {
            self.writer.write(events).await;
        }
    }

    /// Asks the upstream for the rest.
    async fn reopen(&mut self, attempt: u32) -> Result<Source, Fault> {
        if self.writer.upstream_id.is_empty() || attempt > ATTEMPTS {
            return Err(Fault::MayHaveExecuted);
        }
        let pause = self.retry.unwrap_or(PAUSE * (1 << (attempt - 1).min(8))).min(PAUSE_MAX);
        tokio::time::sleep_until(self.until.min(Instant::now() + pause)).await;
        let present = recover::current(&self.session);
        if present.is_none_or(|bound| bound.generation != self.bound.generation) {
            return Err(Fault::MayHaveExecuted);
        }
        let upstream_id = Some(self.writer.upstream_id.as_slice());
        let headers = listen_headers(&self.headers, &self.credentials, &self.bound.address, upstream_id);
        let address = &self.bound.address;
        let sent = upstream::send(&self.core, address, Method::GET, headers, Bytes::new());
        let Ok(answer) = tokio::time::timeout_at(self.until, sent).await else {
            return Err(Fault::UpstreamTimeout);
        };
        match answer {
            Ok(answer) if answer.status.is_success() && upstream::is_event_stream(&answer.headers) => {
                let decoder = SseDecoder::new(self.core.app.config.limits.event_bytes);
                self.behind.clone_from(&self.writer.upstream_id);
                Ok(Source::Open(answer.body, decoder))
            }
            Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::CONFLICT => {
                upstream::drain(answer.body);
                Ok(Source::Broken)
            }
            Ok(answer) => {
                tracing::debug!(status = answer.status.as_u16(), "the upstream would not give the rest");
                upstream::drain(answer.body);
                Err(Fault::MayHaveExecuted)
            }
            Err(error) => {
                tracing::debug!(%error, "the upstream was not reached for the rest of an answer");
                Ok(Source::Broken)
            }
        }
    }
}
