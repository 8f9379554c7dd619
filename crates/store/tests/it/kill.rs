//! What has been acknowledged survives SIGKILL at any moment.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use throughline_store::{Put, State, Store, Version};

use crate::{get, key, put, put_new, record};

/// Names the store's directory to the child.
const CHILD_DIR: &str = "THROUGHLINE_STORE_TEST_DIR";
/// Names the round, so that each writes keys of its own.
const CHILD_ROUND: &str = "THROUGHLINE_STORE_TEST_ROUND";
/// Repeats a run.
const SEED: &str = "THROUGHLINE_STORE_TEST_SEED";
const WRITERS: u32 = 8;
/// Every how manieth record is changed again.
const CHANGED: u32 = 3;

/// Not a test but the child of the one below, which is this same program: it writes until it is killed. In
/// an ordinary run it has no directory to write to, and there is nothing to do.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let round: u32 = std::env::var(CHILD_ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::embedded(Path::new(&dir)).await.unwrap();
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write_for_ever(store.clone(), round, writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Prints `ACK key generation` for whatever the store has acknowledged.
async fn write_for_ever(store: Store, round: u32, writer: u32) {
    for n in 0.. {
        let n = (round << 24) + n * WRITERS + writer;
        let version = put_new(&store, key(n), record(1)).await;
        acknowledge(n, 1);
        if n.is_multiple_of(CHANGED) {
            change(&store, n, version).await;
            acknowledge(n, 2);
        }
    }
}

async fn change(store: &Store, n: u32, version: Version) {
    let changed = put(store, key(n), Some(version), record(2)).await;
    assert!(matches!(changed, Put::Stored(_)));
}

fn acknowledge(n: u32, generation: u32) {
    // Not `println!`, which the test harness would capture; one write, so that a line is whole or absent.
    std::io::stdout().write_all(format!("\nACK {n} {generation}\n").as_bytes()).unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let mut seed = std::env::var(SEED)
        .map_or_else(|_| RandomState::new().hash_one(std::process::id()), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..6_u32 {
        // Knuth's linear congruential generator; its high bits are random enough for this.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let before = acknowledged.len();
        write_and_kill(dir.path(), round, (seed >> 33) as usize % 400 + 1, &mut acknowledged);

        let store = Store::embedded(dir.path()).await.unwrap();
        for (n, generation) in &acknowledged {
            let stored = get(&store, key(*n)).await.unwrap_or_else(|| panic!("record {n} is lost"));
            let State::Open { generation: found, .. } = stored.record.state else { panic!("{n} is deleted") };
            assert!(found >= *generation, "record {n} went back to {found} from {generation}");
            assert_eq!(stored.record, record(found));
        }
        store.close().await.unwrap();
        assert!(acknowledged.len() > before, "the child of round {round} has written something");
    }
}

/// Runs a child until it has acknowledged `count` writes, kills it, and collects all that it acknowledged.
fn write_and_kill(dir: &Path, round: u32, count: usize, acknowledged: &mut HashMap<u32, u32>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = 0;
    let mut note = |line: String| {
        if let Some(("ACK", words)) = line.split_once(' ') {
            let (n, generation) = words.split_once(' ').unwrap();
            acknowledged.insert(n.parse().unwrap(), generation.parse().unwrap());
            seen += 1;
        }
        seen
    };
    for line in lines.by_ref() {
        if note(line) >= count {
            break;
        }
    }
    child.kill().unwrap();
    // What it said before it died was said as well.
    for line in lines {
        note(line);
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
}
