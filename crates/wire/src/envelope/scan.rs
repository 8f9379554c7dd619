//! A JSON scanner that checks the grammar and reports byte ranges, nothing else.
//!
//! It accepts exactly what `serde_json` accepts as a `RawValue` (RFC 8259, with unpaired surrogate escapes
//! and numbers of any size) and additionally bounds the nesting, which `RawValue` does not. It does not check
//! that strings are UTF-8: whoever owns the body does that once, for all of it.

use std::borrow::Cow;

use super::{EnvelopeError, Span};

/// Levels of nesting that are kept track of without an allocation: one bit for each open container.
const LEVELS_AT_HAND: usize = u128::BITS as usize;

/// One member of an object, as ranges into the scanned bytes.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The name with its quotes.
    pub(crate) key: Span,
    /// The value, without the white space around it.
    pub(crate) value: Span,
    escaped: bool,
}

impl Member {
    /// The decoded name in the `bytes` that were scanned; `None` for a name that is not Unicode (an unpaired
    /// surrogate escape), which therefore equals no name at all.
    pub(crate) fn name<'a>(&self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.escaped {
            let name: String = serde_json::from_slice(&bytes[self.key.clone()]).ok()?;
            return Some(Cow::Owned(name.into_bytes()));
        }
        Some(Cow::Borrowed(&bytes[self.key.start + 1..self.key.end - 1]))
    }
}

/// A position in JSON text. Every method leaves it behind what it has read.
///
/// The small steps are always inlined: without that the compiler keeps the position in memory, not in a
/// register, and a message of 300 bytes takes a quarter longer.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// First byte of the next token, which is not consumed; `None` at the end.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Consumes the next token if it is this punctuation mark.
    #[inline(always)]
    pub(crate) fn take(&mut self, mark: u8) -> bool {
        let found = self.peek() == Some(mark);
        self.at += usize::from(found);
        found
    }

    /// Consumes the next token, which must be this punctuation mark.
    #[inline(always)]
    pub(crate) fn expect(&mut self, mark: u8) -> Result<(), EnvelopeError> {
        if self.take(mark) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Succeeds when nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), EnvelopeError> {
        if self.peek().is_some() { Err(self.unexpected()) } else { Ok(()) }
    }

    /// Reads an object, hands each member to `visit`, and returns the object's range. Values may nest
    /// `levels` deep.
    pub(crate) fn object(
        &mut self,
        levels: usize,
        mut visit: impl FnMut(Member),
    ) -> Result<Span, EnvelopeError> {
        self.expect(b'{')?;
        let start = self.at - 1;
        if self.take(b'}') {
            return Ok(start..self.at);
        }
        loop {
            let (key, escaped) = self.key()?;
            let value = self.value(levels)?;
            visit(Member { key, value, escaped });
            if !self.take(b',') {
                self.expect(b'}')?;
                return Ok(start..self.at);
            }
        }
    }

    /// Reads any value, containers of it nesting `levels` deep, and returns its range.
    ///
    /// A loop instead of recursion: the depth a client sends never becomes depth of our stack.
    pub(crate) fn value(&mut self, levels: usize) -> Result<Span, EnvelopeError> {
        let mut open = OpenContainers::new(levels);
        self.peek();
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'{') => {
                    open.push(Container::Object)?;
                    self.at += 1;
                    if self.peek() != Some(b'}') {
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    open.push(Container::Array)?;
                    self.at += 1;
                    if self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.unexpected()),
            }
            // A value (or the opening of an empty container) has just been read: close all that ends here.
            loop {
                let Some(container) = open.top() else { return Ok(start..self.at) };
                match (container, self.peek()) {
                    (Container::Object, Some(b',')) => {
                        self.at += 1;
                        self.key()?;
                        break;
                    }
                    (Container::Array, Some(b',')) => {
                        self.at += 1;
                        break;
                    }
                    (Container::Object, Some(b'}')) | (Container::Array, Some(b']')) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(self.unexpected()),
                }
            }
        }
    }

    /// Reads a string and returns its range with the quotes, and whether it holds escapes.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<(Span, bool), EnvelopeError> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let mut escaped = false;
        loop {
            self.skip_plain_text();
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((start..self.at, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    /// A member name and its colon.
    #[inline(always)]
    fn key(&mut self) -> Result<(Span, bool), EnvelopeError> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Moves to the next byte that means something inside a string: a quote, a backslash, a control
    /// character.
    #[inline(always)]
    fn skip_plain_text(&mut self) {
        let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
        // Most names end within a few bytes, before eight at a time would be worth it.
        for _ in 0..8 {
            match self.bytes.get(self.at) {
                Some(byte) if !special(byte) => self.at += 1,
                _ => return,
            }
        }
        let mut rest = &self.bytes[self.at..];
        while let Some((word, tail)) = rest.split_first_chunk::<8>() {
            let hits = special_bytes(u64::from_le_bytes(*word));
            if hits != 0 {
                self.at += hits.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
            rest = tail;
        }
        self.at += rest.iter().position(special).unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Result<(), EnvelopeError> {
        self.at += 1;
        match self.bytes.get(self.at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.bytes.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                        return Err(self.unexpected());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), EnvelopeError> {
        self.at += usize::from(self.byte_is(b'-'));
        if self.byte_is(b'0') {
            self.at += 1; // No digit may follow a leading zero.
        } else {
            self.digits()?;
        }
        if self.byte_is(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.byte_is(b'e') || self.byte_is(b'E') {
            self.at += 1;
            self.at += usize::from(self.byte_is(b'+') || self.byte_is(b'-'));
            self.digits()?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), EnvelopeError> {
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == from { Err(self.unexpected()) } else { Ok(()) }
    }

    fn byte_is(&self, byte: u8) -> bool {
        self.bytes.get(self.at) == Some(&byte)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), EnvelopeError> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> EnvelopeError {
        EnvelopeError::NotJson { offset: self.at }
    }
}

/// Marks (in the top bit of its byte) the first quote, backslash or control character of eight bytes of
/// string. Marks after the first may be false: a borrow runs into the bytes above.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    const SPACES: u64 = u64::from_le_bytes([b' '; 8]);
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(SPACES) & !word;
    (zero(word ^ QUOTES) | zero(word ^ BACKSLASHES) | control) & TOPS
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Array,
    Object,
}

/// Which containers are open, innermost in the lowest bit: 1 for an object, 0 for an array.
struct OpenContainers {
    bits: u128,
    /// The levels further out, where there are more than fit: of messages that may nest without limit.
    outer: Vec<u128>,
    depth: usize,
    levels: usize,
}

impl OpenContainers {
    fn new(levels: usize) -> Self {
        Self { bits: 0, outer: Vec::new(), depth: 0, levels }
    }

    fn top(&self) -> Option<Container> {
        let innermost = if self.bits & 1 == 1 { Container::Object } else { Container::Array };
        (self.depth > 0).then_some(innermost)
    }

    fn push(&mut self, container: Container) -> Result<(), EnvelopeError> {
        if self.depth == self.levels {
            // The limit of the whole message: the object around this value is a level too.
            return Err(EnvelopeError::TooDeep { limit: self.levels.saturating_add(1) });
        }
        if self.depth > 0 && self.depth.is_multiple_of(LEVELS_AT_HAND) {
            self.outer.push(self.bits);
        }
        self.depth += 1;
        self.bits = self.bits << 1 | u128::from(container == Container::Object);
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.bits >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(LEVELS_AT_HAND) {
            self.bits = self.outer.pop().unwrap_or_default();
        }
    }
}
