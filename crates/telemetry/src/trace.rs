//! Spans of requests, and the trace that a request belongs to (W3C Trace Context).

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// What a request says of the trace that it is part of, in its headers or in its `_meta` (2026-07-28, "_meta").
#[derive(Clone, Copy, Debug, Default)]
pub struct Parent<'a> {
    /// `traceparent`. What is not well-formed is as good as absent.
    pub traceparent: Option<&'a str>,
    /// `tracestate`.
    pub tracestate: Option<&'a str>,
}

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Parent<'_> {
    /// The caller's span, if it names one.
    fn context(&self) -> Option<Context> {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
        context.span().span_context().is_valid().then_some(context)
    }
}

/// A message that is being answered. What clients make up in it comes in bounded.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The JSON-RPC method.
    pub method: &'a str,
    /// The tool or prompt that it is for.
    pub name: Option<&'a str>,
    /// The version of the protocol that its header names.
    pub version: Option<&'a str>,
    /// The path at which it came in.
    pub route: &'a str,
}

impl Message<'_> {
    /// Name and attributes by OpenTelemetry's conventions for MCP. No `http.request.method`: Application Insights would
    /// then call every message `POST /mcp`.
    fn described(&self) -> (String, Vec<KeyValue>) {
        let Message { method, name, version, route } = *self;
        let mut attributes = vec![
            KeyValue::new("mcp.method.name", method.to_owned()),
            KeyValue::new("http.route", route.to_owned()),
        ];
        attributes.extend(version.map(|version| KeyValue::new("mcp.protocol.version", version.to_owned())));
        let named = match method {
            "tools/call" => {
                attributes.push(KeyValue::new("gen_ai.operation.name", "execute_tool"));
                name.map(|name| ("gen_ai.tool.name", name))
            }
            "prompts/get" => name.map(|name| ("gen_ai.prompt.name", name)),
            _ => None,
        };
        let Some((key, name)) = named else { return (method.to_owned(), attributes) };
        attributes.push(KeyValue::new(key, name.to_owned()));
        (format!("{method} {name}"), attributes)
    }
}

/// What begins spans.
#[derive(Clone, Debug)]
pub struct Tracer(SdkTracer);

impl Tracer {
    pub(crate) fn new(tracer: SdkTracer) -> Self {
        Tracer(tracer)
    }

    /// Begins the span of a message, in the first of these traces that is one.
    pub fn serve(&self, message: Message<'_>, parents: [Parent<'_>; 2]) -> Span {
        let (name, attributes) = message.described();
        let parent = parents.iter().find_map(Parent::context).unwrap_or_default();
        let span = self.0.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        Span(self.0.build_with_context(span, &parent))
    }
}

/// A span, until it is dropped.
#[derive(Debug)]
pub struct Span(SdkSpan);

impl Span {
    /// The `traceparent` of requests that are made for this one. It goes on in the trace also where that is not recorded.
    pub fn traceparent(&self) -> String {
        let context = self.0.span_context();
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
    }

    /// Notes something about the request.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Notes with which HTTP status it was answered. Only what is the server's fault is a failure of the span.
    pub fn answered(&mut self, status: u16) {
        self.note("http.response.status_code", i64::from(status));
        if status >= 400 {
            self.note("error.type", status.to_string());
        }
        if status >= 500 {
            self.0.set_status(Status::error(status.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    use super::*;

    const PING: Message<'static> = Message { method: "ping", name: None, version: None, route: "/mcp" };
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parent(flags: &str) -> String {
        format!("00-{TRACE}-b7ad6b7169203331-{flags}")
    }

    #[test]
    fn a_request_goes_on_in_the_first_trace_that_is_one() {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
        let tracer = Tracer::new(provider.tracer("test"));
        let traceparent = |header: Option<&str>, meta: Option<&str>| {
            let parents = [header, meta].map(|traceparent| Parent { traceparent, ..Parent::default() });
            tracer.serve(PING, parents).traceparent()
        };
        let (one, other) = (parent("01"), parent("01").replace(TRACE, &"a".repeat(32)));
        assert!(traceparent(Some(&one), None).starts_with(&one[..35]));
        assert!(traceparent(Some(&one), Some(&other)).starts_with(&one[..35]));
        assert!(traceparent(Some("nonsense"), Some(&other)).starts_with(&other[..35]));
        assert_ne!(traceparent(Some(&one), None), one, "the span is its own");
        assert!(!traceparent(None, None).contains(TRACE), "a new trace");
    }

    #[test]
    fn what_the_caller_does_not_record_is_not_recorded_but_goes_on() {
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let tracer = Tracer::new(provider.tracer("test"));
        let header = parent("00");
        let parents = [Parent { traceparent: Some(&header), ..Parent::default() }, Parent::default()];
        let span = tracer.serve(PING, parents);
        assert!(!span.0.is_recording());
        assert!(span.traceparent().starts_with(&header[..35]) && span.traceparent().ends_with("-00"));
    }
}
