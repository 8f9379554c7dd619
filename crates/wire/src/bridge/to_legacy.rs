//! A client of 2026-07-28 and a server with a handshake (2024-11-05 to 2025-11-25).
//!
//! The bridge is a legacy client toward the server: [`request`] says what such a client would have sent, [`answer`] what
//! the modern client is to get of the answer, [`input`] how the server's questions become an `input_required` result,
//! [`notice`] which notifications are for whom, [`discover`] what the server is, and [`subscription`] what a
//! `subscriptions/listen` stream carries. [`handle`] is how a client may name state explicitly. [`state`] is what the gateway has to know again when the client comes back.

pub mod answer;
pub mod discover;
pub mod handle;
pub mod input;
pub mod notice;
pub mod request;
pub mod state;
pub mod subscription;

use crate::envelope::{self, EnvelopeError};
use crate::splice::{set_member, splice};

/// An object with this member of its `_meta` set to raw JSON; what is no object stays as it is.
pub(crate) fn with_meta(object: &[u8], name: &str, value: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let meta = match envelope::member(object, "_meta")? {
        Some(span) if object[span.start] == b'{' => &object[span],
        _ => b"{}",
    };
    let meta = splice(meta, &mut [set_member(meta, &(0..meta.len()), name, value)?]);
    Ok(splice(object, &mut [set_member(object, &(0..object.len()), "_meta", &meta)?]))
}
