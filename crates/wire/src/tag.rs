//! Tags: values that an upstream minted, as the client sees them.
//!
//! Ids of server-to-client requests restart with every upstream session, so an answer to a question of the
//! lost session would fit a question of the new one. Toward the client such a value therefore carries the
//! binding's generation, and a keyed digest that ties it to the session, so that it cannot be guessed:
//!
//! ```text
//! <generation>.<key id, 2 hex digits><first 8 bytes of HMAC-SHA256, 16 hex digits>.<base64url of the value>
//! ```
//!
//! Event ids and progress tokens are made likewise.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use crate::seal::Keys;

const MAC: usize = 8;

/// What a tagged value is. A tag for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The id of a server-to-client request.
    Request,
    /// A progress token.
    Progress,
    /// An event id.
    Event,
    /// The name of a call whose result is asked for later.
    Call,
}

impl Keys {
    /// Tags `value` for a session's client: text of `[A-Za-z0-9._-]`, 22 characters and the generation's
    /// digits longer than the value's base64.
    #[must_use]
    pub fn tag(&self, purpose: Purpose, session: &[u8; 16], generation: u32, value: &[u8]) -> String {
        let (id, key) = self.active_tag_key();
        let mac = mac(key, purpose, session, generation, value);
        format!("{generation}.{id:02x}{}.{}", HEXLOWER.encode(&mac), BASE64URL_NOPAD.encode(value))
    }

    /// The generation and the value of a tag; `None` for anything that was not tagged for this purpose and
    /// session.
    #[must_use]
    pub fn untag(&self, purpose: Purpose, session: &[u8; 16], text: &str) -> Option<(u32, Vec<u8>)> {
        let (generation, rest) = text.split_once('.')?;
        let (proof, value) = rest.split_once('.')?;
        let number = generation.parse::<u32>().ok()?;
        // One value has one spelling: "+1" and "01" also parse.
        if generation.starts_with(['+', '0']) && generation != "0" {
            return None;
        }
        // Checked before it is decoded, so that what is decoded is small.
        if proof.len() != 2 + 2 * MAC {
            return None;
        }
        let proof = HEXLOWER.decode(proof.as_bytes()).ok()?;
        let (id, theirs) = proof.split_first()?;
        let value = BASE64URL_NOPAD.decode(value.as_bytes()).ok()?;
        let ours = mac(self.tag_key(*id)?, purpose, session, number, &value);
        verify_slices_are_equal(&ours, theirs).ok()?;
        Some((number, value))
    }
}

/// Everything but the value has a fixed length, so no two tags are made of the same bytes.
fn mac(key: &hmac::Key, purpose: Purpose, session: &[u8; 16], generation: u32, value: &[u8]) -> [u8; MAC] {
    let purpose = match purpose {
        Purpose::Request => 1,
        Purpose::Progress => 2,
        Purpose::Event => 3,
        Purpose::Call => 4,
    };
    let mut context = hmac::Context::with_key(key);
    context.update(&[purpose]);
    context.update(session);
    context.update(&generation.to_be_bytes());
    context.update(value);
    let mut short = [0; MAC];
    short.copy_from_slice(&context.sign().as_ref()[..MAC]);
    short
}
