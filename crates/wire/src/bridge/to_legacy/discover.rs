//! What a legacy server said in its answer to `initialize`, as the result of `server/discover` (2026-07-28, Discovery).

use super::answer::{self, Caching};
use crate::envelope::{EnvelopeError, member};
use crate::method;
use crate::splice::{edit_members, splice};
use crate::version::ProtocolVersion;

/// The versions that a modern client can use, as raw JSON.
pub fn supported() -> String {
    format!(r#"["{}"]"#, ProtocolVersion::V2026_07_28)
}

/// Name and version of the server, raw JSON, from its answer to `initialize`.
pub fn server_info(initialized: &[u8]) -> Option<&[u8]> {
    let info = &initialized[member(initialized, "serverInfo").ok()??];
    (info.first() == Some(&b'{')).then_some(info)
}

/// The result, from the server's answer to `initialize`.
///
/// # Errors
/// Where a member comes twice.
pub fn result(initialized: &[u8], caching: Caching) -> Result<Vec<u8>, EnvelopeError> {
    let part =
        |name| -> Result<_, EnvelopeError> { Ok(member(initialized, name)?.map(|at| &initialized[at])) };
    let capabilities = part("capabilities")?.filter(|value| value.first() == Some(&b'{')).unwrap_or(b"{}");
    // Tasks of 2025-11-25 are not those of the modern era's extension.
    let mut edits = edit_members(capabilities, &(0..capabilities.len()), &[("tasks", None)])?;
    let capabilities = splice(capabilities, &mut edits);
    let mut said =
        [br#"{"supportedVersions":"#, supported().as_bytes(), br#","capabilities":"#, &capabilities].concat();
    if let Some(instructions) = part("instructions")?.filter(|value| value.first() == Some(&b'"')) {
        said.extend_from_slice(br#","instructions":"#);
        said.extend_from_slice(instructions);
    }
    said.push(b'}');
    answer::result(&said, method::DISCOVER, caching, server_info(initialized))
}

/// Whether the server says of itself that it does this: a path in its capabilities.
pub fn can(initialized: &[u8], path: [&str; 2]) -> bool {
    let found = crate::envelope::path(initialized, &["capabilities", path[0], path[1]]);
    matches!(found, Ok(Some(at)) if &initialized[at.clone()] == b"true")
}

/// Whether the server announces this at all.
pub fn has(initialized: &[u8], capability: &str) -> bool {
    matches!(crate::envelope::path(initialized, &["capabilities", capability]), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"tasks":{"list":{}},"x":1e0},"serverInfo":{"name":"s","version":"1"},"instructions":"Be \u0041."}"#;

    #[test]
    fn a_server_is_discovered_from_its_handshake() {
        let said = result(SAID.as_bytes(), Caching::default()).unwrap();
        assert_eq!(
            String::from_utf8(said).unwrap(),
            r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"resultType":"complete","ttlMs":0,"cacheScope":"private","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"x":1e0},"instructions":"Be \u0041."}"#
        );
        assert!(
            can(SAID.as_bytes(), ["tools", "listChanged"])
                && !can(SAID.as_bytes(), ["prompts", "listChanged"])
        );
        assert!(has(SAID.as_bytes(), "tools") && !has(SAID.as_bytes(), "logging"));
    }
}
