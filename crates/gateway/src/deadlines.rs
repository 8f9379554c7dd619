//! Time-outs of one core, by a clock that ticks slowly.
//!
//! A request waits with several time-outs that hardly ever come: for its body, for the beginning of the answer, for
//! all of it. A timer of the runtime's for each cost more than to find the request's session. Here they are numbers in
//! one list, which one task compares with the clock at every tick.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

/// How often the clock ticks. A time-out is late by two ticks at most, and never early, as long as the thread does
/// not stall.
const TICK: Duration = Duration::from_millis(50);
/// Ticks without a time-out to look at, after which the clock stops until the next one.
const REST_AFTER: u32 = 200;

/// The time-outs of one core's requests; as many as there are futures under way in them.
pub struct Deadlines {
    began: Instant,
    /// What the clock shows: ticks since it began.
    shows: Cell<u64>,
    clock: Cell<Clock>,
    /// Wakes the clock's task: to go on, or to find that nobody is left.
    resume: Rc<Notify>,
    places: RefCell<Slab<Place>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Clock {
    /// Its task has not been started yet.
    New,
    Ticks,
    /// Nobody has asked for a while.
    Rests,
}

struct Place {
    /// The tick at which the time is up.
    due: u64,
    waker: Waker,
}

/// Signs that whoever is waited for is at work, given on any core.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// When the last sign was given, in milliseconds after that; none yet at nought.
    last: AtomicU64,
}

impl Pulse {
    /// Without a sign yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Pulse { began: Instant::now(), last: AtomicU64::new(0) })
    }

    /// Gives a sign.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now.max(1), Ordering::Relaxed);
    }

    /// How long ago the last sign was given.
    fn since(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        (!last.is_zero()).then(|| self.began.elapsed().saturating_sub(last))
    }
}

/// The time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeIsUp;

impl Deadlines {
    /// For one core's thread.
    pub fn new() -> Rc<Self> {
        Rc::new(Deadlines {
            began: Instant::now(),
            shows: Cell::new(0),
            clock: Cell::new(Clock::New),
            resume: Rc::default(),
            places: RefCell::default(),
        })
    }

    /// Lets work take so long, from its first step on. Must be awaited on this core.
    pub fn within<F: Future>(self: &Rc<Self>, limit: Duration, work: F) -> Within<F> {
        self.within_signs(limit, None, work)
    }

    /// The same, where each sign of `pulse` starts the time anew.
    pub fn within_signs<F: Future>(
        self: &Rc<Self>,
        limit: Duration,
        pulse: Option<Arc<Pulse>>,
        work: F,
    ) -> Within<F> {
        Within { work, wait: Wait { deadlines: Rc::clone(self), limit, pulse, place: None } }
    }

    fn enter(self: &Rc<Self>, limit: Duration, waker: &Waker) -> usize {
        if self.clock.get() != Clock::Ticks {
            self.set_going();
        }
        let due = self.due_in(limit);
        self.places.borrow_mut().insert(Place { due, waker: waker.clone() })
    }

    fn set_going(self: &Rc<Self>) {
        self.shows.set(self.now());
        match self.clock.replace(Clock::Ticks) {
            Clock::New => {
                tokio::task::spawn_local(tick(Rc::downgrade(self), Rc::clone(&self.resume)));
            }
            Clock::Rests | Clock::Ticks => self.resume.notify_one(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
    }

    fn due_in(&self, limit: Duration) -> u64 {
        // The present tick has begun already.
        self.shows.get().saturating_add(ticks(limit)).saturating_add(1)
    }

    fn put_off(&self, place: usize, left: Duration) {
        if let Some(place) = self.places.borrow_mut().get_mut(place) {
            place.due = self.due_in(left);
        }
    }

    /// Whether the time is up at this place; else its future is woken then.
    fn is_due(&self, place: usize, waker: &Waker) -> bool {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(place) else { return true };
        if !place.waker.will_wake(waker) {
            place.waker.clone_from(waker);
        }
        place.due <= self.shows.get()
    }

    /// One tick. Says whether anybody waits.
    fn advance(&self) -> bool {
        let now = self.now();
        self.shows.set(now);
        let places = self.places.borrow();
        // To wake a future only puts its task into a queue: none of them comes back here meanwhile.
        places.iter().filter(|(_, place)| place.due <= now).for_each(|(_, place)| place.waker.wake_by_ref());
        !places.is_empty()
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        self.resume.notify_one();
    }
}

/// The clock, for as long as there is somebody to look at it.
async fn tick(deadlines: Weak<Deadlines>, resume: Rc<Notify>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = 0;
    while let Some(deadlines) = deadlines.upgrade() {
        idle = if deadlines.advance() { 0 } else { idle + 1 };
        let rests = idle >= REST_AFTER;
        if rests {
            deadlines.clock.set(Clock::Rests);
            idle = 0;
        }
        drop(deadlines);
        tokio::select! {
            _ = tick.tick(), if !rests => {}
            () = resume.notified() => {}
        }
    }
}

fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX)
}

/// A place among the deadlines, taken when there is something to wait for.
struct Wait {
    deadlines: Rc<Deadlines>,
    limit: Duration,
    pulse: Option<Arc<Pulse>>,
    place: Option<usize>,
}

impl Wait {
    /// What is left of the time that the last sign began.
    fn left(&self) -> Option<Duration> {
        let since = self.pulse.as_ref()?.since()?;
        self.limit.checked_sub(since).filter(|left| !left.is_zero())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.deadlines.places.borrow_mut().try_remove(place);
        }
    }
}

pin_project! {
    /// Work that may take so long.
    pub struct Within<F> {
        #[pin]
        work: F,
        wait: Wait,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, TimeIsUp>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.work.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let wait = this.wait;
        match wait.place {
            None => wait.place = Some(wait.deadlines.enter(wait.limit, cx.waker())),
            Some(place) if wait.deadlines.is_due(place, cx.waker()) => match wait.left() {
                Some(left) => wait.deadlines.put_off(place, left),
                None => return Poll::Ready(Err(TimeIsUp)),
            },
            Some(_) => {}
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::task::LocalSet;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_out_is_late_by_two_ticks_at_most_and_never_early() {
        let test = async {
            let deadlines = Deadlines::new();
            for (wait, limit) in [(0, 120), (3, 50), (49, 50), (20_000, 1), (777, 0), (1, 75_000)] {
                // The clock may have stopped meanwhile.
                sleep(Duration::from_millis(wait)).await;
                let (limit, begun) = (Duration::from_millis(limit), Instant::now());
                assert_eq!(deadlines.within(limit, pending::<()>()).await, Err(TimeIsUp));
                let took = begun.elapsed();
                assert!(took >= limit && took <= limit + 2 * TICK, "{took:?} for {limit:?}");
            }
            assert!(deadlines.places.borrow().is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_sign_starts_the_time_anew() {
        let test = async {
            let (deadlines, limit) = (Deadlines::new(), 4 * TICK);
            for beats in 0..4 {
                let (pulse, begun) = (Pulse::new(), Instant::now());
                let beating = async {
                    for _ in 0..beats {
                        sleep(limit - TICK).await;
                        pulse.beat();
                    }
                    pending::<()>().await;
                };
                let waiting = deadlines.within_signs(limit, Some(Arc::clone(&pulse)), pending::<()>());
                tokio::select! {
                    () = beating => unreachable!("it is pending"),
                    ended = waiting => assert_eq!(ended, Err(TimeIsUp)),
                }
                let last = beats * (limit - TICK);
                let took = begun.elapsed();
                assert!(took >= last + limit && took <= last + limit + 3 * TICK, "{took:?} after {beats}");
            }
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_in_time_leaves_no_place_behind() {
        let test = async {
            let deadlines = Deadlines::new();
            assert_eq!(deadlines.within(TICK, ready(1)).await, Ok(1));
            assert!(deadlines.clock.get() == Clock::New, "nobody had to wait");
            let slow = sleep(3 * TICK);
            assert_eq!(deadlines.within(4 * TICK, slow).await, Ok(()));
            drop(timeout(TICK, deadlines.within(4 * TICK, pending::<()>())).await);
            assert!(deadlines.places.borrow().is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stops_when_there_is_nothing_to_wait_for() {
        let test = async {
            let deadlines = Deadlines::new();
            drop(timeout(TICK, deadlines.within(TICK * 9, pending::<()>())).await);
            assert!(deadlines.clock.get() == Clock::Ticks);
            sleep(TICK * (REST_AFTER + 2)).await;
            assert!(deadlines.clock.get() == Clock::Rests);
        };
        LocalSet::new().run_until(test).await;
    }
}
