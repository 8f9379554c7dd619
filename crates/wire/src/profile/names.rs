//! Short names of tools. A name that fits is its own; of any other the short form is made of the name alone, so every
//! replica makes the same one, at any time. To find the name that a short form stands for takes the list of tools.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_NOPAD;

/// Characters of the digest at the end of a short form.
const DIGEST: usize = 8;

/// The name as a client can take it that knows names of at most `most` characters, of ASCII letters, digits, `_` and `-`.
#[must_use]
pub fn short(name: &str, most: usize) -> Cow<'_, str> {
    if fits(name, most) {
        return Cow::Borrowed(name);
    }
    let digest = BASE32_NOPAD.encode(digest(&SHA256, name.as_bytes()).as_ref()).to_ascii_lowercase();
    let kept = name.chars().take(most.saturating_sub(DIGEST + 1));
    let mut short: String = kept.map(|c| if is_plain(c) { c } else { '_' }).collect();
    short.push('_');
    short.push_str(&digest[..DIGEST]);
    Cow::Owned(short)
}

/// Whether this could be a short form: it ends as one does.
#[must_use]
pub fn may_be_short(name: &str) -> bool {
    name.rsplit_once('_').is_some_and(|(_, digest)| {
        digest.len() == DIGEST && digest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
    })
}

fn fits(name: &str, most: usize) -> bool {
    !name.is_empty() && name.len() <= most && name.chars().all(is_plain)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}
