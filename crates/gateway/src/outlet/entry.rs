//! An event as the log keeps it: what the client gets, and what a successor of this process needs to go on. Sealed, since
//! it holds what tools said.

use bytes::Bytes;

use super::EventId;
use crate::app::App;
use crate::sealed_log;

const FORMAT: u8 = 1;
/// The event is the response, or stands for it: nothing follows.
const RESPONSE: u8 = 1;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The binding that it came from.
    pub(super) generation: u32,
    /// Whether it is the response.
    pub(super) response: bool,
    /// The last event id that the upstream gave by then; empty without one.
    pub(super) upstream_id: Vec<u8>,
    /// Raw JSON of the id of the request that is being answered; empty for a standing stream.
    pub(super) request: String,
    /// The frame, with its id.
    pub(super) frame: Bytes,
}

impl Entry {
    /// For the log.
    pub(super) fn seal(&self, app: &App, id: &EventId) -> Bytes {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let plain = [
            &[FORMAT, if self.response { RESPONSE } else { 0 }],
            self.generation.to_le_bytes().as_slice(),
            &length(&self.upstream_id),
            &self.upstream_id,
            &length(self.request.as_bytes()),
            self.request.as_bytes(),
            &self.frame,
        ]
        .concat();
        sealed_log::seal(app, id.key, id.number, &plain)
    }

    /// From the log; None where the key that it was sealed with is gone, or another release has written it.
    pub(super) fn open(app: &App, id: &EventId, sealed: &[u8]) -> Option<Self> {
        let plain = sealed_log::open(app, id.key, id.number, sealed)?;
        let rest = plain.strip_prefix(&[FORMAT])?;
        let (flags, rest) = rest.split_first()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (upstream_id, rest) = part(rest)?;
        let (request, frame) = part(rest)?;
        Some(Entry {
            generation: u32::from_le_bytes(*generation),
            response: flags & RESPONSE != 0,
            upstream_id: upstream_id.to_vec(),
            request: String::from_utf8(request.to_vec()).ok()?,
            frame: Bytes::copy_from_slice(frame),
        })
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}
