//! Every family of counts that is shown, and how it is read: the same whether Prometheus asks or a collector is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BOUNDS, CLASSES, ERAS, Histogram, NAMES, RouteCounts, SIGNS, Shard, StoreOperation, label, sum};
use crate::app::App;
use crate::session::{Kind as SessionKind, lock};

/// Those that last longer than a request.
const KINDS: [SessionKind; 3] = [SessionKind::Issued, SessionKind::Keyed, SessionKind::Bridged];
const OUTCOMES: [&str; 2] = ["restored", "failed"];

/// One name, and what is counted under it.
pub struct Family {
    /// Without the prefix that all have.
    pub name: &'static str,
    /// What it says, in a line.
    pub help: &'static str,
    /// What the numbers are.
    pub kind: Kind,
    /// Reads it.
    pub read: fn(&Reading<'_>, &mut dyn Samples),
}

/// What numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only grow, until the process ends.
    Counter,
    /// They are what is now.
    Gauge,
    /// They say how long things took.
    Histogram,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// How many.
    Whole(u64),
    /// How much.
    Real(f64),
}

impl Number {
    /// As it is, or the nearest there is.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Whole(number) => number as f64,
            Number::Real(number) => number,
        }
    }
}

/// How long things took.
pub struct Latency {
    /// All together, in seconds.
    pub seconds: f64,
    /// Upper bounds in seconds, the last of them infinite, and how many took longer than the bound before, but not than this.
    pub buckets: Vec<(f64, u64)>,
}

/// A name and a value, by which one number is told from the others of its family.
pub type Label<'a> = (&'static str, &'a str);

/// Who is told the numbers of a family.
pub trait Samples {
    /// One number.
    fn number(&mut self, labels: &[Label<'_>], number: Number);
    /// One histogram.
    fn latency(&mut self, labels: &[Label<'_>], latency: &Latency);
}

/// The counts of all cores, to be read once.
pub struct Reading<'a> {
    app: &'a App,
    shards: Vec<Arc<Shard>>,
}

impl<'a> Reading<'a> {
    /// Of what there is now.
    pub fn of(app: &'a App) -> Self {
        Reading { app, shards: lock(&app.metrics.shards).clone() }
    }

    fn count(&self, of: impl Fn(&Shard) -> &super::Count) -> u64 {
        sum(&self.shards, of)
    }

    fn latencies(&self, to: &mut dyn Samples, of: fn(&RouteCounts) -> &Histogram) {
        for route in &self.app.routes {
            let histograms: Vec<_> = self.shards.iter().map(|shard| of(&shard.routes[route.index])).collect();
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let count = |bucket: usize| histograms.iter().map(|h| h.buckets[bucket].get()).sum();
            let latency = Latency {
                seconds: histograms.iter().map(|h| h.micros.get()).sum::<u64>() as f64 / 1e6,
                buckets: bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect(),
            };
            to.latency(&[("route", &route.config.path)], &latency);
        }
    }
}

fn whole(to: &mut dyn Samples, labels: &[Label<'_>], count: u64) {
    to.number(labels, Number::Whole(count));
}

/// A counter that appears with its first count: most of the combinations never happen.
fn counted(to: &mut dyn Samples, labels: &[Label<'_>], count: u64) {
    if count > 0 {
        whole(to, labels, count);
    }
}

/// All families, in the order in which they are shown. docs/metrics.md explains them.
pub const FAMILIES: [Family; 19] = [
    Family {
        name: "build_info",
        help: "Version and name of this process",
        kind: Kind::Gauge,
        read: |of, to| {
            whole(to, &[("version", env!("CARGO_PKG_VERSION")), ("instance", &of.app.instance)], 1);
        },
    },
    Family {
        name: "start_time_seconds",
        help: "When this process started, since 1970",
        kind: Kind::Gauge,
        read: |of, to| to.number(&[], Number::Real(of.app.metrics.started.0 as f64 / 1000.0)),
    },
    Family { name: "requests", help: "Requests answered", kind: Kind::Counter, read: requests },
    Family {
        name: "refused_requests",
        help: "Requests refused before they were understood: unknown path, bad Host or Origin, no key",
        kind: Kind::Counter,
        read: |of, to| {
            for (class, status) in CLASS_NAMES.iter().enumerate() {
                counted(to, &[("status", status)], of.count(|shard| &shard.refused[class]));
            }
        },
    },
    Family {
        name: "requests_in_flight",
        help: "Requests being answered now",
        kind: Kind::Gauge,
        read: |of, to| whole(to, &[], of.count(|shard| &shard.in_flight)),
    },
    Family {
        name: "connections",
        help: "Connections of clients open now",
        kind: Kind::Gauge,
        read: |of, to| whole(to, &[], of.count(|shard| &shard.connections)),
    },
    Family {
        name: "detached_calls",
        help: "Calls that go on now without their client",
        kind: Kind::Gauge,
        read: |of, to| whole(to, &[], of.app.detached.load(Ordering::Relaxed) as u64),
    },
    Family {
        name: "request_seconds",
        help: "From a request's arrival to the end of its answer; streams of GET are not in it",
        kind: Kind::Histogram,
        read: |of, to| of.latencies(to, |route| &route.latency),
    },
    Family {
        name: "upstream_seconds",
        help: "From sending a request upstream to the beginning of the answer",
        kind: Kind::Histogram,
        read: |of, to| of.latencies(to, |route| &route.upstream),
    },
    Family {
        name: "recoveries",
        help: "Attempts to open a lost upstream session again, by the sign that it was lost",
        kind: Kind::Counter,
        read: recoveries,
    },
    Family {
        name: "upstream_sessions_opened",
        help: "Upstream sessions opened",
        kind: Kind::Counter,
        read: |of, to| {
            for route in &of.app.routes {
                let count = of.count(|shard| &shard.routes[route.index].opened);
                whole(to, &[("route", &route.config.path)], count);
            }
        },
    },
    Family {
        name: "upstream_endpoints",
        help: "Endpoints of the upstream, by state",
        kind: Kind::Gauge,
        read: endpoints,
    },
    Family {
        name: "upstream_ejections",
        help: "How often an endpoint was spared for a while, since it failed repeatedly",
        kind: Kind::Counter,
        read: |of, to| {
            for route in &of.app.routes {
                for member in route.fleet.listed().iter() {
                    let labels = [("route", route.config.path.as_str()), ("endpoint", &*member.name)];
                    counted(to, &labels, member.ejections());
                }
            }
        },
    },
    Family { name: "sessions", help: "Sessions in memory now", kind: Kind::Gauge, read: sessions },
    Family {
        name: "store_errors",
        help: "Operations that the session store failed",
        kind: Kind::Counter,
        read: |of, to| {
            for (operation, count) in StoreOperation::ALL.iter().zip(&of.app.metrics.store_errors) {
                whole(to, &[("operation", operation.as_str())], count.get());
            }
        },
    },
    Family {
        name: "store_away",
        help: "Whether the session store cannot be used now",
        kind: Kind::Gauge,
        read: |of, to| whole(to, &[], u64::from(of.app.store.trouble().is_some())),
    },
    Family {
        name: "sessions_unstored",
        help: "Sessions of which the store lacks something",
        kind: Kind::Gauge,
        read: |of, to| {
            let mut unstored = 0_u64;
            of.app.sessions.for_each(|session| unstored += u64::from(session.is_unstored()));
            whole(to, &[], unstored);
        },
    },
    Family {
        name: "store_writes",
        help: "Writes to the session store",
        kind: Kind::Counter,
        read: |of, to| whole(to, &[], of.app.store.stats().writes),
    },
    Family {
        name: "store_commits",
        help: "Durable commits of the session store",
        kind: Kind::Counter,
        read: |of, to| whole(to, &[], of.app.store.stats().commits),
    },
];

const CLASS_NAMES: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

fn requests(of: &Reading<'_>, to: &mut dyn Samples) {
    for route in &of.app.routes {
        for place in 0..NAMES * ERAS.len() * CLASSES {
            let count = of.count(|shard| &shard.routes[route.index].requests[place]);
            let (rest, class) = (place / CLASSES, place % CLASSES);
            let labels = [
                ("route", route.config.path.as_str()),
                ("method", label(rest / ERAS.len())),
                ("era", ERAS[rest % ERAS.len()]),
                ("status", CLASS_NAMES[class]),
            ];
            counted(to, &labels, count);
        }
    }
}

fn recoveries(of: &Reading<'_>, to: &mut dyn Samples) {
    for route in &of.app.routes {
        for (at, sign) in SIGNS.iter().enumerate() {
            for (which, outcome) in OUTCOMES.iter().enumerate() {
                let count = of.count(|shard| &shard.routes[route.index].recoveries[at][which]);
                let labels =
                    [("route", route.config.path.as_str()), ("cause", sign.as_str()), ("outcome", *outcome)];
                counted(to, &labels, count);
            }
        }
    }
}

fn endpoints(of: &Reading<'_>, to: &mut dyn Samples) {
    let now = of.app.effects.now();
    for route in &of.app.routes {
        let members = route.fleet.listed();
        let spared = members.iter().filter(|member| member.is_out(now)).count() as u64;
        for (state, count) in [("in", members.len() as u64 - spared), ("out", spared)] {
            whole(to, &[("route", &route.config.path), ("state", state)], count);
        }
    }
}

fn sessions(of: &Reading<'_>, to: &mut dyn Samples) {
    let mut counts = vec![[0_u64; KINDS.len()]; of.app.routes.len()];
    of.app.sessions.for_each(|session| {
        if let Some(kind) = KINDS.iter().position(|kind| *kind == session.kind) {
            counts[session.route.index][kind] += 1;
        }
    });
    for (route, counts) in of.app.routes.iter().zip(counts) {
        for (kind, count) in KINDS.iter().zip(counts) {
            whole(to, &[("route", &route.config.path), ("kind", kind.as_str())], count);
        }
    }
}
