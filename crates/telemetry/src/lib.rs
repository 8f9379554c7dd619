//! Traces and metrics, pushed to whoever the environment names: a collector of OpenTelemetry (OTLP over HTTP), and
//! Application Insights. Where it names none, there is nothing here: no thread, no tracer.
//!
//! Exporting is done on threads of its own, out of queues that are bounded (`OTEL_BSP_MAX_QUEUE_SIZE`); what does not
//! fit is dropped, and what cannot be delivered is said once.

mod delivery;
mod trace;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
pub use opentelemetry::KeyValue as Attribute;
use opentelemetry::metrics::MeterProvider;
pub use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, TracerProviderBuilder};

use delivery::Delivery;
pub use trace::{Message, Parent, Span, Tracer};

/// How long what is not yet delivered may hold up the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The only protocol that is spoken: gRPC would bring a second HTTP stack along.
const PROTOCOL: &str = "http/protobuf";
/// Where Application Insights is. It is no secret by itself, but it may carry one.
const CONNECTION_STRING: &str = "APPLICATIONINSIGHTS_CONNECTION_STRING";

/// Who it is that tells, unless the environment says otherwise (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`).
#[derive(Clone, Copy, Debug)]
pub struct Teller<'a> {
    /// `service.name`, and the scope of all spans and instruments.
    pub service: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// `service.instance.id`; to Application Insights `cloud_RoleInstance`.
    pub instance: &'a str,
}

/// What exports. [`Telemetry::shut_down`] ends it within a bound; merely dropped, it may wait for a collector.
#[derive(Debug)]
pub struct Telemetry {
    scope: opentelemetry::InstrumentationScope,
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// What is told of.
#[derive(Clone, Copy)]
enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
        }
    }
}

impl Telemetry {
    /// Starts exporting what the environment asks for; None where it asks for nothing.
    ///
    /// What it asks for and cannot be done is logged: no server stays away because nobody can watch it.
    pub fn from_env(teller: Teller<'_>) -> Option<Self> {
        Self::asked(teller, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn asked(teller: Teller<'_>, env: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        if env("OTEL_SDK_DISABLED").is_some_and(|off| off.eq_ignore_ascii_case("true")) {
            return None;
        }
        let wanted = |signal| Wanted {
            collector: asks_for_collector(signal, env),
            insights: env(CONNECTION_STRING).filter(|_| !is_off(signal, env)),
        };
        let resource = || resource(teller, env);
        let traces = wanted(Signal::Traces).tracers(resource);
        let metrics = wanted(Signal::Metrics).meters(resource);
        let scope =
            opentelemetry::InstrumentationScope::builder(teller.service).with_version(teller.version).build();
        (traces.is_some() || metrics.is_some()).then_some(Telemetry { scope, traces, metrics })
    }

    /// What begins spans; None where traces are not exported.
    pub fn tracer(&self) -> Option<Tracer> {
        self.traces.as_ref().map(|traces| Tracer::new(traces.tracer_with_scope(self.scope.clone())))
    }

    /// What makes instruments; None where metrics are not exported.
    pub fn meter(&self) -> Option<Meter> {
        self.metrics.as_ref().map(|metrics| metrics.meter_with_scope(self.scope.clone()))
    }

    /// Delivers what is left, within five seconds.
    pub fn shut_down(self) {
        // A thread for each, since a collector that is away takes all the time there is. Why it failed has been said
        // where it was tried.
        let traces = self.traces.map(|traces| thread::spawn(move || drop(traces.shutdown())));
        let metrics = self.metrics.map(|metrics| thread::spawn(move || drop(metrics.shutdown())));
        let (done, waits) = mpsc::sync_channel(1);
        thread::spawn(move || {
            for thread in [traces, metrics].into_iter().flatten() {
                let _ = thread.join();
            }
            let _ = done.send(());
        });
        if waits.recv_timeout(LAST_WORDS).is_err() {
            tracing::warn!("the last traces and metrics were not delivered in time");
        }
    }
}

/// Where a signal goes.
struct Wanted {
    collector: bool,
    insights: Option<String>,
}

impl Wanted {
    /// None where there is nowhere to go: spans that nobody sees would only stand between those of others.
    fn tracers(self, resource: impl Fn() -> Resource) -> Option<SdkTracerProvider> {
        let collector = self.collector.then(|| {
            let delivery = Delivery::to("the collector of traces");
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(delivery);
            understood(exporter.build())
        });
        let (collector, insights) = (collector.flatten(), self.insights());
        if collector.is_none() && insights.is_none() {
            return None;
        }
        let mut tracers = TracerProviderBuilder::default().with_resource(resource());
        if let Some(exporter) = collector {
            tracers = tracers.with_batch_exporter(exporter);
        }
        if let Some(exporter) = insights {
            tracers = tracers.with_batch_exporter(exporter);
        }
        Some(tracers.build())
    }

    /// The same of metrics.
    fn meters(self, resource: impl Fn() -> Resource) -> Option<SdkMeterProvider> {
        let collector = self.collector.then(|| {
            let delivery = Delivery::to("the collector of metrics");
            let exporter =
                opentelemetry_otlp::MetricExporter::builder().with_http().with_http_client(delivery);
            understood(exporter.build())
        });
        let (collector, insights) = (collector.flatten(), self.insights());
        if collector.is_none() && insights.is_none() {
            return None;
        }
        let mut meters = MeterProviderBuilder::default().with_resource(resource());
        if let Some(exporter) = collector {
            meters = meters.with_periodic_exporter(exporter);
        }
        if let Some(exporter) = insights {
            meters = meters.with_periodic_exporter(exporter);
        }
        Some(meters.build())
    }

    fn insights(&self) -> Option<opentelemetry_application_insights::Exporter<Delivery>> {
        let connection = self.insights.as_ref()?;
        let delivery = Delivery::to("Application Insights");
        opentelemetry_application_insights::Exporter::new_from_connection_string(connection, delivery)
            // Why not is not repeated, since it may hold what is a secret.
            .map_err(|_| tracing::warn!("{CONNECTION_STRING} is not understood: nothing is sent there"))
            .ok()
    }
}

fn understood<E>(exporter: Result<E, opentelemetry_otlp::ExporterBuildError>) -> Option<E> {
    exporter
        .map_err(
            |error| tracing::warn!(%error, "OTEL_EXPORTER_OTLP_* is not understood: nothing is sent there"),
        )
        .ok()
}

fn is_off(signal: Signal, env: &dyn Fn(&str) -> Option<String>) -> bool {
    env(&format!("OTEL_{}_EXPORTER", signal.name())).is_some_and(|exporter| exporter == "none")
}

/// Whether the environment names a collector for the signal. By the specification one at localhost would be meant where
/// it names none; here that means that nobody asked.
fn asks_for_collector(signal: Signal, env: &dyn Fn(&str) -> Option<String>) -> bool {
    let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name());
    let exporter = env(&format!("OTEL_{}_EXPORTER", signal.name()));
    let asked = match exporter.as_deref() {
        None => env("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| env(&own("ENDPOINT"))).is_some(),
        Some(exporters) => exporters.split(',').any(|exporter| exporter.trim() == "otlp"),
    };
    let protocol = env(&own("PROTOCOL")).or_else(|| env("OTEL_EXPORTER_OTLP_PROTOCOL"));
    match protocol.filter(|protocol| asked && protocol != PROTOCOL) {
        None => asked,
        Some(protocol) => {
            tracing::warn!(
                protocol,
                signal = signal.name(),
                "only {PROTOCOL} is spoken: nothing is exported"
            );
            false
        }
    }
}

/// The environment's word stands above the program's; of its two, the name that is a variable of its own.
fn resource(teller: Teller<'_>, env: &dyn Fn(&str) -> Option<String>) -> Resource {
    let service = env("OTEL_SERVICE_NAME").map(|name| KeyValue::new("service.name", name));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.name", teller.service),
            KeyValue::new("service.version", teller.version),
            KeyValue::new("service.instance.id", teller.instance.to_owned()),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(service)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TELLER: Teller<'static> = Teller { service: "test", version: "1", instance: "i-1" };

    fn env<'a>(set: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn signals(set: &[(&str, &str)]) -> (bool, bool) {
        let asked = Telemetry::asked(TELLER, &env(set));
        asked.map_or((false, false), |asked| (asked.traces.is_some(), asked.metrics.is_some()))
    }

    #[test]
    fn only_what_the_environment_asks_for_is_started() {
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        let insights = (CONNECTION_STRING, "InstrumentationKey=k;IngestionEndpoint=http://127.0.0.1:9");
        assert_eq!(signals(&[]), (false, false));
        assert_eq!(
            signals(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "always_on")]),
            (false, false)
        );
        assert_eq!(signals(&[at]), (true, true));
        assert_eq!(signals(&[at, ("OTEL_SDK_DISABLED", "true")]), (false, false));
        assert_eq!(signals(&[at, ("OTEL_METRICS_EXPORTER", "none")]), (true, false));
        assert_eq!(signals(&[("OTEL_TRACES_EXPORTER", "otlp")]), (true, false));
        assert_eq!(signals(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", at.1)]), (false, true));
        assert_eq!(signals(&[at, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), (false, false));
        assert_eq!(signals(&[at, ("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL)]), (true, true));
        assert_eq!(signals(&[insights]), (true, true));
        assert_eq!(signals(&[insights, ("OTEL_TRACES_EXPORTER", "none")]), (false, true));
        assert_eq!(signals(&[(CONNECTION_STRING, "nonsense")]), (false, false));
    }

    #[test]
    fn a_name_of_the_environments_stands_above_the_programs() {
        let name = |set: &[(&str, &str)]| {
            let resource = resource(TELLER, &env(set));
            let value = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
            (value("service.name"), value("service.instance.id"))
        };
        let instance = Some("i-1".to_owned());
        assert_eq!(name(&[]), (Some("test".to_owned()), instance.clone()));
        assert_eq!(name(&[("OTEL_SERVICE_NAME", "mine")]), (Some("mine".to_owned()), instance));
    }
}
