//! A modern request: what it says in its `_meta`, and what a legacy server gets of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::notice::Level;
use crate::bridge::meta;
use crate::envelope::{EnvelopeError, each_member, member, string_value};
use crate::splice::{edit_members, splice};
use crate::version::ProtocolVersion;

/// Answers to questions that a request brings, by the questions' keys; raw JSON.
pub type Responses<'a> = BTreeMap<String, &'a [u8]>;

/// Answers that one request may bring.
const MAX_RESPONSES: usize = 64;

/// The members of `_meta` that no legacy server may see: some refuse a request that has them.
const RESERVED: [&str; 6] = [
    meta::VERSION,
    meta::CLIENT_INFO,
    meta::CLIENT_CAPABILITIES,
    meta::LOG_LEVEL,
    meta::SUBSCRIPTION_ID,
    meta::SERVER_INFO,
];

/// Why a request's parameters cannot be understood. All of them are answered with -32602.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// Something in them comes twice.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// `logLevel` names no level (2026-07-28, Logging, "Error Handling").
    #[error("_meta names an unknown log level")]
    Level,
    /// `inputResponses` is no object, or has too many members (Multi Round-Trip Requests, "Error Handling").
    #[error("inputResponses must be an object with a result for each question")]
    Responses,
    /// `requestState` is no string.
    #[error("requestState must be the string that the server gave")]
    State,
}

/// What a modern request says beside what it asks for. Slices are raw JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asking<'a> {
    /// What the client can be asked.
    pub capabilities: Option<&'a [u8]>,
    /// Name and version of the client.
    pub client: Option<&'a [u8]>,
    /// The least severe log messages that it wants; None for none at all.
    pub level: Option<Level>,
    /// Its progress token.
    pub progress: Option<&'a [u8]>,
    /// Answers that it brings.
    pub responses: Responses<'a>,
    /// The state that it was given with the questions.
    pub state: Option<Cow<'a, str>>,
}

impl<'a> Asking<'a> {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    /// [`BadParams`].
    pub fn read(params: Option<&'a [u8]>) -> Result<Self, BadParams> {
        let Some(params) = params.filter(|params| params.first() == Some(&b'{')) else {
            return Ok(Self::default());
        };
        let mut asking = Self::default();
        if let Some(span) = member(params, "_meta")?.filter(|span| params[span.start] == b'{') {
            let meta = &params[span];
            let object = |name| -> Result<_, EnvelopeError> {
                Ok(member(meta, name)?.map(|span| &meta[span]).filter(|value| value[0] == b'{'))
            };
            asking.capabilities = object(meta::CLIENT_CAPABILITIES)?;
            asking.client = object(meta::CLIENT_INFO)?;
            asking.progress = member(meta, "progressToken")?.map(|span| &meta[span]);
            if let Some(span) = member(meta, meta::LOG_LEVEL)? {
                let level = string_value(&meta[span]).and_then(|level| Level::parse(&level));
                asking.level = Some(level.ok_or(BadParams::Level)?);
            }
        }
        if let Some(span) = member(params, "inputResponses")? {
            asking.responses = responses(&params[span])?;
        }
        if let Some(span) = member(params, "requestState")? {
            asking.state = Some(string_value(&params[span]).ok_or(BadParams::State)?);
        }
        Ok(asking)
    }

    /// What a legacy client that can do the same announces in `initialize`. Its capabilities have the same form in both
    /// eras, but that modern clients do not say when their roots change.
    pub fn initialize_params(&self) -> Vec<u8> {
        const NOBODY: &[u8] = br#"{"name":"unknown","version":"0"}"#;
        let has = |name| {
            let client = self.client.unwrap_or_default();
            matches!(member(client, name), Ok(Some(span)) if client[span.start] == b'"')
        };
        let client = self.client.filter(|_| has("name") && has("version")).unwrap_or(NOBODY);
        let version = ProtocolVersion::V2025_11_25.as_str();
        let before = format!(r#"{{"protocolVersion":"{version}","capabilities":"#);
        let capabilities = self.capabilities.unwrap_or(b"{}");
        [before.as_bytes(), capabilities, br#","clientInfo":"#, client, b"}"].concat()
    }
}

fn responses(raw: &[u8]) -> Result<Responses<'_>, BadParams> {
    let mut responses = Responses::new();
    let mut whole = raw.first() == Some(&b'{');
    if whole {
        each_member(raw, |member| {
            let value = &raw[member.value.clone()];
            let key = member.name(raw).and_then(|name| String::from_utf8(name.into_owned()).ok());
            // What is no result is none: its question is asked again.
            if let Some(key) = key.filter(|_| value.first() == Some(&b'{')) {
                whole &= responses.insert(key, value).is_none() && responses.len() <= MAX_RESPONSES;
            }
        })?;
    }
    if whole { Ok(responses) } else { Err(BadParams::Responses) }
}

/// The parameters as a legacy client would have sent them, under this progress token (raw JSON) where the client named
/// one.
///
/// # Errors
/// Where a member comes twice.
pub fn legacy_params(params: &[u8], token: &str) -> Result<Vec<u8>, EnvelopeError> {
    if params.first() != Some(&b'{') {
        return Ok(params.to_vec());
    }
    let meta = match member(params, "_meta")? {
        Some(span) if params[span.start] == b'{' => legacy_meta(&params[span], token)?,
        _ => None,
    };
    let changes = [("_meta", meta.as_deref()), ("inputResponses", None), ("requestState", None)];
    Ok(splice(params, &mut edit_members(params, &(0..params.len()), &changes)?))
}

/// None where nothing is left.
fn legacy_meta(meta: &[u8], token: &str) -> Result<Option<Vec<u8>>, EnvelopeError> {
    let mut changes: Vec<(&str, Option<&[u8]>)> = RESERVED.iter().map(|name| (*name, None)).collect();
    if member(meta, "progressToken")?.is_some() {
        changes.push(("progressToken", Some(token.as_bytes())));
    }
    let meta = splice(meta, &mut edit_members(meta, &(0..meta.len()), &changes)?);
    let mut is_empty = true;
    each_member(&meta, |_| is_empty = false)?;
    Ok((!is_empty).then_some(meta))
}

/// What of a request has to be the same when it is made again with answers (Multi Round-Trip Requests, "Server
/// Requirements"): its parameters but for what belongs to the one attempt, in a form that does not depend on how they
/// were written down.
pub fn salient(params: Option<&[u8]>) -> Vec<u8> {
    let Some(Ok(Value::Object(mut params))) = params.map(serde_json::from_slice) else { return Vec::new() };
    for name in ["_meta", "inputResponses", "requestState"] {
        params.remove(name);
    }
    sorted(Value::Object(params)).to_string().into_bytes()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(members) => {
            let members: BTreeMap<String, Value> =
                members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(members.into_iter().collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: &str = r#"{ "name":"t", "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","a/b":1e0,"progressToken":7,"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/logLevel":"info"}, "arguments":{"x":1.0},"inputResponses":{"k":{"action":"accept"}},"requestState":"s" }"#;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_request_says_what_it_says() {
        let asking = Asking::read(Some(PARAMS.as_bytes())).unwrap();
        assert_eq!(asking.capabilities, Some(&br#"{"sampling":{}}"#[..]));
        assert_eq!((asking.level, asking.progress), (Some(Level::Info), Some(&b"7"[..])));
        assert_eq!(asking.responses.get("k"), Some(&&br#"{"action":"accept"}"#[..]));
        assert_eq!(asking.state.as_deref(), Some("s"));
        assert_eq!(
            text(asking.initialize_params()),
            r#"{"protocolVersion":"2025-11-25","capabilities":{"sampling":{}},"clientInfo":{"name":"unknown","version":"0"}}"#
        );
        assert_eq!(Asking::read(None), Ok(Asking::default()));
        let dropped = Asking::read(Some(br#"{"inputResponses":{"a":1,"b":{}}}"#)).unwrap();
        assert_eq!(dropped.responses.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for (params, why) in [
            (r#"{"_meta":{"io.modelcontextprotocol/logLevel":"loud"}}"#, BadParams::Level),
            (r#"{"_meta":{"io.modelcontextprotocol/logLevel":3}}"#, BadParams::Level),
            (r#"{"inputResponses":null}"#, BadParams::Responses),
            (r#"{"inputResponses":[]}"#, BadParams::Responses),
            (r#"{"inputResponses":{"a":{},"\u0061":{}}}"#, BadParams::Responses),
            (r#"{"requestState":1}"#, BadParams::State),
        ] {
            assert_eq!(Asking::read(Some(params.as_bytes())), Err(why), "{params}");
        }
    }

    #[test]
    fn a_legacy_server_gets_what_a_legacy_client_would_have_sent() {
        assert_eq!(
            text(legacy_params(PARAMS.as_bytes(), r#""ours""#).unwrap()),
            r#"{ "name":"t", "_meta":{"a/b":1e0,"progressToken":"ours"}, "arguments":{"x":1.0} }"#
        );
        let bare = r#"{"_meta":{"io.modelcontextprotocol/clientCapabilities":{}},"uri":"a:b"}"#;
        assert_eq!(text(legacy_params(bare.as_bytes(), "1").unwrap()), r#"{"uri":"a:b"}"#);
    }

    #[test]
    fn a_repetition_is_known_however_it_is_written() {
        let again = r#"{"arguments":{"x":1.0},"name":"t","_meta":{},"requestState":"other"}"#;
        assert_eq!(salient(Some(PARAMS.as_bytes())), salient(Some(again.as_bytes())));
        let other = again.replace("1.0", "2");
        assert_ne!(salient(Some(PARAMS.as_bytes())), salient(Some(other.as_bytes())));
    }
}
