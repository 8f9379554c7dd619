//! The task between an upstream's standing stream and the client's streams.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use throughline_wire::loss::{Sign, Verdict};
use throughline_wire::sse::{Frame, SseDecoder};
use throughline_wire::{envelope, jsonrpc, method};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Handed, Listener, lent, reach};
use crate::app::Core;
use crate::binding::{Bound, Lost};
use crate::call::{kept_headers, listen_headers};
use crate::classify::Arrived;
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::inbox::Held;
use crate::outlet::{Followed, Say, Writer};
use crate::recover;
use crate::session::{InFlight, Session, lock};
use crate::translate::{Outward, Tagger};
use crate::upstream::AnswerBody;
use crate::upstream::http::SendError;
use crate::upstream::{self, Looked, Refusal};

/// Streams of one client that are kept open beside the one that gets the messages; the oldest goes first.
const MAX_IDLE: usize = 4;
/// The same where a stream is no client's but a replica's, and each gets all messages.
const MAX_REPLICAS: usize = 64;
/// How long a stream that an earlier process or request left behind may stand in the way (SDKs answer 409).
const CONFLICT: Duration = Duration::from_secs(2);
/// Pauses before a broken stream is opened again.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(15);
/// A stream that lasted so long was no failure.
const REOPEN_RESET: Duration = Duration::from_secs(30);
/// Longest refusal that is passed on, in bytes.
const MAX_CHALLENGE: usize = 64 * 1024;

/// What came of opening the upstream's stream.
pub(super) enum Opened {
    Stream(AnswerBody),
    None(StatusCode),
}

/// Why reading ended.
enum End {
    /// The client is gone, or the gateway stops, or the session was ended.
    Over,
    /// The upstream's stream ended or broke, or belongs to a binding that is gone.
    Broken,
}

/// The task between an upstream's stream and a client's.
pub(super) struct Stream {
    core: Rc<Core>,
    session: Arc<Session>,
    bound: Arc<Bound>,
    headers: HeaderMap,
    /// What the client brought for the upstream when it opened the stream.
    credentials: Credentials,
    /// The client's streams, oldest first, but those that were resumed before all others. Never empty while it runs.
    outlets: Vec<Writer>,
    listener: Listener,
    others: mpsc::Receiver<Handed>,
    /// The last event id that the upstream gave in the present binding.
    last_event_id: Option<Vec<u8>>,
    /// The event that the upstream was asked to go on behind, until it does.
    behind: Option<Vec<u8>>,
    /// When the log is to be told again that the streams are written to.
    next_beat: Instant,
    /// How long the upstream wants to be left alone before its stream is opened again.
    retry: Option<Duration>,
    _in_use: InFlight,
}

impl Stream {
    #[allow(clippy::too_many_arguments, reason = "made in one place, of what that place has")]
    pub(super) fn new(
        core: &Rc<Core>,
        session: Arc<Session>,
        bound: Arc<Bound>,
        arrived: &Arrived,
        client: Writer,
        listener: Listener,
        others: mpsc::Receiver<Handed>,
        in_use: InFlight,
    ) -> Self {
        Stream {
            core: Rc::clone(core),
            session,
            bound,
            headers: kept_headers(&arrived.headers),
            credentials: arrived.caller.credentials.clone(),
            outlets: vec![client],
            listener,
            others,
            last_event_id: None,
            behind: None,
            next_beat: Instant::now(),
            retry: None,
            _in_use: in_use,
        }
    }

    /// Lets the upstream's stream begin where an earlier one left off, if that was in this binding.
    pub(super) fn upstream_left_off(&mut self, at: Option<(u32, Vec<u8>)>) {
        let at = at.filter(|(generation, id)| *generation == self.bound.generation && !id.is_empty());
        self.last_event_id = at.map(|(_, id)| id);
    }

    /// Opens the upstream's stream, recovering the session if it turns out to be lost.
    pub(super) async fn open(&mut self) -> Result<Opened, Fault> {
        let deadline = Instant::now() + CONFLICT;
        let mut recovered = false;
        loop {
            let headers = listen_headers(
                &self.headers,
                &self.credentials,
                &self.bound.address,
                self.last_event_id.as_deref(),
            );
            let sent = upstream::send(&self.core, &self.bound.address, Method::GET, headers, Bytes::new());
            let answer = match sent.await {
                Err(SendError::Down(_)) if !recovered => {
                    recovered = true;
                    self.recover(Sign::EndpointDown).await?;
                    continue;
                }
                sent => sent.map_err(upstream::fault_of)?,
            };
            if answer.status.is_success() && upstream::is_event_stream(&answer.headers) {
                reach(&self.listener.reached, self.bound.generation);
                self.behind.clone_from(&self.last_event_id);
                return Ok(Opened::Stream(answer.body));
            }
            let status = answer.status;
            let looked = Looked::at(answer, 4096).await.map_err(upstream::fault_of)?;
            let verdict = looked.verdict(&self.bound.address);
            let lost = match recovered {
                true => None,
                false => self.is_lost(status, verdict).await,
            };
            if lost.is_none() && upstream::is_challenge(status, &looked.headers) {
                return Err(challenge(looked).await);
            }
            upstream::discard(looked);
            if let Some(sign) = lost {
                recovered = true;
                self.recover(sign).await?;
            } else if status == StatusCode::CONFLICT && Instant::now() < deadline {
                tokio::time::sleep(REOPEN_FIRST).await;
            } else {
                return Ok(Opened::None(status));
            }
        }
    }

    async fn is_lost(&self, status: StatusCode, verdict: Verdict) -> Option<Sign> {
        match verdict {
            Verdict::Lost(sign) => Some(sign),
            // A server without a stream says so in many ways; only the session's own word counts.
            Verdict::Suspected(sign) if status != StatusCode::METHOD_NOT_ALLOWED => {
                let address = self.bound.address.on_behalf(&self.credentials);
                let lost = upstream::ping(&self.core, &address).await == Some(false);
                lost.then_some(sign)
            }
            _ => None,
        }
    }

    async fn recover(&mut self, sign: Sign) -> Result<(), Fault> {
        let lost = Lost { generation: self.bound.generation, sign };
        let (bound, _) = recover::bind(&self.core, &self.session, &self.credentials, Some(lost)).await?;
        self.rebind(bound);
        Ok(())
    }

    fn rebind(&mut self, bound: Arc<Bound>) {
        if bound.generation != self.bound.generation {
            self.last_event_id = None;
        }
        self.bound = bound;
    }

    /// `held`: where other replicas hand over their clients' streams.
    pub(super) async fn run(mut self, body: AnswerBody, held: Option<Held>) {
        let lending = held.map(|held| {
            let (core, session, to) =
                (Rc::clone(&self.core), Arc::clone(&self.session), self.listener.handed.clone());
            tokio::task::spawn_local(lent::take(core, session, held, to))
        });
        for writer in &mut self.outlets {
            writer.announce().await;
        }
        self.read_on(body).await;
        if let Some(lending) = lending {
            lending.abort();
            lent::let_go(&self.core, &self.session).await;
        }
        for writer in &mut self.outlets {
            writer.hand_on().await;
        }
    }

    async fn read_on(&mut self, mut body: AnswerBody) {
        let mut stop = self.core.app.stop_signal();
        let mut pause = REOPEN_FIRST;
        loop {
            let opened_at = Instant::now();
            match self.read(body, &mut stop).await {
                End::Over => return,
                End::Broken => {}
            }
            if opened_at.elapsed() > REOPEN_RESET {
                pause = REOPEN_FIRST;
            }
            body = match self.reopen(&mut stop, &mut pause).await {
                Some(body) => body,
                None => return,
            };
        }
    }

    /// Passes events on until something ends it.
    async fn read(&mut self, mut body: AnswerBody, stop: &mut watch::Receiver<bool>) -> End {
        let mut decoder = SseDecoder::new(self.core.app.config.limits.event_bytes);
        let session = Arc::clone(&self.session);
        loop {
            // First the ear, then the look: a new binding between the two is not missed.
            let rebound = session.rebound.notified();
            if recover::current(&session).is_none_or(|bound| bound.generation != self.bound.generation) {
                return End::Broken;
            }
            let frame = tokio::select! {
                // In this order: a client that was told that its new stream is open gets the next event there.
                biased;
                () = self.attend(stop) => return End::Over,
                () = rebound => continue,
                frame = upstream::next_frame(&mut body, &mut decoder) => match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return End::Broken,
                    Err(error) => {
                        tracing::debug!(%error, "an upstream stream broke");
                        return End::Broken;
                    }
                },
            };
            let mut events: Vec<_> = self.outward(&frame).into_iter().collect();
            while let Ok(Some(frame)) = decoder.next_frame() {
                events.extend(self.outward(&frame));
            }
            if !events.is_empty() && !self.deliver(events, stop).await {
                return End::Over;
            }
        }
    }

    /// Looks after the client's streams: takes in others, lets those go that nobody will come back for. Ready when the
    /// gateway stops or none is left.
    async fn attend(&mut self, stop: &mut watch::Receiver<bool>) {
        loop {
            let beat = self.next_beat;
            // First the ear, then the look.
            let current = self.current().map(|at| Arc::clone(&self.outlets[at].outlet));
            let changed = current.as_ref().map(|outlet| outlet.changed());
            if self.is_left() {
                return;
            }
            let Some(changed) = changed else { continue };
            let left = self.left_until();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                Some(next) = self.others.recv() => {
                    self.enter(next);
                    let is_bridged = self.session.kind.is_bridged();
                    if let Some(writer) = self.outlets.last_mut() {
                        match is_bridged {
                            // Another replica waits for it: it hears what comes from here on.
                            true => writer.write(vec![(Say::Prime, false)]).await,
                            false => writer.announce().await,
                        }
                    }
                }
                () = changed => {}
                () = tokio::time::sleep_until(left.unwrap_or_else(Instant::now)), if left.is_some() => {}
                () = tokio::time::sleep_until(beat) => {
                    for writer in &mut self.outlets {
                        writer.keep().await;
                        self.next_beat = Instant::now() + writer.beat();
                    }
                }
            }
        }
    }

    /// Which stream gets the next message: the newest that is followed, else the newest.
    fn current(&self) -> Option<usize> {
        let followed = |writer: &Writer| writer.outlet.followed() == Followed::Now;
        self.outlets.iter().rposition(followed).or(self.outlets.len().checked_sub(1))
    }

    /// When the first stream that nobody follows may be let go.
    fn left_until(&self) -> Option<Instant> {
        let away = self.core.app.config.streams.away;
        let left = self.outlets.iter().filter_map(|writer| match writer.outlet.followed() {
            Followed::Until(since) => Some(since + away),
            Followed::Now | Followed::Never => None,
        });
        left.min()
    }

    /// Which streams get the next message: that of the client, or, of the bridge's, those of all replicas that serve
    /// clients in the session.
    fn receivers(&self) -> Vec<usize> {
        if !self.session.kind.is_bridged() {
            return self.current().into_iter().collect();
        }
        let followed = |at: &usize| self.outlets[*at].outlet.followed() == Followed::Now;
        (0..self.outlets.len()).filter(followed).collect()
    }

    /// Sends to the client, on whichever of its streams is to get it by then. False when there is nobody left.
    async fn deliver(&mut self, events: Vec<(Say, bool)>, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            if self.is_left() {
                return false;
            }
            let receivers = self.receivers();
            let outlets: Vec<_> = receivers.iter().map(|at| Arc::clone(&self.outlets[*at].outlet)).collect();
            let changes: Vec<_> = outlets.iter().map(|outlet| outlet.changed()).collect();
            if let Ok(next) = self.others.try_recv() {
                self.enter(next);
                continue;
            }
            let full = receivers.iter().position(|at| !self.outlets[*at].has_room());
            let Some(changed) = full.and_then(|at| changes.into_iter().nth(at)) else {
                for at in receivers {
                    let writer = &mut self.outlets[at];
                    writer.generation = self.bound.generation;
                    writer.upstream_id = self.last_event_id.clone().unwrap_or_default();
                    writer.write(events.clone()).await;
                }
                return true;
            };
            let left = self.left_until();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return false,
                Some(next) = self.others.recv() => self.enter(next),
                () = changed => {}
                () = tokio::time::sleep_until(left.unwrap_or_else(Instant::now)), if left.is_some() => {}
            }
        }
    }

    fn enter(&mut self, Handed { outlet, takes_over }: Handed) {
        // Where there is one of its name it is followed already.
        let Ok(writer) = Writer::new(&self.core, outlet, self.bound.generation) else { return };
        let at = if takes_over { self.outlets.len() } else { 0 };
        self.outlets.insert(at, writer);
        let most = if self.session.kind.is_bridged() { MAX_REPLICAS } else { MAX_IDLE + 1 };
        if self.outlets.len() > most {
            self.outlets.remove(0);
        }
    }

    /// Lets the streams go that nobody follows and nobody will come back for, and takes in one that is just being
    /// handed over. True when none is left; then none will be handed over any more.
    fn is_left(&mut self) -> bool {
        let away = self.core.app.config.streams.away;
        let is_bridged = self.session.kind.is_bridged();
        self.outlets.retain(|writer| match writer.outlet.followed() {
            Followed::Now => true,
            // What replicas read they do not come back for.
            Followed::Until(since) => !is_bridged && since.elapsed() < away,
            Followed::Never => false,
        });
        if !self.outlets.is_empty() {
            return false;
        }
        let session = Arc::clone(&self.session);
        let mut listener = lock(&session.listener);
        while let Ok(next) = self.others.try_recv() {
            self.enter(next);
        }
        if self.outlets.is_empty() {
            self.resign(&mut listener);
        }
        self.outlets.is_empty()
    }

    fn resign(&self, listener: &mut Option<Listener>) {
        listener.take_if(|present| present.handed.same_channel(&self.listener.handed));
    }

    /// What the client gets of a frame.
    fn outward(&mut self, frame: &Frame) -> Option<(Say, bool)> {
        if let Some(retry) = frame.retry() {
            self.retry = Some(Duration::from_millis(retry).min(REOPEN_MAX));
        }
        if let Some(id) = frame.id().filter(|id| !id.is_empty()) {
            // Some servers begin with the very event that they are to go on behind (rmcp 3.8 does).
            if self.behind.take().as_deref() == Some(id) {
                return None;
            }
            self.last_event_id = Some(id.to_vec());
        }
        let data = frame.data().filter(|data| !data.is_empty())?;
        if frame.is_message() {
            self.session.told(&data);
            self.session.route.lists.heard(&data);
        }
        let tagger = Tagger::new(&self.core.app, &self.bound);
        let changed = match frame.is_message().then(|| tagger.outward(&data)) {
            Some(Outward::Replace(data)) => Some(data),
            _ => None,
        };
        Some((Say::Frame(frame.clone(), changed), false))
    }

    /// Opens the upstream's stream again, however long that takes while the client listens.
    async fn reopen(&mut self, stop: &mut watch::Receiver<bool>, pause: &mut Duration) -> Option<AnswerBody> {
        let before = self.bound.generation;
        loop {
            let wanted = self.retry.take().unwrap_or_default();
            self.rest(wanted.max(*pause), stop).await?;
            *pause = (*pause * 2).min(REOPEN_MAX);
            match self.open_anew().await {
                Ok(Opened::Stream(body)) => {
                    if self.bound.generation != before && !self.announce(stop).await {
                        return None;
                    }
                    return Some(body);
                }
                // The client learns it when it opens its stream again, and brings what is wanted.
                Ok(Opened::None(StatusCode::METHOD_NOT_ALLOWED))
                | Err(Fault::SessionUnknown | Fault::Challenged(_)) => return None,
                Ok(Opened::None(_)) | Err(_) => {}
            }
        }
    }

    /// Waits, with an eye on the client, but not when there is a new binding to be opened in. None when there is nobody
    /// to wait for.
    async fn rest(&mut self, pause: Duration, stop: &mut watch::Receiver<bool>) -> Option<()> {
        let deadline = Instant::now() + pause;
        let session = Arc::clone(&self.session);
        loop {
            let rebound = session.rebound.notified();
            if recover::current(&session).is_some_and(|bound| bound.generation != self.bound.generation) {
                return Some(());
            }
            tokio::select! {
                () = rebound => {}
                () = tokio::time::sleep_until(deadline) => return Some(()),
                () = self.attend(stop) => return None,
            }
        }
    }

    async fn open_anew(&mut self) -> Result<Opened, Fault> {
        let (bound, _) = recover::bind(&self.core, &self.session, &self.credentials, None).await?;
        self.rebind(bound);
        self.open().await
    }

    /// Tells the client what may have changed while nobody was told. False when there is nobody left.
    async fn announce(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let lists = self.bound.lists;
        let announced = [
            (lists.tools, method::TOOLS_CHANGED),
            (lists.prompts, method::PROMPTS_CHANGED),
            (lists.resources, method::RESOURCES_CHANGED),
        ];
        let changed = announced.into_iter().filter(|(announces, _)| *announces);
        let mut messages: Vec<_> = changed.map(|(_, method)| jsonrpc::notification(method, None)).collect();
        for step in self.session.record().restore.iter().filter(|step| step.method == method::SUBSCRIBE) {
            let params =
                self.core.app.keys.open_secret(&self.session.key.0, &step.params).unwrap_or_default();
            if let Ok(Some(uri)) = envelope::member(&params, "uri") {
                let params = [b"{\"uri\":", &params[uri], b"}"].concat();
                messages.push(jsonrpc::notification(method::RESOURCE_UPDATED, Some(&params)));
            }
        }
        let events: Vec<_> = messages.into_iter().map(|message| (Say::Message(message), false)).collect();
        events.is_empty() || self.deliver(events, stop).await
    }
}

impl Drop for Stream {
    /// However it ends, also before it began: nothing is handed to a stream that is gone.
    fn drop(&mut self) {
        {
            let mut listener = lock(&self.session.listener);
            self.resign(&mut listener);
            while let Ok(next) = self.others.try_recv() {
                next.outlet.end();
            }
        }
        reach(&self.listener.reached, u32::MAX);
    }
}

/// An answer that asks for credentials, for the client to see.
async fn challenge(looked: Looked) -> Fault {
    let (status, headers) = (looked.status, looked.headers.clone());
    let body = looked.response(None, MAX_CHALLENGE, |_| {}).await.unwrap_or_default();
    Fault::Challenged(Arc::new(Refusal { status, headers, body }))
}
