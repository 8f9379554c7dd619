//! A bounded, lenient look at the beginning of an answer.
//!
//! What arrives here may be cut off anywhere, may not be JSON at all, and comes from servers that are failing.
//! So nothing is an error: whatever can be recognised is taken, and the rest is skipped.

use std::borrow::Cow;
use std::ops::ControlFlow;

use memchr::{memchr, memchr2};

/// No more of a body than this is looked at, in bytes.
const MAX_BODY: usize = 8 * 1024;
/// No more of a text than this is kept, in bytes.
const MAX_TEXT: usize = 1024;

/// The code and the text of an error.
#[derive(Debug, Default)]
pub(crate) struct ErrorPart {
    pub(crate) code: Option<i64>,
    pub(crate) text: String,
}

/// What the beginning of an answer is.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing, a page of HTML, or JSON that says neither of the below.
    Opaque,
    /// A JSON-RPC response with a result, a request or a notification: the server is at work.
    Working,
    /// A JSON-RPC error, or an object whose `error` is a mere string.
    Error(ErrorPart),
    /// An object with `code` or `message` at its top level, outside of any envelope.
    Bare(ErrorPart),
    /// Plain text.
    Text(String),
}

impl Body {
    /// Looks at a body: JSON (perhaps cut off), SSE, or anything else.
    pub(crate) fn read(head: &[u8]) -> Self {
        let body = json(&head[..head.len().min(MAX_BODY)]);
        // The first message of a batch speaks for all of it.
        let start = body.iter().position(|byte| !matches!(byte, b'[' | b' ' | b'\t' | b'\r' | b'\n'));
        let Some(start) = start else { return Self::Opaque };
        match body[start] {
            b'{' => object(&body[start..]),
            b'<' => Self::Opaque,
            _ => Self::Text(lossy(&body[start..])),
        }
    }
}

/// The JSON in a body: the data of the first event if it is SSE, else all of it.
pub(crate) fn json(body: &[u8]) -> Cow<'_, [u8]> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    let fields: [&[u8]; 5] = [b"event:", b"data:", b"id:", b"retry:", b":"];
    if !fields.iter().any(|field| body.starts_with(field)) {
        return Cow::Borrowed(body);
    }
    let mut data = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(value) = line.strip_prefix(b"data:") {
            data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            data.push(b'\n');
        } else if line.is_empty() && !data.trim_ascii().is_empty() {
            // An event without data only primes the stream; the first with data counts.
            break;
        }
    }
    Cow::Owned(data.trim_ascii().to_vec())
}

fn object(bytes: &[u8]) -> Body {
    let mut working = false;
    let mut error = None;
    let mut bare = ErrorPart::default();
    Scan { bytes, at: 0 }.members(|scan, key| {
        match key {
            b"result" | b"method" if !scan.is_null() => {
                // Nothing that follows changes this, and most answers are results.
                working = true;
                return ControlFlow::Break(());
            }
            b"error" if scan.peek() == Some(b'{') => {
                let mut part = ErrorPart::default();
                scan.members(|scan, key| {
                    match key {
                        b"code" => part.code = scan.integer(),
                        b"message" => part.text = scan.text(),
                        _ => {}
                    }
                    ControlFlow::Continue(())
                });
                error = Some(part);
            }
            b"error" if scan.peek() == Some(b'"') => {
                error = Some(ErrorPart { code: None, text: scan.text() });
            }
            b"code" => bare.code = scan.integer(),
            b"message" => bare.text = scan.text(),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match error {
        _ if working => Body::Working,
        // {"error": "Not Found", "message": "..."}: the message is the more telling.
        Some(mut part) => {
            if part.code.is_none() && !bare.text.is_empty() {
                part.text = format!("{}: {}", part.text.replace(['_', '-'], " "), bare.text);
            }
            Body::Error(part)
        }
        None if bare.code.is_some() || !bare.text.is_empty() => Body::Bare(bare),
        None => Body::Opaque,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned()
}

/// A cursor over JSON that may end anywhere. It never recurses, so depth costs nothing.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Visits each member of the object at the cursor; `visit` may take the value or leave it to be skipped.
    /// Stops quietly where the text ends or is no JSON, and where `visit` has seen enough.
    fn members(&mut self, mut visit: impl FnMut(&mut Self, &[u8]) -> ControlFlow<()>) {
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let key = self.key();
                    self.space();
                    if self.peek() != Some(b':') {
                        return;
                    }
                    self.at += 1;
                    self.space();
                    let value = self.at;
                    if visit(self, &key).is_break() {
                        return;
                    }
                    if self.at == value {
                        self.skip();
                    }
                }
                Some(b'}') => {
                    self.at += 1;
                    return;
                }
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// What is left; nothing if an escape was cut off and the cursor is past the end.
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn is_null(&self) -> bool {
        self.rest().starts_with(b"null")
    }

    /// The integer at the cursor, if there is one.
    fn integer(&mut self) -> Option<i64> {
        let rest = self.rest();
        let length = rest.iter().take_while(|byte| matches!(byte, b'-' | b'0'..=b'9')).count();
        let digits = std::str::from_utf8(&rest[..length]).ok()?;
        digits.parse().ok()
    }

    /// The name of a member, at whose quote the cursor is.
    fn key(&mut self) -> Cow<'a, [u8]> {
        let bytes = self.bytes;
        let name = bytes.get(self.at + 1..).unwrap_or_default();
        match memchr2(b'"', b'\\', name) {
            Some(end) if name[end] == b'"' => {
                self.at += end + 2;
                Cow::Borrowed(&name[..end])
            }
            _ => Cow::Owned(self.text().into_bytes()),
        }
    }

    /// The string at the cursor, as far as it goes and fits; empty if there is none.
    fn text(&mut self) -> String {
        if self.peek() != Some(b'"') {
            return String::new();
        }
        self.at += 1;
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            let kept = match byte {
                b'"' => break,
                b'\\' => self.escape(),
                byte => byte,
            };
            if text.len() < MAX_TEXT {
                text.push(kept);
            }
        }
        lossy(&text)
    }

    /// One escape. Characters beyond ASCII become spaces: the words looked for have none.
    fn escape(&mut self) -> u8 {
        let byte = self.peek().unwrap_or(b' ');
        self.at += 1;
        match byte {
            b'n' | b't' | b'r' | b'b' | b'f' => b' ',
            b'u' => {
                let digits =
                    self.bytes.get(self.at..self.at + 4).and_then(|hex| std::str::from_utf8(hex).ok());
                self.at += 4;
                let code = digits.and_then(|hex| u32::from_str_radix(hex, 16).ok());
                code.and_then(|code| u8::try_from(code).ok()).filter(u8::is_ascii).unwrap_or(b' ')
            }
            byte => byte,
        }
    }

    /// Moves over one value of any kind.
    fn skip(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth <= 1 => {
                    // At depth 0 this closes the parent, after a scalar; it is the parent's to take.
                    self.at += depth;
                    return;
                }
                b'}' | b']' => depth -= 1,
                b',' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            let rest = self.rest();
            let Some(quote) = memchr(b'"', rest) else {
                self.at = self.bytes.len();
                return;
            };
            let escapes = rest[..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
            self.at += quote + 1;
            if escapes % 2 == 0 {
                return;
            }
        }
    }
}
