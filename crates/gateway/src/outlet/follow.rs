//! The connection's side of an outlet.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use throughline_wire::sse;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

use super::entry::Entry;
use super::{EventId, Next, Opener, Outlet, write};
use crate::app::Core;
use crate::metrics::StoreOperation;

/// Events between the task that follows and the connection; then the task waits.
const QUEUE: usize = 4;
/// Bytes that are read from the log at a time.
const PAGE: usize = 256 * 1024;

/// Lets a connection follow an outlet from behind the event of this number on, instead of one that may do so now. What is
/// returned is its body. `primes`: the client is given an id to come back with first. One that resumes gets the id that it
/// came with: the official TypeScript client forgets it, and a connection may break again before the next event.
pub fn follow(core: &Rc<Core>, outlet: &Arc<Outlet>, after: u64, primes: bool) -> mpsc::Receiver<Bytes> {
    let (to, body) = mpsc::channel(QUEUE);
    let turn = outlet.enter(primes || after > 0);
    let mut follower = Follower { core: Rc::clone(core), outlet: Arc::clone(outlet), turn, after, to };
    tokio::task::spawn_local(async move {
        // A client may ask again and again for what follows a response, if it is told that it can.
        if primes && !follower.outlet.is_over(after) {
            let id = follower.id(after).text(&follower.core.app);
            let _ = follower.to.send(write::prime(&id)).await;
        }
        follower.run().await;
    });
    body
}

/// A connection that follows. Dropped, it has left.
struct Follower {
    core: Rc<Core>,
    outlet: Arc<Outlet>,
    turn: u64,
    after: u64,
    to: mpsc::Sender<Bytes>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.outlet.leave(self.turn);
    }
}

impl Follower {
    fn id(&self, number: u64) -> EventId {
        EventId { opener: self.outlet.opener, key: self.outlet.key, number }
    }

    async fn run(&mut self) {
        let outlet = Arc::clone(&self.outlet);
        let mut stop = self.core.app.stop_signal();
        let mut heartbeat = heartbeat(&self.core);
        loop {
            // First the ear, then the look.
            let news = outlet.news.notified();
            match outlet.next(self.turn, self.after) {
                Next::Send(number, bytes) => {
                    if !self.send(number, bytes).await {
                        return;
                    }
                    heartbeat.reset();
                }
                Next::Read => {
                    if !self.read().await {
                        return;
                    }
                }
                Next::End => return self.leave().await,
                Next::Wait => tokio::select! {
                    () = news => {}
                    () = self.to.closed() => return,
                    _ = heartbeat.tick() => {
                        // A full queue shows that the stream is alive.
                        let _ = self.to.try_send(Bytes::from_static(sse::HEARTBEAT));
                    }
                    // A call may end before the gateway does; a standing stream would not.
                    _ = stop.wait_for(|stop| *stop), if self.outlet.opener == Opener::Listen => {
                        return self.leave().await;
                    }
                },
            }
        }
    }

    /// Tells the client of a standing stream to come back, if it ends because the gateway does: whichever hears of that
    /// first, this or who writes to it.
    async fn leave(&self) {
        if self.outlet.opener == Opener::Listen && self.core.app.is_stopping() {
            // An error only says that the client has gone first.
            let _ = self.to.send(write::retry()).await;
        }
    }

    /// False when the connection is gone.
    async fn send(&mut self, number: u64, bytes: Bytes) -> bool {
        let length = bytes.len();
        if length > 0 && self.to.send(bytes).await.is_err() {
            return false;
        }
        self.after = number;
        self.outlet.took(number, length);
        true
    }

    /// Sends what the log has. False when the connection is gone, or has to come back for it later.
    async fn read(&mut self) -> bool {
        let core = Rc::clone(&self.core);
        let app = &core.app;
        let page = app.store.events().read(self.outlet.key, self.after, PAGE, app.effects.now()).await;
        let events = match page {
            Ok(page) => page.events,
            Err(error) => {
                app.store_failed(StoreOperation::Read, &error);
                return false;
            }
        };
        let begins =
            events.first().map_or_else(|| self.outlet.after_gap(self.after), |event| event.number - 1);
        if begins > self.after {
            let session = app.log_id(&self.outlet.key.session.0);
            let missing = begins - self.after;
            tracing::warn!(session, missing, "a client came back for events that are gone from the log");
            self.after = begins;
        }
        for event in events {
            let frame = match Entry::open(app, &self.id(event.number), &event.payload) {
                Some(entry) => entry.frame,
                None => {
                    tracing::warn!("an event in the log cannot be opened; its key is gone");
                    Bytes::new()
                }
            };
            if !self.send(event.number, frame).await {
                return false;
            }
        }
        true
    }
}

fn heartbeat(core: &Core) -> Interval {
    let every = core.app.config.streams.heartbeat;
    tokio::time::interval_at(Instant::now() + every, every)
}
