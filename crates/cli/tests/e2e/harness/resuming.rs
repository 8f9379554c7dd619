//! A client that comes back for streams that broke, as the specification says (2025-11-25, Transports, "Resumability and
//! Redelivery").

use std::io::{BufRead, Read};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Connection, Response};
use super::mcp::{Mcp, is_response};

/// How it waits where the server does not say.
const RETRY: Duration = Duration::from_secs(1);
/// How often it comes back in vain before it gives up, and for how long it comes back at all.
const ATTEMPTS: u32 = 30;
const LONGEST: Duration = Duration::from_secs(150);

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The response, with the status of the answer that it began in.
    Answered(u16, Value),
    /// The connection broke before there was an event to come back from; whether it had been made at all.
    Unknown { connected: bool },
    /// It came back, and was refused.
    Gone(u16, String),
}

/// Sends a request to where `place` says, which it asks again each time it comes back. `hear` gets what the stream says
/// before the response.
pub(crate) fn call(mut place: impl FnMut() -> Mcp, request: &Value, mut hear: impl FnMut(Value)) -> Ended {
    let sent = place().send("POST", Some(request.to_string().as_bytes()));
    let begun = match sent {
        Ok(begun) => begun,
        Err(error) => {
            return Ended::Unknown { connected: error.kind() != std::io::ErrorKind::ConnectionRefused };
        }
    };
    let status = begun.0.status;
    if !begun.0.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        let mut text = String::new();
        let read = begun.0.into_body().read_to_string(&mut text).ok();
        let whole = read.and_then(|_| serde_json::from_str(&text).ok());
        return whole.map_or(Ended::Unknown { connected: true }, |message| Ended::Answered(status, message));
    }
    let mut response = None;
    let ended = follow(begun, place, |message| {
        if is_response(&message) {
            response = Some(message);
            return ControlFlow::Break(());
        }
        hear(message);
        ControlFlow::Continue(())
    });
    match (ended, response) {
        (_, Some(response)) => Ended::Answered(status, response),
        (Err(ended), None) => ended,
        (Ok(()), None) => unreachable!("it is followed until there is a response"),
    }
}

/// Reads a stream, and goes on with it when it breaks, until `take` has enough.
#[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
pub(crate) fn follow(
    begun: (Response, Connection),
    mut place: impl FnMut() -> Mcp,
    mut take: impl FnMut(Value) -> ControlFlow<()>,
) -> Result<(), Ended> {
    let started = Instant::now();
    let mut stream = Stream { last: None, retry: RETRY, started };
    let (mut next, mut attempts) = (Some(begun), 0);
    let mut met = String::new();
    loop {
        if let Some((response, _connection)) = next.take()
            && stream.read(response.into_body(), &mut attempts, &mut take).is_break()
        {
            return Ok(());
        }
        let Some(last) = stream.last.clone() else { return Err(Ended::Unknown { connected: true }) };
        attempts += 1;
        assert!(attempts <= ATTEMPTS, "came back {attempts} times in vain: {met}");
        assert!(started.elapsed() < LONGEST, "a stream without an end");
        thread::park_timeout(stream.retry);
        let resumed = place().with_header("Last-Event-ID", &last).send("GET", None);
        match resumed {
            // Whoever is not well says so, and may be well again.
            Ok((response, connection)) if response.status < 400 => {
                met = response.status.to_string();
                next = Some((response, connection));
            }
            Ok((response, _)) if response.status >= 500 => met = response.status.to_string(),
            Ok((response, _connection)) => {
                let (status, mut text) = (response.status, String::new());
                let _ = response.into_body().read_to_string(&mut text);
                return Err(Ended::Gone(status, text));
            }
            Err(error) => met = error.to_string(),
        }
    }
}

/// What a client knows of a stream from its events.
struct Stream {
    last: Option<String>,
    retry: Duration,
    started: Instant,
}

impl Stream {
    /// Reads a connection to its end, or until `take` has enough. What an event says counts once it is whole.
    fn read(
        &mut self,
        body: impl BufRead,
        attempts: &mut u32,
        take: &mut impl FnMut(Value) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mut id, mut data) = (None, String::new());
        for line in body.split(b'\n').map_while(Result::ok) {
            // Heartbeats come all the time.
            assert!(self.started.elapsed() < LONGEST, "a stream without an end");
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            let value = |name: &str| Some(line.strip_prefix(name)?.trim_start().to_owned());
            if line.is_empty() {
                if let Some(id) = id.take() {
                    self.last = Some(id);
                    *attempts = 0;
                }
                if !data.is_empty() {
                    let message = serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e}: {data}"));
                    take(message)?;
                }
                data.clear();
            } else if let Some(value) = value("id:") {
                id = Some(value);
            } else if let Some(value) = value("data:") {
                data += &value;
            } else if let Some(milliseconds) = value("retry:").and_then(|value| value.parse().ok()) {
                self.retry = Duration::from_millis(milliseconds);
            }
        }
        ControlFlow::Continue(())
    }
}
