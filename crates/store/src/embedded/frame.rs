//! How a record lies in the file: a header that can be found and checked without redb, then JSON.
//!
//! ```text
//!   0  magic     7  F5 "TLREC" 00
//!   7  format    1  1
//!   8  key      16
//!  24  version   8  little-endian, as all numbers here
//!  32  expires   8  milliseconds
//!  40  touched   8  milliseconds, when written
//!  48  length    4  of the payload
//!  52  payload   8  its FNV-1a
//!  60  header    8  FNV-1a of bytes 0..60
//!  68  the record as JSON
//! ```
//!
//! The byte F5 is in no UTF-8 text and the payload is UTF-8, so that no client can write something into its
//! `initialize` that [`scan`] would take for the record of another. The checksums are against damage, not
//! against someone who can write the file.

use crate::record::{Millis, Record, RecordKey, Stored, Version};

const MAGIC: &[u8; 7] = b"\xF5TLREC\0";
const FORMAT: u8 = 1;
const HEADER: usize = 68;

/// What the bytes of a record turn out to be.
#[derive(Debug)]
pub(super) enum Frame {
    /// A record.
    Intact(Stored),
    /// The header is right, the rest is not.
    Damaged(Header),
    /// Not a frame of this key and format.
    Unreadable,
}

/// What a header says besides the key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// The record's version.
    pub(super) version: Version,
    /// The record's expiry.
    pub(super) expires: Millis,
    touched: Millis,
    length: usize,
    payload_sum: u64,
}

/// Writes `stored` as the record of `key`.
pub(super) fn encode(key: RecordKey, stored: &Stored) -> Result<Vec<u8>, redb::Error> {
    // Neither can fail for these types and any size that a request body limit lets through.
    let json = serde_json::to_vec(&stored.record).map_err(std::io::Error::from)?;
    let length = u32::try_from(json.len()).map_err(|_| redb::Error::ValueTooLarge(json.len()))?;
    let mut frame = Vec::with_capacity(HEADER + json.len());
    frame.extend_from_slice(MAGIC);
    frame.push(FORMAT);
    frame.extend_from_slice(&key.0);
    frame.extend_from_slice(&stored.version.0.to_le_bytes());
    frame.extend_from_slice(&stored.record.expires.0.to_le_bytes());
    frame.extend_from_slice(&stored.touched.0.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&fnv1a(&json).to_le_bytes());
    frame.extend_from_slice(&fnv1a(&frame).to_le_bytes());
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// Reads the frame that stands at `key`. What it cannot read it logs, without its content.
pub(super) fn decode(key: RecordKey, bytes: &[u8]) -> Frame {
    let frame = match header(bytes) {
        Some((found, header)) if found == key => payload(header, &bytes[HEADER..]),
        _ => Frame::Unreadable,
    };
    if !matches!(frame, Frame::Intact(_)) {
        tracing::warn!(?key, "a session record cannot be read and counts as absent");
    }
    frame
}

/// Every frame in `bytes`, whatever lies around it: damaged ones if their header is right.
pub(super) fn scan(bytes: &[u8]) -> impl Iterator<Item = (RecordKey, Frame)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            let start = rest.iter().position(|byte| *byte == MAGIC[0])?;
            let rest = &rest[start..];
            let Some((key, head)) = header(rest) else {
                at += start + 1;
                continue;
            };
            let frame = payload(head, &rest[HEADER..]);
            let whole = if matches!(frame, Frame::Intact(_)) { HEADER + head.length } else { HEADER };
            at += start + whole;
            return Some((key, frame));
        }
    })
}

fn header(bytes: &[u8]) -> Option<(RecordKey, Header)> {
    let head: &[u8; HEADER] = bytes.first_chunk()?;
    let number = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if &head[..7] != MAGIC || head[7] != FORMAT || number(60) != fnv1a(&head[..60]) {
        return None;
    }
    let key = RecordKey(*head[8..].first_chunk()?);
    let header = Header {
        version: Version(number(24)),
        expires: Millis(number(32)),
        touched: Millis(number(40)),
        length: u32::from_le_bytes(*head[48..].first_chunk()?) as usize,
        payload_sum: number(52),
    };
    Some((key, header))
}

fn payload(header: Header, bytes: &[u8]) -> Frame {
    let json = bytes.get(..header.length).filter(|json| fnv1a(json) == header.payload_sum);
    match json.map(serde_json::from_slice::<Record>) {
        Some(Ok(record)) => {
            Frame::Intact(Stored { record, version: header.version, touched: header.touched })
        }
        _ => Frame::Damaged(header),
    }
}

/// FNV-1a, 64 bits: enough to tell damage, and short enough to be here.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: RecordKey = RecordKey([0xab; 16]);
    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/record-v1.bin");
    const GOLDEN_JSON: &str = include_str!("../../tests/golden/record-v1.json");

    #[test]
    fn format_1_is_read_for_ever_and_written_as_it_was() {
        let Frame::Intact(stored) = decode(KEY, GOLDEN) else { panic!("the golden frame must decode") };
        assert_eq!(stored.version, Version(7));
        assert_eq!(stored.touched, Millis(1_790_000_001_000));
        assert_eq!(stored.record, serde_json::from_str(GOLDEN_JSON).unwrap());
        assert_eq!(encode(KEY, &stored).unwrap(), GOLDEN);
    }

    #[test]
    fn members_may_come_and_go() {
        let mut json: serde_json::Value = serde_json::from_str(GOLDEN_JSON).unwrap();
        let members = json.as_object_mut().unwrap();
        members.insert("from_the_future".into(), 1.into());
        members.remove("initialized");
        members.remove("restore");
        let record: Record = serde_json::from_value(json).unwrap();
        assert!(!record.initialized && record.restore.is_empty());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        for at in 0..GOLDEN.len() {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] ^= 0x20;
            assert!(!matches!(decode(KEY, &bytes), Frame::Intact(_)), "byte {at}");
        }
        for len in 0..GOLDEN.len() {
            assert!(!matches!(decode(KEY, &GOLDEN[..len]), Frame::Intact(_)), "length {len}");
        }
        assert!(matches!(decode(RecordKey([1; 16]), GOLDEN), Frame::Unreadable));
    }

    #[test]
    fn a_scan_finds_frames_between_rubbish() {
        let mut damaged = GOLDEN.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let bytes = [b"\xF5\xF5TLREC".as_slice(), GOLDEN, b"rubbish", &damaged, &GOLDEN[..90]].concat();
        let found: Vec<_> = scan(&bytes).map(|(_, frame)| matches!(frame, Frame::Intact(_))).collect();
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn golden_files_hold_what_a_full_record_needs() {
        for member in ["binding", "secret", "endpoint", "initialize", "restore", "params"] {
            assert!(GOLDEN_JSON.contains(&format!("\"{member}\"")), "{member}");
        }
    }
}
