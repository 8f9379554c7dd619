//! Replicas, upstreams and Redis killed at random under load: no unsafe call is executed twice, no valid session is
//! refused, nobody gets somebody else's session, and every error is one that at-most-once demands.
//!
//! Seeded: `THROUGHLINE_CHAOS_SEED` draws the same kills in the same order, `THROUGHLINE_CHAOS_SECONDS` says for how
//! long, `THROUGHLINE_CHAOS_CLIENTS` with how many clients. docs/scaling.md shows a long run.

mod client;
mod fleet;
mod ledger;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, Kind};
use fleet::{Balancer, Fleet};
use ledger::Ledger;

use crate::cuts::{Place, cut};
use crate::harness::{Dice, Engine, Upstream, setting};

#[test]
fn over_one_redis() {
    run(Engine::Standalone, Fate::Killed);
}

#[test]
fn over_sentinels() {
    run(Engine::Sentinel, Fate::Killed);
}

#[test]
fn over_a_cluster() {
    run(Engine::Cluster, Fate::Killed);
}

#[test]
fn a_rolling_update_loses_nothing() {
    let ledger = run(Engine::Standalone, Fate::Updated);
    // A connection that is refused goes to the next replica, as load balancers do it.
    assert_eq!(ledger.disturbed(), Vec::<String>::new());
}

/// What happens to the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// They and all the rest are killed at random.
    Killed,
    /// Each is asked to end, and started again.
    Updated,
}

#[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
fn run(engine: Engine, fate: Fate) -> Ledger {
    let seed = setting("THROUGHLINE_CHAOS_SEED", 1);
    let lasts = Duration::from_secs(setting("THROUGHLINE_CHAOS_SECONDS", 15));
    let clients = setting("THROUGHLINE_CHAOS_CLIENTS", 60);
    let mut fleet = Fleet::start(engine);
    let balancer = Arc::new(Balancer::new(fleet.urls()));
    let over = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let threads: Vec<_> = (0..clients)
        .map(|number| {
            let (balancer, over, tell) = (Arc::clone(&balancer), Arc::clone(&over), tell.clone());
            let dice = Dice::new(seed.wrapping_mul(1_000_003) + number);
            let kind = Kind::of(number);
            thread::spawn(move || {
                let mut client = Client::start(number, kind, balancer, dice);
                while !over.load(Ordering::Relaxed) {
                    client.act(&tell);
                }
                client
            })
        })
        .collect();
    let mut dice = Dice::new(seed);
    let started = Instant::now();
    match fate {
        Fate::Killed => {
            while started.elapsed() < lasts {
                fleet.kill_something(&mut dice);
            }
        }
        Fate::Updated => {
            let (balancer, over) = (Arc::clone(&balancer), Arc::clone(&over));
            let looking = thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    balancer.look();
                    thread::park_timeout(Duration::from_millis(20));
                }
            });
            fleet.update();
            drop(looking);
        }
    }
    over.store(true, Ordering::Relaxed);
    fleet.wait_until_whole();
    let mut ledger = Ledger::default();
    for thread in threads {
        let mut client = thread.join().expect("a client that did not panic");
        // Whatever has happened: its session is as good as ever.
        client.must_succeed(&tell);
    }
    drop(tell);
    told.into_iter().for_each(|event| ledger.note(event));
    println!("{}", ledger.report(engine, seed, clients, started.elapsed(), fleet.kills()));
    ledger.check(engine, &fleet.journal());
    if fate == Fate::Killed {
        assert!(ledger.has_recovered(), "something was lost, and came back");
    }
    ledger
}

/// Where nothing dies, but connections do.
#[test]
fn of_connections_that_are_cut() {
    cut(&Upstream::rmcp(), Place::Client, 200);
    cut(&Upstream::rmcp(), Place::Both, 100);
}
