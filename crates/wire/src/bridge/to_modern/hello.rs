//! `initialize`, answered from `server/discover` (2026-07-28, Discovery), and what the client announced in it as each
//! modern request repeats it.

use crate::bridge::meta;
use crate::envelope::{self, member};
use crate::splice::{edit_members, splice};
use crate::version::{Era, ProtocolVersion};

/// What a server offers of what a gateway has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// `logging`
    pub logging: bool,
    /// `resources.subscribe`
    pub subscribe: bool,
    /// `tools.listChanged`
    pub tools: bool,
    /// `prompts.listChanged`
    pub prompts: bool,
    /// `resources.listChanged`
    pub resources: bool,
}

impl Offers {
    /// Of a result of `server/discover` or of `initialize`: both have the capabilities in the same place and shape.
    #[must_use]
    pub fn of(result: &[u8]) -> Self {
        let at = |path: &[&str]| envelope::path(result, path).ok().flatten();
        let says = |of: &str, what: &str| {
            at(&["capabilities", of, what]).is_some_and(|span| &result[span] == b"true")
        };
        Offers {
            logging: at(&["capabilities", "logging"]).is_some_and(|span| result[span.start] == b'{'),
            subscribe: says("resources", "subscribe"),
            tools: says("tools", "listChanged"),
            prompts: says("prompts", "listChanged"),
            resources: says("resources", "listChanged"),
        }
    }

    /// Whether it may ever say something that nobody asked for.
    #[must_use]
    pub fn speaks_unasked(self) -> bool {
        self.subscribe || self.tools || self.prompts || self.resources
    }
}

/// The version that a client with a handshake is told: the one that it asked for, if it is known here, else the newest
/// (2025-11-25, Lifecycle, "Version Negotiation").
#[must_use]
pub fn told_version(requested: &str) -> ProtocolVersion {
    let newest = ProtocolVersion::V2025_11_25;
    ProtocolVersion::parse(requested).filter(|version| version.era() == Era::Legacy).unwrap_or(newest)
}

/// The result of `initialize`, from that of `server/discover`. Capabilities and instructions pass as they are: what
/// 2026-07-28 has in them meant the same before.
#[must_use]
pub fn welcome(discovered: &[u8], version: ProtocolVersion) -> Vec<u8> {
    let find = |path: &[&str]| envelope::path(discovered, path).ok().flatten().map(|span| &discovered[span]);
    let object = |raw: &&[u8]| raw.first() == Some(&b'{');
    let capabilities = find(&["capabilities"]).filter(object).unwrap_or(b"{}");
    // Servers SHOULD name themselves, in `_meta`; drafts of the revision had it beside.
    let server = find(&["_meta", meta::SERVER_INFO]).or(find(&["serverInfo"])).filter(object);
    let server = server.unwrap_or(br#"{"name":"unknown","version":"unknown"}"#);
    let mut result = format!(r#"{{"protocolVersion":"{version}","capabilities":"#).into_bytes();
    result.extend_from_slice(capabilities);
    result.extend_from_slice(br#","serverInfo":"#);
    result.extend_from_slice(server);
    if let Some(instructions) = find(&["instructions"]).filter(|raw| raw.first() == Some(&b'"')) {
        result.extend_from_slice(br#","instructions":"#);
        result.extend_from_slice(instructions);
    }
    result.push(b'}');
    result
}

/// A client's capabilities as 2026-07-28 has them: without tasks, which are an extension of another shape there, and
/// without a word on whether roots change, which nobody is told of any more.
#[must_use]
pub fn capabilities(legacy: &[u8]) -> Vec<u8> {
    let has_roots = matches!(member(legacy, "roots"), Ok(Some(span)) if legacy[span.start] == b'{');
    let roots: Option<&[u8]> = has_roots.then_some(b"{}");
    match edit_members(legacy, &(0..legacy.len()), &[("tasks", None), ("roots", roots)]) {
        Ok(mut edits) => splice(legacy, &mut edits),
        // What cannot be read announces nothing.
        Err(_) => b"{}".to_vec(),
    }
}
