//! Calls that outlast their request (RFC 7240, `respond-async`): the answer is where to ask for the result, on any replica.
//!
//! What becomes of such a call is in the event log, as a stream of two events: that it runs, and its result. Whoever runs it
//! keeps the stream; one that nobody keeps any more was lost with its process.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use serde_json::json;
use throughline_store::{Appended, RecordKey, StreamKey};
use throughline_wire::tag::Purpose;
use throughline_wire::{jsonrpc, method};
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use super::plain::{self, Plain};
use super::sent;
use crate::app::{App, Core};
use crate::classify::{Arrived, Held};
use crate::error::Fault;
use crate::exchange::outcome;
use crate::metrics::StoreOperation;
use crate::outlet::is_alive;
use crate::reply::Detached;
use crate::sealed_log;
use crate::session::lock;

/// The header by which a client asks for this.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Longest time that a request waits for the result, whatever it prefers.
const MAX_WAIT: Duration = Duration::from_secs(90);
/// How often who runs a call shows other replicas that it does, and hears whether it was cancelled.
const BEAT: Duration = Duration::from_secs(2);
/// Seconds until it is worth to ask again.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// Whether a client wants to ask for the result later, and for how long it would wait for it now (RFC 7240, 4.1 and 4.3).
pub(super) fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    let mut wait = Duration::ZERO;
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split(',')) {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "respond-async" => found = Some(()),
            "wait" => {
                let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
                wait = Duration::from_secs(seconds).min(MAX_WAIT);
            }
            _ => {}
        }
    }
    found.map(|()| wait)
}

/// The calls that this process runs; each can be told to stop.
#[derive(Default)]
pub struct Running(Mutex<HashMap<RecordKey, Arc<Notify>>>);

/// One of them, until it is dropped.
struct Run {
    app: Arc<App>,
    key: RecordKey,
    stop: Arc<Notify>,
    _counted: Detached,
}

impl Run {
    fn enter(app: &Arc<App>) -> Result<Self, Fault> {
        let counted = Detached::enter(app).ok_or(Fault::TooManyRequests)?;
        let (key, stop) = (RecordKey(app.effects.bytes()), Arc::new(Notify::new()));
        lock(&app.running.0).insert(key, Arc::clone(&stop));
        Ok(Run { app: Arc::clone(app), key, stop, _counted: counted })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        lock(&self.app.running.0).remove(&self.key);
    }
}

fn stream(key: RecordKey) -> StreamKey {
    StreamKey { session: key, stream: *b"rest-run" }
}

/// What the log is told of a call.
enum Word {
    Runs,
    /// Status and body of the answer.
    Result(StatusCode, Bytes),
    Cancelled,
}

impl Word {
    fn seal(&self, app: &App, key: RecordKey, number: u64) -> Bytes {
        let plain = match self {
            Word::Runs => vec![b'r'],
            Word::Result(status, body) => [b"=", &status.as_u16().to_be_bytes()[..], body].concat(),
            Word::Cancelled => vec![b'c'],
        };
        sealed_log::seal(app, stream(key), number, &plain)
    }

    fn open(app: &App, key: RecordKey, number: u64, sealed: &[u8]) -> Option<Self> {
        let plain = sealed_log::open(app, stream(key), number, sealed)?;
        match plain.split_first()? {
            (b'r', _) => Some(Word::Runs),
            (b'c', _) => Some(Word::Cancelled),
            (b'=', rest) => {
                let (status, body) = rest.split_first_chunk()?;
                let status = StatusCode::from_u16(u16::from_be_bytes(*status)).ok()?;
                Some(Word::Result(status, Bytes::copy_from_slice(body)))
            }
            _ => None,
        }
    }
}

/// Writes behind the word of number `after`; None only keeps what is there. False where another has written.
async fn write(app: &App, key: RecordKey, after: u64, word: Option<Word>) -> Result<bool, Fault> {
    let (now, keep) = (app.effects.now(), sealed_log::keep(app, app.config.streams.keep, 0));
    let words = word.map(|word| word.seal(app, key, after + 1)).into_iter().collect();
    match app.store.events().append(stream(key), after, words, keep, now).await {
        Ok(Appended::Stored(_)) => Ok(true),
        Ok(Appended::Conflict(_)) => Ok(false),
        Ok(Appended::Full) => Err(Fault::TooManyRequests),
        Err(error) => {
            app.store_failed(StoreOperation::Append, &error);
            Err(Fault::StoreAway)
        }
    }
}

async fn forget(app: &App, key: RecordKey) {
    if let Err(error) = app.store.events().remove(key).await {
        app.store_failed(StoreOperation::Append, &error);
    }
}

/// Runs a call, and answers with its result if it is there in time, else with where it will be.
pub(super) async fn begin(core: &Rc<Core>, arrived: &Arrived, wait: Duration) -> Result<Plain, Fault> {
    let app = &core.app;
    let Some(held) = arrived.held() else { return Err(Fault::NoRoute) };
    let run = Run::enter(app)?;
    // Under an id of its own, so that it can be cancelled.
    let body = jsonrpc::request(&app.unique_id(), &held.method, held.raw_params());
    let own = arrived.with_message(body.into(), None)?.in_json();
    let key = run.key;
    write(app, key, 0, Some(Word::Runs)).await?;
    let (done, finished) = oneshot::channel();
    tokio::task::spawn_local({
        let core = Rc::clone(core);
        async move {
            let plain = carry(&core, &own, &run).await;
            let _ = done.send(plain);
        }
    });
    match tokio::time::timeout(wait, finished).await {
        Ok(Ok(Some(plain))) => {
            forget(app, key).await;
            Ok(plain)
        }
        Ok(_) => Err(Fault::Cancelled),
        Err(_) => Ok(runs(app, arrived, key)),
    }
}

/// The result, which is in the log as well; None where the call was cancelled.
async fn carry(core: &Rc<Core>, own: &Arrived, run: &Run) -> Option<Plain> {
    let app = &core.app;
    let errors = own.route.config.rest.tool_errors;
    let every = if app.store.is_shared() { BEAT } else { app.config.streams.keep / 4 };
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        match sent(core, own).await {
            Ok(answered) => plain::tool(answered, errors),
            Err(fault) => Plain::fault(&fault),
        }
    };
    tokio::pin!(work);
    let plain = loop {
        let stopped = tokio::select! {
            plain = &mut work => break plain,
            () = run.stop.notified() => true,
            // A store that is away says nothing of what the client wants.
            _ = beat.tick() => write(app, run.key, 1, None).await == Ok(false),
        };
        if stopped {
            cancel_upstream(core, own).await;
            forget(app, run.key).await;
            return None;
        }
    };
    let result = Word::Result(plain.status, plain.body.clone());
    match write(app, run.key, 1, Some(result)).await {
        Ok(true) => {}
        Ok(false) => forget(app, run.key).await,
        Err(fault) => {
            tracing::warn!(%fault, "the result of a call that its client will ask for was not kept")
        }
    }
    Some(plain)
}

/// Lets the server know that nobody waits any more.
async fn cancel_upstream(core: &Rc<Core>, own: &Arrived) {
    let Some(id) = own.held().and_then(Held::raw_id) else { return };
    let params = format!("{{\"requestId\":{id}}}");
    let told = jsonrpc::notification(method::CANCELLED, Some(params.as_bytes()));
    let Ok(what) = crate::classify::what(&core.app, told.into()) else { return };
    if let Ok(about) = own.beside(core.app.unique_id(), method::PING, b"{}") {
        let _ = outcome(core, &Arrived { what, ..about }).await;
    }
}

/// Where the result will be.
fn runs(app: &App, arrived: &Arrived, key: RecordKey) -> Plain {
    let value = [&arrived.route.digest[..], &key.0].concat();
    let id = app.keys.tag(Purpose::Call, &arrived.caller.principal, 0, &value);
    let name = &arrived.route.config.name;
    let before = if name.is_empty() { String::new() } else { format!("/{name}") };
    let location = format!("{}{before}/rest/calls/{id}", arrived.external_base(app));
    let mut plain = Plain::ok(&json!({ "status": "running", "location": location }));
    plain.status = StatusCode::ACCEPTED;
    plain.headers.insert(RETRY_AFTER, AGAIN);
    if let Ok(location) = HeaderValue::from_str(&location) {
        plain.headers.insert(LOCATION, location);
    }
    plain
}

/// The call that an id names; None where it is none of this caller's on this route.
fn key_of(app: &App, arrived: &Arrived, id: &str) -> Option<RecordKey> {
    let (_, value) = app.keys.untag(Purpose::Call, &arrived.caller.principal, id)?;
    let key = value.strip_prefix(&arrived.route.digest[..])?;
    Some(RecordKey(key.try_into().ok()?))
}

/// How a call stands.
enum Stands {
    Runs,
    Done(StatusCode, Bytes),
    /// Who ran it is gone.
    Lost,
}

async fn stands(app: &App, key: RecordKey) -> Result<Stands, Fault> {
    let page = app.store.events().read(stream(key), 0, usize::MAX, app.effects.now()).await;
    let page = page.map_err(|error| {
        app.store_failed(StoreOperation::Read, &error);
        Fault::StoreAway
    })?;
    let last = page.events.last().ok_or(Fault::CallUnknown)?;
    match Word::open(app, key, last.number, &last.payload) {
        Some(Word::Result(status, body)) => Ok(Stands::Done(status, body)),
        Some(Word::Cancelled) | None => Err(Fault::CallUnknown),
        Some(Word::Runs) if lock(&app.running.0).contains_key(&key) || is_alive(app, &page) => {
            Ok(Stands::Runs)
        }
        Some(Word::Runs) => Ok(Stands::Lost),
    }
}

/// The result of a call, or where it will be.
pub(super) async fn look(core: &Rc<Core>, arrived: &Arrived, id: &str) -> Result<Plain, Fault> {
    let app = &core.app;
    let key = key_of(app, arrived, id).ok_or(Fault::CallUnknown)?;
    match stands(app, key).await? {
        Stands::Runs => Ok(runs(app, arrived, key)),
        Stands::Done(status, body) => Ok(Plain { status, body, ..Plain::empty(status) }),
        Stands::Lost => Err(Fault::MayHaveExecuted),
    }
}

/// Cancels a call, wherever it runs, or forgets its result.
pub(super) async fn cancel(core: &Rc<Core>, arrived: &Arrived, id: &str) -> Result<Plain, Fault> {
    let app = &core.app;
    let key = key_of(app, arrived, id).ok_or(Fault::CallUnknown)?;
    let here = lock(&app.running.0).get(&key).cloned();
    match (stands(app, key).await?, here) {
        (Stands::Runs, Some(stop)) => stop.notify_one(),
        // Who runs it finds that another has written, and stops.
        (Stands::Runs, None) => drop(write(app, key, 1, Some(Word::Cancelled)).await?),
        (Stands::Done(..) | Stands::Lost, _) => forget(app, key).await,
    }
    Ok(Plain::empty(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_read_in_all_its_forms() {
        let read = |values: &[&'static str]| {
            let values = values.iter().map(|value| (PREFER, HeaderValue::from_static(value)));
            preferred(&values.collect()).map(|wait| wait.as_secs())
        };
        for (values, wait) in [
            (&[][..], None),
            (&["return=minimal"], None),
            (&["wait=5"], None),
            (&["respond-async"], Some(0)),
            (&["Respond-Async, wait=10"], Some(10)),
            (&["wait=\"10\"; x=y", "respond-async;a"], Some(10)),
            (&["respond-async, wait=99999"], Some(90)),
            (&["respond-async, wait=soon"], Some(0)),
        ] {
            assert_eq!(read(values), wait, "{values:?}");
        }
    }
}
