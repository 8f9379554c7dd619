//! How a record lies in Redis: a header of fixed width in ASCII, then JSON, so that scripts compare without
//! decoding and `redis-cli get` can be read.
//!
//! ```text
//!   0  format    1  1
//!   1  state     1  o open, d deleted
//!   2  version  16  hexadecimal, as all numbers here
//!  18  touched  16  milliseconds since 1970
//!  34  expires  16  milliseconds since 1970
//!  50  the record as JSON
//! ```
//!
//! `lua/head.lua` reads and writes the same. A format that is not known counts as unreadable, and is replaced by
//! the next write of somebody who expects nothing there.

use crate::record::{Millis, Record, RecordKey, State, Stored, Version};

const FORMAT: u8 = b'1';
const HEADER: usize = 50;

/// What the bytes of a record turn out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A record.
    Intact(Stored),
    /// The header is right, the rest is not.
    Damaged(Version),
    /// No header of a format that is known.
    Unreadable,
}

/// The letter in the header.
pub(super) fn state(record: &Record) -> &'static str {
    match record.state {
        State::Open { .. } => "o",
        State::Deleted => "d",
    }
}

/// A number as the header has it.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// A time as the header has it, for the scripts, whose numbers are exact up to here. That is 285,000 years.
pub(super) fn time(at: Millis) -> String {
    hex(at.0.min(1 << 53))
}

/// A version as scripts and signals write it.
pub(super) fn version(text: &[u8]) -> Option<Version> {
    if text.len() != 16 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(Version)
}

/// Reads what stands at `key`. What it cannot read it logs, without its content.
pub(super) fn decode(key: RecordKey, bytes: &[u8]) -> Frame {
    let frame = read(bytes);
    if !matches!(frame, Frame::Intact(_)) {
        tracing::warn!(?key, "a session record cannot be read and counts as absent");
    }
    frame
}

fn read(bytes: &[u8]) -> Frame {
    let Some((head, json)) = bytes.split_at_checked(HEADER) else { return Frame::Unreadable };
    let number = |at: usize| version(&head[at..at + 16]);
    let (Some(version), Some(touched), Some(_), FORMAT, b'o' | b'd') =
        (number(2), number(18), number(34), head[0], head[1])
    else {
        return Frame::Unreadable;
    };
    match serde_json::from_slice(json) {
        Ok(record) => Frame::Intact(Stored { record, version, touched: Millis(touched.0) }),
        Err(_) => Frame::Damaged(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let record = rules::tombstone([1; 8], [2; 16], Millis(5), Millis(9));
        let json = serde_json::to_string(&record).unwrap();
        let text = format!("1{}{}{}{}{json}", state(&record), hex(3), hex(7), hex(9));
        let stored = Stored { record, version: Version(3), touched: Millis(7) };
        assert_eq!(read(text.as_bytes()), Frame::Intact(stored));
        assert_eq!(read(&text.as_bytes()[..60]), Frame::Damaged(Version(3)));
        assert_eq!(read(&text.as_bytes()[..50]), Frame::Damaged(Version(3)));
        assert_eq!(read(&text.as_bytes()[..49]), Frame::Unreadable);
        for (at, with) in [(0, "2"), (1, "x"), (2, "+"), (20, "g"), (40, " ")] {
            let mut other = text.clone();
            other.replace_range(at..=at, with);
            assert_eq!(read(other.as_bytes()), Frame::Unreadable, "{with:?} at {at}");
        }
    }
}
