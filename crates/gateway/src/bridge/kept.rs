//! What those who go on with a call, at whichever replica, have to know of each other: in the event log, which is read in
//! the same order everywhere.

use bytes::Bytes;
use throughline_store::{Appended, Keep, StreamKey};

use crate::app::{App, Core, first};
use crate::error::Fault;
use crate::metrics::StoreOperation;
use crate::sealed_log;
use crate::session::Session;

/// How often two who write at a time try again.
const TURNS: usize = 8;
/// Bytes that are read at a time.
const PAGE: usize = 256 * 1024;
/// Longest question that is kept, in bytes; so many are open that they fit into a stream of the log.
const MAX_QUESTION: usize = 256 * 1024;

/// What became of a mark: an answer to a question, or who gives it.
pub(super) enum Claim {
    /// It is the first; it is to be sent.
    Ours,
    /// It has been given before.
    Same,
    /// Another has.
    Other,
}

/// Puts a mark where others may put theirs.
pub(super) async fn claim(core: &Core, key: StreamKey, mark: [u8; 32]) -> Claim {
    let app = &core.app;
    let (log, now) = (app.store.events(), app.effects.now());
    match log.append(key, 0, vec![Bytes::copy_from_slice(&mark)], keep(app, 0), now).await {
        Ok(Appended::Conflict(_)) => match log.read(key, 0, mark.len(), now).await {
            Ok(page) if page.events.iter().any(|event| event.payload[..] == mark) => Claim::Same,
            _ => Claim::Other,
        },
        // Without the log the call goes on, as far as it can.
        Ok(Appended::Stored(_) | Appended::Full) => Claim::Ours,
        Err(error) => {
            app.store_failed(StoreOperation::Append, &error);
            Claim::Ours
        }
    }
}

/// Questions of one call that stand in no stream of its own, in the order in which they came.
#[derive(Clone, Copy)]
pub(super) struct Shelf(StreamKey);

impl Shelf {
    /// Of the call with this id toward the server, raw JSON.
    pub(super) fn of(core: &Core, session: &Session, call: &str) -> Self {
        let stream = first(&core.app.keys.digest("asked aside", &[call.as_bytes()]));
        Shelf(StreamKey { session: session.key, stream })
    }

    /// Puts a question there, behind the one of the number `after`; what is above the number `open` stays. Its number;
    /// None where there is no room.
    pub(super) async fn put(self, core: &Core, mut after: u64, open: u64, question: &[u8]) -> Option<u64> {
        let app = &core.app;
        if question.len() > MAX_QUESTION {
            return None;
        }
        let log = app.store.events();
        for _ in 0..TURNS {
            let sealed = sealed_log::seal(app, self.0, after + 1, question);
            match log.append(self.0, after, vec![sealed], keep(app, open), app.effects.now()).await {
                Ok(Appended::Stored(number)) => return Some(number),
                Ok(Appended::Conflict(last)) => after = last,
                Ok(Appended::Full) => return None,
                Err(error) => {
                    app.store_failed(StoreOperation::Append, &error);
                    return None;
                }
            }
        }
        None
    }

    /// The questions behind the one of this number, with their own.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn behind(self, core: &Core, mut after: u64) -> Result<Vec<(u64, Vec<u8>)>, Fault> {
        let app = &core.app;
        let mut questions = Vec::new();
        loop {
            let page = app.store.events().read(self.0, after, PAGE, app.effects.now()).await;
            let page = page.map_err(|error| {
                app.store_failed(StoreOperation::Read, &error);
                Fault::StoreAway
            })?;
            let Some(last) = page.events.last() else { return Ok(questions) };
            after = last.number;
            questions.extend(page.events.iter().filter_map(|event| {
                let question = sealed_log::open(app, self.0, event.number, &event.payload)?;
                Some((event.number, question))
            }));
        }
    }
}

/// For as long as a call may last.
fn keep(app: &App, above: u64) -> Keep {
    let lasts = app.config.timeouts.call.max(app.config.streams.keep);
    sealed_log::keep(app, lasts, above)
}
