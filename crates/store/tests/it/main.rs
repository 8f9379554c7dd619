//! The store from outside: one contract for every backend, then what only a file can suffer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is test code; clippy only sees that of functions marked #[test]"
)]

mod any_address;
mod any_record;
mod contract;
mod damage;
mod embedded;
mod events;
mod kill;
mod redis;
mod servers;

use throughline_store::{
    Binding, Kind, Millis, Put, Record, RecordKey, RestoreStep, State, Store, Stored, Version,
};

/// The present, in these tests.
const NOW: Millis = Millis(1_790_000_000_000);
/// When an ordinary record expires.
const LATER: Millis = Millis(NOW.0 + 1_000_000);
const ROUTE: [u8; 8] = [7; 8];
const PRINCIPAL: [u8; 16] = [9; 16];

fn key(n: u32) -> RecordKey {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&n.to_be_bytes());
    RecordKey(key)
}

/// An open record that says `generation` in several places.
fn record(generation: u32) -> Record {
    let binding = Binding {
        generation,
        secret: generation.to_le_bytes().repeat(16).into(),
        protocol_version: "2025-11-25".into(),
        endpoint: "http://127.0.0.1:9000/mcp".to_owned(),
    };
    Record {
        kind: Kind::Issued,
        route: ROUTE,
        principal: PRINCIPAL,
        created: NOW,
        expires: LATER,
        state: State::Open { binding: Some(binding), generation, lease: None },
        initialize: format!(r#"{{"protocolVersion": "2025-11-25",  "n":{generation}.0}}"#).into(),
        initialized: true,
        restore: vec![RestoreStep {
            key: "log".to_owned(),
            method: "logging/setLevel".to_owned(),
            params: vec![0, 255, 1],
        }],
    }
}

async fn put(store: &Store, key: RecordKey, expected: Option<Version>, record: Record) -> Put {
    store.put_if(key, expected, record, NOW).await.unwrap()
}

/// Writes a record that must not conflict.
async fn put_new(store: &Store, key: RecordKey, record: Record) -> Version {
    match put(store, key, None, record).await {
        Put::Stored(version) => version,
        Put::Conflict(with) => panic!("conflict with {with:?}"),
    }
}

async fn get(store: &Store, key: RecordKey) -> Option<Stored> {
    store.get(key, NOW).await.unwrap()
}

async fn delete(store: &Store, key: RecordKey) -> Option<Stored> {
    store.delete(key, LATER, ROUTE, PRINCIPAL, NOW).await.unwrap()
}
