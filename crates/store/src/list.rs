//! Pages of a listing.

use crate::record::{RecordKey, Stored};

/// Some records, and where the rest begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records. May be few or none although there are more.
    pub records: Vec<(RecordKey, Stored)>,
    /// For the next page; `None` at the end.
    pub next: Option<Cursor>,
}

/// Where a listing goes on. It means something only to the kind of backend that gave it; another begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub(crate) At);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Behind this key, in the order of keys.
    Key(RecordKey),
    /// At this position of a SCAN, in the node of a cluster that has this slot.
    Scan { slot: u16, position: u64 },
}

impl Cursor {
    /// Behind this key, in the order of keys.
    #[must_use]
    pub fn after(key: RecordKey) -> Cursor {
        Cursor(At::Key(key))
    }

    /// The cursor as bytes, for [`Cursor::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.0 {
            At::Key(key) => key.0.to_vec(),
            At::Scan { slot, position } => {
                [slot.to_be_bytes().as_slice(), position.to_be_bytes().as_slice()].concat()
            }
        }
    }

    /// The cursor of these bytes, or `None` if they are of none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Cursor> {
        if let Ok(key) = bytes.try_into() {
            return Some(Cursor::after(RecordKey(key)));
        }
        let (slot, position) = bytes.split_first_chunk()?;
        let position = u64::from_be_bytes(position.try_into().ok()?);
        Some(Cursor(At::Scan { slot: u16::from_be_bytes(*slot), position }))
    }

    /// The last key of the pages so far, if the backend lists in the order of keys.
    #[must_use]
    pub fn key(&self) -> Option<RecordKey> {
        match self.0 {
            At::Key(key) => Some(key),
            At::Scan { .. } => None,
        }
    }
}

impl Page {
    /// A page of a backend that lists in the order of keys, and found at most `limit`.
    pub(crate) fn by_key(records: Vec<(RecordKey, Stored)>, limit: usize) -> Page {
        let last = records.last().filter(|_| records.len() >= limit);
        let next = last.map(|(key, _)| Cursor::after(*key));
        Page { records, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_bytes() {
        for at in [At::Key(RecordKey([7; 16])), At::Scan { slot: 16383, position: u64::MAX }] {
            assert_eq!(Cursor::from_bytes(&Cursor(at).to_bytes()), Some(Cursor(at)));
        }
        for bytes in [&[][..], &[1; 9], &[1; 11], &[1; 17]] {
            assert_eq!(Cursor::from_bytes(bytes), None);
        }
    }
}
