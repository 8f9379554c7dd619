//! Records in Redis, shared by all gateways that name it: one server, a master that Sentinels name, or a cluster.
//!
//! | Key or channel | What it is |
//! |---|---|
//! | `PREFIX:s:{KEY}` | a record (see `frame`); the key in hexadecimal is the hash tag |
//! | `PREFIX:e:{KEY}...` | the event log (see `events`) |
//! | `PREFIX:turn:WHAT` | whose turn it is to do WHAT |
//! | `PREFIX:probe`, `PREFIX:probe:{KEY}` | written to see whether writes work; expires |
//! | `PREFIX:changed` | channel of signals: key and version |
//! | `PREFIX:beat:ID` | channel of one gateway's own beats |
//!
//! **Connections** live on a thread of the store's own, whose runtime drives them, dials and probes. A command
//! goes from the caller through the library's bounded queue to that thread, and its time-out runs on the caller's
//! runtime; so callers may be on any tokio runtime, and a hung Redis never holds more than [`ROOM`] of them.
//!
//! **Writes** are scripts: each compares, writes and announces in one round trip, and Redis runs one at a time.
//! Redis answers them before its disk or its replicas have them; how durable a record is depends on how Redis is
//! set up, and after a failover the newest may be gone. Versions grow even then, since they follow the clock.
//!
//! Redis removes what has expired by itself; `expires` in the record still decides, against the caller's clock.

mod circuit;
mod dial;
mod entra;
pub(crate) mod events;
mod eviction;
mod failure;
mod frame;
mod place;
mod scan;
mod script;
mod sentinel;
mod signals;
mod written;

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::future::try_join_all;
use redis::{RedisResult, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

pub use self::place::{Place, PlaceError};

use self::circuit::{Access, Circuit};
use self::dial::{Dialer, Link};
use self::failure::Failure;
use self::frame::{Frame, hex};
use self::place::Kind;
use self::script::Script;
use self::signals::Signals;
use self::written::Written;
use crate::record::{Millis, Record, RecordKey, Stored, Version};
use crate::watch::Watch;
use crate::{Put, Stats, StoreError};

/// Commands that may be under way; more wait for room, no longer than a command may take.
const ROOM: u32 = 1024;
/// Touches that are sent at a time.
const TOUCHES: usize = 128;
/// How long the start waits for the first connections, and the end for what is under way.
const START: Duration = Duration::from_millis(2500);
const END: Duration = Duration::from_secs(2);

/// The backend in Redis. Clones share it.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    /// Its thread stops when this is used, or gone with the last clone.
    stop: Arc<watch::Sender<()>>,
    /// What the thread has come to; closed when it has ended.
    progress: watch::Receiver<Progress>,
}

/// What the callers and the store's thread have in common.
struct Shared {
    place: Arc<Place>,
    circuit: Circuit,
    signals: Signals,
    room: Semaphore,
    writes: AtomicU64,
    calls: AtomicU64,
    written: Written,
}

/// Whether the first attempts have been made.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    dialed: bool,
    subscribed: bool,
}

impl Redis {
    pub(crate) async fn open(place: &Place) -> Result<Redis, StoreError> {
        let place = Arc::new(place.clone());
        let dialer = Dialer::new(Arc::clone(&place))?;
        let shared = Arc::new(Shared {
            circuit: Circuit::new(Arc::clone(&place)),
            signals: Signals::new(&place),
            room: Semaphore::new(ROOM as usize),
            writes: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            written: Written::default(),
            place,
        });
        let (stop, stopped) = watch::channel(());
        let (reached, mut progress) = watch::channel(Progress::default());
        let unusable = |error: std::io::Error| StoreError::Unusable {
            place: Arc::clone(shared.circuit.name()),
            reason: format!("no thread for it: {error}").into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let work = run(Arc::clone(&shared), dialer, stopped, reached);
        std::thread::Builder::new()
            .name("throughline-redis".to_owned())
            .spawn(move || {
                runtime.block_on(work);
                // A name that is being looked up must not hold the end.
                runtime.shutdown_background();
            })
            .map_err(unusable)?;
        // If they take longer, the store begins without them.
        let first = progress.wait_for(|progress| progress.dialed && progress.subscribed);
        let _ = timeout(START, first).await.map(drop);
        Ok(Redis { shared, stop: Arc::new(stop), progress })
    }

    pub(crate) async fn get(&self, key: RecordKey, now: Millis) -> Result<Option<Stored>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(self.record_name(&key.to_string()));
        let send = async |link: &Link| link.send(&command).await;
        match self.send(Access::Read, Some(key), send).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(intact(key, &bytes).filter(|stored| stored.lives(now))),
            _ => Err(self.unexpected("GET")),
        }
    }

    pub(crate) async fn put_if(
        &self,
        key: RecordKey,
        expected: Option<Version>,
        record: Record,
        now: Millis,
    ) -> Result<Put, StoreError> {
        let json = serde_json::to_vec(&record).map_err(|_| self.unexpected("JSON"))?;
        let (now, expires) = (frame::time(now), frame::time(record.expires));
        let expected_text = expected.map(|version| hex(version.0)).unwrap_or_default();
        let mut unreadable = String::new();
        loop {
            let [now, expected_text, state, expires] =
                [now.as_str(), &expected_text, frame::state(&record), &expires].map(str::as_bytes);
            let arguments = [now, expected_text, state, expires, &json, unreadable.as_bytes()];
            let put = match self.change(&script::PUT, key, &arguments).await? {
                Value::BulkString(version) => {
                    Put::Stored(frame::version(&version).ok_or_else(|| self.unexpected("a put"))?)
                }
                Value::Nil => Put::Conflict(None),
                Value::Array(standing) => match standing.as_slice() {
                    [Value::BulkString(bytes)] => match frame::decode(key, bytes) {
                        Frame::Intact(stored) => Put::Conflict(Some(stored)),
                        // Nothing stands there, so it is replaced; unless it has been, meanwhile.
                        Frame::Damaged(version) if expected.is_none() => {
                            unreadable = hex(version.0);
                            continue;
                        }
                        Frame::Damaged(_) | Frame::Unreadable => Put::Conflict(None),
                    },
                    _ => return Err(self.unexpected("a put")),
                },
                _ => return Err(self.unexpected("a put")),
            };
            self.shared.writes.fetch_add(1, Ordering::Relaxed);
            return Ok(put);
        }
    }

    pub(crate) async fn delete(
        &self,
        key: RecordKey,
        tombstone: Record,
        now: Millis,
    ) -> Result<Option<Stored>, StoreError> {
        let (now, expires) = (frame::time(now), frame::time(tombstone.expires));
        let (route, principal) = (HEXLOWER.encode(&tombstone.route), HEXLOWER.encode(&tombstone.principal));
        let arguments = [&now, &expires, &route, &principal].map(|text| text.as_bytes());
        let stood = match self.change(&script::DELETE, key, &arguments).await? {
            Value::Nil => None,
            Value::BulkString(bytes) => intact(key, &bytes),
            _ => return Err(self.unexpected("a delete")),
        };
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        Ok(stood)
    }

    pub(crate) async fn touch_many(&self, touches: &[(RecordKey, Millis)]) -> Result<(), StoreError> {
        for some in touches.chunks(TOUCHES) {
            try_join_all(some.iter().map(|(key, at)| self.touch(*key, *at))).await?;
        }
        Ok(())
    }

    async fn touch(&self, key: RecordKey, at: Millis) -> Result<(), StoreError> {
        let (name, at) = (self.record_name(&key.to_string()), frame::time(at));
        let run = async |link: &Link| script::TOUCH.run(link, &name, &[at.as_bytes()], || self.count()).await;
        self.send_counted(Access::Write, Some(key), run).await.map(drop)
    }

    pub(crate) async fn turn(&self, what: &str, lasts: Duration) -> Result<bool, StoreError> {
        let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2);
        let mut command = redis::cmd("SET");
        command.arg(self.shared.place.key(&format!("turn:{what}"))).arg(1).arg("NX").arg("PX").arg(millis);
        match self.send(Access::Write, None, async |link: &Link| link.send(&command).await).await? {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(self.unexpected("a turn")),
        }
    }

    pub(crate) fn sweep(&self) -> Result<usize, StoreError> {
        match self.shared.circuit.line(Access::Read) {
            Err(StoreError::Closed) => Err(StoreError::Closed),
            _ => Ok(0),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        self.shared.signals.watch()
    }

    pub(crate) fn epoch(&self) -> Option<u64> {
        self.shared.signals.epoch()
    }

    pub(crate) fn trouble(&self) -> Option<Arc<str>> {
        let silent = || {
            let silent = self.epoch().is_none();
            silent.then(|| format!("{}: signals of changes do not come through", self.shared.circuit.name()))
        };
        self.shared.circuit.trouble().or_else(silent).map(Arc::from)
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        // Whoever has room has a line; whoever waits for it finds none afterwards.
        let under_way = timeout(END, self.shared.room.acquire_many(ROOM)).await;
        let first = self.shared.circuit.shut();
        drop(under_way);
        let _ = self.stop.send(());
        let mut progress = self.progress.clone();
        let ended = async { while progress.changed().await.is_ok() {} };
        let _ = timeout(END, ended).await;
        if first { Ok(()) } else { Err(StoreError::Closed) }
    }

    pub(crate) fn describe(&self) -> String {
        self.shared.place.to_string()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            writes: self.shared.writes.load(Ordering::Relaxed),
            commits: 0,
            calls: self.shared.calls.load(Ordering::Relaxed),
        }
    }

    /// The name of a record's key.
    fn record_name(&self, key: &str) -> String {
        format!("{}{key}}}", self.record_prefix())
    }

    fn is_cluster(&self) -> bool {
        matches!(self.shared.place.kind, Kind::Cluster(_))
    }

    fn record_prefix(&self) -> String {
        self.shared.place.key("s:{")
    }

    fn unexpected(&self, to: &str) -> StoreError {
        Failure::Unexpected(format!("the answer to {to} is not understood")).at(self.shared.circuit.name())
    }

    fn count(&self) {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a script that changes the record of `key` and announces it.
    async fn change(
        &self,
        script: &Script,
        key: RecordKey,
        arguments: &[&[u8]],
    ) -> Result<Value, StoreError> {
        let (channel, hex) = (self.shared.place.channel(), key.to_string());
        let all: Vec<_> =
            [channel.as_bytes(), hex.as_bytes()].into_iter().chain(arguments.iter().copied()).collect();
        let name = self.record_name(&hex);
        let run = async |link: &Link| script.run(link, &name, &all, || self.count()).await;
        self.send_counted(Access::Write, Some(key), run).await
    }

    /// Sends one command.
    async fn send<T>(
        &self,
        access: Access,
        key: Option<RecordKey>,
        send: impl AsyncFnOnce(&Link) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let counted = async |link: &Link| {
            self.count();
            send(link).await
        };
        self.send_counted(access, key, counted).await
    }

    /// Has `send` send what it counts itself, if the circuit is closed and there is room.
    async fn send_counted<T>(
        &self,
        access: Access,
        key: Option<RecordKey>,
        send: impl AsyncFnOnce(&Link) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let Shared { circuit, room, place, .. } = &*self.shared;
        circuit.line(access)?;
        let _room = match timeout(place.timeout, room.acquire()).await {
            Ok(room) => room.map_err(|_| StoreError::Closed)?,
            Err(_) => return Err(Failure::slow("room for a command", place.timeout).at(circuit.name())),
        };
        // Again: it may have opened meanwhile.
        let line = circuit.line(access)?;
        circuit.within(place.timeout, &line, key, send(&line.link)).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.place)
    }
}

/// What the store's thread does until it is told to stop.
async fn run(
    shared: Arc<Shared>,
    dialer: Dialer,
    mut stopped: watch::Receiver<()>,
    reached: watch::Sender<Progress>,
) {
    let Shared { place, circuit, signals, .. } = &*shared;
    let dialed = || {
        reached.send_if_modified(|progress| !std::mem::replace(&mut progress.dialed, true));
    };
    let subscribed = || {
        reached.send_if_modified(|progress| !std::mem::replace(&mut progress.subscribed, true));
    };
    tokio::select! {
        // Also when the sender has gone.
        _ = stopped.changed() => {}
        () = circuit::keep(circuit, &dialer, dialed) => {}
        () = signals::listen(signals, place, &dialer, subscribed) => {}
        () = signals::beat(signals, place, circuit) => {}
        () = eviction::warn(circuit) => {}
    }
}

/// The record in `bytes`, if it can be read.
fn intact(key: RecordKey, bytes: &[u8]) -> Option<Stored> {
    match frame::decode(key, bytes) {
        Frame::Intact(stored) => Some(stored),
        Frame::Damaged(_) | Frame::Unreadable => None,
    }
}

/// A number that differs between processes; no secret.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// From half of `wait` to all of it, so that gateways do not come back all at once.
fn jitter(wait: Duration) -> Duration {
    wait / 2 + wait.mul_f64((random() % 1024) as f64 / 2048.0)
}
