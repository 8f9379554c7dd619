//! Upstream answers to `initialize`, kept for a while, and the upstream sessions that they made, kept warm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use throughline_store::Millis;
use throughline_wire::version::{ASSUMED, ProtocolVersion};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::{Lists, Opened};
use crate::error::Fault;
use crate::session::lock;
use crate::upstream::cookies::Jar;
use crate::upstream::fleet::Place;
use crate::upstream::{Address, Refusal};

/// Answers kept for one route; the one that lapses first goes first. What makes them differ comes from clients.
const MAX_CACHED: usize = 1024;
/// Upstream sessions kept warm for one route; the oldest is ended for a newer one.
const MAX_WARM: usize = 64;
/// `initialize` requests of one route under way upstream at a time; others wait. A client that announces something
/// new each time costs the upstream no more than that.
const MAX_ASKING: usize = 32;

/// The upstream's answer to `initialize`, as all clients of one kind get it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Raw JSON of the result.
    pub result: Bytes,
    /// What puts requests into the session that it made. The session itself may be somebody's by now.
    pub address: Address,
}

impl Answer {
    /// The negotiated version.
    pub fn version(&self) -> ProtocolVersion {
        let version = self.address.version.as_ref().and_then(|version| version.to_str().ok());
        version.and_then(ProtocolVersion::parse).unwrap_or(ASSUMED)
    }

    /// For others than the session that it made: cookies and place are that one's.
    pub fn for_others(&self) -> Self {
        let at = Place::Anywhere(Arc::clone(self.address.at.fleet()));
        let address = Address { at, cookies: Jar::default(), ..self.address.clone() };
        Answer { result: self.result.clone(), address }
    }
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// The gateway's own reason.
    Fault(Fault),
    /// The upstream's answer is to be passed on.
    Refused(Arc<Refusal>),
}

/// What somebody who asks the upstream will say to all who wait.
pub(super) type Outcome = Option<Result<Answer, NoAnswer>>;

/// Kept answers of one route.
pub struct InitializeCache {
    entries: Mutex<HashMap<[u8; 16], Entry>>,
    asking: Semaphore,
    /// The last of them, whoever it was for: who the server is does not depend on who asks.
    last: Mutex<Option<Bytes>>,
}

/// A kept answer.
pub struct Known {
    /// The answer.
    pub answer: Answer,
    /// When it lapses.
    pub until: Millis,
    /// How long the session that it made is kept warm; None once it was taken.
    pub warm: Option<Millis>,
}

enum Entry {
    Asking(watch::Receiver<Outcome>),
    Known(Known),
}

/// What the cache has for somebody who needs an answer.
pub enum Lookup {
    /// An answer.
    Known(Answer),
    /// Somebody is asking.
    Wait(watch::Receiver<Outcome>),
    /// Nobody is: ask, and tell.
    Ask(watch::Sender<Outcome>, watch::Receiver<Outcome>),
}

impl Default for InitializeCache {
    fn default() -> Self {
        InitializeCache {
            entries: Mutex::default(),
            asking: Semaphore::new(MAX_ASKING),
            last: Mutex::default(),
        }
    }
}

impl Known {
    /// Gives up the session that is kept warm, which is to be ended.
    fn cool(&mut self) -> Address {
        self.warm = None;
        let others = self.answer.for_others();
        std::mem::replace(&mut self.answer, others).address
    }
}

impl Entry {
    fn is_warm(&self) -> bool {
        matches!(self, Entry::Known(Known { warm: Some(_), .. }))
    }
}

impl InitializeCache {
    /// A turn to ask the upstream; held while it answers.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // None only of a closed semaphore, and nothing closes this one.
        self.asking.acquire().await.ok()
    }

    /// What there is for parameters of this digest. Told to ask, the caller is the only one.
    pub fn lookup(&self, digest: [u8; 16], now: Millis) -> Lookup {
        let mut entries = lock(&self.entries);
        match entries.get(&digest) {
            Some(Entry::Known(known)) if now < known.until => Lookup::Known(known.answer.clone()),
            // The sender is gone when whoever asked ended without a word.
            Some(Entry::Asking(asking)) if asking.has_changed().is_ok() => Lookup::Wait(asking.clone()),
            _ => {
                let (tell, asking) = watch::channel(None);
                entries.insert(digest, Entry::Asking(asking.clone()));
                Lookup::Ask(tell, asking)
            }
        }
    }

    /// The last result that the upstream answered, whoever asked. Raw JSON.
    pub fn last(&self) -> Option<Bytes> {
        lock(&self.last).clone()
    }

    /// Keeps an answer. Returns the warm sessions that had to leave for it.
    pub fn keep(&self, digest: [u8; 16], known: Known) -> Vec<Address> {
        *lock(&self.last) = Some(known.answer.result.clone());
        let mut entries = lock(&self.entries);
        let mut displaced = Vec::new();
        let mut leaves = |entry: Option<Entry>| match entry {
            Some(Entry::Known(known)) if known.warm.is_some() => displaced.push(known.answer.address),
            _ => {}
        };
        leaves(entries.remove(&digest));
        if entries.len() >= MAX_CACHED {
            let lapses = |entry: &Entry| match entry {
                Entry::Known(known) => known.until,
                Entry::Asking(_) => Millis(u64::MAX),
            };
            let oldest = entries.iter().min_by_key(|(_, entry)| lapses(entry)).map(|(digest, _)| *digest);
            leaves(oldest.and_then(|oldest| entries.remove(&oldest)));
        }
        entries.insert(digest, Entry::Known(known));
        if entries.values().filter(|entry| entry.is_warm()).count() > MAX_WARM {
            displaced.extend(cool_oldest(&mut entries));
        }
        displaced
    }

    /// Nobody is asking any more, and there is no answer.
    pub fn give_up(&self, digest: &[u8; 16]) {
        lock(&self.entries).remove(digest);
    }

    /// A warm session, or the knowledge that the upstream keeps none.
    pub fn take(&self, digest: &[u8; 16], now: Millis) -> Option<Opened> {
        let mut entries = lock(&self.entries);
        let Entry::Known(known) = entries.get_mut(digest)? else { return None };
        let sessionless =
            known.answer.address.session_id.is_none() && known.warm.is_none() && now < known.until;
        let warm = known.warm.take().is_some_and(|until| now < until);
        // Whoever takes it gets its cookies and its place, and nobody after.
        let others = known.answer.for_others();
        let taken = std::mem::replace(&mut known.answer, others).address;
        let address = if warm { taken } else { Address { cookies: Jar::new(Vec::new()), ..taken } };
        (warm || sessionless).then(|| Opened {
            address,
            lists: Lists::of_result(&known.answer.result),
            taken: true,
            told: sessionless,
        })
    }

    /// Answers that have lapsed leave, and so do the warm sessions that nobody took in time: those are returned.
    pub fn expire(&self, now: Millis) -> Vec<Address> {
        let mut unused = Vec::new();
        lock(&self.entries).retain(|_, entry| {
            let Entry::Known(known) = entry else { return true };
            let lapsed = known.until <= now;
            if known.warm.is_some_and(|until| lapsed || until <= now) {
                unused.push(known.cool());
            }
            !lapsed
        });
        unused
    }

    /// All warm sessions, at the end of the process.
    pub fn drain(&self) -> Vec<Address> {
        self.expire(Millis(u64::MAX))
    }
}

fn cool_oldest(entries: &mut HashMap<[u8; 16], Entry>) -> Option<Address> {
    let known = entries.values_mut().filter_map(|entry| match entry {
        Entry::Known(known) if known.warm.is_some() => Some(known),
        _ => None,
    });
    let oldest = known.min_by_key(|known| known.warm)?;
    Some(oldest.cool())
}
