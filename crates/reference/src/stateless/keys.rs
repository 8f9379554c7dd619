//! The keys that sign what callers carry from call to call, shared by all instances.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use rmcp::model::{RequestStateCodec, RequestStateError, SealOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::instance::random;

/// More than this is a mistake: a rotation needs two.
const MOST: usize = 16;
/// What comes back longer than this was not made here.
const LONGEST_TOKEN: usize = 2048;

/// One or more secrets. The first signs; all of them are accepted, so that what was signed with an older one stays
/// good until that is taken out of the list.
#[derive(Clone)]
pub struct Keys(RequestStateCodec);

/// Why a list of keys is none. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadKeys {
    /// It has so many keys.
    Count(usize),
    /// The key at this position, from 1, has so many bytes.
    Short(usize, usize),
    /// The key at this position, from 1, has been there before.
    Twice(usize),
}

impl fmt::Display for BadKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => {
                write!(formatter, "{count} keys; 1 to {MOST} are needed, with commas between them")
            }
            Self::Short(at, length) => write!(
                formatter,
                "key {at} has {length} bytes, at least {} are needed; `openssl rand -hex 32` makes one",
                RequestStateCodec::MIN_KEY_LENGTH
            ),
            Self::Twice(at) => write!(formatter, "key {at} is in the list twice; take one of them out"),
        }
    }
}

impl std::error::Error for BadKeys {}

impl Keys {
    /// Reads a list with commas between the keys, each at least 32 bytes as they stand, the signing one first.
    ///
    /// # Errors
    ///
    /// See [`BadKeys`].
    pub fn parse(list: &str) -> Result<Self, BadKeys> {
        let keys: Vec<&str> = list.split(',').map(str::trim).filter(|key| !key.is_empty()).collect();
        if keys.is_empty() || keys.len() > MOST {
            return Err(BadKeys::Count(keys.len()));
        }
        for (at, key) in keys.iter().enumerate() {
            if key.len() < RequestStateCodec::MIN_KEY_LENGTH {
                return Err(BadKeys::Short(at + 1, key.len()));
            }
            if keys[..at].contains(key) {
                return Err(BadKeys::Twice(at + 1));
            }
        }
        Ok(Self::of(keys.into_iter().map(str::as_bytes)))
    }

    /// A key that only this process has.
    pub fn random() -> Self {
        let mut key = [0; 32];
        random(&mut key);
        Self::of([key.as_slice()].into_iter())
    }

    /// Of keys that differ and are long enough.
    fn of<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let ring: Vec<_> = keys.map(|key| (id(key), key)).collect();
        let signing = ring.first().map(|(id, _)| id.clone()).unwrap_or_default();
        Self(RequestStateCodec::new_with_keyring(signing, ring).expect("keys that were checked"))
    }

    /// Signs `content`. It can be read by anyone, but is good only together with the same `binding`, and for this
    /// long.
    pub(super) fn seal(&self, binding: &Binding<'_>, content: &impl Serialize, lifetime: Duration) -> String {
        let content = serde_json::to_vec(content).expect("plain data");
        self.0.seal_with(&content, &SealOptions::new().associated_data(&binding.bytes()).ttl(lifetime))
    }

    /// Reads what [`Keys::seal`] has made.
    pub(super) fn open<T: DeserializeOwned>(&self, binding: &Binding<'_>, token: &str) -> Result<T, Refused> {
        if token.len() > LONGEST_TOKEN {
            return Err(Refused::Changed);
        }
        let content = self.0.open_with(token, &binding.bytes()).map_err(|error| match error {
            RequestStateError::Expired => Refused::Expired,
            RequestStateError::UnknownKeyId => Refused::Foreign,
            _ => Refused::Changed,
        })?;
        serde_json::from_slice(&content).map_err(|_| Refused::Changed)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys")
    }
}

/// What a key is called in the tokens that it signs: instances agree on it without having been told.
fn id(key: &[u8]) -> String {
    let mut named = b"throughline reference key id ".to_vec();
    named.extend_from_slice(key);
    HEXLOWER.encode(&digest(&SHA256, &named).as_ref()[..6])
}

/// Whose and what for a signed token is. It is signed with the token, without being in it.
#[derive(Serialize)]
pub(super) struct Binding<'a> {
    /// The kind of token: one is not taken for another.
    pub(super) purpose: &'static str,
    /// Which servers it is for.
    pub(super) audience: &'a str,
    /// Who its caller is, where that is known.
    pub(super) principal: Option<&'a str>,
    /// What else of the request it belongs to.
    pub(super) subject: &'a str,
}

impl Binding<'_> {
    /// JSON, in which no two bindings look alike.
    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The signature does not fit: it was changed, or made for another caller or audience.
    Changed,
    /// It names a key that is not among these.
    Foreign,
    /// It was good for a while, which is over.
    Expired,
    /// It was good once.
    Used,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Changed => {
                "is not as it was given out, or was given to another caller or by another server"
            }
            Self::Foreign => "is signed with a key that this server does not have, or no longer",
            Self::Expired => "has expired",
            Self::Used => "has been used: each is good for one call, whose answer has the next",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-key-of-at-least-thirty-two-bytes";
    const NEW: &str = "a-newer-key-of-at-least-thirty-two-bytes";
    const HOUR: Duration = Duration::from_secs(3600);

    fn binding(principal: Option<&'static str>) -> Binding<'static> {
        Binding { purpose: "test", audience: "here", principal, subject: "" }
    }

    #[test]
    fn a_list_of_keys_is_checked_without_showing_them() {
        assert_eq!(Keys::parse(" , ").err(), Some(BadKeys::Count(0)));
        assert_eq!(Keys::parse(&format!("{OLD},short")).err(), Some(BadKeys::Short(2, 5)));
        assert_eq!(Keys::parse(&format!("{OLD},{NEW},{OLD}")).err(), Some(BadKeys::Twice(3)));
        let keys = Keys::parse(&format!(" {NEW} , {OLD},")).unwrap();
        assert!(!format!("{keys:?}").contains("key-of"));
    }

    #[test]
    fn a_token_is_bound_to_all_of_its_binding() {
        let keys = Keys::parse(OLD).unwrap();
        let token = keys.seal(&binding(Some("ann")), &7, HOUR);
        assert_eq!(keys.open(&binding(Some("ann")), &token), Ok(7));
        for other in [
            binding(None),
            binding(Some("bob")),
            Binding { purpose: "other", ..binding(Some("ann")) },
            Binding { audience: "there", ..binding(Some("ann")) },
            Binding { subject: "other", ..binding(Some("ann")) },
        ] {
            assert_eq!(keys.open::<u8>(&other, &token), Err(Refused::Changed));
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let keys = Keys::parse(OLD).unwrap();
        let token = keys.seal(&binding(None), &7, HOUR);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.open::<u8>(&binding(None), &changed).is_err(), "byte {at}");
        }
        assert_eq!(keys.open::<u8>(&binding(None), &"A".repeat(LONGEST_TOKEN + 1)), Err(Refused::Changed));
    }

    #[test]
    fn keys_rotate_in_two_steps() {
        let old = Keys::parse(OLD).unwrap();
        // First every instance learns the new key, then it comes to sign, then the old one goes.
        let learnt = Keys::parse(&format!("{OLD},{NEW}")).unwrap();
        let signing = Keys::parse(&format!("{NEW},{OLD}")).unwrap();
        let retired = Keys::parse(NEW).unwrap();

        let early = old.seal(&binding(None), &1, HOUR);
        let late = signing.seal(&binding(None), &2, HOUR);
        assert_eq!(learnt.open(&binding(None), &early), Ok(1));
        assert_eq!(learnt.open(&binding(None), &late), Ok(2));
        assert_eq!(signing.open(&binding(None), &early), Ok(1));
        assert_eq!(retired.open(&binding(None), &late), Ok(2));
        assert_eq!(retired.open::<u8>(&binding(None), &early), Err(Refused::Foreign));
    }
}
