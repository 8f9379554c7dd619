//! The span of a request, where traces are exported: in the trace that the client began, and the parent of what the
//! upstream does.

use http::{HeaderMap, HeaderValue, StatusCode};
use throughline_telemetry::{Message, Parent, Span, Tracer};
use throughline_wire::envelope;

use crate::classify::{Arrived, What, text};
use crate::names;
use crate::session::Kind;
use crate::tally::{name_of, shown};

/// Begins the span of a message that wants to be carried out. From here on its `traceparent` is that of the span: what is
/// sent upstream takes it from there, while the body stays as it is.
pub fn begin(tracer: &Tracer, arrived: &mut Arrived) -> Option<Span> {
    let (What::Initialize(held) | What::Request(held) | What::Notification(held)) = &arrived.what else {
        return None;
    };
    let (method, name) = (shown(&held.method), name_of(held));
    let version = arrived.version.as_ref().and_then(|version| version.to_str().ok()).map(shown);
    let message = Message {
        method: &method,
        name: name.as_deref(),
        version: version.as_deref(),
        route: &arrived.route.config.path,
    };
    let in_meta = |member| {
        let at = held.param(&["_meta", member]).ok()??;
        envelope::string_value(&held.body[at])
    };
    let (traceparent, tracestate) = (in_meta("traceparent"), in_meta("tracestate"));
    let in_meta = Parent { traceparent: traceparent.as_deref(), tracestate: tracestate.as_deref() };
    let span = tracer.serve(message, [of_headers(&arrived.headers), in_meta]);
    if let Ok(own) = HeaderValue::try_from(span.traceparent()) {
        arrived.headers.insert(names::TRACEPARENT, own);
    }
    Some(span)
}

fn of_headers(headers: &HeaderMap) -> Parent<'_> {
    Parent { traceparent: text(headers, &names::TRACEPARENT), tracestate: text(headers, &names::TRACESTATE) }
}

/// Ends it with what became of the request. `session` is its kind, and its id as logs may show it.
pub fn end(mut span: Span, status: StatusCode, session: Option<&(Kind, String)>, recovered: bool) {
    span.answered(status.as_u16());
    if let Some((kind, id)) = session {
        span.note("mcp.session.id", id.clone());
        span.note("throughline.session.kind", kind.as_str());
    }
    if recovered {
        span.note("throughline.recovered", true);
    }
}
