//! How much is being answered at a time, and the patience with clients that do not take their answers.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::app::Core;
use crate::error::Fault;
use crate::reply::{CutOff, ReplyBody};

/// What is being answered now, over all cores.
#[derive(Debug, Default)]
pub struct Room {
    /// Requests, until the last byte of the answer.
    pub requests: AtomicUsize,
    /// Streams that clients listen to.
    pub streams: AtomicUsize,
}

/// One of them.
pub struct Place {
    core: Rc<Core>,
    listens: bool,
}

impl Place {
    /// Takes a place for a request with this method, if there is one.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`].
    pub fn take(core: &Rc<Core>, method: &Method) -> Result<Self, Fault> {
        let place = Place { core: Rc::clone(core), listens: *method == Method::GET };
        let limits = &core.app.config.limits;
        let most = if place.listens { limits.streams } else { limits.requests };
        // Dropped when it was one too many, and counted down by that.
        if place.count().fetch_add(1, Ordering::Relaxed) >= most {
            return Err(Fault::TooManyRequests);
        }
        Ok(place)
    }

    fn count(&self) -> &AtomicUsize {
        let room = &self.core.app.room;
        if self.listens { &room.streams } else { &room.requests }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a client last took a piece of its answer.
#[derive(Debug, Default)]
pub struct Taken {
    /// Set while a piece waits for the client.
    since: Cell<Option<Instant>>,
}

impl Taken {
    /// Returns when a piece has waited for so long.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let since = self.since.get();
            if since.is_some_and(|since| since.elapsed() >= limit) {
                return;
            }
            tokio::time::sleep_until(since.unwrap_or_else(Instant::now) + limit).await;
        }
    }
}

/// Longest piece that an HTTP/2 stream is given at once, in bytes: the next is asked for when the client took it.
const PIECE: usize = 1 << 16;

/// An answer's body that holds its request's place until it is sent.
pub struct Placed {
    body: ReplyBody,
    rest: Bytes,
    place: Option<Place>,
    taken: Option<Rc<Taken>>,
}

impl Placed {
    /// Lets a body hold a place. `taken` follows, where it is there, how the client takes it.
    pub fn hold(
        response: Response<ReplyBody>,
        place: Option<Place>,
        taken: Option<Rc<Taken>>,
    ) -> Response<Placed> {
        // Of an answer whose client gives no room at all, not even the first piece is asked for.
        if let Some(taken) = taken.as_ref().filter(|_| !response.body().is_end_stream()) {
            taken.since.set(Some(Instant::now()));
        }
        response.map(|body| Placed { body, rest: Bytes::new(), place, taken })
    }

    /// The next piece, of a length that shows whether the client takes it.
    fn next_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return other,
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Body for Placed {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let this = self.get_mut();
        let next = match this.taken {
            Some(_) => this.next_piece(cx),
            None => Pin::new(&mut this.body).poll_frame(cx),
        };
        if let Some(taken) = &this.taken {
            taken.since.set(next.is_ready().then(Instant::now));
        }
        if matches!(next, Poll::Ready(None)) {
            this.place = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before the first piece.
        self.body.size_hint()
    }
}

/// Bytes, and time, that an answer to a message which was not read waits for the rest of it.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(5);

/// Takes the rest of a message that was refused: closing a connection on which the client still sends would take the
/// answer from it (RFC 9112, section 9.6).
pub fn linger(mut body: Incoming, fault: &Fault) {
    // A client that was too slow already is not waited for.
    if body.is_end_stream() || *fault == Fault::BodyBroken {
        return;
    }
    tokio::task::spawn_local(tokio::time::timeout(LINGER, async move {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > LINGER_BYTES {
                return;
            }
        }
    }));
}
