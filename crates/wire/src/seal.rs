//! Sealing: session ids that any replica can open, secrets at rest, and keyed digests.
//!
//! A session id is base32 (RFC 4648, lower case, without padding) of
//!
//! ```text
//! format 1 | key id 1 | nonce 12 | AES-256-GCM-SIV( id 16 | route 8 | principal 16 | issued 4 | version 1 | capabilities 2 ) | tag 16
//! ```
//!
//! with format and key id as associated data: 77 bytes, 124 characters. All numbers are big-endian. GCM-SIV
//! because a repeated nonce must not cost more than the equality of two messages.

use std::fmt;
use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, Prk};
use aws_lc_rs::hmac;
use data_encoding::{Encoding, Specification};

use crate::capability::Capabilities;
use crate::keyring::{KeyRing, RingKey};
use crate::version::ProtocolVersion;

const FORMAT: u8 = 1;
const HEADER: usize = 2;
const NONCE: usize = 12;
const TAG: usize = 16;
const PLAIN: usize = 16 + 8 + 16 + 4 + 1 + 2;
const SEALED: usize = HEADER + NONCE + PLAIN + TAG;
/// One session has one spelling: upper case, padding and stray bits are none of it.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut lower = Specification::new();
    lower.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    lower.encoding().expect("32 different characters are an alphabet")
});
/// Characters of a session id.
pub const SESSION_ID_LEN: usize = (SEALED * 8).div_ceil(5);

/// What a session id of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// The session itself, random.
    pub id: [u8; 16],
    /// A digest of the route that it was made on.
    pub route: [u8; 8],
    /// A digest of the principal that it was made for.
    pub principal: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub issued_at: u32,
    /// The protocol version that was negotiated with the client.
    pub version: ProtocolVersion,
    /// What the client can do.
    pub capabilities: Capabilities,
}

/// Why a session id was not opened. To the client they are all one: an unknown session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not the form of an id of ours, or its contents are from a later release.
    #[error("not a session id of this gateway")]
    Malformed,
    /// Sealed with a key that the ring does not have.
    #[error("sealed with a key that is not in the ring")]
    UnknownKey,
    /// It was changed, or sealed with another secret.
    #[error("the seal is broken")]
    Forged,
    /// Issued before the ring's `not_before`.
    #[error("issued before the ring's not_before")]
    Revoked,
}

/// The prepared keys of one ring key, one for each purpose.
struct Derived {
    id: u8,
    session: LessSafeKey,
    secret: LessSafeKey,
    state: LessSafeKey,
    tag: hmac::Key,
}

/// A key ring made ready: every key is derived once, since a session id is opened for every request.
pub struct Keys {
    active: Derived,
    /// The other keys of the ring, which only open.
    retired: Vec<Derived>,
    digest: hmac::Key,
    not_before: u32,
}

impl Keys {
    /// Derives the keys of every purpose from every key of the ring (HKDF-SHA256), to seal with the one that is active
    /// at `now` (seconds since 1970).
    #[must_use]
    pub fn derive(ring: &KeyRing, now: u32) -> Self {
        let mut keys: Vec<Derived> = ring.keys().iter().map(Derived::new).collect();
        Self {
            // No constructor makes a ring without a key.
            active: keys.remove(ring.active(now)),
            retired: keys,
            digest: mac_key(&prk(ring.root()), b"digest"),
            not_before: ring.not_before(),
        }
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active_id(&self) -> u8 {
        self.active.id
    }

    /// Seals a session id: [`SESSION_ID_LEN`] characters of `[a-z2-7]`. The nonce must be random.
    #[must_use]
    pub fn seal_session(&self, token: &SessionToken, nonce: [u8; NONCE]) -> String {
        let mut sealed = [0; SEALED];
        let (header, rest) = sealed.split_at_mut(HEADER);
        let (nonce_out, rest) = rest.split_at_mut(NONCE);
        let (plain, tag_out) = rest.split_at_mut(PLAIN);
        header.copy_from_slice(&[FORMAT, self.active.id]);
        nonce_out.copy_from_slice(&nonce);
        plain.copy_from_slice(&token.to_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.active.session.seal_in_place_separate_tag(nonce, Aad::from(&*header), plain);
        tag_out.copy_from_slice(tag.expect("47 bytes are within the cipher's limit").as_ref());
        BASE32.encode(&sealed)
    }

    /// Opens a session id. It never allocates for what is not of the right form.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_session(&self, text: &str) -> Result<SessionToken, OpenError> {
        if text.len() != SESSION_ID_LEN {
            return Err(OpenError::Malformed);
        }
        let mut sealed = [0; SEALED];
        BASE32.decode_mut(text.as_bytes(), &mut sealed).map_err(|_| OpenError::Malformed)?;
        let (header, rest) = sealed.split_at_mut(HEADER);
        if header[0] != FORMAT {
            return Err(OpenError::Malformed);
        }
        let key = self.ring_key(header[1]).ok_or(OpenError::UnknownKey)?;
        let (nonce, rest) = rest.split_at_mut(NONCE);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Malformed)?;
        let plain =
            key.session.open_in_place(nonce, Aad::from(&*header), rest).map_err(|_| OpenError::Forged)?;
        let token = SessionToken::from_bytes(plain).ok_or(OpenError::Malformed)?;
        if token.issued_at < self.not_before {
            return Err(OpenError::Revoked);
        }
        Ok(token)
    }

    /// A keyed digest (HMAC-SHA256) of `parts` for one purpose; other parts or another purpose, another
    /// digest. It is made with the ring's root, so it stays the same when keys rotate.
    #[must_use]
    pub fn digest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.digest);
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    /// Seals a secret that is to be stored. Only the same `context` opens it: say there whose it is and what.
    /// The nonce must be random. The result is 30 bytes longer than `plain`.
    #[must_use]
    pub fn seal_secret(&self, context: &[u8], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
        seal(self.active.id, &self.active.secret, context, plain, nonce)
    }

    /// Opens a stored secret; `None` if it was changed, sealed in another context, or its key is gone.
    #[must_use]
    pub fn open_secret(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.open(context, sealed, |key| &key.secret)
    }

    /// As [`Keys::seal_secret`], for what a client is to keep and to bring back.
    #[must_use]
    pub fn seal_state(&self, context: &[u8], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
        seal(self.active.id, &self.active.state, context, plain, nonce)
    }

    /// Opens what a client was to keep; `None` if it was changed, sealed in another context, or its key is gone.
    #[must_use]
    pub fn open_state(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.open(context, sealed, |key| &key.state)
    }

    fn open(
        &self,
        context: &[u8],
        sealed: &[u8],
        purpose: impl Fn(&Derived) -> &LessSafeKey,
    ) -> Option<Vec<u8>> {
        let (header, rest) = sealed.split_first_chunk::<HEADER>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let key = self.ring_key(header[1]).filter(|_| header[0] == FORMAT)?;
        let aad = [header, context].concat();
        let mut plain = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = purpose(key).open_in_place(nonce, Aad::from(aad), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    /// The key that new tags are made with, and its id.
    pub(crate) fn active_tag_key(&self) -> (u8, &hmac::Key) {
        (self.active.id, &self.active.tag)
    }

    /// The key of tags made with ring key `id`.
    pub(crate) fn tag_key(&self, id: u8) -> Option<&hmac::Key> {
        self.ring_key(id).map(|key| &key.tag)
    }

    fn ring_key(&self, id: u8) -> Option<&Derived> {
        std::iter::once(&self.active).chain(&self.retired).find(|key| key.id == id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("active", &self.active.id).finish_non_exhaustive()
    }
}

impl Derived {
    fn new(key: &RingKey) -> Self {
        let prk = prk(&key.secret);
        Self {
            id: key.id,
            session: seal_key(&prk, b"session"),
            secret: seal_key(&prk, b"stored secret"),
            state: seal_key(&prk, b"request state"),
            tag: mac_key(&prk, b"tag"),
        }
    }
}

fn seal(id: u8, key: &LessSafeKey, context: &[u8], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
    let header = [FORMAT, id];
    let mut sealed = Vec::with_capacity(HEADER + NONCE + plain.len() + TAG);
    sealed.extend_from_slice(&header);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let aad = [&header, context].concat();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let body = &mut sealed[HEADER + NONCE..];
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body);
    sealed
        .extend_from_slice(tag.expect("a secret in memory is within the cipher's limit of 64 GiB").as_ref());
    sealed
}

fn prk(secret: &[u8; 32]) -> Prk {
    hkdf::Salt::new(HKDF_SHA256, b"throughline key 1").extract(secret)
}

fn seal_key(prk: &Prk, purpose: &[u8]) -> LessSafeKey {
    let purpose = [purpose];
    let okm = prk.expand(&purpose, &AES_256_GCM_SIV).expect("a key is within HKDF's limit of 255 blocks");
    LessSafeKey::new(UnboundKey::from(okm))
}

fn mac_key(prk: &Prk, purpose: &[u8]) -> hmac::Key {
    let purpose = [purpose];
    hmac::Key::from(
        prk.expand(&purpose, hmac::HMAC_SHA256).expect("a key is within HKDF's limit of 255 blocks"),
    )
}

impl SessionToken {
    fn to_bytes(self) -> [u8; PLAIN] {
        let mut bytes = [0; PLAIN];
        bytes[..16].copy_from_slice(&self.id);
        bytes[16..24].copy_from_slice(&self.route);
        bytes[24..40].copy_from_slice(&self.principal);
        bytes[40..44].copy_from_slice(&self.issued_at.to_be_bytes());
        bytes[44] = self.version.code();
        bytes[45..].copy_from_slice(&self.capabilities.bits().to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (route, rest) = rest.split_first_chunk()?;
        let (principal, rest) = rest.split_first_chunk()?;
        let (issued_at, rest) = rest.split_first_chunk()?;
        let (version, capabilities) = rest.split_first()?;
        Some(Self {
            id: *id,
            route: *route,
            principal: *principal,
            issued_at: u32::from_be_bytes(*issued_at),
            version: ProtocolVersion::from_code(*version)?,
            capabilities: Capabilities::from_bits(u16::from_be_bytes(capabilities.try_into().ok()?)),
        })
    }
}
