//! GET: the stream on which an upstream speaks unasked.
//!
//! One upstream stream for each session, read by one task. When it breaks, or the session gets a new binding, the
//! task opens it again and tells the client what may have changed meanwhile; the client's stream stays as it is.
//! A client that opens a second stream gets the messages on that one from then on: the task is handed the new
//! stream, the upstream notices nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use throughline_wire::loss::{Sign, Verdict};
use throughline_wire::sse::{self, Frame, IdEdit, SseDecoder};
use throughline_wire::{envelope, jsonrpc, method};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};

use crate::app::Core;
use crate::binding::{Bound, Lost};
use crate::call::listen_headers;
use crate::classify::{Arrived, reads_streams};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::recover;
use crate::reply::{self, HEARTBEAT, ReplyBody};
use crate::session::{self, InFlight, Session, lock};
use crate::translate::{Outward, Tagger};
use crate::upstream::http::{AnswerBody, SendError};
use crate::upstream::{self, Looked, Refusal};

/// Events between the upstream's reader and a slow client; then the upstream has to wait.
const QUEUE: usize = 32;
/// Streams of one client that are kept open beside the one that gets the messages; the oldest goes first.
const MAX_IDLE: usize = 4;
/// How long a stream that an earlier process or request left behind may stand in the way (SDKs answer 409).
const CONFLICT: Duration = Duration::from_secs(2);
/// Pauses before a broken stream is opened again.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(15);
/// A stream that lasted so long was no failure.
const REOPEN_RESET: Duration = Duration::from_secs(30);
/// How long a call waits for the stream to follow into a new binding.
const FOLLOW: Duration = Duration::from_secs(3);

/// Longest refusal that is passed on, in bytes.
const MAX_CHALLENGE: usize = 64 * 1024;

/// A client's stream, as the task sees it.
type Client = mpsc::Sender<Bytes>;

/// A session's standing stream, as others see it.
#[derive(Clone)]
pub struct Listener {
    /// Takes the client's next stream.
    handed: mpsc::Sender<Client>,
    /// The last generation whose calls need not wait for it: it is open there, or has kept them waiting long enough.
    reached: Arc<watch::Sender<u32>>,
}

/// Opens a stream for a client, or resumes one after `last_event_id`.
pub async fn listen(
    core: &Rc<Core>,
    arrived: &Arrived,
    last_event_id: Option<&str>,
) -> Result<Response<ReplyBody>, Fault> {
    let id = arrived.session_id.as_ref().ok_or(Fault::Method("POST"))?;
    let session = session::issued(core, arrived, id).await?;
    if !reads_streams(&arrived.headers) {
        return Err(Fault::NotAcceptable);
    }
    let in_use = session.begin(core, &arrived.caller, None);
    let (bound, _) = recover::bind(core, &session, &arrived.caller.credentials, None).await?;
    let resumed = last_event_id.and_then(|id| Tagger::new(&core.app, &bound).own_event_id(id));
    let (client, channel) = mpsc::channel(QUEUE);
    let (handed, takeover) = mpsc::channel(1);
    // Nor need they wait for its beginning.
    let listener = Listener { handed, reached: Arc::new(watch::Sender::new(bound.generation)) };
    if resumed.is_none() && !hand_over(&session, &client, &listener).await {
        return Ok(reply::channel(&core.app, channel));
    }
    let mut stream = Stream {
        standing: resumed.is_none(),
        core: Rc::clone(core),
        session,
        bound,
        headers: arrived.headers.clone(),
        credentials: arrived.caller.credentials.clone(),
        client,
        idle: Vec::new(),
        listener,
        takeover,
        last_event_id: resumed,
        _in_use: in_use,
    };
    match stream.open().await? {
        Opened::Stream(body) => {
            tokio::task::spawn_local(stream.run(body));
            Ok(reply::channel(&core.app, channel))
        }
        Opened::None(status) => {
            // Servers without a stream say so in many ways. Some clients take a 404 for the end of their session,
            // a 401 for a demand to log in.
            tracing::debug!(status = status.as_u16(), "the upstream gave no stream");
            Err(Fault::Method("POST, DELETE"))
        }
    }
}

/// Waits until the client's standing stream, if it has one, has followed into this binding: the upstream may ask there
/// what it needs for a call, and what it says before that reaches nobody.
pub async fn followed(session: &Session, bound: &Bound) {
    let reached = match &*lock(&session.listener) {
        Some(listener) if *listener.reached.borrow() < bound.generation => Arc::clone(&listener.reached),
        _ => return,
    };
    let mut following = reached.subscribe();
    let there = following.wait_for(|generation| *generation >= bound.generation);
    if tokio::time::timeout(FOLLOW, there).await.is_err() {
        reach(&reached, bound.generation);
    }
}

fn reach(reached: &watch::Sender<u32>, generation: u32) {
    reached.send_if_modified(|before| std::mem::replace(before, generation.max(*before)) < generation);
}

/// Gives the client's new stream to the task that reads this session's upstream stream. If there is none, says so
/// and registers the one that is about to be.
async fn hand_over(session: &Session, client: &Client, own: &Listener) -> bool {
    loop {
        let present = {
            let mut listener = lock(&session.listener);
            // Under the lock under which a task ends (`fall_back`): it does not end with a stream in its hands.
            let present = listener.as_ref().map(|present| &present.handed);
            match present.map(|present| (present, present.try_send(client.clone()))) {
                Some((_, Ok(()))) => return false,
                Some((present, Err(TrySendError::Full(_)))) => present.clone(),
                Some((_, Err(TrySendError::Closed(_)))) | None => {
                    *listener = Some(own.clone());
                    return true;
                }
            }
        };
        let _ = present.reserve().await;
    }
}

/// What came of opening the upstream's stream.
enum Opened {
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
struct Stream {
    core: Rc<Core>,
    session: Arc<Session>,
    bound: Arc<Bound>,
    headers: HeaderMap,
    /// What the client brought for the upstream when it opened the stream.
    credentials: Credentials,
    client: Client,
    /// Streams that the client opened before. Closing them would make it come back and take over again.
    idle: Vec<Client>,
    listener: Listener,
    takeover: mpsc::Receiver<Client>,
    /// The last event id that the upstream gave in the present binding.
    last_event_id: Option<Vec<u8>>,
    /// False for a resumed stream: it ends when the upstream ends it.
    standing: bool,
    _in_use: InFlight,
}

impl Stream {
    /// Opens the upstream's stream, recovering the session if it turns out to be lost.
    async fn open(&mut self) -> Result<Opened, Fault> {
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
                return Ok(Opened::Stream(answer.body));
            }
            let status = answer.status;
            let looked = Looked::at(answer, 4096).await.map_err(upstream::fault_of)?;
            let verdict = looked.verdict(self.bound.address.session_id.is_some());
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

    async fn run(mut self, mut body: AnswerBody) {
        let mut stop = self.core.app.stop_signal();
        let mut pause = REOPEN_FIRST;
        loop {
            let opened_at = Instant::now();
            let end = self.read(body, &mut stop).await;
            if opened_at.elapsed() > REOPEN_RESET {
                pause = REOPEN_FIRST;
            }
            body = match end {
                End::Broken if self.standing => match self.reopen(&mut stop, &mut pause).await {
                    Some(body) => body,
                    None => return,
                },
                End::Over | End::Broken => return,
            };
        }
    }

    /// Passes events on until something ends it.
    async fn read(&mut self, mut body: AnswerBody, stop: &mut watch::Receiver<bool>) -> End {
        let mut decoder = SseDecoder::new(self.core.app.config.limits.event_bytes);
        let mut heartbeat = heartbeat();
        let session = Arc::clone(&self.session);
        loop {
            // First the ear, then the look: a new binding between the two is not missed.
            let rebound = session.rebound.notified();
            if recover::current(&session).is_none_or(|bound| bound.generation != self.bound.generation) {
                return End::Broken;
            }
            let piece = tokio::select! {
                // In this order: a client that was told that its new stream is open gets the next event there.
                biased;
                _ = stop.wait_for(|stop| *stop) => return End::Over,
                Some(next) = self.takeover.recv() => {
                    self.switch(next);
                    None
                }
                () = self.client.closed() => match self.fall_back() {
                    true => None,
                    false => return End::Over,
                },
                () = rebound => None,
                _ = heartbeat.tick() => {
                    self.beat_idle();
                    Some(Bytes::from_static(sse::HEARTBEAT))
                }
                frame = upstream::next_frame(&mut body, &mut decoder) => match frame {
                    Ok(Some(frame)) => self.outward(&frame),
                    Ok(None) => return End::Broken,
                    Err(error) => {
                        tracing::debug!(%error, "an upstream stream broke");
                        return End::Broken;
                    }
                },
            };
            if let Some(piece) = piece
                && !self.deliver(piece, stop).await
            {
                return End::Over;
            }
        }
    }

    /// Sends to the client, or, when it opens another stream meanwhile, to that. False when there is nobody left.
    async fn deliver(&mut self, piece: Bytes, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            let next = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return false,
                Some(next) = self.takeover.recv() => Some(next),
                room = self.client.reserve() => match room {
                    Ok(room) => {
                        room.send(piece);
                        return true;
                    }
                    Err(_) => None,
                },
            };
            match next {
                Some(next) => self.switch(next),
                None if self.fall_back() => {}
                None => return false,
            }
        }
    }

    fn switch(&mut self, next: Client) {
        let before = std::mem::replace(&mut self.client, next);
        self.idle.retain(|client| !client.is_closed());
        if !before.is_closed() {
            if self.idle.len() >= MAX_IDLE {
                self.idle.remove(0);
            }
            self.idle.push(before);
        }
    }

    /// The stream that got the messages is gone: one that is just being handed over gets them, or one that the
    /// client opened before. False without one.
    fn fall_back(&mut self) -> bool {
        self.idle.retain(|client| !client.is_closed());
        let mut listener = lock(&self.session.listener);
        match self.takeover.try_recv().ok().or_else(|| self.idle.pop()) {
            Some(client) => {
                self.client = client;
                true
            }
            None => {
                self.resign(&mut listener);
                false
            }
        }
    }

    fn resign(&self, listener: &mut Option<Listener>) {
        listener.take_if(|present| present.handed.same_channel(&self.listener.handed));
    }

    fn beat_idle(&self) {
        for client in &self.idle {
            // A full queue shows that the stream is alive, a closed one goes at the next occasion.
            let _ = client.try_send(Bytes::from_static(sse::HEARTBEAT));
        }
    }

    fn outward(&mut self, frame: &Frame) -> Option<Bytes> {
        let tagger = Tagger::new(&self.core.app, &self.bound);
        let id = frame.id().filter(|id| !id.is_empty()).map(|id| {
            self.last_event_id = Some(id.to_vec());
            tagger.event_id(id)
        });
        let id = id.as_ref().map_or(IdEdit::Keep, |id| IdEdit::Set(id.as_bytes()));
        let data = frame.data().filter(|_| frame.is_message());
        if let Some(data) = &data {
            self.session.told(data);
        }
        match data.map(|data| tagger.outward(&data)) {
            Some(Outward::Replace(data)) => Some(frame.rewrite(Some(&data), id)),
            _ if matches!(id, IdEdit::Keep) => Some(frame.raw().clone()),
            _ => Some(frame.rewrite(None, id)),
        }
    }

    /// Opens the upstream's stream again, however long that takes while the client listens.
    async fn reopen(&mut self, stop: &mut watch::Receiver<bool>, pause: &mut Duration) -> Option<AnswerBody> {
        let before = self.bound.generation;
        loop {
            self.rest(*pause, stop).await?;
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
        let mut heartbeat = heartbeat();
        let session = Arc::clone(&self.session);
        loop {
            let rebound = session.rebound.notified();
            if recover::current(&session).is_some_and(|bound| bound.generation != self.bound.generation) {
                return Some(());
            }
            tokio::select! {
                () = rebound => {}
                () = tokio::time::sleep_until(deadline) => return Some(()),
                _ = heartbeat.tick() => {
                    self.beat_idle();
                    let _ = self.client.try_send(Bytes::from_static(sse::HEARTBEAT));
                }
                Some(next) = self.takeover.recv() => self.switch(next),
                () = self.client.closed() => if !self.fall_back() { return None },
                _ = stop.wait_for(|stop| *stop) => return None,
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
        for message in messages {
            if !self.deliver(sse::event(&message, None), stop).await {
                return false;
            }
        }
        true
    }
}

impl Drop for Stream {
    /// However it ends, also before it began: nothing is handed to a stream that is gone.
    fn drop(&mut self) {
        self.resign(&mut lock(&self.session.listener));
        reach(&self.listener.reached, u32::MAX);
    }
}

/// An answer that asks for credentials, for the client to see.
async fn challenge(looked: Looked) -> Fault {
    let (status, headers) = (looked.status, looked.headers.clone());
    let body = looked.response(None, MAX_CHALLENGE, |_| {}).await.unwrap_or_default();
    Fault::Challenged(Arc::new(Refusal { status, headers, body }))
}

fn heartbeat() -> Interval {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.reset();
    heartbeat
}
