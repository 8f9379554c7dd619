//! What is killed: three replicas, two servers, and the Redis that the replicas share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Dice, Engine, Gateway, Redis, Upstream, http};

/// What the proxy in front proves itself with.
pub(super) const SECRET: &str = "abc";
/// Its digest.
const SECRET_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Which replicas a load balancer sends requests to.
pub(super) struct Balancer {
    urls: Vec<String>,
    takes: Vec<AtomicBool>,
}

impl Balancer {
    pub(super) fn new(urls: Vec<String>) -> Self {
        let takes = urls.iter().map(|_| AtomicBool::new(true)).collect();
        Balancer { urls, takes }
    }

    /// A random one of them.
    pub(super) fn pick(&self, dice: &mut Dice) -> &str {
        let ready: Vec<_> =
            self.urls.iter().zip(&self.takes).filter(|(_, takes)| takes.load(Ordering::Relaxed)).collect();
        let at =
            |sides: usize, dice: &mut Dice| usize::try_from(dice.roll(sides as u64)).expect("a small number");
        match ready.len() {
            0 => &self.urls[at(self.urls.len(), dice)],
            some => ready[at(some, dice)].0,
        }
    }

    /// Looks which are ready, as load balancers do.
    pub(super) fn look(&self) {
        for (url, takes) in self.urls.iter().zip(&self.takes) {
            let ready = url.replace("/mcp", "/readyz");
            let said = http::send("GET", &ready, &[], None);
            takes.store(said.is_ok_and(|(answer, _)| answer.status == 200), Ordering::Relaxed);
        }
    }
}

/// All processes.
pub(super) struct Fleet {
    replicas: Vec<Gateway>,
    upstreams: Vec<Upstream>,
    redis: Redis,
    journal: PathBuf,
    kills: BTreeMap<&'static str, usize>,
    _dir: TempDir,
}

impl Fleet {
    pub(super) fn start(engine: Engine) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = dir.path().join("journal");
        let upstreams: Vec<_> = (0..2).map(|_| Upstream::journaled(&journal)).collect();
        let redis = Redis::start(engine);
        let ring = dir.path().join("keyring");
        throughline_gateway::keys::create(&ring, throughline_gateway::Effects::REAL).expect("a key ring");
        let urls: Vec<_> = upstreams.iter().map(|upstream| format!("{:?}", upstream.url())).collect();
        let text = format!(
            "store = {:?}\nkey_ring = {ring:?}\ntrusted_proxies = [\"127.0.0.1\"]\naccess_log = false\n\
             timeouts.drain = \"1s\"\n\
             [callers.proxy]\nheader = \"x-user\"\nsecret_header = \"x-proxy-secret\"\n\
             secret_sha256 = \"{SECRET_SHA256}\"\n[upstream]\nurl = [{}]\n",
            redis.url(),
            urls.join(", "),
        );
        let replicas = (0..3).map(|_| Gateway::configured(&text)).collect();
        Fleet { replicas, upstreams, redis, journal, kills: BTreeMap::new(), _dir: dir }
    }

    /// The replicas' endpoints.
    pub(super) fn urls(&self) -> Vec<String> {
        self.replicas.iter().map(Gateway::url).collect()
    }

    /// Kills one thing, or two, and starts it again after a while.
    pub(super) fn kill_something(&mut self, dice: &mut Dice) {
        let pause = |dice: &mut Dice| {
            std::thread::park_timeout(Duration::from_millis(50 + dice.roll(450)));
        };
        pause(dice);
        let first = Victim::draw(dice, self.redis.count());
        let second = Some(Victim::draw(dice, self.redis.count()))
            .filter(|second| *second != first && dice.roll(4) == 0);
        for victim in [Some(first), second].into_iter().flatten() {
            self.kill(victim);
        }
        pause(dice);
        for victim in [Some(first), second].into_iter().flatten() {
            self.start_again(victim);
        }
    }

    /// Asks one replica after the other to end, and starts it again.
    pub(super) fn update(&mut self) {
        for replica in &mut self.replicas {
            replica.terminate();
            replica.start_again();
            *self.kills.entry("update").or_default() += 1;
        }
    }

    fn kill(&mut self, victim: Victim) {
        *self.kills.entry(victim.word()).or_default() += 1;
        match victim {
            Victim::Replica(at) => self.replicas[at].kill9(),
            Victim::Upstream(at) => self.upstreams[at].kill9(),
            Victim::Redis(at) => self.redis.kill9(at),
        }
    }

    fn start_again(&mut self, victim: Victim) {
        match victim {
            Victim::Replica(at) => self.replicas[at].start_again(),
            Victim::Upstream(at) => self.upstreams[at].start_again(),
            Victim::Redis(at) => self.redis.start_again(at),
        }
    }

    /// Waits until the replicas are well again, the store included.
    pub(super) fn wait_until_whole(&mut self) {
        self.replicas.iter_mut().for_each(Gateway::wait_until_well);
    }

    /// What was killed, and how often.
    pub(super) fn kills(&self) -> &BTreeMap<&'static str, usize> {
        &self.kills
    }

    /// The unsafe calls that were executed, in their order.
    pub(super) fn journal(&self) -> String {
        std::fs::read_to_string(&self.journal).expect("the journal")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Replica(usize),
    Upstream(usize),
    Redis(usize),
}

impl Victim {
    fn draw(dice: &mut Dice, redises: usize) -> Self {
        let one_of =
            |count: usize, dice: &mut Dice| usize::try_from(dice.roll(count as u64)).expect("a small number");
        match dice.roll(6) {
            0..=2 => Victim::Replica(one_of(3, dice)),
            3 | 4 => Victim::Upstream(one_of(2, dice)),
            _ => Victim::Redis(one_of(redises, dice)),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Victim::Replica(_) => "replica",
            Victim::Upstream(_) => "upstream",
            Victim::Redis(_) => "redis",
        }
    }
}
