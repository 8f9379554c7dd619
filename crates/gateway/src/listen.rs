//! GET: the stream on which an upstream speaks unasked.
//!
//! One upstream stream for each session, read by one task. When it breaks, or the session gets a new binding, the
//! task opens it again and tells the client what may have changed meanwhile; the client's stream stays as it is.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use throughline_wire::sse::{self, Frame, IdEdit, SseDecoder};
use throughline_wire::{envelope, jsonrpc, loss, method};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::app::Core;
use crate::call::listen_headers;
use crate::classify::{Arrived, reads_streams};
use crate::error::Fault;
use crate::recover::{self, Bound};
use crate::reply::{self, HEARTBEAT, ReplyBody};
use crate::session::{self, Session, lock};
use crate::translate::{Outward, Tagger};
use crate::upstream::http::{Answer, AnswerBody};
use crate::upstream::{self, Looked};

/// Events between the upstream's reader and a slow client; then the upstream has to wait.
const QUEUE: usize = 32;
/// How long a stream that is just being given up elsewhere may stand in the way of a new one (SDKs answer 409).
const CONFLICT: Duration = Duration::from_secs(2);
/// Pauses before a broken stream is opened again.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(15);
/// A stream that lasted so long was no failure.
const REOPEN_RESET: Duration = Duration::from_secs(30);

/// A client's standing stream, as others see it: the next one takes over.
#[derive(Default)]
pub struct Listener {
    displaced: Notify,
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
    session.touch(core.app.effects.now());
    let (bound, _) = recover::bind(core, &session, None).await?;
    let resumed = last_event_id.and_then(|id| tagger(core, &session, &bound).own_event_id(id));
    let listener = Arc::new(Listener::default());
    if resumed.is_none() {
        let before = lock(&session.listener).replace(Arc::clone(&listener));
        if let Some(before) = before {
            before.displaced.notify_one();
        }
    }
    let (events, channel) = mpsc::channel(QUEUE);
    let standing = resumed.is_none();
    let mut stream = Stream {
        core: Rc::clone(core),
        session,
        bound,
        headers: arrived.headers.clone(),
        events,
        listener,
        last_event_id: resumed,
        standing,
    };
    match stream.open().await? {
        Opened::Stream(body) => {
            tokio::task::spawn_local(stream.run(body));
            Ok(reply::channel(&core.app, channel))
        }
        // Many servers without a stream say 404, which some clients take for the end of their session.
        Opened::None(
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED,
        ) => Err(Fault::Method("POST, DELETE")),
        Opened::None(status) => {
            tracing::info!(status = status.as_u16(), "the upstream gave no stream");
            Err(Fault::UpstreamGarbled)
        }
    }
}

fn tagger(core: &Core, session: &Session, bound: &Bound) -> Tagger {
    Tagger::new(&core.app, session.key.0, bound.generation)
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
    /// A newer stream has taken over.
    Displaced,
    /// The upstream's stream ended or broke, or belongs to a binding that is gone.
    Broken,
}

/// The task between an upstream's stream and a client's.
struct Stream {
    core: Rc<Core>,
    session: Arc<Session>,
    bound: Arc<Bound>,
    headers: http::HeaderMap,
    events: mpsc::Sender<Bytes>,
    listener: Arc<Listener>,
    /// The last event id that the upstream gave in the present binding.
    last_event_id: Option<Vec<u8>>,
    /// False for a resumed stream: it ends when the upstream ends it.
    standing: bool,
}

impl Stream {
    /// Opens the upstream's stream, recovering the session if it turns out to be lost.
    async fn open(&mut self) -> Result<Opened, Fault> {
        let deadline = Instant::now() + CONFLICT;
        let mut recovered = false;
        loop {
            let headers = listen_headers(&self.headers, &self.bound.address, self.last_event_id.as_deref());
            let endpoint = self.core.endpoint(&self.session.route);
            let answer =
                endpoint.send(Method::GET, headers, Bytes::new()).await.map_err(upstream::fault_of)?;
            if is_stream(&answer) {
                return Ok(Opened::Stream(answer.body));
            }
            let status = answer.status;
            let looked = Looked::at(answer, 4096).await.map_err(upstream::fault_of)?;
            let verdict = looked.verdict(self.bound.address.session_id.is_some());
            upstream::discard(looked);
            if !recovered && self.is_lost(status, verdict).await {
                recovered = true;
                let (bound, _) =
                    recover::bind(&self.core, &self.session, Some(self.bound.generation)).await?;
                self.rebound(bound);
            } else if status == StatusCode::CONFLICT && Instant::now() < deadline {
                tokio::time::sleep(REOPEN_FIRST).await;
            } else {
                return Ok(Opened::None(status));
            }
        }
    }

    async fn is_lost(&self, status: StatusCode, verdict: loss::Verdict) -> bool {
        match verdict {
            loss::Verdict::Lost(_) => true,
            // A server without a stream says so in many ways; only the session's own word counts.
            loss::Verdict::Suspected(_) if status != StatusCode::METHOD_NOT_ALLOWED => {
                let endpoint = self.core.endpoint(&self.session.route);
                upstream::ping(endpoint, &self.bound.address).await == Some(false)
            }
            _ => false,
        }
    }

    fn rebound(&mut self, bound: Arc<Bound>) {
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
                    None => break,
                },
                End::Displaced => return self.idle(stop).await,
                End::Over | End::Broken => break,
            };
        }
    }

    /// Passes events on until something ends it.
    async fn read(&mut self, mut body: AnswerBody, stop: &mut watch::Receiver<bool>) -> End {
        let mut decoder = SseDecoder::new(self.core.app.config.limits.event_bytes);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.reset();
        let session = Arc::clone(&self.session);
        loop {
            let rebound = session.rebound.notified();
            let piece = tokio::select! {
                frame = upstream::next_frame(&mut body, &mut decoder) => match frame {
                    Ok(Some(frame)) => self.outward(&frame),
                    Ok(None) => return End::Broken,
                    Err(error) => {
                        tracing::info!(%error, "an upstream stream broke");
                        return End::Broken;
                    }
                },
                _ = heartbeat.tick() => Some(Bytes::from_static(sse::HEARTBEAT)),
                () = rebound => match recover::current(&session) {
                    Some(bound) if bound.generation == self.bound.generation => None,
                    _ => return End::Broken,
                },
                () = self.listener.displaced.notified() => return End::Displaced,
                () = self.events.closed() => return End::Over,
                _ = stop.wait_for(|stop| *stop) => return End::Over,
            };
            if let Some(piece) = piece
                && self.events.send(piece).await.is_err()
            {
                return End::Over;
            }
        }
    }

    fn outward(&mut self, frame: &Frame) -> Option<Bytes> {
        let tagger = tagger(&self.core, &self.session, &self.bound);
        let id = frame.id().filter(|id| !id.is_empty()).map(|id| {
            self.last_event_id = Some(id.to_vec());
            tagger.event_id(id)
        });
        let id = id.as_ref().map_or(IdEdit::Keep, |id| IdEdit::Set(id.as_bytes()));
        match frame.data().filter(|_| frame.is_message()).map(|data| tagger.outward(&data)) {
            Some(Outward::Replace(data)) => Some(frame.rewrite(Some(&data), id)),
            _ if matches!(id, IdEdit::Keep) => Some(frame.raw().clone()),
            _ => Some(frame.rewrite(None, id)),
        }
    }

    /// Opens the upstream's stream again, however long that takes while the client listens.
    async fn reopen(&mut self, stop: &mut watch::Receiver<bool>, pause: &mut Duration) -> Option<AnswerBody> {
        let before = self.bound.generation;
        loop {
            let wait = *pause;
            *pause = (*pause * 2).min(REOPEN_MAX);
            let events = self.events.clone();
            let listener = Arc::clone(&self.listener);
            let opened = tokio::select! {
                opened = async { tokio::time::sleep(wait).await; self.open_anew().await } => opened,
                () = events.closed() => return None,
                () = listener.displaced.notified() => {
                    listener.displaced.notify_one();
                    return None;
                }
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            match opened {
                Ok(Opened::Stream(body)) => {
                    if self.bound.generation != before {
                        self.announce().await;
                    }
                    return Some(body);
                }
                Ok(Opened::None(StatusCode::METHOD_NOT_ALLOWED)) | Err(Fault::SessionUnknown) => return None,
                Ok(Opened::None(_)) | Err(_) => {}
            }
        }
    }

    async fn open_anew(&mut self) -> Result<Opened, Fault> {
        let (bound, _) = recover::bind(&self.core, &self.session, None).await?;
        self.rebound(bound);
        self.open().await
    }

    /// Tells the client what may have changed while nobody was told.
    async fn announce(&self) {
        let lists = self.bound.lists;
        let announced = [
            (lists.tools, method::TOOLS_CHANGED),
            (lists.prompts, method::PROMPTS_CHANGED),
            (lists.resources, method::RESOURCES_CHANGED),
        ];
        for (_, method) in announced.into_iter().filter(|(announces, _)| *announces) {
            let _ = self.events.send(sse::event(&jsonrpc::notification(method, None), None)).await;
        }
        for step in self.session.record().restore.iter().filter(|step| step.method == method::SUBSCRIBE) {
            let params =
                self.core.app.keys.open_secret(&self.session.key.0, &step.params).unwrap_or_default();
            if let Ok(Some(uri)) = envelope::member(&params, "uri") {
                let params = [b"{\"uri\":", &params[uri], b"}"].concat();
                let message = jsonrpc::notification(method::RESOURCE_UPDATED, Some(&params));
                let _ = self.events.send(sse::event(&message, None)).await;
            }
        }
    }

    /// Keeps a displaced client's stream open, with nothing on it: closing it would make the client come back and
    /// displace the one that displaced it.
    async fn idle(self, mut stop: watch::Receiver<bool>) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.reset();
        loop {
            let rebound = self.session.rebound.notified();
            if recover::is_closed(&self.session) {
                return;
            }
            tokio::select! {
                () = rebound => {}
                _ = heartbeat.tick() => {
                    let _ = self.events.try_send(Bytes::from_static(sse::HEARTBEAT));
                }
                () = self.events.closed() => return,
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

impl Drop for Stream {
    /// However it ends, also before it began: nobody takes over from a stream that is gone.
    fn drop(&mut self) {
        let mut listener = lock(&self.session.listener);
        if listener.as_ref().is_some_and(|present| Arc::ptr_eq(present, &self.listener)) {
            *listener = None;
        }
    }
}

fn is_stream(answer: &Answer) -> bool {
    let content_type =
        answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    answer.status.is_success() && content_type.starts_with("text/event-stream")
}
