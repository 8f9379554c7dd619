//! The protocol's revisions and the two eras they fall into.

use std::fmt;

/// The era of a protocol revision: how two peers agree on what they speak.
///
/// Specification 2026-07-28, Versioning, "Terminology".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Era {
    /// 2025-11-25 and earlier: an `initialize` handshake opens a session.
    Legacy,
    /// 2026-07-28 and later: no handshake; each request says its version, client and capabilities.
    Modern,
}

/// A revision of the Model Context Protocol that this crate knows, ordered by date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// 2024-11-05: the first, with the HTTP+SSE transport.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, session ids, batches.
    V2025_03_26,
    /// 2025-06-18: the version header, elicitation; no batches.
    V2025_06_18,
    /// 2025-11-25: tasks, sampling with tools, URL elicitation.
    V2025_11_25,
    /// 2026-07-28: stateless, with `server/discover` and `input_required`.
    V2026_07_28,
}

/// What a request without an `MCP-Protocol-Version` header speaks.
///
/// Specification 2025-11-25, Transports, "Protocol Version Header".
pub const ASSUMED: ProtocolVersion = ProtocolVersion::V2025_03_26;

impl ProtocolVersion {
    /// Every known revision, oldest first.
    pub const ALL: &'static [ProtocolVersion] = &[
        ProtocolVersion::V2024_11_05,
        ProtocolVersion::V2025_03_26,
        ProtocolVersion::V2025_06_18,
        ProtocolVersion::V2025_11_25,
        ProtocolVersion::V2026_07_28,
    ];

    /// The revisions that begin with `initialize`, oldest first.
    pub const LEGACY: &'static [ProtocolVersion] = &[
        ProtocolVersion::V2024_11_05,
        ProtocolVersion::V2025_03_26,
        ProtocolVersion::V2025_06_18,
        ProtocolVersion::V2025_11_25,
    ];

    /// The revision with exactly this name, or `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.as_str() == text)
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// One byte for sealed ids and records. A code is never given to another revision.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::V2024_11_05 => 1,
            Self::V2025_03_26 => 2,
            Self::V2025_06_18 => 3,
            Self::V2025_11_25 => 4,
            Self::V2026_07_28 => 5,
        }
    }

    /// The revision with this [`code`](Self::code), or `None`.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.code() == code)
    }

    /// The era it belongs to.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => Era::Legacy,
            Self::V2026_07_28 => Era::Modern,
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
