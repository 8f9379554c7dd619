//! Event-stream framing that keeps bytes (WHATWG HTML, section 9.2, "Server-sent events").
//!
//! [`SseDecoder`] cuts a stream into [`Frame`]s, each everything up to and including a blank line, so that
//! the frames' bytes in order are the stream's. A frame can be passed on as it came, or
//! [rewritten](Frame::rewrite) with another id or other data while comments, `retry`, unknown fields, order
//! and line ends stay.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2, memchr3};

/// A comment that tells clients and proxies on the way that the stream is alive. It is no event.
pub const HEARTBEAT: &[u8] = b":\n\n";

const LF: u8 = b'\n';
const CR: u8 = b'\r';
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A frame is longer than was allowed.
    #[error("an event is longer than {limit} bytes")]
    TooLarge {
        /// The most bytes that a frame may have.
        limit: usize,
    },
}

/// Cuts an event stream into frames. Where the stream was cut into chunks makes no difference.
///
/// Each byte is looked at once, however the stream arrives.
#[derive(Debug)]
pub struct SseDecoder {
    max_event_bytes: usize,
    boundary: Boundary,
    /// The start of the current frame, from chunks that have been read to their end.
    started: BytesMut,
    /// Chunks that have not been read, or the first of them only in part.
    chunks: VecDeque<Bytes>,
    /// Whether the next frame is the first of the stream, which may begin with a byte order mark.
    at_start: bool,
    /// Whether a frame was too large. What follows cannot be told from its rest, so this is final.
    failed: bool,
}

impl SseDecoder {
    /// A decoder at the start of a stream, whose frames may be `max_event_bytes` bytes long, blank line
    /// included.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            boundary: Boundary::default(),
            started: BytesMut::new(),
            chunks: VecDeque::new(),
            at_start: true,
            failed: false,
        }
    }

    /// Takes the next bytes of the stream. Nothing is read before [`next_frame`](Self::next_frame).
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && !self.failed {
            self.chunks.push_back(chunk);
        }
    }

    /// The next complete frame, or `None` until more bytes come.
    ///
    /// A frame whose blank line ends with a carriage return is complete when the next byte has shown whether
    /// a line feed belongs to it, unless the line before also ended with a bare carriage return.
    ///
    /// # Errors
    ///
    /// [`SseError::TooLarge`], from then on always, when a frame is longer than allowed, finished or not.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SseError> {
        while !self.failed {
            let Some(chunk) = self.chunks.front_mut() else { return Ok(None) };
            let end = self.boundary.find(chunk);
            let length = self.started.len() + end.unwrap_or(chunk.len());
            if length > self.max_event_bytes {
                self.failed = true;
                self.started = BytesMut::new();
                self.chunks = VecDeque::new();
                break;
            }
            let Some(end) = end else {
                self.started.extend_from_slice(chunk);
                self.chunks.pop_front();
                continue;
            };
            let rest = chunk.split_to(end);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            return Ok(Some(self.frame(rest)));
        }
        Err(SseError::TooLarge { limit: self.max_event_bytes })
    }

    /// At the end of the stream: the frame that was complete but for a line feed that could have followed.
    /// Ask for it when [`next_frame`](Self::next_frame) has nothing more to give, before
    /// [`unfinished`](Self::unfinished).
    pub fn finish(&mut self) -> Option<Frame> {
        if !self.chunks.is_empty() || self.boundary.last_end != LineEnd::BlankCr || self.started.is_empty() {
            return None;
        }
        self.boundary.last_end = LineEnd::Cr;
        Some(self.frame(Bytes::new()))
    }

    /// The bytes that no frame has been made of, at the end of the stream. By the standard a receiver
    /// discards them; a proxy may pass them on or drop them.
    pub fn unfinished(&mut self) -> Bytes {
        for chunk in self.chunks.drain(..) {
            self.started.extend_from_slice(&chunk);
        }
        self.boundary = Boundary::default();
        self.started.split().freeze()
    }

    /// The frame of what has been gathered and the `rest` of it, without a copy when that is all of it.
    fn frame(&mut self, rest: Bytes) -> Frame {
        let raw = if self.started.is_empty() {
            rest
        } else {
            self.started.extend_from_slice(&rest);
            self.started.split().freeze()
        };
        let has_mark = std::mem::replace(&mut self.at_start, false) && raw.starts_with(BYTE_ORDER_MARK);
        Frame::new(raw, if has_mark { BYTE_ORDER_MARK.len() } else { 0 })
    }
}

/// Finds the blank lines of a stream, seeing each byte once.
///
/// A byte order mark needs no care here: a blank line right behind one ends no event.
#[derive(Debug, Default)]
struct Boundary {
    /// Whether the current line has bytes already.
    in_line: bool,
    last_end: LineEnd,
    /// Bytes looked at so far, so that a test can tell linear work from quadratic without a clock.
    #[cfg(test)]
    work: usize,
}

/// How the last line ended, as far as is known.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    /// By a line feed, or carriage return and line feed; or there was no line yet.
    #[default]
    Lf,
    /// By a carriage return. A line feed right after it belongs to it.
    Cr,
    /// As `Cr`, and the line was blank: the frame ends here or behind that line feed.
    BlankCr,
}

impl Boundary {
    /// Reads on in the stream and returns the position in `bytes` where the frame ends; then `bytes` has been
    /// read up to there, otherwise all of it.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        let mut end = None;
        while end.is_none() && at < bytes.len() {
            end = self.read_line(bytes, &mut at);
        }
        #[cfg(test)]
        {
            self.work += at;
        }
        end
    }

    /// Reads to behind the next line end, or to the end of the bytes.
    fn read_line(&mut self, bytes: &[u8], at: &mut usize) -> Option<usize> {
        let after_cr = self.last_end != LineEnd::Lf && !self.in_line;
        if after_cr {
            let had_lf = bytes[*at] == LF;
            *at += usize::from(had_lf);
            if self.last_end == LineEnd::BlankCr {
                self.last_end = if had_lf { LineEnd::Lf } else { LineEnd::Cr };
                return Some(*at);
            }
            if had_lf {
                self.last_end = LineEnd::Lf;
                return None;
            }
        }
        let Some(length) = memchr2(LF, CR, &bytes[*at..]) else {
            self.in_line = true;
            *at = bytes.len();
            return None;
        };
        let blank = length == 0 && !self.in_line;
        let by_lf = bytes[*at + length] == LF;
        *at += length + 1;
        self.in_line = false;
        // A blank line whose predecessor ended with a bare CR ends the frame at once: such a stream has no
        // line feeds to wait for, and waiting would hold every event back until the next. Should one follow
        // all the same, it begins the next frame, where it is skipped.
        let at_once = by_lf || self.last_end == LineEnd::Cr;
        self.last_end = match (by_lf, blank && !at_once) {
            (true, _) => LineEnd::Lf,
            (false, false) => LineEnd::Cr,
            (false, true) => LineEnd::BlankCr,
        };
        (blank && at_once).then_some(*at)
    }
}

/// One frame of an event stream: fields and comments up to and including a blank line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    raw: Bytes,
    /// Length of the byte order mark.
    skip: usize,
    data: Data,
    id: Option<Range<usize>>,
    event: Option<Range<usize>>,
}

/// Where the values of the data fields are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Absent,
    OneLine(Range<usize>),
    SeveralLines,
}

/// What becomes of a frame's id in [`Frame::rewrite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdEdit<'a> {
    /// It stays as it is, or absent.
    Keep,
    /// It becomes this, without line ends and NUL.
    Set(&'a [u8]),
    /// There is none.
    Remove,
}

impl Frame {
    fn new(raw: Bytes, skip: usize) -> Self {
        let (mut data, mut id, mut event) = (Data::Absent, None, None);
        for line in lines(&raw, skip) {
            match line.name(&raw) {
                b"data" if data == Data::Absent => data = Data::OneLine(line.value),
                b"data" => data = Data::SeveralLines,
                b"id" if memchr(0, &raw[line.value.clone()]).is_none() => id = Some(line.value),
                b"event" => event = Some(line.value),
                _ => {}
            }
        }
        Self { raw, skip, data, id, event }
    }

    /// The very bytes of the frame; a slice of the chunk, not a copy, when the frame lay within one.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The data, several lines of it joined by line feeds; `None` when there is no data field at all.
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        match &self.data {
            Data::Absent => None,
            Data::OneLine(value) => Some(Cow::Borrowed(&self.raw[value.clone()])),
            Data::SeveralLines => {
                let lines = lines(&self.raw, self.skip).filter(|line| line.name(&self.raw) == b"data");
                let values: Vec<_> = lines.map(|line| &self.raw[line.value]).collect();
                Some(Cow::Owned(values.join(&LF)))
            }
        }
    }

    /// The id: the last id field, not counting those with NUL in them.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.clone().map(|value| &self.raw[value])
    }

    /// The event type: the last event field. Empty means the same as absent.
    pub fn event(&self) -> Option<&[u8]> {
        self.event.clone().map(|value| &self.raw[value])
    }

    /// How long a receiver waits before it comes back, in milliseconds: the last retry field that is a number.
    pub fn retry(&self) -> Option<u64> {
        let values = lines(&self.raw, self.skip).filter(|line| line.name(&self.raw) == b"retry");
        let numbers = values.filter_map(|line| std::str::from_utf8(&self.raw[line.value]).ok()?.parse().ok());
        numbers.last()
    }

    /// Whether a client would see a message: there are data, and the event type is `message`, empty or
    /// absent.
    pub fn is_message(&self) -> bool {
        let has_data = match &self.data {
            Data::Absent => false,
            Data::OneLine(value) => !value.is_empty(),
            Data::SeveralLines => true,
        };
        has_data && matches!(self.event(), None | Some(b"" | b"message"))
    }

    /// The frame with its data, its id or both replaced; all other lines are kept byte for byte, in order.
    ///
    /// New data stand where the first data field was, or before the blank line, one field for each of their
    /// lines. A new id stands where the first id field was, or at the start. An id with a line end or NUL in
    /// it, which no field can carry, is a bug of the caller: it panics where debug assertions are on, and
    /// leaves the frame without id otherwise.
    pub fn rewrite(&self, data: Option<&[u8]>, id: IdEdit<'_>) -> Bytes {
        let raw: &[u8] = &self.raw;
        // What is still to be written. Lines that it replaces are left out either way.
        let mut new_data = data;
        let mut new_id = if let IdEdit::Set(id) = id { carriable(id) } else { None };
        let has_id_line = lines(raw, self.skip).any(|line| line.name(raw) == b"id");

        let mut out = Vec::with_capacity(raw.len() + data.map_or(0, <[u8]>::len) + ROOM_FOR_AN_ID);
        out.extend_from_slice(&raw[..self.skip]);
        for line in lines(raw, self.skip) {
            let is_last = line.whole.end == raw.len();
            let end = &raw[line.end.clone()];
            // Before a last line is still inside the frame; before a blank line at its start is not.
            if !has_id_line
                && (is_last || !line.is_blank())
                && let Some(id) = new_id.take()
            {
                push_field(&mut out, b"id", id, self.frame_end());
            }
            if is_last && let Some(data) = new_data.take() {
                push_data(&mut out, data, self.frame_end());
            }
            match line.name(raw) {
                b"id" if id != IdEdit::Keep => {
                    if let Some(id) = new_id.take() {
                        push_field(&mut out, b"id", id, end);
                    }
                }
                b"data" if data.is_some() => {
                    if let Some(data) = new_data.take() {
                        push_data(&mut out, data, end);
                    }
                }
                _ => {
                    // A line left out may have stood between a bare CR and this LF, which would now be one
                    // line end.
                    if out.last() == Some(&CR) && raw[line.whole.start] == LF {
                        out.push(LF);
                    }
                    out.extend_from_slice(&raw[line.whole]);
                }
            }
        }
        Bytes::from(out)
    }

    /// The end of the blank line, for lines that are added.
    fn frame_end(&self) -> &[u8] {
        let from = if self.raw.ends_with(b"\r\n") { 2 } else { 1 };
        &self.raw[self.raw.len() - from..]
    }
}

/// A frame of our own. Line ends in the data (LF, CR or both) make several data fields, which a receiver
/// joins by LF. The id must have no line end and no NUL in it, as in [`Frame::rewrite`].
pub fn event(data: &[u8], id: Option<&[u8]>) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + ROOM_FOR_AN_ID);
    if let Some(id) = id.and_then(carriable) {
        push_field(&mut out, b"id", id, b"\n");
    }
    push_data(&mut out, data, b"\n");
    out.push(LF);
    Bytes::from(out)
}

/// Bytes to reserve for field names and an id; more is allocated when needed.
const ROOM_FOR_AN_ID: usize = 128;

/// The id if a field can carry it. Anything else could end the field and begin another.
fn carriable(id: &[u8]) -> Option<&[u8]> {
    let fits = memchr3(LF, CR, 0, id).is_none();
    debug_assert!(fits, "an event id has a line end or NUL in it");
    fits.then_some(id)
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8], end: &[u8]) {
    for part in [name, b": ", value, end] {
        out.extend_from_slice(part);
    }
}

fn push_data(out: &mut Vec<u8>, mut data: &[u8], end: &[u8]) {
    while let Some(length) = memchr2(LF, CR, data) {
        push_field(out, b"data", &data[..length], end);
        let line_end = if data[length..].starts_with(b"\r\n") { 2 } else { 1 };
        data = &data[length + line_end..];
    }
    push_field(out, b"data", data, end);
}

/// One line of a frame, as ranges into its bytes.
struct Line {
    /// The line with its end.
    whole: Range<usize>,
    /// The field name; empty for comments and blank lines.
    name: Range<usize>,
    /// The field value.
    value: Range<usize>,
    /// LF, CR, or both.
    end: Range<usize>,
}

/// The lines of `raw` from `start` on.
fn lines(raw: &[u8], mut start: usize) -> impl Iterator<Item = Line> + '_ {
    std::iter::from_fn(move || {
        let line = Line::at(raw, start)?;
        start = line.whole.end;
        Some(line)
    })
}

impl Line {
    fn at(raw: &[u8], start: usize) -> Option<Self> {
        let rest = raw.get(start..).filter(|rest| !rest.is_empty())?;
        let length = memchr2(LF, CR, rest).unwrap_or(rest.len());
        let end = match &rest[length..] {
            [] => 0,
            [CR, LF, ..] => 2,
            _ => 1,
        };
        // Without a colon the whole line is the name. One space after it does not count.
        let name = memchr(b':', &rest[..length]).unwrap_or(length);
        let mut value = (name + 1).min(length);
        value += usize::from(rest[value..length].first() == Some(&b' '));
        let range = |from: usize, to: usize| start + from..start + to;
        Some(Self {
            whole: range(0, length + end),
            name: range(0, name),
            value: range(value, length),
            end: range(length, length + end),
        })
    }

    fn name<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[self.name.clone()]
    }

    fn is_blank(&self) -> bool {
        self.end.start == self.whole.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes a large event in chunks of this size and returns how many bytes were looked at.
    fn work_for_chunks_of(size: usize) -> usize {
        let stream = event(&vec![b'x'; 1 << 20], Some(b"1"));
        let mut decoder = SseDecoder::new(stream.len());
        let mut frames = Vec::new();
        for start in (0..stream.len()).step_by(size) {
            decoder.push(stream.slice(start..stream.len().min(start + size)));
            frames.extend(decoder.next_frame().unwrap());
        }
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].raw(), &stream);
        assert_eq!(decoder.boundary.work, stream.len());
        decoder.boundary.work
    }

    #[test]
    fn an_event_in_tiny_chunks_is_looked_at_once() {
        let at_once = work_for_chunks_of(usize::MAX >> 1);
        for size in [1, 2, 7, 1000] {
            assert_eq!(work_for_chunks_of(size), at_once);
        }
    }
}
