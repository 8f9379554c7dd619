//! HTTP/2: connections of this core that carry many requests at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::socket::{self, Socket};

/// Requests in flight on one connection; the next opens another. Servers allow at least so many, as RFC 9113
/// (6.5.2) recommends; where one allows less, requests wait for their turn.
const MAX_STREAMS: usize = 100;

/// The open connections.
#[derive(Default)]
pub(super) struct Many(RefCell<Vec<Rc<Line>>>);

/// One connection.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    socket: Socket,
    streams: Cell<usize>,
    /// The upstream takes nothing new on it.
    retired: Cell<bool>,
    used: Cell<Instant>,
}

impl Line {
    fn has_room(&self) -> bool {
        !self.retired.get() && !self.sender.is_closed() && self.streams.get() < MAX_STREAMS
    }
}

/// A place on a connection; given back when it is dropped.
pub(super) struct Stream(Rc<Line>);

impl Stream {
    fn on(line: &Rc<Line>) -> Self {
        line.streams.set(line.streams.get() + 1);
        line.used.set(Instant::now());
        Stream(Rc::clone(line))
    }

    /// Who sends the request.
    pub(super) fn sender(&self) -> SendRequest<Full<Bytes>> {
        self.0.sender.clone()
    }

    /// Nothing new is to go out on this connection.
    pub(super) fn retire(&self) {
        self.0.retired.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.used.set(Instant::now());
    }
}

impl Many {
    /// A place on a connection that is still open; None where there is none, or no room.
    pub(super) async fn take(&self) -> Option<Stream> {
        loop {
            let line = self.0.borrow().iter().find(|line| line.has_room()).cloned()?;
            if socket::is_quiet(&line.socket) {
                return Some(Stream::on(&line));
            }
            // Something has arrived, perhaps the end: hyper gets a turn to find out, as a server that was killed
            // must not be sent a request of which nobody could say whether it was executed.
            tokio::task::yield_now().await;
            if socket::is_over(&line.socket) {
                line.retired.set(true);
            } else if line.has_room() {
                return Some(Stream::on(&line));
            }
        }
    }

    /// A place on a connection that was just made; on another that was faster, so that one remains.
    pub(super) fn enter(&self, sender: SendRequest<Full<Bytes>>, socket: Socket) -> Stream {
        let mut lines = self.0.borrow_mut();
        lines.retain(|line| !line.retired.get() && !line.sender.is_closed());
        if let Some(faster) = lines.iter().find(|line| line.has_room()) {
            return Stream::on(faster);
        }
        let line = Rc::new(Line {
            sender,
            socket,
            streams: Cell::new(0),
            retired: Cell::new(false),
            used: Cell::new(Instant::now()),
        });
        lines.push(Rc::clone(&line));
        Stream::on(&line)
    }

    /// Closes connections that have been idle for so long.
    pub(super) fn tidy(&self, idle: Duration) {
        let kept = |line: &Rc<Line>| line.streams.get() > 0 || line.used.get().elapsed() < idle;
        self.0.borrow_mut().retain(|line| kept(line) && !line.retired.get() && !line.sender.is_closed());
    }
}
