//! What a request of revision 2026-07-28 states about itself: in its `_meta`, and in headers that repeat the body for
//! those on the way who do not read it. A request whose statements contradict each other is executed by nobody.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use throughline_wire::bridge::meta;
use throughline_wire::headers::{MCP_PARAM_PREFIX, decode_value, encode_value};
use throughline_wire::{envelope, method};

use super::Held;
use crate::error::Fault;
use crate::names;

/// What is wrong with what a request states about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misstated {
    /// A member of `_meta` that there must be is not there, or of another type; its name.
    NotInMeta(&'static str),
    /// A header that repeats the body is not there; its name.
    NoHeader(&'static str),
    /// A header says something else than the body, or cannot be read; its name.
    HeaderDiffers(&'static str),
}

/// Checks what a request states about itself (2026-07-28, Base Protocol, "`_meta`"; Streamable HTTP, "Server
/// Validation"). Where the route is not `strict`, a header that is missing is added, for those behind the gateway.
///
/// # Errors
/// What is missing or contradicts the body.
pub(super) fn check(strict: bool, headers: &mut HeaderMap, held: &Held) -> Result<(), Fault> {
    let version = text(held, &["_meta", meta::VERSION])?
        .ok_or(Fault::Misstated(Misstated::NotInMeta(meta::VERSION)))?;
    let capabilities = held.param(&["_meta", meta::CLIENT_CAPABILITIES])?;
    if capabilities.is_none_or(|span| held.body[span.start] != b'{') {
        return Err(Fault::Misstated(Misstated::NotInMeta(meta::CLIENT_CAPABILITIES)));
    }
    let name = match name_of(&held.method) {
        Some(member) => text(held, &[member])?,
        None => None,
    };
    let expected = [
        ("MCP-Protocol-Version", names::PROTOCOL_VERSION, Some(&*version)),
        ("Mcp-Method", names::METHOD, Some(&*held.method)),
        ("Mcp-Name", names::NAME, name.as_deref()),
    ];
    for (shown, header, value) in expected {
        // What the body does not say is for whoever reads it to refuse.
        let Some(value) = value else { continue };
        match states(headers, &header, value) {
            Some(true) => {}
            Some(false) => return Err(Fault::Misstated(Misstated::HeaderDiffers(shown))),
            None if strict => return Err(Fault::Misstated(Misstated::NoHeader(shown))),
            None => {
                let value = HeaderValue::from_str(&encode_value(value)).ok();
                value.and_then(|value| headers.insert(header, value));
            }
        }
    }
    // What they repeat is in a schema of the server's; that they can be read is seen here.
    let mut parameters = headers.iter().filter(|(name, _)| name.as_str().starts_with(MCP_PARAM_PREFIX));
    if parameters.any(|(_, value)| decoded(value).is_none()) {
        return Err(Fault::Misstated(Misstated::HeaderDiffers("Mcp-Param-*")));
    }
    Ok(())
}

/// Which parameter `Mcp-Name` repeats (Streamable HTTP, "Standard Request Headers").
fn name_of(method: &str) -> Option<&'static str> {
    match method {
        method::TOOLS_CALL | method::PROMPTS_GET => Some("name"),
        method::RESOURCES_READ => Some("uri"),
        _ => None,
    }
}

fn text<'a>(held: &'a Held, path: &[&str]) -> Result<Option<Cow<'a, str>>, Fault> {
    Ok(held.param(path)?.and_then(|span| envelope::string_value(&held.body[span])))
}

/// Whether the header says this; None where there is none. That it comes once has been seen to.
fn states(headers: &HeaderMap, header: &HeaderName, value: &str) -> Option<bool> {
    headers.get(header).map(|found| decoded(found).is_some_and(|found| found == value))
}

fn decoded(value: &HeaderValue) -> Option<Cow<'_, str>> {
    decode_value(value.to_str().ok()?).ok()
}
