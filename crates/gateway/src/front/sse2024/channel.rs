//! A channel: the stream of one client, and the one way in which everything gets there.
//!
//! One task holds it, where its connection is. Whoever has something for the client says it to that task; another replica
//! writes it into the event log, from where the task reads it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use throughline_store::RecordKey;
use throughline_wire::sse;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::work;
use crate::app::{App, Core};
use crate::classify::{Arrived, What};
use crate::error::Fault;
use crate::inbox::{Held, Inbox};
use crate::metrics::StoreOperation;
use crate::reply::{self, ReplyBody};
use crate::session::{self, InFlight, lock};
use crate::{listen, tally};

/// Messages on their way to a client; then who has more waits.
const QUEUE: usize = 16;
/// What is said to the task that holds a channel.
pub(super) enum Said {
    /// A message for the client.
    Message(Bytes),
    /// The client is ready to be spoken to unasked.
    Ready,
}

/// The channels that tasks of this process hold.
#[derive(Default)]
pub struct Channels(Mutex<HashMap<RecordKey, mpsc::Sender<Said>>>);

impl Channels {
    fn get(&self, key: &RecordKey) -> Option<mpsc::Sender<Said>> {
        lock(&self.0).get(key).cloned()
    }
}

/// A way to a channel.
#[derive(Clone)]
pub(super) enum Line {
    /// It is held here.
    Here(mpsc::Sender<Said>),
    /// Another replica holds it.
    Elsewhere(RecordKey),
}

/// The way to the channel of this session.
///
/// # Errors
/// [`Fault::SessionUnknown`] where nobody holds it.
pub(super) async fn find(core: &Core, key: RecordKey) -> Result<Line, Fault> {
    let app = &core.app;
    if let Some(here) = app.channels.get(&key) {
        return Ok(Line::Here(here));
    }
    match inbox(key).is_held(app).await {
        Ok(true) => Ok(Line::Elsewhere(key)),
        Ok(false) => Err(Fault::SessionUnknown),
        Err(error) => {
            app.store_failed(StoreOperation::Read, &error);
            Err(Fault::StoreAway)
        }
    }
}

impl Line {
    /// Says it. False when the channel is gone.
    pub(super) async fn say(&self, app: &App, said: Said) -> bool {
        match self {
            Line::Here(to) => to.send(said).await.is_ok(),
            Line::Elsewhere(key) => match inbox(*key).write(app, said.plain()).await {
                Ok(written) => written,
                Err(error) => {
                    app.store_failed(StoreOperation::Append, &error);
                    false
                }
            },
        }
    }

    /// Returns when the channel is gone, where that can be told.
    pub(super) async fn closed(&self) {
        match self {
            Line::Here(to) => to.closed().await,
            Line::Elsewhere(_) => std::future::pending().await,
        }
    }
}

/// Where other replicas write what is for a channel.
fn inbox(session: RecordKey) -> Inbox {
    Inbox::new(session, *b"sse-2024")
}

impl Said {
    fn plain(&self) -> &[u8] {
        match self {
            Said::Message(message) => message,
            Said::Ready => b"",
        }
    }

    fn of(plain: Vec<u8>) -> Self {
        if plain.is_empty() { Said::Ready } else { Said::Message(plain.into()) }
    }
}

/// Opens a channel, whose client is to send its messages to `endpoint`.
pub(super) async fn open(
    core: &Rc<Core>,
    arrived: Arrived,
    key: RecordKey,
    endpoint: &str,
) -> Response<ReplyBody> {
    // The client's first message may reach any replica.
    let held = inbox(key).hold(&core.app).await;
    let (to, body) = mpsc::channel(QUEUE);
    let (line, said) = mpsc::channel(QUEUE);
    // There is room in a queue that is new.
    let _ = to.try_send(Bytes::from(format!("event: endpoint\ndata: {endpoint}\n\n")));
    lock(&core.app.channels.0).insert(key, line.clone());
    let response = reply::channel(&core.app, body);
    let mut opened = arrived.about(What::Listen(None));
    let present = tally::enter(core, &mut opened);
    let response = tally::answered(present, opened, response);
    let holder =
        Holder { core: Rc::clone(core), arrived, key, to, line, used: false, hearing: None, in_use: None };
    tokio::task::spawn_local(holder.run(said, held));
    response
}

/// The task that holds a channel.
struct Holder {
    core: Rc<Core>,
    arrived: Arrived,
    key: RecordKey,
    to: mpsc::Sender<Bytes>,
    line: mpsc::Sender<Said>,
    /// Something came of what the client sent: there is a session to be ended.
    used: bool,
    /// Passes on what the server says unasked.
    hearing: Option<JoinHandle<()>>,
    /// Keeps the session from idling.
    in_use: Option<InFlight>,
}

impl Holder {
    async fn run(mut self, mut said: mpsc::Receiver<Said>, held: Option<Held>) {
        let app = Arc::clone(&self.core.app);
        let mut stop = app.stop_signal();
        self.hold(&mut said, held, &mut stop).await;
        lock(&app.channels.0).remove(&self.key);
        // Those who still have something to say learn that nobody listens.
        drop(said);
        if let Some(hearing) = self.hearing.take() {
            hearing.abort();
        }
        self.in_use = None;
        if self.used {
            let close = self.arrived.about(What::Close);
            if let Err(fault) = session::close(&self.core, &close).await {
                tracing::debug!(%fault, "the session of a stream that ended was not ended");
            }
        } else if let Err(error) = inbox(self.key).let_go(&app).await {
            app.store_failed(StoreOperation::Append, &error);
        }
    }

    /// Passes messages on until the client is gone, or the gateway stops.
    async fn hold(
        &mut self,
        said: &mut mpsc::Receiver<Said>,
        mut held: Option<Held>,
        stop: &mut watch::Receiver<bool>,
    ) {
        let app = Arc::clone(&self.core.app);
        let every = app.config.streams.heartbeat;
        let mut heartbeat = tokio::time::interval_at(Instant::now() + every, every);
        loop {
            tokio::select! {
                () = self.to.closed() => return,
                _ = stop.wait_for(|stop| *stop) => return,
                Some(said) = said.recv() => {
                    heartbeat.reset();
                    if !self.pass(said).await {
                        return;
                    }
                }
                told = next(&mut held, &app) => for plain in told {
                    if !self.pass(Said::of(plain)).await {
                        return;
                    }
                },
                _ = heartbeat.tick() => {
                    // A full queue shows that the stream is alive.
                    let _ = self.to.try_send(Bytes::from_static(sse::HEARTBEAT));
                }
            }
        }
    }

    /// False when the client is gone.
    async fn pass(&mut self, said: Said) -> bool {
        self.used = true;
        match said {
            Said::Message(message) => {
                let event = [b"event: message\n", &sse::event(&message, None)[..]].concat();
                self.to.send(event.into()).await.is_ok()
            }
            Said::Ready => {
                self.hear().await;
                true
            }
        }
    }

    /// Listens for the client, as one of a newer revision does by itself.
    async fn hear(&mut self) {
        let Some(id) = self.arrived.session_id.clone().filter(|_| self.hearing.is_none()) else { return };
        let Ok(session) = session::issued(&self.core, &self.arrived, &id).await else { return };
        self.in_use = Some(session.begin(&self.core, &self.arrived.caller, None));
        let (core, to) = (Rc::clone(&self.core), Line::Here(self.line.clone()));
        let arrived = self.arrived.about(What::Listen(None));
        self.hearing = Some(tokio::task::spawn_local(async move {
            match listen::listen(&core, &arrived, None).await {
                Ok(response) => work::pass(&core.app, response, None, &to).await,
                // Many servers have nothing to say unasked.
                Err(fault) => tracing::debug!(%fault, "no standing stream for a client of HTTP with SSE"),
            }
        }));
    }
}

/// What other replicas say next, where there are some.
async fn next(held: &mut Option<Held>, app: &App) -> Vec<Vec<u8>> {
    match held {
        Some(held) => held.next(app).await,
        None => std::future::pending().await,
    }
}
