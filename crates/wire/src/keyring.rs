//! The key ring: the secrets that session ids and stored secrets are sealed with, and its text form.
//!
//! ```text
//! # Throughline key ring
//! format = 1
//! not_before = 0
//! seals_from = 0
//! root = "<64 hexadecimal digits>"
//! key.2 = "<64 hexadecimal digits>"
//! key.1 = "<64 hexadecimal digits>"
//! ```
//!
//! One `name = value` a line, or several with `;` between them; `#` begins a comment; quotes are optional. The first
//! key is the active one: it seals. The others only open what they sealed before they were replaced. Before
//! `seals_from` the second is still active: a new key has to be with every replica before any seals with it. `root`
//! never rotates: digests are made with it, since a principal must have the same name before and after a rotation.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// A ring has at most this many keys.
pub const MAX_KEYS: usize = 16;

const FORMAT: &str = "1";

/// One key: the id that sealed values name it by, and 256 secret bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RingKey {
    pub(crate) id: u8,
    pub(crate) secret: [u8; 32],
}

/// 1 to 16 keys, of which the first is active, and a root that never rotates.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    root: [u8; 32],
    keys: Vec<RingKey>,
    not_before: u32,
    seals_from: u32,
}

/// Why a text is no key ring. It names the line, counted from 1, and never what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// A line is not `name = value` with a known name.
    #[error("key ring line {0}: expected format, not_before, root or key.ID, then = and a value")]
    Line(usize),
    /// The format is not one that this version reads.
    #[error("key ring line {0}: unknown format, this version reads format 1")]
    Format(usize),
    /// `not_before` is not a number of seconds since 1970 that fits 32 bits.
    #[error("key ring line {0}: not_before must be seconds since 1970")]
    NotBefore(usize),
    /// `seals_from` is not a number of seconds since 1970 that fits 32 bits.
    #[error("key ring line {0}: seals_from must be seconds since 1970")]
    SealsFrom(usize),
    /// A key's id is not a number from 0 to 255.
    #[error("key ring line {0}: a key's id must be a number from 0 to 255")]
    Id(usize),
    /// A secret is not 64 hexadecimal digits, or they are all zero.
    #[error("key ring line {0}: a secret must be 64 hexadecimal digits, not all zero")]
    Secret(usize),
    /// A name or a key's id came before.
    #[error("key ring line {0}: given twice")]
    Twice(usize),
    /// One key too many.
    #[error("key ring line {0}: more than {MAX_KEYS} keys")]
    TooMany(usize),
    /// There is no `format` line.
    #[error("key ring: the format line is missing")]
    NoFormat,
    /// There is no `root` line.
    #[error("key ring: the root line is missing")]
    NoRoot,
    /// There is no key.
    #[error("key ring: there is no key")]
    NoKey,
}

impl KeyRing {
    /// A ring with one key, number 1. The root is derived from it, once, and kept from then on.
    #[must_use]
    pub fn generate(secret: [u8; 32]) -> Self {
        Self {
            root: derive_root(&secret),
            keys: vec![RingKey { id: 1, secret }],
            not_before: 0,
            seals_from: 0,
        }
    }

    /// Reads the text form (see the module).
    ///
    /// # Errors
    ///
    /// See [`KeyRingError`].
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let (mut format, mut not_before, mut seals_from, mut root) = (None, None, None, None);
        let mut keys: Vec<RingKey> = Vec::new();
        let lines = text.lines().enumerate().flat_map(|(index, line)| {
            let line = line.split('#').next().unwrap_or_default();
            line.split(';').map(move |entry| (index + 1, entry.trim()))
        });
        for (number, entry) in lines.filter(|(_, entry)| !entry.is_empty()) {
            let (name, value) = entry.split_once('=').ok_or(KeyRingError::Line(number))?;
            let value = unquote(value.trim()).ok_or(KeyRingError::Line(number))?;
            let twice = match name.trim() {
                "format" if value == FORMAT => format.replace(()).is_some(),
                "format" => return Err(KeyRingError::Format(number)),
                "not_before" => {
                    let seconds = value.parse::<u32>().map_err(|_| KeyRingError::NotBefore(number))?;
                    not_before.replace(seconds).is_some()
                }
                "seals_from" => {
                    let seconds = value.parse::<u32>().map_err(|_| KeyRingError::SealsFrom(number))?;
                    seals_from.replace(seconds).is_some()
                }
                "root" => root.replace(secret(value).ok_or(KeyRingError::Secret(number))?).is_some(),
                name => {
                    let id = name.strip_prefix("key.").ok_or(KeyRingError::Line(number))?;
                    let id = id.parse::<u8>().map_err(|_| KeyRingError::Id(number))?;
                    let secret = secret(value).ok_or(KeyRingError::Secret(number))?;
                    let twice = keys.iter().any(|key| key.id == id);
                    keys.push(RingKey { id, secret });
                    twice
                }
            };
            if twice {
                return Err(KeyRingError::Twice(number));
            }
            if keys.len() > MAX_KEYS {
                return Err(KeyRingError::TooMany(number));
            }
        }
        format.ok_or(KeyRingError::NoFormat)?;
        let root = root.ok_or(KeyRingError::NoRoot)?;
        if keys.is_empty() {
            return Err(KeyRingError::NoKey);
        }
        let (not_before, seals_from) = (not_before.unwrap_or(0), seals_from.unwrap_or(0));
        Ok(Self { root, keys, not_before, seals_from })
    }

    /// The text form. It holds the secrets: write it where only the gateway reads it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Throughline key ring: keep it secret, give it to every replica.\n\
             # The first key seals, from seals_from on, before that the second; the others only open what they\n\
             # sealed. The root stays as it is.\n\
             # Session ids issued before not_before (seconds since 1970) are refused.\n\
             format = {FORMAT}\nnot_before = {}\nseals_from = {}\nroot = \"{}\"\n",
            self.not_before,
            self.seals_from,
            HEXLOWER.encode(&self.root),
        );
        for key in &self.keys {
            text.push_str(&format!("key.{} = \"{}\"\n", key.id, HEXLOWER.encode(&key.secret)));
        }
        text
    }

    /// The same in one line, for a variable of the environment.
    #[must_use]
    pub fn to_line(&self) -> String {
        let text = self.to_text();
        let entries: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        entries.join("; ")
    }

    /// Makes `secret` the active key from `seals_from` (seconds since 1970) on. What the earlier keys sealed stays
    /// valid; the oldest of 16 is dropped.
    pub fn rotate(&mut self, secret: [u8; 32], seals_from: u32) {
        self.keys.truncate(MAX_KEYS - 1);
        self.seals_from = seals_from;
        // Ids are not reused while a key that bears them is in the ring.
        let mut id = self.keys.first().map_or(0, |key| key.id);
        while self.keys.iter().any(|key| key.id == id) {
            id = id.wrapping_add(1);
        }
        self.keys.insert(0, RingKey { id, secret });
    }

    /// Refuses from now on every session id that was issued before `seconds` (since 1970).
    pub fn revoke_before(&mut self, seconds: u32) {
        self.not_before = seconds;
    }

    /// Session ids issued before this many seconds since 1970 are refused.
    #[must_use]
    pub fn not_before(&self) -> u32 {
        self.not_before
    }

    /// When the first key begins to seal, in seconds since 1970.
    #[must_use]
    pub fn seals_from(&self) -> u32 {
        self.seals_from
    }

    /// The ids of all keys, the one that is active at `now` (seconds since 1970) first.
    #[must_use]
    pub fn ids(&self, now: u32) -> Vec<u8> {
        let mut ids: Vec<u8> = self.keys.iter().map(|key| key.id).collect();
        ids[..=self.active(now)].rotate_right(1);
        ids
    }

    /// Place of the key that is active at `now`. A ring with one key has no choice.
    pub(crate) fn active(&self, now: u32) -> usize {
        usize::from(self.seals_from > now && self.keys.len() > 1)
    }

    /// Whether the other is this ring at another time: they have the same root.
    #[must_use]
    pub fn is_kin(&self, other: &KeyRing) -> bool {
        self.root == other.root
    }

    pub(crate) fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    pub(crate) fn root(&self) -> &[u8; 32] {
        &self.root
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|key| key.id).collect();
        f.debug_struct("KeyRing")
            .field("ids", &ids)
            .field("not_before", &self.not_before)
            .finish_non_exhaustive()
    }
}

fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => (!value.is_empty()).then_some(value),
    }
}

fn secret(hex: &str) -> Option<[u8; 32]> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    // All zero is a forgotten placeholder, not a secret.
    <[u8; 32]>::try_from(bytes).ok().filter(|secret| secret.iter().any(|byte| *byte != 0))
}

/// 32 bytes of HKDF output.
struct Length32;

impl KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive_root(secret: &[u8; 32]) -> [u8; 32] {
    let mut root = [0; 32];
    Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&[b"throughline key ring root"], Length32)
        .and_then(|okm| okm.fill(&mut root))
        .expect("32 bytes are within HKDF's limit of 255 blocks");
    root
}
