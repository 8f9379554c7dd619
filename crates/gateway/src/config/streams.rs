//! How streams outlive the connections that they are read on.

use std::time::Duration;

use super::read::Key;
use super::{GIB, KIB, MIB, hours, minutes};

/// How streams outlive the connections that they are read on. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// `streams.keep`: how long after its last event a stream can be resumed. Default 10 min.
    pub keep: Duration,
    /// `streams.away`: how long the upstream's standing stream stays open for a client whose own broke. Default 1 min.
    pub away: Duration,
    /// `streams.events`: events that are kept of one stream. Half of them may wait for the client; then the upstream
    /// has to. Default 1,000.
    pub events: u64,
    /// `streams.bytes`: the same in bytes. Default 4 MiB.
    pub bytes: usize,
    /// `streams.total`: what is kept of all streams. Default 256 MiB.
    pub total: usize,
    /// `streams.heartbeat`: how often a quiet stream shows that it is alive. Default 25 s: load balancers close theirs
    /// after 30 s (CloudFront) or more.
    pub heartbeat: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            keep: minutes(10),
            away: minutes(1),
            events: 1000,
            bytes: 4 * MIB,
            total: 256 * MIB,
            heartbeat: Duration::from_secs(25),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

pub(super) const STREAMS: &[Key<Streams>] = &[
    Key::new("keep", |s, f| f.duration(&mut s.keep, SECOND..=hours(24))),
    Key::new("away", |s, f| f.duration(&mut s.away, SECOND..=hours(1))),
    Key::new("events", |s, f| {
        let mut events = usize::try_from(s.events).unwrap_or(usize::MAX);
        f.count(&mut events, 2..=1_000_000);
        s.events = events as u64;
    }),
    Key::new("bytes", |s, f| f.size(&mut s.bytes, 64 * KIB..=GIB)),
    Key::new("total", |s, f| f.size(&mut s.total, MIB..=1024 * GIB)),
    Key::new("heartbeat", |s, f| f.duration(&mut s.heartbeat, SECOND..=minutes(5))),
];

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "[streams]\nkeep = \"2h\"\naway = \"3s\"\nevents = 7\nbytes = \"64KiB\"\ntotal = \"1MiB\"\n\
                    heartbeat = \"9s\"\n[upstream]\nurl = \"http://127.0.0.1:1/mcp\"\n";
        let read = Config::parse(text, "t.toml").unwrap().streams;
        let expected = Streams {
            keep: hours(2),
            away: Duration::from_secs(3),
            events: 7,
            bytes: 64 * KIB,
            total: MIB,
            heartbeat: Duration::from_secs(9),
        };
        assert_eq!(read, expected);
    }
}
