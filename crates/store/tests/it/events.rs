//! What the event log of every backend does, and what of it survives.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use throughline_store::{Appended, EventLog, Excerpt, Keep, Millis, Store, StreamKey};

use crate::{LATER, NOW, key};

/// Names the store's directory to the child.
const CHILD_DIR: &str = "THROUGHLINE_EVENTS_TEST_DIR";
/// More than any test writes.
const KEEP: Keep = Keep { until: LATER, events: 1000, bytes: 1 << 20, above: u64::MAX, total: 1 << 30 };
/// As much as there is.
const ALL: usize = usize::MAX;

macro_rules! contract {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(throughline_store::Store::memory().events()).await;
            })*
        }
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let store = throughline_store::Store::embedded(dir.path()).await.unwrap();
                super::$name(store.events()).await;
                store.close().await.unwrap();
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = crate::servers::Server::start(&[]);
                let store = server.store().await;
                super::$name(store.events()).await;
                store.close().await.unwrap();
            })*
        }
    };
}

contract! {
    events_are_numbered_and_read_from_any_number_on
    of_two_writers_one_loses
    the_oldest_leave_by_count_and_by_bytes
    what_may_not_leave_stays
    a_stream_ends_with_its_time
    an_append_of_nothing_keeps_a_stream
    a_session_takes_its_streams_along
    a_full_log_takes_nothing
    a_page_has_a_size
    a_tail_waits_and_misses_nothing
    tails_of_other_streams_are_not_disturbed
}

fn stream(n: u32) -> StreamKey {
    StreamKey { session: key(n / 10), stream: u64::from(n).to_be_bytes() }
}

fn words(texts: &[&'static str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()
}

/// Holds so many bytes, as far as the backend can tell.
fn holds(log: &EventLog, bytes: u64) -> bool {
    log.bytes().is_none_or(|held| held == bytes)
}

/// Whether what is over has to be removed.
fn sweeps(log: &EventLog) -> bool {
    !matches!(log, EventLog::Redis(_))
}

async fn say(log: &EventLog, key: StreamKey, after: u64, texts: &[&'static str], keep: Keep) -> Appended {
    log.append(key, after, words(texts), keep, NOW).await.unwrap()
}

async fn read(log: &EventLog, key: StreamKey, after: u64) -> Excerpt {
    log.read(key, after, ALL, NOW).await.unwrap()
}

/// Numbers and texts.
fn shown(page: &Excerpt) -> Vec<(u64, String)> {
    let text = |payload: &Bytes| String::from_utf8(payload.to_vec()).unwrap();
    page.events.iter().map(|event| (event.number, text(&event.payload))).collect()
}

fn expect(of: &[(u64, &str)]) -> Vec<(u64, String)> {
    of.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
}

async fn events_are_numbered_and_read_from_any_number_on(log: EventLog) {
    assert_eq!(read(&log, stream(1), 0).await, Excerpt::default());
    assert_eq!(say(&log, stream(1), 0, &["a", "b"], KEEP).await, Appended::Stored(2));
    assert_eq!(say(&log, stream(1), 2, &["c"], KEEP).await, Appended::Stored(3));
    assert_eq!(say(&log, stream(2), 7, &["x"], KEEP).await, Appended::Stored(8), "one that was lost goes on");
    let page = read(&log, stream(1), 0).await;
    assert_eq!((shown(&page), page.last), (expect(&[(1, "a"), (2, "b"), (3, "c")]), 3));
    assert_eq!(shown(&read(&log, stream(1), 2).await), expect(&[(3, "c")]));
    let page = read(&log, stream(1), 3).await;
    assert_eq!((shown(&page), page.last), (vec![], 3));
    assert_eq!(shown(&read(&log, stream(1), u64::MAX).await), vec![]);
    assert_eq!(shown(&read(&log, stream(2), 0).await), expect(&[(8, "x")]));
    assert!(holds(&log, 4));
}

async fn of_two_writers_one_loses(log: EventLog) {
    say(&log, stream(1), 0, &["a"], KEEP).await;
    assert_eq!(say(&log, stream(1), 0, &["b"], KEEP).await, Appended::Conflict(1));
    assert_eq!(say(&log, stream(1), 2, &["b"], KEEP).await, Appended::Conflict(1));
    let (one, two) =
        tokio::join!(say(&log, stream(1), 1, &["first"], KEEP), say(&log, stream(1), 1, &["second"], KEEP));
    assert_eq!((one, two), (Appended::Stored(2), Appended::Conflict(2)));
    assert_eq!(shown(&read(&log, stream(1), 1).await), expect(&[(2, "first")]));
}

async fn the_oldest_leave_by_count_and_by_bytes(log: EventLog) {
    let keep = Keep { events: 2, ..KEEP };
    say(&log, stream(1), 0, &["a", "b", "c"], keep).await;
    assert_eq!(shown(&read(&log, stream(1), 0).await), expect(&[(2, "b"), (3, "c")]));
    let keep = Keep { bytes: 5, ..KEEP };
    say(&log, stream(2), 0, &["aaa", "bb"], keep).await;
    assert_eq!(shown(&read(&log, stream(2), 0).await).len(), 2);
    say(&log, stream(2), 2, &["c"], keep).await;
    assert_eq!(shown(&read(&log, stream(2), 0).await), expect(&[(2, "bb"), (3, "c")]));
    say(&log, stream(2), 3, &["longer than allowed"], keep).await;
    assert_eq!(shown(&read(&log, stream(2), 0).await), expect(&[(4, "longer than allowed")]));
    assert!(holds(&log, 2 + 19));
}

async fn what_may_not_leave_stays(log: EventLog) {
    let keep = |above| Keep { events: 1, bytes: 1, above, ..KEEP };
    say(&log, stream(1), 0, &["aa", "bb", "cc"], keep(0)).await;
    assert_eq!(shown(&read(&log, stream(1), 0).await).len(), 3);
    say(&log, stream(1), 3, &["dd"], keep(2)).await;
    assert_eq!(shown(&read(&log, stream(1), 0).await), expect(&[(3, "cc"), (4, "dd")]));
}

async fn a_stream_ends_with_its_time(log: EventLog) {
    let soon = Millis(NOW.0 + 10);
    say(&log, stream(1), 0, &["a"], Keep { until: soon, ..KEEP }).await;
    say(&log, stream(2), 0, &["b"], KEEP).await;
    assert_eq!(log.read(stream(1), 0, ALL, Millis(soon.0 - 1)).await.unwrap().last, 1);
    assert_eq!(log.read(stream(1), 0, ALL, soon).await.unwrap(), Excerpt::default());
    assert_eq!(log.sweep(Millis(soon.0 - 1), 10).await.unwrap(), 0);
    assert_eq!(log.sweep(soon, 10).await.unwrap(), usize::from(sweeps(&log)));
    assert!(holds(&log, 1));
    assert_eq!(read(&log, stream(2), 0).await.last, 1);

    say(&log, stream(3), 0, &["old"], Keep { until: soon, ..KEEP }).await;
    let again = log.append(stream(3), 5, words(&["new"]), KEEP, soon).await.unwrap();
    assert_eq!(again, Appended::Stored(6), "what is over is not there");
    assert_eq!(shown(&read(&log, stream(3), 0).await), expect(&[(6, "new")]));
}

async fn an_append_of_nothing_keeps_a_stream(log: EventLog) {
    let soon = Millis(NOW.0 + 10);
    say(&log, stream(1), 0, &["a"], Keep { until: soon, ..KEEP }).await;
    assert_eq!(say(&log, stream(1), 1, &[], KEEP).await, Appended::Stored(1));
    assert_eq!(log.sweep(soon, 10).await.unwrap(), 0);
    assert_eq!(log.read(stream(1), 0, ALL, soon).await.unwrap().last, 1);
    assert_eq!(log.sweep(LATER, 10).await.unwrap(), usize::from(sweeps(&log)));
}

async fn a_session_takes_its_streams_along(log: EventLog) {
    for n in [1, 2, 10] {
        say(&log, stream(n), 0, &["a"], KEEP).await;
    }
    log.remove(key(0)).await.unwrap();
    assert_eq!(read(&log, stream(1), 0).await, Excerpt::default());
    assert_eq!(read(&log, stream(2), 0).await, Excerpt::default());
    assert_eq!(read(&log, stream(10), 0).await.last, 1);
    assert!(holds(&log, 1));
}

async fn a_full_log_takes_nothing(log: EventLog) {
    let keep = Keep { total: 3, ..KEEP };
    assert_eq!(say(&log, stream(1), 0, &["ab"], keep).await, Appended::Stored(1));
    assert_eq!(say(&log, stream(2), 0, &["cd"], keep).await, Appended::Full);
    assert_eq!(read(&log, stream(2), 0).await, Excerpt::default());
    assert_eq!(say(&log, stream(1), 1, &[], keep).await, Appended::Stored(1));
    log.remove(key(0)).await.unwrap();
    assert_eq!(say(&log, stream(2), 0, &["cd"], keep).await, Appended::Stored(1));
}

async fn a_page_has_a_size(log: EventLog) {
    say(&log, stream(1), 0, &["aaaa", "bb", "cc", "d"], KEEP).await;
    let page = async |after, limit| shown(&log.read(stream(1), after, limit, NOW).await.unwrap());
    assert_eq!(page(0, 1).await, expect(&[(1, "aaaa")]), "at least one");
    assert_eq!(page(1, 4).await, expect(&[(2, "bb"), (3, "cc")]));
    assert_eq!(page(3, 4).await, expect(&[(4, "d")]));
}

async fn a_tail_waits_and_misses_nothing(log: EventLog) {
    const COUNT: u64 = 200;
    say(&log, stream(1), 0, &["before"], KEEP).await;
    let mut tail = log.tail(stream(1), 0);
    let writer = async {
        for after in 1..COUNT {
            assert_eq!(say(&log, stream(1), after, &["x"], KEEP).await, Appended::Stored(after + 1));
            tokio::task::yield_now().await;
        }
    };
    let reader = async {
        let mut numbers = Vec::new();
        while numbers.len() < COUNT as usize {
            let page = tail.next(ALL, || NOW).await.unwrap();
            numbers.extend(page.events.iter().map(|event| event.number));
        }
        numbers
    };
    let ((), numbers) = tokio::join!(writer, reader);
    assert_eq!(numbers, (1..=COUNT).collect::<Vec<_>>());
}

async fn tails_of_other_streams_are_not_disturbed(log: EventLog) {
    let mut tail = log.tail(stream(1), 0);
    let mut next = Box::pin(tail.next(ALL, || NOW));
    // More than the signals that a tail may be behind by.
    for after in 0..1500 {
        say(&log, stream(2), after, &["x"], Keep { events: 1, ..KEEP }).await;
        let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_pending()));
        assert!(waits.await);
    }
    say(&log, stream(1), 0, &["mine"], KEEP).await;
    assert_eq!(shown(&next.await.unwrap()), expect(&[(1, "mine")]));
}

#[tokio::test]
async fn what_one_gateway_appends_another_reads_at_once_and_only_that() {
    let server = crate::servers::Server::start(&[]);
    let (one, other) = (server.store().await, server.store().await);
    say(&one.events(), stream(1), 0, &["a"], KEEP).await;
    let mut tail = other.events().tail(stream(1), 0);
    assert_eq!(shown(&tail.next(ALL, || NOW).await.unwrap()), expect(&[(1, "a")]));
    let (got, _) = tokio::join!(tail.next(ALL, || NOW), async {
        // When the other one waits, the first is told so.
        let waits = || server.info("commandstats", "cmdstat_set");
        crate::servers::until("the tail to wait", waits);
        say(&one.events(), stream(1), 1, &["b"], KEEP).await
    });
    assert_eq!(shown(&got.unwrap()), expect(&[(2, "b")]));
    let published = || server.info("commandstats", "cmdstat_publish");
    let before = published();
    for after in 0..20 {
        say(&one.events(), stream(2), after, &["x"], KEEP).await;
    }
    let calls = |stats: Option<String>| -> u64 {
        let stats = stats.unwrap_or_default();
        stats.split(['=', ',']).nth(1).and_then(|calls| calls.parse().ok()).unwrap_or_default()
    };
    // Beats of both go on meanwhile.
    assert!(calls(published()) - calls(before) < 15, "nobody waits for that stream");
}

#[tokio::test]
async fn a_cluster_keeps_a_sessions_streams_together() {
    let cluster = crate::servers::Cluster::start();
    let store = crate::servers::store(&cluster.url()).await;
    let log = store.events();
    for n in 0..40 {
        assert_eq!(say(&log, stream(n), 0, &["a", "b"], KEEP).await, Appended::Stored(2));
        assert_eq!(shown(&read(&log, stream(n), 1).await), expect(&[(2, "b")]));
    }
    log.remove(key(0)).await.unwrap();
    assert_eq!(read(&log, stream(3), 0).await, Excerpt::default());
    assert_eq!(read(&log, stream(13), 0).await.last, 2);
    store.close().await.unwrap();
}

#[tokio::test]
async fn streams_survive_a_restart_and_a_damaged_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    assert!(!dir.path().join("events.redb").exists(), "made when it is needed");
    say(&store.events(), stream(1), 0, &["a", "b"], KEEP).await;
    store.close().await.unwrap();
    assert!(store.events().read(stream(1), 0, ALL, NOW).await.is_err(), "closed");

    let store = Store::embedded(dir.path()).await.unwrap();
    assert_eq!(shown(&read(&store.events(), stream(1), 0).await), expect(&[(1, "a"), (2, "b")]));
    assert_eq!(store.events().bytes(), Some(2));
    store.close().await.unwrap();

    std::fs::write(dir.path().join("events.redb"), vec![7; 100_000]).unwrap();
    let store = Store::embedded(dir.path()).await.unwrap();
    assert_eq!(read(&store.events(), stream(1), 0).await, Excerpt::default());
    assert_eq!(say(&store.events(), stream(1), 2, &["c"], KEEP).await, Appended::Stored(3));
    store.close().await.unwrap();
}

/// Not a test but the child of the one below: it appends until it is killed. In an ordinary run there is nothing to do.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let log = Store::embedded(Path::new(&dir)).await.unwrap().events();
        let write = async |n: u32| {
            let mut last = read(&log, stream(n), 0).await.last;
            loop {
                assert_eq!(say(&log, stream(n), last, &["x", "y"], KEEP).await, Appended::Stored(last + 2));
                last += 2;
                std::io::stdout().write_all(format!("\nACK {n} {last}\n").as_bytes()).unwrap();
            }
        };
        tokio::join!(write(1), write(2), write(3), write(4));
    });
}

#[tokio::test]
async fn what_was_appended_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<u32, u64> = HashMap::new();
    for round in 1..=4 {
        write_and_kill(dir.path(), round * 60, &mut acknowledged);
        let store = Store::embedded(dir.path()).await.unwrap();
        assert_eq!(acknowledged.len(), 4);
        for (n, last) in &acknowledged {
            let page = read(&store.events(), stream(*n), 0).await;
            assert!(page.last >= *last, "stream {n} went back to {} from {last}", page.last);
            assert!(page.events.iter().map(|event| event.number).eq(1..=page.last), "no gap in {n}");
        }
        store.close().await.unwrap();
    }
}

/// Runs a child until it has acknowledged `count` appends, kills it, and notes the last of each stream.
fn write_and_kill(dir: &Path, count: usize, acknowledged: &mut HashMap<u32, u64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "events::child", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = 0;
    for line in lines {
        if let Some(("ACK", words)) = line.split_once(' ') {
            let (n, last) = words.split_once(' ').unwrap();
            acknowledged.insert(n.parse().unwrap(), last.parse().unwrap());
            seen += 1;
            if seen == count {
                // What it said before it dies is read as well.
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
}
