//! The counts in the text form that Prometheus reads (OpenMetrics 1.0).

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{BOUNDS, CLASSES, ERAS, Histogram, NAMES, RouteCounts, SIGNS, Shard, StoreOperation, label, sum};
use crate::app::App;
use crate::session::{Kind, lock};

/// Content type of [`text`].
pub const CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const OUTCOMES: [&str; 2] = ["restored", "failed"];

/// Everything that is counted.
pub fn text(app: &Arc<App>) -> String {
    let mut registry = Registry::with_prefix("throughline");
    registry.register_collector(Box::new(Scrape(Arc::clone(app))));
    let mut text = String::with_capacity(8 * 1024);
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// One scrape.
struct Scrape(Arc<App>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shards = lock(&self.0.metrics.shards).clone();
        let mut out = Out { encoder: &mut encoder };
        self.process(&mut out)?;
        self.requests(&mut out, &shards)?;
        self.latencies(&mut out, &shards)?;
        self.recoveries(&mut out, &shards)?;
        self.endpoints(&mut out)?;
        self.sessions(&mut out)?;
        self.store(&mut out)
    }
}

impl Scrape {
    fn process(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("instance", self.0.instance.as_str())];
        out.begin("build_info", "Version and random name of this process", MetricType::Gauge)?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)?;
        let started = self.0.metrics.started.0 as f64 / 1000.0;
        out.begin("start_time_seconds", "When this process started, since 1970", MetricType::Gauge)?
            .encode_gauge(&started)
    }

    fn requests(&self, out: &mut Out<'_, '_>, shards: &[Arc<Shard>]) -> fmt::Result {
        let mut family = out.begin("requests", "Requests answered", MetricType::Counter)?;
        for route in &self.0.routes {
            for place in 0..NAMES * ERAS.len() * CLASSES {
                let count = sum(shards, |shard| &shard.routes[route.index].requests[place]);
                let (rest, class) = (place / CLASSES, place % CLASSES);
                let labels = [
                    ("route", route.config.path.clone()),
                    ("method", label(rest / ERAS.len()).to_owned()),
                    ("era", ERAS[rest % ERAS.len()].to_owned()),
                    ("status", format!("{}xx", class + 1)),
                ];
                counted(&mut family, &labels, count)?;
            }
        }
        let mut family = out.begin(
            "refused_requests",
            "Requests refused before they were understood: unknown path, bad Host or Origin, no key",
            MetricType::Counter,
        )?;
        for class in 0..CLASSES {
            let count = sum(shards, |shard| &shard.refused[class]);
            counted(&mut family, &[("status", format!("{}xx", class + 1))], count)?;
        }
        let in_flight = sum(shards, |shard| &shard.in_flight);
        out.begin("requests_in_flight", "Requests being answered now", MetricType::Gauge)?
            .encode_gauge(&in_flight)?;
        let connections = sum(shards, |shard| &shard.connections);
        out.begin("connections", "Connections of clients open now", MetricType::Gauge)?
            .encode_gauge(&connections)?;
        let detached = self.0.detached.load(std::sync::atomic::Ordering::Relaxed) as u64;
        out.begin("detached_calls", "Calls that go on now without their client", MetricType::Gauge)?
            .encode_gauge(&detached)
    }

    fn latencies(&self, out: &mut Out<'_, '_>, shards: &[Arc<Shard>]) -> fmt::Result {
        let family = out.begin(
            "request_seconds",
            "From a request's arrival to the end of its answer; streams of GET are not in it",
            MetricType::Histogram,
        )?;
        self.latency(family, shards, |route| &route.latency)?;
        let family = out.begin(
            "upstream_seconds",
            "From sending a request upstream to the beginning of the answer",
            MetricType::Histogram,
        )?;
        self.latency(family, shards, |route| &route.upstream)
    }

    fn latency(
        &self,
        mut family: MetricEncoder<'_>,
        shards: &[Arc<Shard>],
        of: fn(&RouteCounts) -> &Histogram,
    ) -> fmt::Result {
        for route in &self.0.routes {
            let histograms: Vec<_> = shards.iter().map(|shard| of(&shard.routes[route.index])).collect();
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let count = |bucket: usize| histograms.iter().map(|h| h.buckets[bucket].get()).sum();
            let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect();
            let total = buckets.iter().map(|(_, count)| count).sum();
            let seconds = histograms.iter().map(|h| h.micros.get()).sum::<u64>() as f64 / 1e6;
            family
                .encode_family(&[("route", route.config.path.as_str())])?
                .encode_histogram::<NoLabelSet>(seconds, total, &buckets, None)?;
        }
        Ok(())
    }

    fn recoveries(&self, out: &mut Out<'_, '_>, shards: &[Arc<Shard>]) -> fmt::Result {
        let mut family = out.begin(
            "recoveries",
            "Attempts to open a lost upstream session again, by the sign that it was lost",
            MetricType::Counter,
        )?;
        for route in &self.0.routes {
            for (at, sign) in SIGNS.iter().enumerate() {
                for (which, outcome) in OUTCOMES.iter().enumerate() {
                    let count = sum(shards, |shard| &shard.routes[route.index].recoveries[at][which]);
                    let labels = [
                        ("route", route.config.path.as_str()),
                        ("cause", sign.as_str()),
                        ("outcome", outcome),
                    ];
                    counted(&mut family, &labels, count)?;
                }
            }
        }
        let mut family =
            out.begin("upstream_sessions_opened", "Upstream sessions opened", MetricType::Counter)?;
        for route in &self.0.routes {
            let count = sum(shards, |shard| &shard.routes[route.index].opened);
            family
                .encode_family(&[("route", route.config.path.as_str())])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }

    fn endpoints(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let now = self.0.effects.now();
        let fleets: Vec<_> =
            self.0.routes.iter().map(|route| (route.config.path.as_str(), route.fleet.listed())).collect();
        let mut family =
            out.begin("upstream_endpoints", "Endpoints of the upstream, by state", MetricType::Gauge)?;
        for (route, members) in &fleets {
            let spared = members.iter().filter(|member| member.is_out(now)).count() as u64;
            for (state, count) in [("in", members.len() as u64 - spared), ("out", spared)] {
                family.encode_family(&[("route", *route), ("state", state)])?.encode_gauge(&count)?;
            }
        }
        let mut family = out.begin(
            "upstream_ejections",
            "How often an endpoint was spared for a while, since it failed repeatedly",
            MetricType::Counter,
        )?;
        for (route, members) in &fleets {
            for member in members {
                counted(&mut family, &[("route", *route), ("endpoint", &*member.name)], member.ejections())?;
            }
        }
        Ok(())
    }

    fn sessions(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let mut family = out.begin("sessions", "Sessions in memory now", MetricType::Gauge)?;
        let mut counts = vec![[0_u64; 2]; self.0.routes.len()];
        self.0.sessions.for_each(|session| {
            counts[session.route.index][usize::from(session.kind != Kind::Issued)] += 1;
        });
        for (route, counts) in self.0.routes.iter().zip(counts) {
            for (kind, count) in ["issued", "keyed"].into_iter().zip(counts) {
                family
                    .encode_family(&[("route", route.config.path.as_str()), ("kind", kind)])?
                    .encode_gauge(&count)?;
            }
        }
        Ok(())
    }

    fn store(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let mut family =
            out.begin("store_errors", "Operations that the session store failed", MetricType::Counter)?;
        for (operation, count) in StoreOperation::ALL.iter().zip(&self.0.metrics.store_errors) {
            family
                .encode_family(&[("operation", operation.as_str())])?
                .encode_counter::<NoLabelSet, _, u64>(&count.get(), None)?;
        }
        let away = u64::from(self.0.store.trouble().is_some());
        out.begin("store_away", "Whether the session store cannot be used now", MetricType::Gauge)?
            .encode_gauge(&away)?;
        let mut unstored = 0_u64;
        self.0.sessions.for_each(|session| unstored += u64::from(session.is_unstored()));
        out.begin("sessions_unstored", "Sessions of which the store lacks something", MetricType::Gauge)?
            .encode_gauge(&unstored)?;
        let stats = self.0.store.stats();
        out.begin("store_writes", "Writes to the session store", MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&stats.writes, None)?;
        out.begin("store_commits", "Durable commits of the session store", MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&stats.commits, None)
    }
}

/// Where families of metrics go.
struct Out<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Out<'_, '_> {
    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }
}

/// A counter that appears with its first count: most of the combinations never happen.
fn counted<const N: usize, V: prometheus_client::encoding::EncodeLabelValue>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, V); N],
    count: u64,
) -> fmt::Result {
    if count == 0 {
        return Ok(());
    }
    let labels = &labels[..];
    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}
