//! Questions to clients that a call waits for, and how their answers find it: here, or through the event log where the
//! client's answer came in at another replica.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use throughline_store::{Keep, Millis, RecordKey, StoreError, StreamKey};
use throughline_wire::bridge::to_modern::input::Reply;
use tokio::sync::oneshot;

use crate::app::{App, Core, first};
use crate::metrics::StoreOperation;
use crate::session::{lock, millis};

/// Questions that are open at a time, in this process.
const MAX_OPEN: usize = 10_000;
/// Pause before a store that failed is asked again for an answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Who waits for an answer, by the raw JSON of the question's id.
#[derive(Default)]
pub struct Questions(Mutex<HashMap<String, oneshot::Sender<Reply>>>);

/// An open question.
pub(super) struct Waiting {
    core: Rc<Core>,
    id: String,
    reply: oneshot::Receiver<Reply>,
}

impl Waiting {
    /// Opens one, under an id that no other has, at whatever replica. None where too many are open.
    pub(super) fn begin(core: &Rc<Core>) -> Option<Self> {
        let (tell, reply) = oneshot::channel();
        let id = core.app.unique_id();
        let mut open = lock(&core.app.questions.0);
        if open.len() >= MAX_OPEN {
            return None;
        }
        open.insert(id.clone(), tell);
        Some(Waiting { core: Rc::clone(core), id, reply })
    }

    /// Raw JSON of its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The answer, wherever it comes in.
    pub(super) async fn reply(&mut self) -> Reply {
        let (app, id) = (&self.core.app, &self.id);
        let elsewhere = async {
            loop {
                match from_log(app, id).await {
                    Ok(reply) => return reply,
                    Err(error) => app.store_failed(StoreOperation::Read, &error),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            Ok(reply) = &mut self.reply => reply,
            reply = elsewhere, if app.store.is_shared() => reply,
            else => Reply::Error(b"{}".to_vec()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.core.app.questions.0).remove(&self.id);
    }
}

/// Takes a client's answer to where it is waited for.
pub(super) async fn reply(core: &Rc<Core>, body: &[u8]) {
    let app = &core.app;
    let Some((id, reply)) = Reply::read(body) else { return };
    let waiting = lock(&app.questions.0).remove(&id);
    match waiting {
        // Whoever waited may just have gone.
        Some(waiting) => drop(waiting.send(reply)),
        None if app.store.is_shared() => to_log(app, &id, body).await,
        None => tracing::info!("an answer to a question that nobody waits for was dropped"),
    }
}

/// Where the answer to a question is kept for another replica. The id is the name: it is unique.
fn place(app: &App, id: &str) -> StreamKey {
    let digest = app.keys.digest("question", &[id.as_bytes()]);
    let mut stream = [0; 8];
    stream.copy_from_slice(&digest[16..24]);
    StreamKey { session: RecordKey(first(&digest)), stream }
}

async fn to_log(app: &App, id: &str, body: &[u8]) {
    let (key, now) = (place(app, id), app.effects.now());
    let sealed: Bytes = app.keys.seal_secret(&key.session.0, body, app.effects.bytes()).into();
    let keep = Keep {
        until: Millis(now.0.saturating_add(millis(app.config.timeouts.call))),
        events: 1,
        bytes: sealed.len() as u64,
        above: 0,
        total: app.config.streams.total as u64,
    };
    // Of two answers the first counts.
    if let Err(error) = app.store.events().append(key, 0, vec![sealed], keep, now).await {
        app.store_failed(StoreOperation::Append, &error);
    }
}

async fn from_log(app: &Arc<App>, id: &str) -> Result<Reply, StoreError> {
    let key = place(app, id);
    let mut tail = app.store.events().tail(key, 0);
    loop {
        let page = tail.next(1, app.effects.now).await?;
        let opened =
            page.events.iter().find_map(|event| app.keys.open_secret(&key.session.0, &event.payload));
        if let Some((_, reply)) = opened.and_then(|body| Reply::read(&body)) {
            return Ok(reply);
        }
    }
}
