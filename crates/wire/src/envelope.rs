//! A JSON-RPC message parsed once as an envelope of borrowed raw JSON.
//!
//! The gateway forwards bytes. It needs to know what a message is (its kind, id and method) and where its
//! parts lie, so that it can [splice](crate::splice) the few it must change; a typed model would reorder
//! keys, drop unknown fields and reshape numbers. So an [`Envelope`] holds byte ranges into the body, and
//! what lies inside `params`, `result` and `error` is checked to be JSON, bounded in depth, and not
//! interpreted.
//!
//! Where two parsers could read the same bytes differently, the message is refused: a repeated member that
//! matters here (however its name is escaped) is an error, and names match exactly.

mod scan;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use memchr::{memchr, memchr_iter};

pub(crate) use self::scan::{Member, Scanner};

/// Byte range in the body that an envelope was parsed from.
pub type Span = std::ops::Range<usize>;

/// Longest id, in bytes of raw JSON with the quotes of a string.
pub const MAX_ID_BYTES: usize = 1024;

/// Longest name repeated in an error, in characters.
const MAX_NAME_IN_ERROR: usize = 64;

/// Bounds on what is accepted. The length of a body is bounded where it is read, not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of objects and arrays, the message object being the first level.
    pub max_depth: usize,
}

impl Limits {
    /// The deepest nesting that is of use in a request: common parsers (`serde_json` among them) stop there too.
    pub const MAX_DEPTH: usize = 128;

    /// For messages that somebody else has to understand, and that a limit here would only garble. The scanner is no
    /// recursion, and needs a bit for each level.
    pub const ANY_DEPTH: Limits = Limits { max_depth: usize::MAX };

    /// How deep the members of the message object may nest.
    fn levels_inside(self) -> usize {
        self.max_depth.saturating_sub(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: Self::MAX_DEPTH }
    }
}

/// Why a body is not a JSON-RPC message. The texts are safe to show to a client: they repeat nothing it sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Malformed JSON, invalid UTF-8, or something after the end of the JSON text.
    #[error("invalid JSON at byte {offset}")]
    NotJson {
        /// Where reading stopped, in bytes from the start of what was parsed.
        offset: usize,
    },
    /// JSON, but not an object where one is due.
    #[error("not a JSON object")]
    NotAnObject,
    /// An array of no or several messages. Batches existed in protocol version 2025-03-26 only.
    #[error("JSON-RPC batches are not supported")]
    Batch,
    /// Objects and arrays nest too deep. What comes after that place has not been read.
    #[error("JSON is nested more than {limit} levels deep")]
    TooDeep {
        /// The deepest nesting that is allowed.
        limit: usize,
    },
    /// A member that the gateway reads occurs twice, so that two parsers could disagree about it.
    #[error("duplicate member {0:?}")]
    DuplicateMember(
        /// The name that was looked for (the gateway's own word for it), cut to 64 characters.
        String,
    ),
    /// The id is neither a string nor a number, or is longer than [`MAX_ID_BYTES`].
    #[error("the id must be a string or a number of at most {MAX_ID_BYTES} bytes")]
    BadId,
    /// The method is not a string of Unicode characters.
    #[error("the method must be a string")]
    BadMethod,
    /// The params are neither an object nor an array.
    #[error("the params must be an object")]
    BadParams,
    /// Not exactly one of method, result and error, or `jsonrpc` is not `"2.0"`.
    #[error("not a JSON-RPC 2.0 message")]
    NotAMessage,
}

impl EnvelopeError {
    /// The JSON-RPC error code (JSON-RPC 2.0, section 5.1): -32700 for what is not JSON, otherwise -32600.
    pub fn json_rpc_code(&self) -> i32 {
        match self {
            Self::NotJson { .. } => -32700,
            _ => -32600,
        }
    }

    pub(crate) fn duplicate(name: &str) -> Self {
        Self::DuplicateMember(name.chars().take(MAX_NAME_IN_ERROR).collect())
    }
}

/// A body that is one JSON-RPC message.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    /// The whole body as given.
    pub body: &'a [u8],
    /// Where the message object is. White space around it, and an array around it if it is the only element,
    /// are outside.
    pub object: Span,
    /// What the message is.
    pub message: Message<'a>,
}

/// The kinds of JSON-RPC message (JSON-RPC 2.0, sections 4 and 5). All spans are ranges in
/// [`Envelope::body`].
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// A call that expects an answer.
    Request {
        /// The caller's id.
        id: Id<'a>,
        /// The decoded method.
        method: Cow<'a, str>,
        /// The params, an object or an array; `None` when they are absent or null.
        params: Option<Span>,
    },
    /// A call that expects none.
    Notification {
        /// The decoded method.
        method: Cow<'a, str>,
        /// The params, an object or an array; `None` when they are absent or null.
        params: Option<Span>,
        /// Whether `"id": null` was written. JSON-RPC would call that a request, MCP forbids it, and clients
        /// that send it mean a notification.
        null_id: bool,
    },
    /// The answer to a call.
    Response {
        /// The id of the call; `None` when it is absent or null, as in errors about a message that could not
        /// be read.
        id: Option<Id<'a>>,
        /// What came of the call.
        outcome: Outcome,
    },
}

/// What came of a call; the spans are ranges in [`Envelope::body`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Where the value of `result` is. Any JSON value.
    Result(Span),
    /// Where the value of `error` is. Any JSON value: that it is an object is not checked.
    Error(Span),
}

/// The raw JSON of an id, so that `1`, `1.0` and `"1"` stay apart. Two ids are equal when their raw JSON is,
/// wherever they stand.
#[derive(Debug, Clone)]
pub struct Id<'a> {
    raw: &'a str,
    span: Span,
}

impl<'a> Id<'a> {
    fn new(text: &'a str, span: Span) -> Result<Self, EnvelopeError> {
        let raw = &text[span.clone()];
        let scalar = raw.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'));
        if scalar && raw.len() <= MAX_ID_BYTES { Ok(Self { raw, span }) } else { Err(EnvelopeError::BadId) }
    }

    /// The id as JSON: a string with its quotes, or a number in the form in which it was written.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Where the id is in the body.
    pub fn span(&self) -> Span {
        self.span.clone()
    }
}

impl PartialEq for Id<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for Id<'_> {}

impl Hash for Id<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl<'a> Envelope<'a> {
    /// Parses a body that holds one message, or an array with one message in it.
    ///
    /// # Errors
    ///
    /// See [`EnvelopeError`]. `NotJson` comes before every complaint about the message, except that
    /// reading stops where it becomes too deep.
    pub fn parse(body: &'a [u8], limits: &Limits) -> Result<Self, EnvelopeError> {
        let text = std::str::from_utf8(body)
            .map_err(|error| EnvelopeError::NotJson { offset: error.valid_up_to() })?;
        let levels = limits.levels_inside();
        let mut scanner = Scanner::new(body);
        let in_array = scanner.take(b'[');
        if scanner.peek() != Some(b'{') {
            return Err(why_no_message(body, levels));
        }
        let mut members = Members::default();
        let object = scanner.object(levels, |member| {
            if let Some(name) = member.name(body) {
                members.note(&name, member.value);
            }
        })?;
        if in_array && !scanner.take(b']') {
            return Err(why_no_message(body, levels));
        }
        scanner.end()?;
        Ok(Self { body, object, message: members.message(text)? })
    }

    /// The bytes of the body in a span of this envelope.
    ///
    /// # Panics
    ///
    /// When the span is not within the body, which no span of this envelope is.
    pub fn slice(&self, span: &Span) -> &'a [u8] {
        &self.body[span.clone()]
    }
}

/// Tells malformed JSON, batches and other values apart; called once the body is known not to be a message.
#[cold]
fn why_no_message(body: &[u8], levels: usize) -> EnvelopeError {
    match count_elements(body, levels.saturating_add(1)) {
        Err(EnvelopeError::TooDeep { .. }) => EnvelopeError::TooDeep { limit: levels.saturating_add(1) },
        Err(error) => error,
        Ok(None | Some(1)) => EnvelopeError::NotAnObject,
        Ok(Some(_)) => EnvelopeError::Batch,
    }
}

/// How many elements a JSON text has that is an array, each nesting `levels` deep; `None` for other JSON.
fn count_elements(body: &[u8], levels: usize) -> Result<Option<usize>, EnvelopeError> {
    let mut scanner = Scanner::new(body);
    let mut count = None;
    if !scanner.take(b'[') {
        scanner.value(levels)?;
    } else if scanner.take(b']') {
        count = Some(0);
    } else {
        let mut elements = 0;
        loop {
            scanner.value(levels)?;
            elements += 1;
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b']')?;
        count = Some(elements);
    }
    scanner.end()?;
    Ok(count)
}

/// Where the members of a message object are that JSON-RPC gives a meaning.
#[derive(Default)]
struct Members {
    jsonrpc: Option<Span>,
    id: Option<Span>,
    method: Option<Span>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    /// The first of them that came twice. Kept until the whole body is known to be JSON.
    repeated: Option<&'static str>,
}

impl Members {
    fn note(&mut self, name: &[u8], value: Span) {
        let (slot, name) = match name {
            b"jsonrpc" => (&mut self.jsonrpc, "jsonrpc"),
            b"id" => (&mut self.id, "id"),
            b"method" => (&mut self.method, "method"),
            b"params" => (&mut self.params, "params"),
            b"result" => (&mut self.result, "result"),
            b"error" => (&mut self.error, "error"),
            _ => return,
        };
        if slot.replace(value).is_some() {
            self.repeated.get_or_insert(name);
        }
    }

    fn message(self, text: &str) -> Result<Message<'_>, EnvelopeError> {
        if let Some(name) = self.repeated {
            return Err(EnvelopeError::duplicate(name));
        }
        let version = self.jsonrpc.and_then(|span| string_value(&text.as_bytes()[span]));
        if version.as_deref() != Some("2.0") {
            return Err(EnvelopeError::NotAMessage);
        }
        let null_id = self.id.as_ref().is_some_and(|span| &text[span.clone()] == "null");
        let id = self.id.filter(|_| !null_id).map(|span| Id::new(text, span)).transpose()?;
        match (self.method, self.result, self.error) {
            (Some(method), None, None) => {
                let method = string_value(&text.as_bytes()[method]).ok_or(EnvelopeError::BadMethod)?;
                let params = structured_params(text, self.params)?;
                Ok(match id {
                    Some(id) => Message::Request { id, method, params },
                    None => Message::Notification { method, params, null_id },
                })
            }
            (None, Some(result), None) => Ok(Message::Response { id, outcome: Outcome::Result(result) }),
            (None, None, Some(error)) => Ok(Message::Response { id, outcome: Outcome::Error(error) }),
            _ => Err(EnvelopeError::NotAMessage),
        }
    }
}

/// The params if they are an object or an array; null, which some clients write for none, is none.
fn structured_params(text: &str, params: Option<Span>) -> Result<Option<Span>, EnvelopeError> {
    let Some(span) = params else { return Ok(None) };
    match text.as_bytes()[span.start] {
        b'{' | b'[' => Ok(Some(span)),
        b'n' => Ok(None),
        _ => Err(EnvelopeError::BadParams),
    }
}

/// Where the value of the member `name` is in a slice that is one JSON object, relative to the slice;
/// `Ok(None)` when the object has no such member. What is inside the values is skipped.
///
/// The slice is expected to come from a parsed [`Envelope`]: that it is UTF-8 is not checked again.
///
/// # Errors
///
/// `DuplicateMember` when the object has the member twice, `NotAnObject` when the slice holds another value,
/// `NotJson` as for the envelope. Depth is not bounded: it was, for the message that the slice comes from.
pub fn member(object: &[u8], name: &str) -> Result<Option<Span>, EnvelopeError> {
    let (mut found, mut repeated) = (None, false);
    each_member(object, |member| {
        if member.name(object).as_deref() == Some(name.as_bytes()) {
            repeated |= found.replace(member.value).is_some();
        }
    })?;
    if repeated { Err(EnvelopeError::duplicate(name)) } else { Ok(found) }
}

/// Follows member names inwards, as in `path(params, &["_meta", "progressToken"])`, and returns where the
/// last value is, relative to `object`; `Ok(None)` when a step is absent, or is looked for in something that
/// is no object.
///
/// # Errors
///
/// As for [`member`], apart from `NotAnObject`; but what cannot have the member is not read, so that nothing else is
/// found wrong with it either.
pub fn path(object: &[u8], names: &[&str]) -> Result<Option<Span>, EnvelopeError> {
    let mut found = 0..object.len();
    for name in names {
        let outer = found;
        let slice = &object[outer.clone()];
        if Scanner::new(slice).peek() != Some(b'{') || !may_have(slice, name) {
            return Ok(None);
        }
        let Some(inner) = member(slice, name)? else { return Ok(None) };
        found = outer.start + inner.start..outer.start + inner.end;
    }
    Ok(Some(found))
}

/// False where a name is in none of these bytes, not even in disguise: that costs a fraction of reading them, and most
/// requests have no `_meta`.
fn may_have(bytes: &[u8], name: &str) -> bool {
    let Some((first, rest)) = name.as_bytes().split_first() else { return true };
    let found = || memchr_iter(*first, bytes).any(|at| bytes[at + 1..].starts_with(rest));
    memchr(b'\\', bytes).is_some() || found()
}

/// Calls `visit` for every member of a slice that is one JSON object; all spans are relative to the slice.
pub(crate) fn each_member(object: &[u8], visit: impl FnMut(Member)) -> Result<(), EnvelopeError> {
    let mut scanner = Scanner::new(object);
    if scanner.peek().is_some_and(|first| first != b'{') {
        return Err(EnvelopeError::NotAnObject);
    }
    scanner.object(Limits::ANY_DEPTH.levels_inside(), visit)?;
    scanner.end()
}

/// Where the elements of a slice are that is one JSON array, relative to the slice.
pub(crate) fn elements(array: &[u8]) -> Result<Vec<Span>, EnvelopeError> {
    let mut scanner = Scanner::new(array);
    scanner.expect(b'[')?;
    let mut found = Vec::new();
    if !scanner.take(b']') {
        loop {
            found.push(scanner.value(Limits::ANY_DEPTH.levels_inside())?);
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b']')?;
    }
    scanner.end()?;
    Ok(found)
}

/// The decoded text of a raw JSON string (quotes included, no white space around it); `None` when the raw
/// value is not a string, or not one of Unicode characters (an unpaired surrogate escape, invalid UTF-8).
pub fn string_value(raw: &[u8]) -> Option<Cow<'_, str>> {
    if raw.first() != Some(&b'"') {
        return None;
    }
    let (span, escaped) = Scanner::new(raw).string().ok()?;
    if span.end != raw.len() {
        return None;
    }
    if escaped {
        return serde_json::from_slice(raw).ok().map(Cow::Owned);
    }
    std::str::from_utf8(&raw[1..raw.len() - 1]).ok().map(Cow::Borrowed)
}
