//! What the store keeps. The JSON form is the backends' payload; it is read by the releases before and after
//! the one that wrote it, so members are only ever added, with a default.

use std::fmt;
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since the Unix epoch; always passed in by the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// A record's key: bytes that the gateway chose (the random id of an issued session, the digest of a keyed
/// one). `Display` is the whole key in hexadecimal; `Debug`, for logs, its first four bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub [u8; 16]);

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{}..", HEXLOWER.encode(&[a, b, c, d]))
    }
}

/// The version of a record, for compare-and-set. Grows with each write, by one or more, and is at least the time
/// of the write: so that it grows even where the store has forgotten what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(crate) u64);

impl Version {
    /// Before the first write.
    pub(crate) const NONE: Version = Version(0);

    /// The version of a write at `now` over this one.
    pub(crate) fn next(self, now: Millis) -> Version {
        Version(self.0.saturating_add(1).max(now.0))
    }
}

/// How the gateway knows whose session it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The client echoes an id that the gateway issued.
    Issued,
    /// The client echoes nothing, but is known.
    Keyed,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How the session is recognised.
    pub kind: Kind,
    /// Digest of the route's name.
    #[serde(with = "hex")]
    pub route: [u8; 8],
    /// Digest of the principal.
    #[serde(with = "hex")]
    pub principal: [u8; 16],
    /// When the session began.
    pub created: Millis,
    /// When the record is as good as gone, used or not; a tombstone lasts until then too.
    pub expires: Millis,
    /// Whether the session lives.
    pub state: State,
    /// The client's `initialize` params as raw JSON, replayed byte for byte at a recovery. Shared: clients of
    /// one kind send the same.
    #[serde(default, with = "shared_text")]
    pub initialize: Arc<str>,
    /// Whether the client has sent `notifications/initialized`.
    #[serde(default)]
    pub initialized: bool,
    /// What to do again in a new upstream session, in the original order.
    #[serde(default)]
    pub restore: Vec<RestoreStep>,
}

/// Whether a session lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It can be used.
    Open {
        /// The upstream session in use, if there is one now.
        #[serde(default)]
        binding: Option<Binding>,
        /// The last generation given out, of whichever binding.
        #[serde(default)]
        generation: u32,
        /// Who is making the next binding. No fence: the compare-and-set of the binding decides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<Box<Lease>>,
    },
    /// The client ended it. Final until the record expires.
    Deleted,
}

/// The word of one replica that it is making a session's next binding, so that others wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which replica: the name that the gateway gave itself.
    pub holder: String,
    /// When it no longer counts, whatever became of its holder.
    pub until: Millis,
}

/// The upstream session that a session of ours now uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Counted up at every recovery.
    pub generation: u32,
    /// Upstream session id and cookies, sealed by the gateway. Shared between the copies of a record.
    #[serde(with = "shared_base64")]
    pub secret: Arc<[u8]>,
    /// The protocol version that the upstream negotiated.
    #[serde(with = "shared_text")]
    pub protocol_version: Arc<str>,
    /// The endpoint that holds the upstream session.
    pub endpoint: String,
}

/// One thing that a new upstream session must be told again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreStep {
    /// A later step of the same key replaces the earlier one; that is the gateway's work, not the store's.
    pub key: String,
    /// The MCP method.
    pub method: String,
    /// Its params, which the gateway may have sealed.
    #[serde(with = "base64")]
    pub params: Vec<u8>,
}

/// A record as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Its version, for the next compare-and-set.
    pub version: Version,
    /// When it was last written or touched, whichever is later.
    pub touched: Millis,
}

impl Stored {
    /// Whether the record still counts at `now`.
    pub(crate) fn lives(&self, now: Millis) -> bool {
        self.record.expires > now
    }
}

/// Text that several records have in common.
mod shared_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

/// Digests as hexadecimal text.
mod hex {
    use super::*;

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        bytes.try_into().map_err(|_| de::Error::custom(format_args!("expected {N} bytes")))
    }
}

/// Other bytes as base64: a JSON array of numbers would be three times as long.
mod base64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(de::Error::custom)
    }
}

/// The same, of bytes that several copies of a record have in common.
mod shared_base64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        base64::serialize(bytes, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        base64::deserialize(deserializer).map(Arc::from)
    }
}
