//! Standing streams: what memory each takes while it is open, and what a message on each costs.

use std::fmt::Write;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use crate::Failure;
use crate::client::Caller;
use crate::proxy::Running;
use crate::table::{median, show};
use crate::upstream::Upstream;

/// Streams before the measured ones: buffers and caches that do not grow with them are filled by then.
const WARM_UP: usize = 100;
/// Messages that are measured, each on all streams; the next one when all have got it.
const MESSAGES: usize = 20;
/// No message takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// As long as those that servers commonly send unasked.
const EVENT: &str = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"logger\":\"bench\",\"data\":\"The quick brown fox jumps over the lazy dog\"}}\n\n";
/// What is in each message, and nowhere else.
const SIGN: &[u8] = b"notifications/message";

/// Figures of one filling.
#[derive(Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) subject: &'static str,
    pub(crate) streams: usize,
    /// Growth of resident memory, with session and both connections.
    pub(crate) bytes_per_stream: f64,
    pub(crate) cpu_us_per_message: f64,
    /// From when the upstream says it until every stream has it, median.
    pub(crate) all_ms: f64,
}

/// Opens `streams` sessions with a stream each, and has messages sent on all of them.
pub(crate) fn open(
    subject: &'static str,
    proxy: &Running,
    upstream: &Upstream,
    streams: usize,
) -> Result<Figures, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let _warm = stand(proxy, WARM_UP).await?;
        let before = settled(proxy)?;
        let mut open = stand(proxy, streams).await?;
        let opened = settled(proxy)?;
        // Those that warmed up are not read: they get few messages, which their sockets hold.
        let mut taken = Vec::new();
        for _ in 0..MESSAGES {
            let begun = Instant::now();
            upstream.tell(Bytes::from_static(EVENT.as_bytes()));
            for (_, stream) in &mut open {
                timeout(PATIENCE, hear(stream)).await??;
            }
            taken.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let told = proxy.usage()?;
        let messages = (MESSAGES * upstream.standing()) as f64;
        Ok(Figures {
            subject,
            streams,
            bytes_per_stream: (opened.rss as f64 - before.rss as f64) * 1024.0 / streams as f64,
            cpu_us_per_message: (told.cpu - opened.cpu) * 1e6 / messages,
            all_ms: median(taken.into_iter()).unwrap_or(0.0),
        })
    })
}

async fn stand(proxy: &Running, count: usize) -> Result<Vec<(Caller, Incoming)>, Failure> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut caller = Caller::connect(proxy.address).await?;
        caller.initialize().await?;
        let stream = caller.listen().await?;
        open.push((caller, stream));
    }
    Ok(open)
}

/// What the proxy uses when it has come to rest.
fn settled(proxy: &Running) -> Result<crate::proxy::Usage, Failure> {
    loop {
        let before = proxy.usage()?;
        thread::park_timeout(Duration::from_millis(300));
        let after = proxy.usage()?;
        if after.rss == before.rss && after.cpu - before.cpu < 0.02 {
            return Ok(after);
        }
    }
}

/// Reads up to the next message.
async fn hear(stream: &mut Incoming) -> Result<(), Failure> {
    loop {
        let frame = stream.frame().await.ok_or("a stream ended")??;
        let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        if data.windows(SIGN.len()).any(|part| part == SIGN) {
            return Ok(());
        }
    }
}

/// In Markdown.
pub(crate) fn markdown(figures: &[Figures]) -> String {
    let Some(first) = figures.first() else { return String::new() };
    let mut text = format!(
        "\n## Standing streams\n\n{} sessions, each with a GET stream that stays open. Memory is the growth of resident \
         memory, divided: session and both connections\nare in it. A message is one of the upstream's on every stream; the \
         next follows when all have it.\n\n| subject | memory per open stream, bytes | CPU per message, us | until all have \
         it, ms |\n|---|--:|--:|--:|\n",
        first.streams
    );
    let mut subjects: Vec<_> = figures.iter().map(|figures| figures.subject).collect();
    subjects.dedup();
    for subject in subjects {
        let of = |value: fn(&Figures) -> f64, digits| {
            show(median(figures.iter().filter(|it| it.subject == subject).map(value)), digits, "")
        };
        let cells =
            [of(|it| it.bytes_per_stream, 0), of(|it| it.cpu_us_per_message, 1), of(|it| it.all_ms, 1)];
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {subject} | {} |", cells.join(" | "));
    }
    text
}
