//! Streams that another replica writes to: they are read from the log, for as long as that one shows that it is alive.

use std::rc::Rc;

use bytes::Bytes;
use throughline_store::{Excerpt, StreamKey};
use throughline_wire::sse;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::entry::Entry;
use super::{EventId, GONE, Opener, write};
use crate::app::{App, Core};
use crate::metrics::StoreOperation;
use crate::session::millis;

/// Events between the task that reads and the connection; then the task waits.
const QUEUE: usize = 4;
/// Bytes that are read from the log at a time.
const PAGE: usize = 256 * 1024;

/// Whether another replica writes to the stream that this is of.
pub fn is_alive(app: &App, of: &Excerpt) -> bool {
    // Each time it says so, it keeps the stream for the same time from then on.
    let said = of.until.map(|until| until.0.saturating_sub(millis(app.config.streams.keep)));
    app.store.is_shared() && said.is_some_and(|said| said.saturating_add(millis(GONE)) > app.effects.now().0)
}

/// Lets a connection follow a stream that another replica writes to. Its body ends when that replica is gone; then the
/// client comes back, and the stream is taken over. `primes`: the client is given the id that it came with first.
pub fn watch(core: &Rc<Core>, id: EventId, primes: bool) -> mpsc::Receiver<Bytes> {
    let (to, body) = mpsc::channel(QUEUE);
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        if primes {
            let _ = to.send(write::prime(&id.text(&core.app))).await;
        }
        if let Err(error) = read(&core, id, &to).await {
            core.app.store_failed(StoreOperation::Read, &error);
        }
        let _ = to.send(write::retry()).await;
    });
    body
}

async fn read(
    core: &Rc<Core>,
    mut id: EventId,
    to: &mpsc::Sender<Bytes>,
) -> Result<(), throughline_store::StoreError> {
    let app = &core.app;
    let mut tail = app.store.events().tail(id.key, id.number);
    let mut stop = app.stop_signal();
    let every = app.config.streams.heartbeat;
    let mut heartbeat = tokio::time::interval_at(Instant::now() + every, every);
    let mut look = tokio::time::interval(GONE / 3);
    loop {
        let excerpt = tokio::select! {
            excerpt = tail.next(PAGE, app.effects.now) => excerpt?,
            () = to.closed() => return Ok(()),
            _ = heartbeat.tick() => {
                let _ = to.try_send(Bytes::from_static(sse::HEARTBEAT));
                continue;
            }
            _ = look.tick() => {
                if is_alive(app, &state(app, id.key).await?) {
                    continue;
                }
                return Ok(());
            }
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        for event in excerpt.events {
            id.number = event.number;
            let Some(entry) = Entry::open(app, &id, &event.payload) else { continue };
            if !entry.frame.is_empty() && to.send(entry.frame).await.is_err() {
                return Ok(());
            }
            if entry.response && id.opener == Opener::Call && event.number >= excerpt.last {
                return Ok(());
            }
        }
    }
}

/// How a stream stands in the log.
pub(super) async fn state(app: &App, key: StreamKey) -> Result<Excerpt, throughline_store::StoreError> {
    app.store.events().read(key, u64::MAX, 1, app.effects.now()).await
}
