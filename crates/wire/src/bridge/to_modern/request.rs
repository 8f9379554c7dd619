//! A client's request as a modern server reads it (2026-07-28, Base Protocol, "`_meta`", and Streamable HTTP, "Request
//! Metadata").

use std::borrow::Cow;

use crate::bridge::meta;
use crate::envelope::{self, EnvelopeError, Id, Span, string_value};
use crate::jsonrpc::quoted;
use crate::method;
use crate::splice::{Edit, edit_members, set_member, splice};
use crate::version::ProtocolVersion;

/// What each request says of its client, in raw JSON.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Name and version.
    pub info: &'a [u8],
    /// Capabilities, as [`hello::capabilities`](super::hello::capabilities) has them.
    pub capabilities: &'a [u8],
    /// The least severe log messages that it wants to see.
    pub log_level: Option<&'a str>,
}

/// What a call that is sent again brings of the round before (2026-07-28, Multi Round-Trip Requests).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Raw JSON of `inputResponses`.
    pub responses: Option<Vec<u8>>,
    /// Raw JSON of `requestState`, as the server gave it.
    pub state: Option<Vec<u8>>,
}

/// Raw JSON of a `_meta` with the members that every modern request has.
#[must_use]
pub fn reserved(client: &Client<'_>) -> Vec<u8> {
    let mut text =
        format!(r#"{{"{}":"{}","{}":"#, meta::VERSION, ProtocolVersion::V2026_07_28, meta::CLIENT_INFO)
            .into_bytes();
    text.extend_from_slice(client.info);
    text.extend_from_slice(format!(r#","{}":"#, meta::CLIENT_CAPABILITIES).as_bytes());
    text.extend_from_slice(client.capabilities);
    if let Some(level) = client.log_level {
        text.extend_from_slice(format!(r#","{}":{}"#, meta::LOG_LEVEL, quoted(level)).as_bytes());
    }
    text.push(b'}');
    text
}

/// The request under another id (raw JSON), with what every modern request says in its `_meta`, and with what the last
/// round of it brought. `object` is where the message is in `body`, and `own` its id.
///
/// # Errors
/// [`EnvelopeError::BadParams`] where the parameters are no object, and as for [`edit_members`].
pub fn request(
    body: &[u8],
    object: &Span,
    (own, id): (&Id<'_>, &str),
    params: Option<&Span>,
    client: &Client<'_>,
    round: &Round,
) -> Result<Vec<u8>, EnvelopeError> {
    let mut edits = vec![Edit::replace(own.span(), id.as_bytes())];
    let reserved = reserved(client);
    let Some(params) = params else {
        let params = [br#"{"_meta":"#, reserved.as_slice(), b"}"].concat();
        edits.push(set_member(body, object, "params", &params)?);
        return Ok(splice(body, &mut edits));
    };
    if body[params.start] != b'{' {
        return Err(EnvelopeError::BadParams);
    }
    let brought = [("inputResponses", &round.responses), ("requestState", &round.state)];
    let mut changes: Vec<_> =
        brought.iter().filter_map(|(name, value)| Some((*name, Some(value.as_deref()?)))).collect();
    let own_meta = envelope::member(&body[params.clone()], "_meta")?;
    let own_meta = own_meta.map(|at| params.start + at.start..params.start + at.end);
    let version = quoted(ProtocolVersion::V2026_07_28.as_str());
    let level = client.log_level.map(quoted);
    match own_meta.filter(|at| body[at.start] == b'{') {
        None => changes.push(("_meta", Some(reserved.as_slice()))),
        Some(at) => edits.extend(edit_members(
            body,
            &at,
            &[
                (meta::VERSION, Some(version.as_bytes())),
                (meta::CLIENT_INFO, Some(client.info)),
                (meta::CLIENT_CAPABILITIES, Some(client.capabilities)),
                (meta::LOG_LEVEL, level.as_deref().map(str::as_bytes)),
            ],
        )?),
    }
    if !changes.is_empty() {
        edits.extend(edit_members(body, params, &changes)?);
    }
    Ok(splice(body, &mut edits))
}

/// What the `Mcp-Name` header repeats of these parameters (2026-07-28, Streamable HTTP, "Standard Request Headers").
#[must_use]
pub fn name<'a>(of: &str, params: &'a [u8]) -> Option<Cow<'a, str>> {
    let name = match of {
        method::TOOLS_CALL | method::PROMPTS_GET => "name",
        method::RESOURCES_READ => "uri",
        _ => return None,
    };
    envelope::member(params, name).ok()?.and_then(|span| string_value(&params[span]))
}
