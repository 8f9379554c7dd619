//! What lies in Redis, and what it costs.

use redis::{Value, from_redis_value};
use throughline_store::{Millis, Put, Record, State};

use super::logs::Logs;
use crate::servers::{Server, eventually};
use crate::{LATER, NOW, delete, get, key, put, put_new, record};

const NAME: &str = "throughline:s:{00000001000000000000000000000000}";

fn text(value: Value) -> String {
    from_redis_value(value).unwrap()
}

fn number(value: Value) -> u64 {
    from_redis_value(value).unwrap()
}

#[tokio::test]
async fn a_record_can_be_read_with_redis_cli() {
    let server = Server::start(&[]);
    let store = server.store().await;
    put_new(&store, key(1), record(3)).await;
    let now = format!("{:016x}", NOW.0);
    let header = format!("1o{now}{now}{:016x}", LATER.0);
    let json = serde_json::to_string(&record(3)).unwrap();
    assert_eq!(text(server.must(&["GET", NAME])), format!("{header}{json}"));
    // Relative to the caller's clock, and a minute longer: clocks differ.
    let lasts = number(server.must(&["PTTL", NAME]));
    let longest = LATER.0 - NOW.0 + 60_000;
    assert!((longest - 30_000..=longest).contains(&lasts), "{lasts} ms");

    let touched = Millis(NOW.0 + 5);
    store.touch_many(&[(key(1), touched)]).await.unwrap();
    let header = format!("1o{now}{:016x}{:016x}", touched.0, LATER.0);
    assert!(text(server.must(&["GET", NAME])).starts_with(&header));
    assert!(number(server.must(&["PTTL", NAME])) <= lasts, "a touch keeps the TTL");

    delete(&store, key(1)).await;
    let tombstone = text(server.must(&["GET", NAME]));
    let (header, json) = tombstone.split_at(50);
    assert!(header.starts_with("1d"));
    let tombstone: Record = serde_json::from_str(json).unwrap();
    assert_eq!((tombstone.state, tombstone.expires), (State::Deleted, LATER));
}

#[tokio::test]
async fn what_the_first_release_wrote_is_read() {
    let server = Server::start(&[]);
    let golden = include_str!("../../golden/record-v1.json");
    let expected: Record = serde_json::from_str(golden).unwrap();
    let written = format!("1o{:016x}{:016x}{:016x}{golden}", 7, 8, expected.expires.0);
    server.must(&["SET", NAME, &written]);
    let store = server.store().await;
    let before = Millis(expected.expires.0 - 1);
    let found = store.get(key(1), before).await.unwrap().unwrap();
    assert_eq!((found.record, found.touched), (expected, Millis(8)));
    assert!(store.get(key(1), Millis(before.0 + 1)).await.unwrap().is_none());
}

#[tokio::test]
async fn what_cannot_be_read_is_nothing_and_can_be_replaced() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let newest = put_new(&store, key(9), record(1)).await;
    let header = |format: u8| format!("{format}o{:016x}{:016x}{:016x}", NOW.0 + 7, NOW.0, LATER.0);
    for (n, damaged) in [
        (1, "garbage".to_owned()),
        (2, String::new()),
        (3, header(1)),
        (4, header(1) + "{\"kind\":\"issued\""),
        (5, header(1) + "{\"kind\":\"other\",\"created\":1}"),
        (6, header(2) + &serde_json::to_string(&record(1)).unwrap()),
        (7, header(1).replace('1', "x") + "{}"),
    ] {
        let name = format!("throughline:s:{{{}}}", key(n));
        let set = || server.must(&["SET", &name, &damaged]);
        set();
        assert_eq!(get(&store, key(n)).await, None, "{damaged}");
        assert_eq!(put(&store, key(n), Some(newest), record(1)).await, Put::Conflict(None), "{damaged}");
        put_new(&store, key(n), record(2)).await;
        assert_eq!(get(&store, key(n)).await.unwrap().record, record(2));
        set();
        assert_eq!(delete(&store, key(n)).await, None, "{damaged}");
        let tombstone = get(&store, key(n)).await.unwrap();
        assert_eq!(tombstone.record.state, State::Deleted);
        if (3..=5).contains(&n) {
            // Its version could be read, and goes on: an older copy never passes for a newer one.
            let shown = format!("{:?}", tombstone.version);
            assert_eq!(shown, format!("Version({})", NOW.0 + 8));
        }
    }
    // Nor does a key of another kind do more harm than an error.
    server.must(&["DEL", &format!("throughline:s:{{{}}}", key(1))]);
    server.must(&["LPUSH", &format!("throughline:s:{{{}}}", key(1)), "x"]);
    let error = store.get(key(1), NOW).await.unwrap_err();
    assert!(error.to_string().contains("WRONGTYPE") && !error.is_away(), "{error}");
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn versions_grow_over_a_flush() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let mut last = put_new(&store, key(1), record(1)).await;
    for n in 0..5 {
        let Put::Stored(next) = put(&store, key(1), Some(last), record(n)).await else { panic!("conflict") };
        last = next;
    }
    server.must(&["FLUSHALL"]);
    assert_eq!(get(&store, key(1)).await, None);
    // A moment later, on the clock of the gateway, than the last of six writes within the same millisecond.
    let later = Millis(NOW.0 + 6);
    assert_eq!(store.put_if(key(1), Some(last), record(1), later).await.unwrap(), Put::Conflict(None));
    let Put::Stored(next) = store.put_if(key(1), None, record(1), later).await.unwrap() else {
        panic!("conflict")
    };
    assert!(next > last, "{next:?} > {last:?}");
}

#[tokio::test]
async fn a_tombstone_outlives_a_restart_of_a_redis_that_persists() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = server.store().await;
    put_new(&store, key(1), record(1)).await;
    delete(&store, key(1)).await;
    let tombstone = get(&store, key(1)).await;
    server.kill();
    server.start_again();
    // The first to use the broken connection is told.
    eventually("the store to work again", async || store.get(key(1), NOW).await.is_ok()).await;
    assert_eq!(get(&store, key(1)).await, tombstone);
    assert!(matches!(put(&store, key(1), None, record(2)).await, Put::Conflict(Some(_))));
}

#[tokio::test]
async fn every_operation_is_one_command() {
    let server = Server::start(&[]);
    let store = server.store().await;
    // The first of each also brings the script.
    for n in [0, 1] {
        put_new(&store, key(n), record(1)).await;
        store.touch_many(&[(key(n), NOW)]).await.unwrap();
        delete(&store, key(n)).await;
    }
    let before = store.stats();
    put_new(&store, key(2), record(1)).await;
    get(&store, key(2)).await;
    store.touch_many(&(0..300).map(|n| (key(n), LATER)).collect::<Vec<_>>()).await.unwrap();
    delete(&store, key(2)).await;
    store.turn("something", std::time::Duration::from_secs(1)).await.unwrap();
    let after = store.stats();
    assert_eq!((after.calls - before.calls, after.writes - before.writes), (304, 2));
    assert_eq!(store.sweep(LATER, 9).await.unwrap(), 0);
    assert_eq!((store.epoch(), store.stats().calls), (Some(1), after.calls), "these ask nothing");
}

#[tokio::test]
async fn a_redis_that_may_evict_records_is_warned_of() {
    let logs = Logs::collect();
    let warned = |server: &Server| {
        let place = format!("redis://127.0.0.1:{}", server.port);
        logs.text().lines().any(|line| line.contains(&place) && line.contains("maxmemory-policy"))
    };
    let good = Server::start(&["--maxmemory-policy", "noeviction"]);
    let bad = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    let stores = [good.store().await, bad.store().await];
    eventually("a warning", async || warned(&bad)).await;
    for store in stores {
        store.close().await.unwrap();
    }
    assert!(!warned(&good), "{}", logs.text());
}
