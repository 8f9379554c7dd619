//! An upstream's body on its way to the client, piece by piece or message by message.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::SizeHint;
use throughline_wire::sse::{self, IdEdit, SseDecoder};
use tokio::time::{Instant, Sleep};

use super::detach::detach;
use super::{Asked, CutOff, ReplyBody, answer_upstream};
use crate::app::{Core, Route};
use crate::binding::Bound;
use crate::call::Translate;
use crate::classify::{Accepts, OnDisconnect};
use crate::credentials::Credentials;
use crate::error::Fault;
use crate::outlet::answer::{self, Beginning};
use crate::session::InFlight;
use crate::translate::{self, Outward};
use crate::upstream::{self, AnswerBody, Head, Looked};

/// An upstream's answer that is still coming.
pub struct Relay {
    core: Rc<Core>,
    /// None when it has ended.
    body: Option<AnswerBody>,
    pieces: VecDeque<Bytes>,
    events: Option<Events>,
    /// Wakes for the next heartbeat, or for the end; made when the upstream first keeps the client waiting.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the call has taken too long.
    until: Instant,
    on_disconnect: OnDisconnect,
    in_flight: Option<InFlight>,
}

/// What an event stream needs beyond its bytes.
struct Events {
    route: Arc<Route>,
    decoder: SseDecoder,
    translate: Translate,
    bound: Option<Arc<Bound>>,
    request: Option<Box<str>>,
    credentials: Credentials,
    /// The response has gone by.
    answered: bool,
    /// The upstream gave an event id, so that the client can come back for the rest.
    resumable: bool,
}

impl Relay {
    /// An answer that is no stream, as it comes.
    pub(super) fn of_bytes(
        core: &Rc<Core>,
        looked: Looked,
        asked: &Asked<'_>,
        in_flight: Option<InFlight>,
    ) -> ReplyBody {
        let Head::Plain(pieces) = looked.head else { return ReplyBody::Empty };
        if looked.body.is_end() {
            return whole(pieces);
        }
        Self::go_on(core, looked.body, pieces.into(), None, asked.on_disconnect, in_flight)
    }

    /// A stream, as it comes; one that is over already, as most are, in one piece.
    pub(super) async fn of_events(
        core: &Rc<Core>,
        looked: Looked,
        translate: Translate,
        bound: Option<Arc<Bound>>,
        asked: &Asked<'_>,
        in_flight: Option<InFlight>,
    ) -> ReplyBody {
        let Head::Events(decoder, mut frames) = looked.head else { return ReplyBody::Empty };
        let request = asked.id.map(Into::into);
        let credentials = asked.credentials.clone();
        let mut events = Events {
            route: Arc::clone(asked.route),
            decoder,
            translate,
            bound,
            request,
            credentials,
            answered: false,
            resumable: false,
        };
        let mut pieces: Vec<Bytes> = frames.iter().filter_map(|frame| events.outward(core, frame)).collect();
        let mut body = looked.body;
        while let Ok(Some(frame)) = events.decoder.next_frame() {
            pieces.extend(events.outward(core, &frame));
            frames.push(frame);
        }
        let in_flight = match (events.outlasts(asked), in_flight) {
            (Some(bound), Some(in_flight)) => {
                let beginning = Beginning { frames, decoder: events.decoder, body };
                let body = answer::begin(core, beginning, &bound, asked, in_flight);
                return ReplyBody::Channel(body);
            }
            (_, in_flight) => in_flight,
        };
        if events.answered {
            // The end comes right behind the response, in the same packet if all goes well.
            loop {
                while let Ok(Some(frame)) = events.decoder.next_frame() {
                    pieces.extend(events.outward(core, &frame));
                }
                match body.chunk_at_hand().await {
                    Some(rest) => events.decoder.push(rest),
                    None => break,
                }
            }
            if body.is_end() {
                pieces.extend(events.decoder.finish().and_then(|frame| events.outward(core, &frame)));
                return whole(pieces);
            }
        }
        Self::go_on(core, body, pieces.into(), Some(events), asked.on_disconnect, in_flight)
    }

    fn go_on(
        core: &Rc<Core>,
        body: AnswerBody,
        pieces: VecDeque<Bytes>,
        events: Option<Events>,
        on_disconnect: OnDisconnect,
        in_flight: Option<InFlight>,
    ) -> ReplyBody {
        ReplyBody::Relay(Box::new(Relay {
            core: Rc::clone(core),
            body: Some(body),
            pieces,
            events,
            timer: None,
            until: Instant::now() + core.app.config.timeouts.call,
            on_disconnect,
            in_flight,
        }))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match (&self.events, self.body.as_ref().and_then(|body| body.size_hint().exact())) {
            (None, Some(rest)) => {
                let here: usize = self.pieces.iter().map(Bytes::len).sum();
                SizeHint::with_exact(here as u64 + rest)
            }
            _ => SizeHint::default(),
        }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(events) = &mut self.events {
                match events.decoder.next_frame() {
                    Ok(Some(frame)) => {
                        self.pieces.extend(events.outward(&self.core, &frame));
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        return self
                            .fail(&error, Fault::AnswerTooLarge(self.core.app.config.limits.event_bytes));
                    }
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match body.poll_chunk(cx) {
                Poll::Ready(Some(Ok(chunk))) => match &mut self.events {
                    Some(events) => events.decoder.push(chunk),
                    None => return Poll::Ready(Some(Ok(chunk))),
                },
                Poll::Ready(Some(Err(error))) => return self.fail(&error, Fault::MayHaveExecuted),
                Poll::Ready(None) => {
                    self.body = None;
                    if let Some(events) = &mut self.events
                        && let Some(frame) = events.decoder.finish()
                    {
                        self.pieces.extend(events.outward(&self.core, &frame));
                    }
                    let open = self
                        .events
                        .as_ref()
                        .is_some_and(|e| !e.answered && !e.resumable && e.request.is_some());
                    if open {
                        return self.fail(&"stream ended without a response", Fault::MayHaveExecuted);
                    }
                }
                Poll::Pending => match self.poll_timer(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if Instant::now() >= self.until => {
                        return self.fail(&"call took too long", Fault::UpstreamTimeout);
                    }
                    Poll::Ready(()) if self.events.is_some() => {
                        return Poll::Ready(Some(Ok(Bytes::from_static(sse::HEARTBEAT))));
                    }
                    Poll::Ready(()) => {}
                },
            }
        }
    }

    /// Ready at the next heartbeat, or when the call has taken too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = (Instant::now() + self.core.app.config.streams.heartbeat).min(self.until);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        let due = timer.as_mut().poll(cx);
        if due.is_ready() {
            timer.as_mut().reset(next);
        }
        due
    }

    /// Trouble after the headers have gone out: said in the stream where there is one, else the connection is cut.
    fn fail(&mut self, error: &dyn std::fmt::Display, fault: Fault) -> Poll<Option<Result<Bytes, CutOff>>> {
        tracing::warn!(%error, "upstream answer broke off");
        self.body = None;
        let Some(events) = &mut self.events else { return Poll::Ready(Some(Err(CutOff))) };
        if events.answered {
            return Poll::Ready(None);
        }
        events.answered = true;
        Poll::Ready(Some(Ok(sse::event(&fault.body(events.request.as_deref()), None))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let unfinished = !body.is_end() && self.events.as_ref().is_none_or(|events| !events.answered);
        if unfinished && self.on_disconnect == OnDisconnect::KeepReading {
            let in_flight = self.in_flight.take();
            let core = Rc::clone(&self.core);
            detach(&core.app, core.app.config.timeouts.call, async move {
                let _held = in_flight;
                let mut body = body;
                while let Some(Ok(_)) = body.chunk().await {}
            });
        }
    }
}

impl Events {
    /// Whether the client can come back for what is still to come: the binding that it comes from.
    fn outlasts(&self, asked: &Asked<'_>) -> Option<Arc<Bound>> {
        let resumable = matches!(self.translate, Translate::Tagged(_))
            && !self.answered
            && asked.accepts == Accepts::Streams;
        self.bound.clone().filter(|_| resumable && asked.on_disconnect == OnDisconnect::KeepReading)
    }

    /// The frame as the client gets it.
    fn outward(&mut self, core: &Rc<Core>, frame: &sse::Frame) -> Option<Bytes> {
        let id = match (&self.translate, frame.id()) {
            (Translate::Tagged(tagger), Some(id)) if !id.is_empty() => {
                self.resumable = true;
                Some(tagger.event_id(id))
            }
            (Translate::AsIs, Some(_)) => None,
            // Nobody can resume a stream of a session that is not the client's.
            (_, Some(_)) => Some(String::new()),
            (_, None) => None,
        };
        let id = match &id {
            Some(id) if id.is_empty() => IdEdit::Remove,
            Some(id) => IdEdit::Set(id.as_bytes()),
            None => IdEdit::Keep,
        };
        let data = frame.data().filter(|_| frame.is_message());
        let outward = match &data {
            None => Outward::Keep,
            Some(data) => {
                let outward = match &self.translate {
                    Translate::AsIs => Outward::Keep,
                    Translate::Tagged(tagger) => tagger.outward(data),
                    Translate::Renamed(renamed) => renamed.outward(data),
                    Translate::Alone => translate::unasked(data),
                };
                // A response under somebody else's id is dropped, and answers nothing.
                self.route.lists.heard(data);
                self.answered |= !matches!(outward, Outward::Drop) && upstream::is_response(data);
                outward
            }
        };
        match outward {
            Outward::Keep if matches!(id, IdEdit::Keep) => Some(frame.raw().clone()),
            Outward::Keep => Some(frame.rewrite(None, id)),
            Outward::Replace(data) => Some(frame.rewrite(Some(&data), id)),
            Outward::Drop => None,
            Outward::Answer(answer) => {
                answer_upstream(core, self.bound.as_ref(), &self.credentials, answer);
                None
            }
        }
    }
}

/// A body of which every piece is here.
fn whole(mut pieces: Vec<Bytes>) -> ReplyBody {
    match pieces.len() {
        0 => ReplyBody::Empty,
        1 => ReplyBody::Whole(pieces.pop()),
        _ => ReplyBody::Whole(Some(pieces.concat().into())),
    }
}
