//! The span of each request, where traces are exported, and the figures of the status page for those who are told them.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, request::Parts};
use rmcp::RoleServer;
use rmcp::service::RequestContext;
use serde_json::Value;
use throughline_telemetry::{Attribute, Message, Meter, Parent, Span, Tracer};

use crate::status::Figures;

/// Longest method or name that a span says, in characters.
const LONGEST: usize = 64;
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// A span, which the request carries with it, and its answer. It ends with the last of them.
#[derive(Clone)]
pub(super) struct Carried(Arc<Mutex<Span>>);

impl Carried {
    /// That of the request, where it has one.
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Option<Self> {
        context.extensions.get::<Parts>()?.extensions.get::<Self>().cloned()
    }

    /// Notes with which HTTP status it was answered.
    pub(super) fn answered(&self, status: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answered(status);
    }

    /// Notes that the tool failed, which is an answer like any other to HTTP.
    pub(super) fn tool_failed(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note("error.type", "tool_error");
    }
}

/// Begins the span of a message. Its parent is the span that the headers name, which is nearer than the one in `_meta`:
/// whoever is on the way writes only the headers.
pub(super) fn begin(tracer: &Tracer, headers: &HeaderMap, body: &Bytes) -> Option<Carried> {
    let message: Value = serde_json::from_slice(body).ok()?;
    let bounded = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let method = bounded(message["method"].as_str()?);
    let name = message["params"]["name"].as_str().map(bounded);
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let version = header(&VERSION).map(bounded);
    let in_headers = Parent {
        traceparent: header(&HeaderName::from_static("traceparent")),
        tracestate: header(&HeaderName::from_static("tracestate")),
    };
    let meta = &message["params"]["_meta"];
    let in_meta =
        Parent { traceparent: meta["traceparent"].as_str(), tracestate: meta["tracestate"].as_str() };
    let message =
        Message { method: &method, name: name.as_deref(), version: version.as_deref(), route: "/mcp" };
    Some(Carried(Arc::new(Mutex::new(tracer.serve(message, [in_headers, in_meta])))))
}

/// Has the figures pushed: they are read when there is something to push.
pub(super) fn push(figures: &Arc<Figures>, meter: &Meter) {
    let read = Arc::clone(figures);
    meter
        .u64_observable_counter("throughline.reference.requests")
        .with_description("Requests at the MCP endpoint")
        .with_callback(move |to| to.observe(read.requests(), &[]))
        .build();
    let read = Arc::clone(figures);
    meter
        .u64_observable_counter("throughline.reference.calls")
        .with_description("Calls of each tool")
        .with_callback(move |to| {
            for (tool, calls) in read.calls() {
                to.observe(calls, &[Attribute::new("gen_ai.tool.name", tool.to_owned())]);
            }
        })
        .build();
}
