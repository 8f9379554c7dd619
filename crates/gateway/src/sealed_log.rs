//! What the gateway writes into the event log beside the log's own business: sealed for the place where it stands, since it
//! holds what tools and their users said, and kept within the configured bounds.

use std::time::Duration;

use bytes::Bytes;
use throughline_store::{Keep, Millis, StreamKey};

use crate::app::App;
use crate::session::millis;

/// Seals what is to stand in a stream under this number.
pub fn seal(app: &App, key: StreamKey, number: u64, plain: &[u8]) -> Bytes {
    app.keys.seal_secret(&place(key, number), plain, app.effects.bytes()).into()
}

/// Opens what stands in a stream under this number; None where it was sealed for another place, or its key is gone.
pub fn open(app: &App, key: StreamKey, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
    app.keys.open_secret(&place(key, number), sealed)
}

/// For how long from now a stream is kept, and how much of it; what is above the number `above` stays in any case.
pub fn keep(app: &App, lasts: Duration, above: u64) -> Keep {
    let limits = &app.config.streams;
    Keep {
        until: Millis(app.effects.now().0.saturating_add(millis(lasts))),
        events: limits.events,
        bytes: limits.bytes as u64,
        above,
        total: limits.total as u64,
    }
}

fn place(key: StreamKey, number: u64) -> [u8; 32] {
    let mut place = [0; 32];
    place[..16].copy_from_slice(&key.session.0);
    place[16..24].copy_from_slice(&key.stream);
    place[24..].copy_from_slice(&number.to_be_bytes());
    place
}
