//! Event streams: framing that does not depend on chunks, fields by the standard, rewriting that keeps the
//! rest.

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use throughline_wire::sse::{Frame, HEARTBEAT, IdEdit, SseDecoder, SseError, event};

/// All frames of a stream that arrives in pieces of these sizes (the last one repeated), and what was left
/// over.
fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<Frame>, Bytes) {
    let mut decoder = SseDecoder::new(1 << 20);
    let mut frames = Vec::new();
    let mut rest = Bytes::copy_from_slice(stream);
    let mut sizes = sizes.iter().copied();
    let mut size = 1;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).clamp(1, usize::MAX);
        decoder.push(rest.split_to(size.min(rest.len())));
        while let Some(frame) = decoder.next_frame().expect("within the limit") {
            frames.push(frame);
        }
    }
    frames.extend(decoder.finish());
    (frames, decoder.unfinished())
}

fn frames(stream: &[u8]) -> Vec<Frame> {
    decode(stream, &[usize::MAX]).0
}

fn frame(stream: &[u8]) -> Frame {
    let mut frames = frames(stream);
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

/// What a client sees of a stream.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    data: Option<Vec<u8>>,
    event: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

impl Seen {
    fn of(frame: &Frame) -> Self {
        let owned = |bytes: &[u8]| bytes.to_vec();
        Self {
            data: frame.data().map(|data| data.into_owned()),
            event: frame.event().map(owned),
            id: frame.id().map(owned),
        }
    }
}

/// The standard's algorithm in its simplest form: all lines first, then the fields of each block.
fn reference(stream: &[u8]) -> Vec<Seen> {
    let stream = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream);
    let mut lines = vec![Vec::new()];
    for (index, byte) in stream.iter().enumerate() {
        match byte {
            b'\n' if index > 0 && stream[index - 1] == b'\r' => {}
            b'\n' | b'\r' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("never empty").push(*byte),
        }
    }
    lines.pop(); // Not ended.
    let mut blocks = Vec::new();
    let mut block = Seen::default();
    for line in lines {
        if line.is_empty() {
            blocks.push(std::mem::take(&mut block));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => match &mut block.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => block.data = Some(value.to_vec()),
            },
            b"event" => block.event = Some(value.to_vec()),
            b"id" if !value.contains(&0) => block.id = Some(value.to_vec()),
            _ => {}
        }
    }
    blocks.retain(|block| *block != Seen::default());
    blocks
}

/// What must hold for any stream, however it is cut.
fn check_any_stream(stream: &[u8], sizes: &[usize]) {
    let (whole, left) = decode(stream, &[usize::MAX]);
    for sizes in [sizes, &[1]] {
        assert_eq!((&whole, &left), (&decode(stream, sizes).0, &decode(stream, sizes).1));
    }
    let mut bytes: Vec<u8> = whole.iter().flat_map(|frame| frame.raw().to_vec()).collect();
    bytes.extend_from_slice(&left);
    assert_eq!(bytes, stream);

    let seen: Vec<_> = whole.iter().map(Seen::of).filter(|seen| *seen != Seen::default()).collect();
    assert_eq!(seen, reference(stream));
    for (index, frame) in whole.iter().enumerate() {
        check_rewrites(frame, index == 0);
    }
}

/// The lines that hold neither data nor id, without the blank ones.
fn other_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n'));
    let name = |line: &[u8]| line.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
    lines.filter(|line| !line.is_empty() && !matches!(&name(line)[..], b"data" | b"id")).collect()
}

fn check_rewrites(frame: &Frame, is_first: bool) {
    // A byte order mark is one at the start of a stream only; elsewhere, and where a rewrite removes what
    // stood before it, it is a part of its line. So a blank line goes before whatever is read here.
    let mark_length = if is_first && frame.raw().starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
    let in_place = |bytes: &[u8]| [b"\n", &bytes[mark_length..]].concat();
    let original = in_place(frame.raw());
    assert_eq!(frame.rewrite(None, IdEdit::Keep), frame.raw());
    for data in [None, Some(&b"{}"[..]), Some(b"a\r\nb\rc\n"), Some(b"")] {
        for id in [IdEdit::Keep, IdEdit::Set(b"new"), IdEdit::Remove] {
            let rewritten = in_place(&frame.rewrite(data, id));
            assert_eq!(other_lines(&rewritten), other_lines(&original));
            let mut expected = Seen::of(frame);
            if let Some(data) = data {
                let lines = String::from_utf8(data.to_vec())
                    .expect("UTF-8")
                    .replace("\r\n", "\n")
                    .replace('\r', "\n");
                expected.data = Some(lines.into_bytes());
            }
            match id {
                IdEdit::Keep => {}
                IdEdit::Set(id) => expected.id = Some(id.to_vec()),
                IdEdit::Remove => expected.id = None,
            }
            let seen = reference(&rewritten);
            if expected == Seen::default() {
                assert_eq!(seen, []);
            } else {
                assert_eq!(seen, [expected], "{:?} from {:?}", rewritten, frame.raw());
            }
        }
    }
}

#[test]
fn the_corpus_is_read_as_the_standard_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/sse");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let stream = std::fs::read(entry.unwrap().path()).unwrap();
        check_any_stream(&stream, &[3, 1, 7, 2]);
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
        check_any_stream(&stream, &sizes);
    }
}
