//! Streams of a client at another replica than the one that reads the upstream's: handed over through the store, written
//! there, and read here from the log.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use throughline_store::{StoreError, StreamKey};
use tokio::sync::mpsc;

use super::Handed;
use crate::app::Core;
use crate::error::Fault;
use crate::inbox::{Held, Inbox};
use crate::metrics::StoreOperation;
use crate::outlet::{EventId, Opener, Outlet, Writer, primes, watch};
use crate::reply::{self, ReplyBody};
use crate::session::Session;

/// How long the bridge waits until its stream is written to.
const TAKEN: Duration = Duration::from_secs(3);

/// Where streams are handed over to whoever reads the upstream's.
fn inbox(session: &Session) -> Inbox {
    Inbox::new(session.key, *b"standing")
}

fn away(core: &Core) -> impl FnOnce(StoreError) -> Fault {
    |error| {
        core.app.store_failed(StoreOperation::Append, &error);
        Fault::StoreAway
    }
}

/// Whether another replica reads the upstream's stream of this session. While the store is away, none is known to.
pub(super) async fn is_read_elsewhere(core: &Core, session: &Session) -> bool {
    inbox(session).is_held(&core.app).await.map_err(away(core)).unwrap_or(false)
}

/// Makes known that this replica reads it. None where there are no others.
pub(super) async fn hold(core: &Core, session: &Session) -> Option<Held> {
    inbox(session).hold(&core.app).await
}

/// Makes known that it does not any more.
pub(super) async fn let_go(core: &Core, session: &Session) {
    let _ = inbox(session).let_go(&core.app).await.map_err(away(core));
}

/// Hands a client's stream over to the replica that reads the upstream's, and follows it from behind this event on.
pub(super) async fn lend(
    core: &Rc<Core>,
    session: &Arc<Session>,
    client: &Handed,
    after: u64,
) -> Result<Response<ReplyBody>, Fault> {
    let (key, last) = (client.outlet.key, client.outlet.last());
    // That there is such a stream, until the other replica says so itself.
    if let Ok(mut writer) = Writer::new(core, Arc::clone(&client.outlet), 0) {
        writer.announce().await;
    }
    let told = [&[u8::from(client.takes_over)], &key.stream[..], &last.to_be_bytes()].concat();
    if !inbox(session).write(&core.app, &told).await.map_err(away(core))? {
        return Err(Fault::StoreAway);
    }
    if session.kind.is_bridged() {
        let mut tail = core.app.store.events().tail(key, last);
        let _ = tokio::time::timeout(TAKEN, tail.next(1, core.app.effects.now)).await;
    }
    let id = EventId { opener: Opener::Listen, key, number: after };
    Ok(reply::channel(&core.app, watch(core, id, primes(session))))
}

/// Takes what is handed over, and gives it to the task that reads the upstream's stream.
pub(super) async fn take(core: Rc<Core>, session: Arc<Session>, mut held: Held, to: mpsc::Sender<Handed>) {
    loop {
        for told in held.next(&core.app).await {
            let Some(handed) = read(&session, &told) else { continue };
            if to.send(handed).await.is_err() {
                return;
            }
        }
    }
}

fn read(session: &Session, told: &[u8]) -> Option<Handed> {
    let (takes_over, rest) = told.split_first()?;
    let (stream, last) = rest.split_first_chunk()?;
    let key = StreamKey { session: session.key, stream: *stream };
    let outlet = Outlet::at_another(key, u64::from_be_bytes(last.try_into().ok()?));
    Some(Handed { outlet, takes_over: *takes_over == 1 })
}
