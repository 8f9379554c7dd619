//! The circuit on a paused clock, with something in place of Redis that hangs, refuses or answers as it is told.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use redis::{Cmd, Value};
use tokio::task::JoinHandle;
use tokio::time::advance;

use super::*;
use crate::redis::dial::{Boxed, CONNECT};

const LIMIT: Duration = Duration::from_millis(50);

/// How the stand-in is today.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Hangs,
    Refuses,
    Full,
}

/// In place of Redis.
struct StandIn {
    mood: Mutex<Mood>,
    /// Commands of callers.
    calls: AtomicU64,
    dials: AtomicU64,
    /// How long a sign-in is good.
    renew: Option<Duration>,
    master: Mutex<u16>,
}

impl StandIn {
    fn new(renew: Option<Duration>) -> Arc<StandIn> {
        let (calls, dials) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(StandIn { mood: Mutex::new(Mood::Well), calls, dials, renew, master: Mutex::new(1) })
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    async fn answer(&self, writes: bool) -> RedisResult<Value> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => Ok(Value::Okay),
            Mood::Hangs => std::future::pending().await,
            Mood::Refuses => Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()),
            Mood::Full if writes => {
                redis::parse_redis_value(b"-OOM command not allowed\r\n").and_then(Value::extract_error)
            }
            Mood::Full => Ok(Value::Okay),
        }
    }

    fn host(&self) -> Host {
        Host { name: "master".to_owned(), port: *self.master.lock().unwrap() }
    }
}

impl Dial for Arc<StandIn> {
    fn dial(&self) -> Boxed<'_, Result<Dialed, Failure>> {
        Box::pin(async {
            self.dials.fetch_add(1, Ordering::Relaxed);
            match timeout(CONNECT, self.answer(false)).await {
                Ok(answer) => answer.map_err(|error| Failure::from(&error))?,
                Err(_) => return Err(Failure::slow("connecting", CONNECT)),
            };
            let own = Arc::clone(self);
            let link = Link::Scripted(Arc::new(move |command: &Cmd| {
                let own = Arc::clone(&own);
                let packed = command.get_packed_command();
                let is = |verb: &[u8]| packed.windows(verb.len()).any(|window| window == verb);
                if is(b"GET") || is(b"SET") {
                    own.calls.fetch_add(1, Ordering::Relaxed);
                }
                let writes = !is(b"GET");
                Box::pin(async move { own.answer(writes).await })
            }));
            Ok(Dialed { link, server: Some(self.host()), renew: self.renew })
        })
    }

    fn is_current<'a>(&'a self, server: &'a Host) -> Boxed<'a, bool> {
        Box::pin(async { *server == self.host() })
    }
}

/// A circuit that is kept closed, and what keeps it.
async fn kept(stand_in: &Arc<StandIn>) -> (Arc<Circuit>, JoinHandle<()>) {
    let place = Place::parse("redis://user:secret@h?timeout=50ms").unwrap();
    let circuit = Arc::new(Circuit::new(Arc::new(place)));
    let (own, dialer) = (Arc::clone(&circuit), Arc::clone(stand_in));
    let keeper = tokio::spawn(async move { keep(&own, &dialer, || {}).await });
    pass(LIMIT).await;
    assert_eq!(circuit.trouble(), None);
    (circuit, keeper)
}

async fn call(circuit: &Circuit, access: Access) -> Result<Value, StoreError> {
    let line = circuit.line(access)?;
    let command = redis::cmd(if access == Access::Read { "GET" } else { "SET" });
    circuit.within(LIMIT, &line, None, line.link.send(&command)).await
}

/// Moves the clock on, a little at a time, so that everything happens when it should.
async fn pass(time: Duration) {
    let step = Duration::from_millis(5);
    for _ in 0..time.as_millis() / step.as_millis() {
        advance(step).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_time_out_and_then_nothing() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    call(&circuit, Access::Read).await.unwrap();
    assert_eq!(stand_in.calls.load(Ordering::Relaxed), 1);

    stand_in.is(Mood::Hangs);
    let start = Instant::now();
    let error = call(&circuit, Access::Write).await.unwrap_err();
    assert_eq!(start.elapsed(), LIMIT);
    assert!(error.is_away() && !error.to_string().contains("secret"), "{error}");
    assert_eq!(stand_in.calls.load(Ordering::Relaxed), 2);

    // A minute of requests.
    for _ in 0..60 {
        let start = Instant::now();
        for access in [Access::Read, Access::Write].repeat(100) {
            assert!(call(&circuit, access).await.unwrap_err().is_away());
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(stand_in.calls.load(Ordering::Relaxed), 2, "an open circuit sends nothing");

    stand_in.is(Mood::Well);
    pass(CONNECT + ATTEMPTS.1 + LIMIT).await;
    call(&circuit, Access::Write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_are_made_for_as_long_as_it_takes() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    stand_in.is(Mood::Refuses);
    call(&circuit, Access::Read).await.unwrap_err();
    let before = stand_in.dials();
    pass(Duration::from_secs(60)).await;
    // From 0.5 s to 1 s lie between two, once the waits have grown.
    let attempts = stand_in.dials() - before;
    assert!((60..=125).contains(&attempts), "{attempts} attempts in a minute");
    stand_in.is(Mood::Well);
    pass(Duration::from_millis(1100)).await;
    assert_eq!(circuit.trouble(), None);
    call(&circuit, Access::Write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_memory_only_writes_fail() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    stand_in.is(Mood::Full);
    for _ in 0..2 {
        let error = call(&circuit, Access::Write).await.unwrap_err();
        assert!(matches!(error, StoreError::OutOfMemory { .. }), "{error}");
        assert!(!error.is_away());
        call(&circuit, Access::Read).await.unwrap();
        pass(Duration::from_secs(5)).await;
    }
    assert_eq!(stand_in.calls.load(Ordering::Relaxed), 3, "the second write was not sent");
    stand_in.is(Mood::Well);
    pass(Duration::from_millis(1100)).await;
    call(&circuit, Access::Write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_an_earlier_line_says_nothing_about_this_one() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    let early = circuit.line(Access::Read).unwrap();
    stand_in.is(Mood::Refuses);
    call(&circuit, Access::Read).await.unwrap_err();
    stand_in.is(Mood::Well);
    pass(ATTEMPTS.1).await;
    let never = std::future::pending::<RedisResult<Value>>();
    circuit.within(LIMIT, &early, None, never).await.unwrap_err();
    assert_eq!(circuit.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_is_renewed_before_it_runs_out() {
    let hour = Duration::from_secs(3600);
    let stand_in = StandIn::new(Some(hour));
    let (circuit, _keeper) = kept(&stand_in).await;
    advance(hour - Duration::from_secs(1)).await;
    assert_eq!(stand_in.dials(), 1);
    advance(Duration::from_secs(1)).await;
    while stand_in.dials() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(circuit.trouble(), None);
    // One that cannot be renewed is used on.
    stand_in.is(Mood::Refuses);
    advance(hour).await;
    while stand_in.dials() == 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(circuit.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn another_master_gets_another_line() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    pass(MASTER_EVERY * 3).await;
    assert_eq!(stand_in.dials(), 1);
    *stand_in.master.lock().unwrap() = 2;
    pass(MASTER_EVERY + LIMIT).await;
    assert_eq!(stand_in.dials(), 2);
    call(&circuit, Access::Write).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_store_stays_closed() {
    let stand_in = StandIn::new(None);
    let (circuit, _keeper) = kept(&stand_in).await;
    assert!(circuit.shut() && !circuit.shut());
    pass(Duration::from_secs(5)).await;
    assert!(matches!(call(&circuit, Access::Read).await, Err(StoreError::Closed)));
}
