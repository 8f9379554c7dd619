//! Event streams: framing that does not depend on chunks, fields by the standard, rewriting that keeps the
//! rest.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use throughline_wire::sse::{Frame, HEARTBEAT, IdEdit, SseDecoder, SseError, event};

use crate::any_stream::{self, decode};

fn frames(stream: &[u8]) -> Vec<Frame> {
    decode(stream, &[usize::MAX]).0
}

fn frame(stream: &[u8]) -> Frame {
    let mut frames = frames(stream);
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

#[test]
fn the_corpus_is_read_as_the_standard_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/sse");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let stream = std::fs::read(entry.unwrap().path()).unwrap();
        any_stream::check(&stream, &[3, 1, 7, 2]);
        seen += 1;
    }
    assert!(seen > 15, "only {seen} files");
}

#[test]
fn fields_are_read() {
    let frame = frame(b":hi\nevent: message\nid: 7\nretry: 10\ndata: {\ndata:}\ndata\n\n");
    assert_eq!(frame.data().as_deref(), Some(&b"{\n}\n"[..]));
    assert_eq!(frame.id(), Some(&b"7"[..]));
    assert_eq!(frame.event(), Some(&b"message"[..]));
    assert!(frame.is_message());
}

#[test]
fn what_is_no_message_is_told_apart() {
    for stream in
        [&b":\n\n"[..], b"id: 1\n\n", b"id: 1\ndata:\n\n", b"event: endpoint\ndata: /m\n\n", b"retry: 1\n\n"]
    {
        assert!(!frame(stream).is_message(), "{stream:?}");
    }
    assert!(frame(b"event:\ndata: {}\n\n").is_message());
    assert_eq!(frame(b"id: 1\n\n").data(), None);
    assert_eq!(frame(b"data\n\n").data().as_deref(), Some(&b""[..]));
}

#[test]
fn an_id_with_nul_does_not_count() {
    assert_eq!(frame(b"id: 1\nid: a\0b\ndata: x\n\n").id(), Some(&b"1"[..]));
    assert_eq!(frame(b"id: a\0b\ndata: x\n\n").id(), None);
}

#[test]
fn a_frame_within_one_chunk_is_not_copied() {
    let chunk = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
    let mut decoder = SseDecoder::new(100);
    decoder.push(chunk.clone());
    for start in [0, 9] {
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.raw().as_ptr(), chunk[start..].as_ptr());
    }
    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn streams_of_bare_carriage_returns_are_not_held_back() {
    let mut decoder = SseDecoder::new(100);
    decoder.push(Bytes::from_static(b"data: 1\r\r"));
    assert_eq!(decoder.next_frame().unwrap().unwrap().raw(), "data: 1\r\r");
}

#[test]
fn a_line_feed_is_waited_for_after_lines_that_had_one() {
    let mut decoder = SseDecoder::new(100);
    decoder.push(Bytes::from_static(b"data: 1\r\n\r"));
    assert_eq!(decoder.next_frame(), Ok(None));
    decoder.push(Bytes::from_static(b"\ndata: 2\r\n\r"));
    assert_eq!(decoder.next_frame().unwrap().unwrap().raw(), "data: 1\r\n\r\n");
    assert_eq!(decoder.next_frame(), Ok(None));
    // At the end of the stream nothing can follow any more.
    assert_eq!(decoder.finish().unwrap().raw(), "data: 2\r\n\r");
    assert_eq!(decoder.finish(), None);
    assert!(decoder.unfinished().is_empty());
}

#[test]
fn a_byte_order_mark_counts_at_the_start_of_the_stream_only() {
    let frames = frames("\u{feff}data: 1\n\n\u{feff}data: 2\n\n".as_bytes());
    assert_eq!(frames[0].data().as_deref(), Some(&b"1"[..]));
    assert_eq!(frames[1].data(), None);
    let rewritten = frames[0].rewrite(Some(b"3"), IdEdit::Set(b"x"));
    assert_eq!(rewritten, "\u{feff}id: x\ndata: 3\n\n");
}

#[test]
fn what_is_unfinished_is_given_back() {
    let (frames, left) = decode(b"data: 1\n\ndata: 2\n", &[4]);
    assert_eq!(frames.len(), 1);
    assert_eq!(left, "data: 2\n");
}

#[test]
fn frames_are_bounded() {
    for size in [1, 9, 100] {
        let mut decoder = SseDecoder::new(9);
        let mut count = 0;
        let mut failed = None;
        for chunk in b"data: 1\n\ndata: 22\n\ndata: 3\n\n".chunks(size) {
            decoder.push(Bytes::from_static(chunk));
            while failed.is_none() {
                match decoder.next_frame() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(error) => failed = Some(error),
                }
            }
        }
        assert_eq!((count, failed), (1, Some(SseError::TooLarge { limit: 9 })));
        assert_eq!(decoder.next_frame(), Err(SseError::TooLarge { limit: 9 }));
        assert!(decoder.unfinished().is_empty());
    }
}

#[test]
fn a_rewritten_frame_keeps_its_other_lines() {
    let original = frame(b": c\r\nevent: message\r\nid:1\r\ndata: a\r\nx-y: z\r\ndata: b\r\nretry:5\r\n\r\n");
    assert_eq!(
        original.rewrite(Some(b"{}"), IdEdit::Set(b"9")),
        ": c\r\nevent: message\r\nid: 9\r\ndata: {}\r\nx-y: z\r\nretry:5\r\n\r\n"
    );
    assert_eq!(
        original.rewrite(None, IdEdit::Remove),
        ": c\r\nevent: message\r\ndata: a\r\nx-y: z\r\ndata: b\r\nretry:5\r\n\r\n"
    );
}

#[test]
fn fields_that_were_absent_are_added() {
    let original = frame(b"retry: 5\n\n");
    assert_eq!(original.rewrite(Some(b"x"), IdEdit::Set(b"1")), "id: 1\nretry: 5\ndata: x\n\n");
    assert_eq!(frame(HEARTBEAT).rewrite(None, IdEdit::Set(b"1")), "id: 1\n:\n\n");
}

#[test]
fn a_line_left_out_does_not_join_two_line_ends() {
    let original = frame(b"data: x\rid: 1\n\n");
    let rewritten = original.rewrite(None, IdEdit::Remove);
    assert_eq!(frame(&rewritten).data().as_deref(), Some(&b"x"[..]));
}

#[test]
fn events_of_our_own_are_read_back() {
    assert_eq!(event(b"{}", None), "data: {}\n\n");
    assert_eq!(event(b"a\nb\r\nc", Some(b"7")), "id: 7\ndata: a\ndata: b\ndata: c\n\n");
    assert_eq!(event(b"", Some(b"7")), "id: 7\ndata: \n\n");
}

/// Pieces that make streams worth reading.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"]).prop_map(|s| s.as_bytes().to_vec()),
        6 => prop::sample::select(vec![
            "data: {\"a\":1}", "data:", "data", "data:  x", "id: 1", "id", "id:\0", "event: message", "event:",
            "event: e", ": comment", ":", "retry: 1", "datax: 1", "Data: 1", "\u{feff}", " data: 1", "d",
        ]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn streams_are_read_alike_however_they_are_cut(
        stream in stream(),
        sizes in prop::collection::vec(1..9_usize, 1..9),
    ) {
        any_stream::check(&stream, &sizes);
    }
}
