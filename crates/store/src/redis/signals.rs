//! The signal connection: what other gateways change, and whether their signals come through.
//!
//! Each gateway sends itself a beat over the same way as signals go, on the connection of its commands, and hears
//! it on its subscription. What was announced before a beat has been heard before it. So the age of the last beat
//! that came is how long a change may have gone unnoticed, whichever of the two connections is broken, hangs, or
//! leads to a server that others do not write to any more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use redis::Msg;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::circuit::{Access, Circuit};
use super::dial::{CONNECT, Dialer};
use super::events;
use super::failure::Failure;
use super::frame;
use super::place::Place;
use crate::log::{self, News};
use crate::record::{RecordKey, Version};
use crate::watch::{Changed, Changes, Watch};

/// From this age of the last beat on, changes may go unnoticed.
const LAPSE: Duration = Duration::from_secs(2);
/// How often a beat is sent.
const BEAT: Duration = Duration::from_millis(500);
/// Attempts to subscribe come so soon after each other at first, and so late at last.
const ATTEMPTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What has come through.
pub(super) struct Signals {
    changes: Changes,
    news: broadcast::Sender<News>,
    /// Times below are counted from here.
    start: Instant,
    /// When the last beat that came was sent, in milliseconds; [`NEVER`] before there was one.
    life: AtomicU64,
    /// How often signals may have been missed.
    epoch: AtomicU64,
    changed: String,
    events: String,
    /// Where this gateway's own beats go.
    beats: String,
}

const NEVER: u64 = u64::MAX;

impl Signals {
    pub(super) fn new(place: &Place) -> Signals {
        Signals {
            changes: Changes::new(),
            news: log::sender(),
            start: Instant::now(),
            life: AtomicU64::new(NEVER),
            epoch: AtomicU64::new(0),
            changed: place.channel(),
            events: place.news(),
            beats: place.key(&format!("beat:{:016x}", super::random())),
        }
    }

    pub(super) fn watch(&self) -> Watch {
        self.changes.watch()
    }

    /// Of which streams there is more. Some may be missed.
    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// See [`Store::epoch`](crate::Store::epoch).
    pub(super) fn epoch(&self) -> Option<u64> {
        // In the other order than `subscribed` writes them: with a new life comes its epoch.
        let life = self.life.load(Ordering::Acquire);
        let epoch = self.epoch.load(Ordering::Acquire);
        let lapses = life.checked_add(millis(LAPSE))?;
        (self.now() < lapses).then_some(epoch)
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// Signals come again; what went before may have been missed.
    fn subscribed(&self, since: u64) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.changes.announce(Changed::All);
        self.life.store(since, Ordering::Release);
    }

    /// Takes what came.
    fn heard(&self, message: &Msg) {
        let payload = message.get_payload_bytes();
        if message.get_channel_name() == self.beats {
            // Too late, it changes nothing: after a lapse there is always another epoch.
            if let Some(sent) = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok())
                && self.epoch().is_some()
            {
                self.life.store(sent, Ordering::Release);
            }
        } else if message.get_channel_name() == self.events {
            if let Some(news) = events::parse(payload) {
                // An error only means that nobody waits.
                let _ = self.news.send(news);
            }
        } else if !payload.is_empty() {
            // What a later release may say is not lost on this one.
            self.changes.announce(read(payload).unwrap_or(Changed::All));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A signal, as the scripts write it: key and version.
fn read(payload: &[u8]) -> Option<Changed> {
    let (key, rest) = payload.split_at_checked(32)?;
    let key = HEXLOWER.decode(key).ok()?.try_into().ok()?;
    let version: Version = frame::version(rest.strip_prefix(b" ")?)?;
    Some(Changed::One(RecordKey(key), version))
}

/// Keeps a subscription; never returns. `tried` is told of each attempt.
pub(super) async fn listen(signals: &Signals, place: &Place, dialer: &Dialer, tried: impl Fn()) {
    let mut wait = ATTEMPTS.0;
    let mut failing = false;
    loop {
        match subscribe(signals, dialer).await {
            Ok((since, sink, stream)) => {
                if failing {
                    tracing::info!(store = %place, "signals of changes come again");
                }
                failing = false;
                wait = ATTEMPTS.0;
                signals.subscribed(since);
                tried();
                hear(signals, stream).await;
                drop(sink);
            }
            Err(failure) => {
                if !failing {
                    let error = failure.at(&place.to_string().into());
                    tracing::warn!(%error, "no signals of changes; records are read again instead");
                }
                failing = true;
                tried();
            }
        }
        sleep(super::jitter(wait)).await;
        wait = (wait * 2).min(ATTEMPTS.1);
    }
}

/// Subscribes, and says since when nothing is missed. Without the sink the stream would end.
async fn subscribe(signals: &Signals, dialer: &Dialer) -> Result<(u64, PubSubSink, PubSubStream), Failure> {
    let (mut sink, stream) = dialer.subscriber().await?.split();
    let since = signals.now();
    let channels = [signals.changed.as_str(), signals.events.as_str(), signals.beats.as_str()];
    match timeout(CONNECT, sink.subscribe(&channels[..])).await {
        Ok(Ok(())) => Ok((since, sink, stream)),
        Ok(Err(error)) => Err(Failure::from(&error)),
        Err(_) => Err(Failure::slow("to subscribe", CONNECT)),
    }
}

/// Hears what comes until the connection ends, or no beat has come for too long. The library's own queue before
/// this has no bound, but nothing here waits, so that it does not grow.
async fn hear(signals: &Signals, mut stream: PubSubStream) {
    let mut look = interval(BEAT / 2);
    loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(message) => signals.heard(&message),
                None => return,
            },
            _ = look.tick() => if signals.epoch().is_none() {
                return;
            },
        }
    }
}

/// Sends the beats; never returns. One that cannot be sent opens the circuit, before a caller has to wait.
pub(super) async fn beat(signals: &Signals, place: &Place, circuit: &Circuit) {
    let limit = place.timeout.max(BEAT);
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Ok(line) = circuit.line(Access::Read) else { continue };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&signals.beats).arg(signals.now());
        // A failure is known to the circuit now.
        let _ = circuit.within(limit, &line, None, line.link.send(&publish)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_names_key_and_version_and_anything_else_is_everything() {
        let text = format!("{} {}", RecordKey([0xab; 16]), frame::hex(7));
        assert_eq!(read(text.as_bytes()), Some(Changed::One(RecordKey([0xab; 16]), Version(7))));
        for other in ["x", &text[1..], &format!("{text} more"), &text.replace(' ', "-")] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_lapses_two_seconds_after_the_last_beat_was_sent() {
        let signals = Signals::new(&Place::parse("redis://h").unwrap());
        assert_eq!(signals.epoch(), None);
        tokio::time::advance(LAPSE * 2).await;
        signals.subscribed(signals.now());
        assert_eq!(signals.epoch(), Some(1));
        tokio::time::advance(LAPSE - Duration::from_millis(1)).await;
        assert_eq!(signals.epoch(), Some(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(signals.epoch(), None);
        signals.subscribed(signals.now());
        assert_eq!(signals.epoch(), Some(2));
    }
}
