//! What must hold for any event stream, however it is cut. Run by the tests and by the fuzz target `sse`.

use bytes::Bytes;
use throughline_wire::sse::{Frame, IdEdit, SseDecoder};

/// All frames of a stream that arrives in pieces of these sizes (the last one repeated), and what was left
/// over.
pub(crate) fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<Frame>, Bytes) {
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
pub(crate) fn check(stream: &[u8], sizes: &[usize]) {
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
