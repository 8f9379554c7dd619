//! The counts as OpenTelemetry's instruments, which are read when there is something to push: nothing is counted twice,
//! and no request pays for it.

use std::sync::Arc;

use throughline_telemetry::{AsyncInstrument, Attribute, Meter};

use super::families::{FAMILIES, Family, Kind, Label, Latency, Number, Reading, Samples};
use crate::app::App;

/// Has everything that is counted pushed.
///
/// OpenTelemetry has no histogram that is read rather than told of each value, so that one of ours becomes what it is
/// made of: three counters, `.count`, `.sum` and, by their upper bounds `le`, `.bucket`.
pub fn push(app: &Arc<App>, meter: &Meter) {
    for family in &FAMILIES {
        let name = format!("throughline.{}", family.name);
        match family.kind {
            Kind::Gauge => {
                let tell = told(app, family, Part::Number);
                meter.f64_observable_gauge(name).with_description(family.help).with_callback(tell).build();
            }
            Kind::Counter => counter(app, meter, family, name, Part::Number),
            Kind::Histogram => {
                counter(app, meter, family, format!("{name}.count"), Part::Count);
                counter(app, meter, family, format!("{name}.sum"), Part::Sum);
                counter(app, meter, family, format!("{name}.bucket"), Part::Buckets);
            }
        }
    }
}

fn counter(app: &Arc<App>, meter: &Meter, family: &'static Family, name: String, part: Part) {
    let tell = told(app, family, part);
    let unit = if part == Part::Sum { "s" } else { "1" };
    let counter = meter.f64_observable_counter(name).with_description(family.help).with_unit(unit);
    counter.with_callback(tell).build();
}

fn told(
    app: &Arc<App>,
    family: &'static Family,
    part: Part,
) -> impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + use<> {
    let app = Arc::clone(app);
    move |to| (family.read)(&Reading::of(&app), &mut Told { to, part })
}

/// What of a sample an instrument is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The number.
    Number,
    /// How many a histogram counted.
    Count,
    /// All that it counted together.
    Sum,
    /// How many of them were not above each bound.
    Buckets,
}

struct Told<'a> {
    to: &'a dyn AsyncInstrument<f64>,
    part: Part,
}

fn attributes(labels: &[Label<'_>]) -> Vec<Attribute> {
    labels.iter().map(|(name, value)| Attribute::new(*name, (*value).to_owned())).collect()
}

impl Samples for Told<'_> {
    fn number(&mut self, labels: &[Label<'_>], number: Number) {
        self.to.observe(number.as_f64(), &attributes(labels));
    }

    fn latency(&mut self, labels: &[Label<'_>], latency: &Latency) {
        let mut attributes = attributes(labels);
        let total: u64 = latency.buckets.iter().map(|(_, count)| count).sum();
        match self.part {
            Part::Number | Part::Count => self.to.observe(total as f64, &attributes),
            Part::Sum => self.to.observe(latency.seconds, &attributes),
            Part::Buckets => {
                let mut up_to = 0;
                for (bound, count) in &latency.buckets {
                    up_to += count;
                    attributes.truncate(labels.len());
                    let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
                    attributes.push(Attribute::new("le", bound));
                    self.to.observe(up_to as f64, &attributes);
                }
            }
        }
    }
}
