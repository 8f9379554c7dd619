//! A stream toward a client, which outlives the connections that it is read on: numbered events, handed to the one
//! connection that follows it now, and kept in the event log for the next (2025-11-25, Transports, "Resumability and
//! Redelivery").
//!
//! One task writes to it ([`Writer`]): the one that reads a call's answer ([`answer`]), or the one that reads the
//! session's standing stream ([`listen`](crate::listen)). [`follow`] is the connection's side.

pub mod answer;
mod elsewhere;
mod entry;
mod follow;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use throughline_store::{RecordKey, StreamKey};
use throughline_wire::tag::Purpose;
use throughline_wire::version::ProtocolVersion;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

pub use elsewhere::{is_alive, watch};
pub use follow::follow;
pub use write::{Say, Writer};

use crate::app::App;
use crate::session::{Session, lock};

/// Events and bytes that wait in memory for the connection that follows; what is more, it reads from the log.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 256 * 1024;

/// How often whoever writes to a stream shows other replicas that it does.
const BEAT: Duration = Duration::from_secs(2);
/// After how long without that it counts as gone.
pub const GONE: Duration = Duration::from_secs(6);

/// What opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// A request, whose answer it carries.
    Call,
    /// A GET.
    Listen,
}

/// An event id as the client has it: which event of which of its session's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// What opened the stream.
    pub opener: Opener,
    /// The stream.
    pub key: StreamKey,
    /// The event; 0 before the first.
    pub number: u64,
}

impl EventId {
    /// Generation of these tags: they hold over bindings.
    const ANY: u32 = 0;

    /// For the client.
    pub fn text(&self, app: &App) -> String {
        let opener = match self.opener {
            Opener::Call => b'c',
            Opener::Listen => b'l',
        };
        let number = self.number.to_be_bytes();
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let value = [&[opener], self.key.stream.as_slice(), &number[zeros..]].concat();
        app.keys.tag(Purpose::Event, &self.key.session.0, Self::ANY, &value)
    }

    /// As the client sends it back; None for anything else than an id of this session's.
    pub fn parse(app: &App, session: RecordKey, text: &str) -> Option<Self> {
        let (_, value) = app.keys.untag(Purpose::Event, &session.0, text)?;
        let (opener, rest) = value.split_first()?;
        let (stream, number) = rest.split_first_chunk()?;
        let opener = match opener {
            b'c' => Opener::Call,
            b'l' => Opener::Listen,
            _ => return None,
        };
        let mut whole = [0; 8];
        whole.get_mut(8_usize.checked_sub(number.len())?..)?.copy_from_slice(number);
        let key = StreamKey { session, stream: *stream };
        Some(EventId { opener, key, number: u64::from_be_bytes(whole) })
    }
}

/// Whether the session's client can be given an event without data, to come back from. Older ones take it for a message.
pub fn primes(session: &Session) -> bool {
    // The bridge itself comes back for what it reads.
    session.kind.is_bridged()
        || session.version.is_some_and(|version| version >= ProtocolVersion::V2025_11_25)
}

/// A stream toward a client.
pub struct Outlet {
    /// Its name in the log.
    pub key: StreamKey,
    /// What opened it.
    pub opener: Opener,
    /// Raw JSON of the id of the request that did.
    pub request: Option<Box<str>>,
    state: Mutex<State>,
    /// Wakes the connection that follows: there is more, or it is over.
    news: Notify,
    /// Wakes the task that writes: something was taken, somebody came or left, or it shall end.
    room: Notify,
}

#[derive(Default)]
struct State {
    /// Number of the last event.
    last: u64,
    /// Number of the last event that was handed to a connection.
    taken: u64,
    /// Bytes of the events above that.
    untaken: usize,
    /// Events for the connection that follows, in their order; gaps are in the log.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Which connection follows.
    follower: Option<u64>,
    /// Counted up with each that comes, here or at another replica.
    turns: u64,
    /// Whether the client has an id to come back with.
    known: bool,
    /// Since when nobody follows.
    left: Option<Instant>,
    /// Until when a connection of another replica counts as following.
    elsewhere: Option<Instant>,
    cancelled: bool,
    ended: bool,
}

struct Waiting {
    number: u64,
    bytes: Bytes,
}

/// What a connection that follows does next.
enum Next {
    /// Sends this event.
    Send(u64, Bytes),
    /// Reads the log: it is behind.
    Read,
    /// Waits.
    Wait,
    /// Ends: so has the stream, or another connection follows.
    End,
}

/// How a stream stands for whoever writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A connection follows it.
    Now,
    /// None does since then, but its client can come back.
    Until(Instant),
    /// Its client is gone, and cannot come back.
    Never,
}

impl Outlet {
    /// A stream whose last event so far is `last`.
    pub fn new(key: StreamKey, opener: Opener, request: Option<&str>, last: u64) -> Arc<Self> {
        let state = State { last, taken: last, known: last > 0, ..State::default() };
        Arc::new(Outlet {
            key,
            opener,
            request: request.map(Into::into),
            state: Mutex::new(state),
            news: Notify::new(),
            room: Notify::new(),
        })
    }

    /// A name for a stream of this session.
    pub fn fresh_key(app: &App, session: &Session) -> StreamKey {
        StreamKey { session: session.key, stream: app.effects.bytes() }
    }

    /// How it stands.
    pub fn followed(&self) -> Followed {
        let mut state = lock(&self.state);
        let now = Instant::now();
        if state.elsewhere.take_if(|until| *until <= now).is_some() && state.follower.is_none() {
            state.left = Some(now);
        }
        match (state.follower, state.known, state.left) {
            (Some(_), ..) => Followed::Now,
            _ if state.elsewhere.is_some() => Followed::Now,
            (None, true, Some(left)) => Followed::Until(left),
            (None, ..) => Followed::Never,
        }
    }

    /// Counts those who have come to follow it: the same as before, nobody has come since.
    pub fn turns(&self) -> u64 {
        lock(&self.state).turns
    }

    /// Number of its last event.
    pub fn last(&self) -> u64 {
        lock(&self.state).last
    }

    /// Number of the last event that was handed to a connection.
    fn taken(&self) -> u64 {
        lock(&self.state).taken
    }

    /// Of a stream whose client is at another replica, which has told it how to come back.
    pub fn at_another(key: StreamKey, last: u64) -> Arc<Self> {
        let outlet = Self::new(key, Opener::Listen, None, last);
        {
            let mut state = lock(&outlet.state);
            state.known = true;
            state.elsewhere = Some(Instant::now() + GONE);
        }
        outlet
    }

    /// Notes that a connection of another replica follows, and what it has taken.
    fn followed_elsewhere(&self, taken: u64) {
        {
            let mut state = lock(&self.state);
            state.turns += u64::from(state.elsewhere.is_none());
            state.elsewhere = Some(Instant::now() + GONE);
            if taken >= state.last {
                state.untaken = 0;
            } else if taken > state.taken {
                // How long the rest is is not known here: no more than what it was, shared out.
                let share = (state.last - taken) * state.untaken as u64 / (state.last - state.taken).max(1);
                state.untaken = usize::try_from(share).unwrap_or(usize::MAX);
            }
            state.taken = state.taken.max(taken.min(state.last));
            let taken = state.taken;
            state.forget(taken);
        }
        self.room.notify_waiters();
    }

    /// Asks whoever writes to it to stop: the client has cancelled its request.
    pub fn cancel(&self) {
        lock(&self.state).cancelled = true;
        self.room.notify_waiters();
    }

    /// Whether the client has cancelled its request.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Ready when something was taken, when a connection came or left, or when the client has cancelled. Made before the
    /// look at what is waited for, it misses nothing.
    pub fn changed(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Nothing more will come.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.news.notify_waiters();
    }

    /// Whether nothing follows the event of this number, nor will.
    fn is_over(&self, number: u64) -> bool {
        let state = lock(&self.state);
        state.ended && number >= state.last
    }

    /// Lets a connection follow, instead of one that may do so now. `knows`: its client has an id to come back with.
    fn enter(&self, knows: bool) -> u64 {
        let turn = {
            let mut state = lock(&self.state);
            state.turns += 1;
            state.known |= knows;
            state.left = None;
            state.follower = Some(state.turns);
            state.turns
        };
        self.news.notify_waiters();
        self.room.notify_waiters();
        turn
    }

    /// The connection of this turn is gone.
    fn leave(&self, turn: u64) {
        {
            let mut state = lock(&self.state);
            if state.follower != Some(turn) {
                return;
            }
            state.follower = None;
            state.left = Some(Instant::now());
        }
        self.room.notify_waiters();
    }

    fn next(&self, turn: u64, after: u64) -> Next {
        let mut state = lock(&self.state);
        if state.follower != Some(turn) {
            return Next::End;
        }
        state.forget(after);
        match state.waiting.front() {
            Some(next) if next.number == after + 1 => {
                let next = Next::Send(next.number, next.bytes.clone());
                state.forget(after + 1);
                next
            }
            _ if after < state.last => Next::Read,
            _ if state.ended => Next::End,
            _ => Next::Wait,
        }
    }

    /// Notes that an event went to the connection of this turn.
    fn took(&self, number: u64, length: usize) {
        {
            let mut state = lock(&self.state);
            state.known = true;
            if number > state.taken {
                state.taken = number;
                state.untaken = if number >= state.last { 0 } else { state.untaken.saturating_sub(length) };
            }
        }
        self.room.notify_waiters();
    }

    /// The first event above `after` that is still to be had, where the log has none in between.
    fn after_gap(&self, after: u64) -> u64 {
        let state = lock(&self.state);
        state.waiting.front().map_or(state.last, |next| next.number.saturating_sub(1)).max(after)
    }

    /// Takes in an event that is in the log, or could not be put there.
    fn push(&self, number: u64, bytes: Bytes, logged: bool) {
        {
            let mut state = lock(&self.state);
            state.last = number;
            state.untaken += bytes.len();
            let fits = state.waiting.len() < WAITING && state.waiting_bytes + bytes.len() <= WAITING_BYTES;
            if !logged || (fits && state.follower.is_some()) {
                state.waiting_bytes += bytes.len();
                state.waiting.push_back(Waiting { number, bytes });
            }
        }
        self.news.notify_waiters();
    }

    /// Whether what waits for the client leaves room for more, so that nothing that waits is trimmed.
    fn has_room(&self, app: &App) -> bool {
        let limits = &app.config.streams;
        let state = lock(&self.state);
        let waits = state.last.saturating_sub(state.taken);
        waits < (limits.events / 2).max(1)
            && state.untaken < limits.bytes / 2
            && state.waiting.len() <= WAITING
            && state.waiting_bytes <= WAITING_BYTES
    }
}

impl State {
    /// Drops what waits up to this number.
    fn forget(&mut self, number: u64) {
        while let Some(next) = self.waiting.front()
            && next.number <= number
        {
            self.waiting_bytes -= next.bytes.len();
            self.waiting.pop_front();
        }
    }
}

/// The outlets that tasks of this process write to.
#[derive(Default)]
pub struct Outlets(Mutex<BTreeMap<StreamKey, Arc<Outlet>>>);

impl Outlets {
    /// The outlet of this name.
    pub fn get(&self, key: StreamKey) -> Option<Arc<Outlet>> {
        lock(&self.0).get(&key).cloned()
    }

    /// Enters an outlet, unless there is one of its name: then that one is returned.
    fn enter(&self, outlet: &Arc<Outlet>) -> Result<(), Arc<Outlet>> {
        let mut outlets = lock(&self.0);
        match outlets.get(&outlet.key) {
            Some(present) => Err(Arc::clone(present)),
            None => {
                outlets.insert(outlet.key, Arc::clone(outlet));
                Ok(())
            }
        }
    }

    fn leave(&self, outlet: &Arc<Outlet>) {
        let mut outlets = lock(&self.0);
        if outlets.get(&outlet.key).is_some_and(|present| Arc::ptr_eq(present, outlet)) {
            outlets.remove(&outlet.key);
        }
    }

    /// The outlet that carries the answer to this request (raw JSON of its id) in a session.
    pub fn of_request(&self, session: RecordKey, request: &str) -> Option<Arc<Outlet>> {
        let all = StreamKey { session, stream: [0; 8] }..=StreamKey { session, stream: [0xff; 8] };
        let outlets = lock(&self.0);
        let mut found = outlets.range(all).map(|(_, outlet)| outlet);
        found.find(|outlet| outlet.request.as_deref() == Some(request)).cloned()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_to_follow_is_counted_here_and_elsewhere() {
        let key = StreamKey { session: RecordKey([1; 16]), stream: [2; 8] };
        let outlet = Outlet::new(key, Opener::Call, None, 3);
        let first = outlet.enter(true);
        let left = outlet.turns();
        outlet.leave(first);
        assert!(matches!(outlet.followed(), Followed::Until(_)));
        assert_eq!(outlet.turns(), left, "nobody has come since");
        let second = outlet.enter(true);
        outlet.leave(second);
        assert!(matches!(outlet.followed(), Followed::Until(_)));
        assert_ne!(outlet.turns(), left);
        let left = outlet.turns();
        for taken in 1..=2 {
            outlet.followed_elsewhere(taken);
            assert_eq!(outlet.turns(), left + 1, "the same is still there");
        }
    }
}
