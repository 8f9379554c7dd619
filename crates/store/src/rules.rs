//! What a write may do to what stands there. Pure, and the same for every backend.

use crate::record::{Kind, Millis, Record, State, Stored, Version};

/// What a `put_if` comes to.
pub(crate) enum Decision {
    /// This is to be written.
    Write(Stored),
    /// Nothing is; this stands there.
    Conflict(Option<Stored>),
}

/// Decides a compare-and-set. `current` is what stands there, expired or not. `last` is its version, which
/// can be known even where the record itself cannot be read: versions go on from there, so that an older
/// copy never passes for a newer one.
pub(crate) fn put(
    current: Option<&Stored>,
    last: Version,
    expected: Option<Version>,
    record: Record,
    now: Millis,
) -> Decision {
    let live = current.filter(|stored| stored.lives(now));
    let revives =
        live.is_some_and(|stored| stored.record.state == State::Deleted) && record.state != State::Deleted;
    if revives || live.map(|stored| stored.version) != expected {
        return Decision::Conflict(live.cloned());
    }
    let touched = live.map_or(now, |stored| stored.touched.max(now));
    Decision::Write(Stored { record, version: last.next(now), touched })
}

/// A tombstone for a record that is not there.
pub(crate) fn tombstone(route: [u8; 8], principal: [u8; 16], now: Millis, expires: Millis) -> Record {
    Record {
        kind: Kind::Issued,
        route,
        principal,
        created: now,
        expires,
        state: State::Deleted,
        initialize: "".into(),
        initialized: false,
        restore: Vec::new(),
    }
}

/// What a `delete` writes, if anything: the `tombstone` given, as that of what stands there.
pub(crate) fn bury(
    current: Option<&Stored>,
    last: Version,
    mut tombstone: Record,
    now: Millis,
) -> Option<Stored> {
    if let Some(stored) = current.filter(|stored| stored.lives(now)) {
        let old = &stored.record;
        if old.state == State::Deleted && old.expires >= tombstone.expires {
            return None;
        }
        tombstone.kind = old.kind;
        tombstone.route = old.route;
        tombstone.principal = old.principal;
        tombstone.created = old.created;
        tombstone.expires = tombstone.expires.max(old.expires);
    }
    Some(Stored { record: tombstone, version: last.next(now), touched: now })
}
