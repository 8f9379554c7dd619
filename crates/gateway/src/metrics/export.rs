//! The counts in the text form that Prometheus reads (OpenMetrics 1.0).

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{FAMILIES, Kind, Label, Latency, Number, Reading, Samples};
use crate::app::App;

/// Content type of [`text`].
pub const CONTENT_TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

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
        let reading = Reading::of(&self.0);
        for family in &FAMILIES {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let out = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            let mut written = Written { out, kind: family.kind, outcome: Ok(()) };
            (family.read)(&reading, &mut written);
            written.outcome?;
        }
        Ok(())
    }
}

/// A family that is being written.
struct Written<'a> {
    out: MetricEncoder<'a>,
    kind: Kind,
    outcome: fmt::Result,
}

impl Written<'_> {
    fn write(&mut self, labels: &[Label<'_>], write: impl Fn(&mut MetricEncoder<'_>, Kind) -> fmt::Result) {
        let kind = self.kind;
        let written = if labels.is_empty() {
            write(&mut self.out, kind)
        } else {
            self.out.encode_family(&labels).and_then(|mut labelled| write(&mut labelled, kind))
        };
        self.outcome = self.outcome.and(written);
    }
}

impl Samples for Written<'_> {
    fn number(&mut self, labels: &[Label<'_>], number: Number) {
        self.write(labels, |out, kind| match (kind, number) {
            (Kind::Counter, Number::Whole(count)) => out.encode_counter::<NoLabelSet, _, u64>(&count, None),
            (Kind::Counter, Number::Real(sum)) => out.encode_counter::<NoLabelSet, _, u64>(&sum, None),
            (_, Number::Whole(count)) => out.encode_gauge(&count),
            (_, Number::Real(value)) => out.encode_gauge(&value),
        });
    }

    fn latency(&mut self, labels: &[Label<'_>], latency: &Latency) {
        let total = latency.buckets.iter().map(|(_, count)| count).sum();
        self.write(labels, |out, _| {
            out.encode_histogram::<NoLabelSet>(latency.seconds, total, &latency.buckets, None)
        });
    }
}
