//! The tally of each request: what is counted of it, its span, and the line in the access log.
//!
//! They are written when the answer has gone out, or nobody wants the rest of it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use throughline_store::RecordKey;
use throughline_telemetry::Span;
use throughline_wire::envelope;
use throughline_wire::method;
use tokio::time::Instant;

use crate::app::{Core, Route, short};
use crate::classify::{Arrived, Held, What};
use crate::metrics::{Count, DELETE, GET, RESPONSE, Shard};
use crate::reply::{CutOff, ReplyBody};
use crate::session::{Kind, Session};
use crate::spans;

/// The access log's target: `THROUGHLINE_LOG=info,throughline::access=off` silences it too.
pub const TARGET: &str = "throughline::access";

/// Longest method or tool in the log, in characters.
const MAX_NAME: usize = 64;

/// What is learnt of a request on its way, by those who have it on loan.
#[derive(Debug, Default)]
pub struct Seen {
    session: Cell<Option<(Kind, RecordKey)>>,
    recovered: Cell<bool>,
    /// Where it is traced.
    span: Option<Box<Span>>,
}

impl Seen {
    /// Which session it is carried in.
    pub fn session(&self, session: &Session) {
        self.session.set(Some((session.kind, session.key)));
    }

    /// What was learnt of another that was sent in its place.
    pub fn take(&self, other: &Seen) {
        self.session.set(other.session.take().or(self.session.get()));
        self.recovered.set(other.recovered.get() || self.recovered.get());
    }

    /// Its session was lost, and is whole again.
    pub fn recovered(&self) {
        self.recovered.set(true);
    }
}

/// One of those that a gauge counts.
pub struct Present {
    core: Rc<Core>,
    gauge: fn(&Shard) -> &Count,
}

impl Present {
    fn new(core: &Rc<Core>, gauge: fn(&Shard) -> &Count) -> Self {
        gauge(&core.metrics).up();
        Present { core: Rc::clone(core), gauge }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        (self.gauge)(&self.core.metrics).down();
    }
}

/// A client's connection, until it is dropped.
pub fn connected(core: &Rc<Core>) -> Present {
    Present::new(core, |shard| &shard.connections)
}

/// A request that is being answered, until it is dropped. What is sent for it from now on is part of its span.
pub fn enter(core: &Rc<Core>, arrived: &mut Arrived) -> Present {
    if let Some(tracer) = &core.app.tracer {
        arrived.seen.span = spans::begin(tracer, arrived).map(Box::new);
    }
    Present::new(core, |shard| &shard.in_flight)
}

/// Takes note of a request that was refused before it was understood.
pub fn refused(core: &Core, response: Response<ReplyBody>) -> Response<ReplyBody> {
    core.metrics.refused(response.status());
    if is_logged(core) {
        tracing::info!(target: TARGET, status = response.status().as_u16(), "refused");
    }
    response
}

/// Takes note of a request while its answer goes out.
pub fn answered(present: Present, arrived: Arrived, response: Response<ReplyBody>) -> Response<ReplyBody> {
    let modern = arrived.is_modern();
    let tool = tool(&present.core, &arrived);
    let (method, listens) = match arrived.what {
        What::Initialize(held) | What::Request(held) | What::Notification(held) => (held.method, false),
        What::Response(_) => (RESPONSE.into(), false),
        What::Listen(_) => (GET.into(), true),
        What::Close => (DELETE.into(), false),
    };
    let tally = Tally {
        present,
        route: arrived.route,
        principal: arrived.caller.principal,
        method,
        listens,
        tool,
        modern,
        seen: arrived.seen,
        began: arrived.began,
        status: response.status(),
        bytes: 0,
    };
    response.map(|body| ReplyBody::Counted(Box::new(Counted { body, tally })))
}

/// The tool that is called, if that is going to be logged.
fn tool(core: &Core, arrived: &Arrived) -> Option<String> {
    let held = arrived.held().filter(|held| &*held.method == method::TOOLS_CALL && is_logged(core))?;
    name_of(held)
}

/// The tool or prompt that a message names, as a log may show it.
pub fn name_of(held: &Held) -> Option<String> {
    let at = held.param(&["name"]).ok()??;
    envelope::string_value(&held.body[at]).map(|name| shown(&name))
}

/// What a client made up, as a log may show it.
pub fn shown(name: &str) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut shown: String = name.chars().take(MAX_NAME).map(clean).collect();
    if shown.len() < name.len() && name.chars().nth(MAX_NAME).is_some() {
        shown.push('\u{2026}');
    }
    shown
}

fn is_logged(core: &Core) -> bool {
    core.app.config.access_log && tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// A body, and the tally of the request that it answers.
pub struct Counted {
    body: ReplyBody,
    tally: Tally,
}

impl Counted {
    /// The body.
    pub fn body(&self) -> &ReplyBody {
        &self.body
    }

    /// The next piece of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.tally.bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        polled
    }
}

/// What is known of a request. Dropped with the last byte of its answer, it is counted and logged.
struct Tally {
    present: Present,
    route: Arc<Route>,
    principal: [u8; 16],
    method: Box<str>,
    listens: bool,
    tool: Option<String>,
    modern: bool,
    seen: Seen,
    began: Instant,
    status: StatusCode,
    bytes: usize,
}

impl Drop for Tally {
    fn drop(&mut self) {
        let core = &self.present.core;
        let took = self.began.elapsed();
        let counts = core.counts(&self.route);
        counts.request(&self.method, self.modern, self.status);
        if !self.listens {
            counts.latency.observe(took);
        }
        let (span, is_logged) = (self.seen.span.take(), is_logged(core));
        if span.is_none() && !is_logged {
            return;
        }
        let session = self.seen.session.get().map(|(kind, key)| (kind, core.app.log_id(&key.0)));
        if let Some(span) = span {
            spans::end(*span, self.status, session.as_ref(), self.seen.recovered.get());
        }
        if !is_logged {
            return;
        }
        tracing::info!(
            target: TARGET,
            principal = short(&self.principal),
            route = self.route.config.path,
            method = shown(&self.method),
            tool = self.tool,
            era = if self.modern { "modern" } else { "legacy" },
            kind = session.as_ref().map_or("none", |(kind, _)| kind.as_str()),
            session = session.map(|(_, id)| id),
            status = self.status.as_u16(),
            bytes = self.bytes,
            ms = took.as_secs_f64() * 1000.0,
            recovered = self.seen.recovered.get(),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn names_that_clients_make_up_are_short_and_on_one_line() {
        assert_eq!(shown("count"), "count");
        assert_eq!(shown("a\r\nb\u{1b}[31m\u{85}"), "a??b?[31m?");
        assert_eq!(shown(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(shown(&"\u{e9}".repeat(1000)), format!("{}\u{2026}", "\u{e9}".repeat(64)));
    }
}
