//! An answer's body: as it arrives from an upstream, or as a task of ours puts it together.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::fleet::Flight;
use super::http::{Connection, Endpoint, Local};
use super::many::Stream;

/// The connection that an answer is being read from.
pub(super) enum Lease {
    One(Rc<Endpoint>, Connection),
    Many(#[allow(dead_code, reason = "held for its place")] Stream),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokeOff(pub String);

/// An answer's body; when it has been read to its end, the connection goes back to the pool. Dropped before,
/// the connection is closed, which is how an upstream learns that nobody listens any more.
pub struct AnswerBody(Source);

enum Source {
    Arriving(Arriving),
    Whole(Option<Bytes>),
    Made(Box<Made>),
}

struct Arriving {
    incoming: Incoming,
    lease: Option<Lease>,
    /// Where there are several endpoints.
    flight: Option<Flight>,
}

/// A body that is put together while it is read, and no faster: dropped, the work ends where it is.
struct Made {
    /// None when it has ended.
    work: Option<Local<Result<(), BrokeOff>>>,
    pieces: mpsc::Receiver<Bytes>,
    broke: Option<BrokeOff>,
}

impl Arriving {
    fn give_back(&mut self) {
        let Some(Lease::One(endpoint, connection)) = self.lease.take() else { return };
        if connection.is_closed() {
            return;
        }
        endpoint.put_back(connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => {
                    self.give_back();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BrokeOff(error.to_string())))),
                Some(Ok(frame)) => {
                    // Trailers carry nothing in this protocol.
                    if let Ok(data) = Frame::into_data(frame) {
                        if self.incoming.is_end_stream() {
                            self.give_back();
                        }
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

impl Made {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        if let Some(work) = &mut self.work
            && self.pieces.is_empty()
            && let Poll::Ready(outcome) = work.as_mut().poll(cx)
        {
            self.work = None;
            self.broke = outcome.err();
        }
        match self.pieces.poll_recv(cx) {
            Poll::Ready(Some(piece)) => Poll::Ready(Some(Ok(piece))),
            Poll::Ready(None) => Poll::Ready(self.broke.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AnswerBody {
    /// From an upstream's connection.
    pub(super) fn arriving(incoming: Incoming, lease: Lease) -> Self {
        let mut arriving = Arriving { incoming, lease: Some(lease), flight: None };
        if arriving.incoming.is_end_stream() {
            arriving.give_back();
        }
        AnswerBody(Source::Arriving(arriving))
    }

    /// All of it.
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        AnswerBody(Source::Whole((!body.is_empty()).then_some(body)))
    }

    /// What `work` sends, for as long as somebody reads. `pieces` ends with it.
    pub(super) fn made(
        work: impl Future<Output = Result<(), BrokeOff>> + 'static,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Self {
        AnswerBody(Source::Made(Box::new(Made { work: Some(Box::pin(work)), pieces, broke: None })))
    }

    /// Keeps the request counted at its endpoint until the body is let go of.
    pub(super) fn carry(&mut self, flight: Flight) {
        if let Source::Arriving(arriving) = &mut self.0 {
            arriving.flight = Some(flight);
        }
    }

    /// The next piece of the body; None at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BrokeOff>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next piece, if it has arrived: the connection gets one turn to find out. None otherwise, and at the end.
    pub async fn chunk_at_hand(&mut self) -> Option<Bytes> {
        if self.is_end() {
            return None;
        }
        tokio::task::yield_now().await;
        let arrived = std::future::poll_fn(|cx| match self.poll_chunk(cx) {
            Poll::Ready(Some(Ok(piece))) => Poll::Ready(Some(piece)),
            // Nothing that matters comes after what the caller has; a break is as good as the end.
            Poll::Ready(_) | Poll::Pending => Poll::Ready(None),
        });
        arrived.await
    }

    /// The next piece of the body; None at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        match &mut self.0 {
            Source::Arriving(arriving) => arriving.poll(cx),
            Source::Whole(body) => Poll::Ready(body.take().map(Ok)),
            Source::Made(made) => made.poll(cx),
        }
    }

    /// Whether everything was read.
    pub fn is_end(&self) -> bool {
        match &self.0 {
            // Of a chunked body hyper knows the end only when it has been read; then the lease is given back.
            Source::Arriving(arriving) => arriving.lease.is_none() || arriving.incoming.is_end_stream(),
            Source::Whole(body) => body.is_none(),
            Source::Made(made) => made.work.is_none() && made.pieces.is_empty() && made.broke.is_none(),
        }
    }

    /// How much is still to come, as far as known.
    pub fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Arriving(arriving) => arriving.incoming.size_hint(),
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Source::Made(_) => SizeHint::default(),
        }
    }
}

/// Reads a body to its end; `None` when it is longer than `limit` bytes.
pub async fn read_whole(
    mut body: AnswerBody,
    head: Vec<Bytes>,
    limit: usize,
) -> Result<Option<Bytes>, BrokeOff> {
    let mut whole = Whole::default();
    for piece in head {
        whole.push(piece);
    }
    while let Some(piece) = body.chunk().await {
        whole.push(piece?);
        if whole.len > limit {
            return Ok(None);
        }
    }
    Ok((whole.len <= limit).then(|| whole.finish()))
}

/// Pieces put together; a single one is not copied.
#[derive(Default)]
struct Whole {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Whole {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push(piece);
    }

    fn finish(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => self.pieces.concat().into(),
        }
    }
}
