//! One client's connection: HTTP/1.1, or HTTP/2 where TLS agreed on it, and its end when the client is idle or stuck.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::app::Core;
use crate::listener::answer;
use crate::peer::Peer;
use crate::reply::Never;
use crate::room::Taken;
use crate::tally;
use crate::tls::{self, Tls};

/// How old a connection without a request must be to be closed at once when the gateway stops.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// Requests of one HTTP/2 connection that are answered at a time.
const H2_REQUESTS: u32 = 100;
/// What a client may send ahead of what is read, in all and for one request, in bytes.
const H2_WINDOW: u32 = 1 << 20;
const H2_REQUEST_WINDOW: u32 = 1 << 18;
/// Of an answer, what may wait for the client's window, in bytes.
const H2_WAITING: usize = 1 << 16;
/// How often a client is asked whether it is there, and how long it may take to say so.
const H2_PING: Duration = Duration::from_secs(30);
const H2_PONG: Duration = Duration::from_secs(20);
/// Requests that a client takes back before they were looked at (CVE-2023-44487), before it is cut off.
const H2_RESETS: usize = 50;

/// Serves a connection until it ends.
pub async fn serve(core: Rc<Core>, stream: TcpStream, peer: Peer, tls: Option<Tls>) {
    let _open = tally::connected(&core);
    let Some(tls) = tls else { return http1(core, stream, peer).await };
    let patience = core.app.config.timeouts.request_read;
    match tokio::time::timeout(patience, tls.accept(stream)).await {
        Ok(Ok(stream)) if tls::speaks_h2(&stream) => http2(core, stream, peer).await,
        Ok(Ok(stream)) => http1(core, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS connection came about"),
        Err(_) => tracing::debug!("a client did not finish its TLS greeting"),
    }
}

async fn http1(core: Rc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, peer: Peer) {
    let config = &core.app.config;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.request_read)
        .max_headers(config.limits.headers)
        .max_buf_size(config.limits.header_bytes);
    let asked = Cell::new(false);
    let service = service_fn(|request| {
        asked.set(true);
        let core = Rc::clone(&core);
        async move { Ok::<_, Never>(answer(core, peer, request, None).await) }
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut stopped = pin!(core.app.stopped());
    let mut young = pin!(tokio::time::sleep(FIRST_REQUEST));
    let (mut heard, mut ending, mut told) = (false, false, false);
    let outcome = poll_fn(|cx| {
        // The signal is polled once, which leaves this task's waker with it. From then on a flag is enough: polling
        // it at every wake cost a hundredth of a request.
        if !ending && (!heard || core.app.is_stopping()) {
            heard = true;
            ending = stopped.as_mut().poll(cx).is_ready();
        }
        // A client that has just connected has a request on its way, and would be told nothing of its fate.
        if ending && !told && (asked.get() || young.as_mut().poll(cx).is_ready()) {
            served.as_mut().graceful_shutdown();
            told = true;
        }
        served.as_mut().poll(cx)
    });
    if let Err(error) = outcome.await {
        tracing::debug!(%error, "a client's connection ended");
    }
}

async fn http2(core: Rc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, peer: Peer) {
    let mut stop = core.app.stop_signal();
    let config = &core.app.config;
    let timeouts = &config.timeouts;
    let requests = Requests { patience: timeouts.answer_write, load: Rc::new(Load::new()) };
    let load = Rc::clone(&requests.load);
    let mut http = http2::Builder::new(requests);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(H2_REQUESTS)
        .max_pending_accept_reset_streams(H2_RESETS)
        .initial_connection_window_size(H2_WINDOW)
        .initial_stream_window_size(H2_REQUEST_WINDOW)
        .max_send_buf_size(H2_WAITING)
        .max_header_list_size(u32::try_from(config.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PONG);
    let service = service_fn(|request: Request<Incoming>| {
        let core = Rc::clone(&core);
        async move {
            let taken = TAKEN.try_with(Rc::clone).ok();
            Ok::<_, Never>(answer(core, peer, request, taken).await)
        }
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = served.as_mut() => outcome,
        _ = stop.wait_for(|stop| *stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = load.idle(timeouts.request_read) => {
            served.as_mut().graceful_shutdown();
            // What was sent may still be on its way; a client that does not take it is not waited for.
            tokio::time::timeout(timeouts.answer_write, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection ended");
    }
}

tokio::task_local! {
    /// Of the request whose task this is.
    static TAKEN: Rc<Taken>;
}

/// Runs the requests of one HTTP/2 connection, each as a task on this core.
#[derive(Clone)]
struct Requests {
    patience: Duration,
    load: Rc<Load>,
}

impl<F: Future + 'static> Executor<F> for Requests {
    fn execute(&self, request: F) {
        let running = Running::new(&self.load);
        let patience = self.patience;
        tokio::task::spawn_local(async move {
            let _running = running;
            let taken = Rc::new(Taken::default());
            tokio::select! {
                _ = TAKEN.scope(Rc::clone(&taken), request) => {}
                // Dropping the request resets its stream.
                () = taken.stalled(patience) => tracing::debug!("a client did not take its answer"),
            }
        });
    }
}

/// What goes on in a connection.
struct Load {
    running: Cell<usize>,
    /// When the last request ended.
    since: Cell<Instant>,
}

impl Load {
    fn new() -> Self {
        Load { running: Cell::new(0), since: Cell::new(Instant::now()) }
    }

    /// Returns when nothing has gone on for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let since = if self.running.get() > 0 { Instant::now() } else { self.since.get() };
            if since.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }
}

struct Running(Rc<Load>);

impl Running {
    fn new(load: &Rc<Load>) -> Self {
        load.running.set(load.running.get() + 1);
        Running(Rc::clone(load))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.since.set(Instant::now());
    }
}
