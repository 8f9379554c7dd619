//! Listing: a SCAN of one master after the other, and the records of what it finds. What another master takes
//! over while a listing goes on may be missed or seen twice.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use futures_util::future::try_join_all;
use redis::Value;

use super::Redis;
use super::circuit::Access;
use crate::StoreError;
use crate::list::{At, Cursor, Page};
use crate::record::{Millis, RecordKey};

/// Records that are read at a time.
const READS: usize = 64;

impl Redis {
    /// A page of about `limit` records: SCAN looks at that many keys or a few more, of which some may be others'.
    pub(crate) async fn list(
        &self,
        after: Option<Cursor>,
        limit: usize,
        now: Millis,
    ) -> Result<Page, StoreError> {
        let masters = self.masters().await?;
        let (slot, position) = match after.map(|cursor| cursor.0) {
            Some(At::Scan { slot, position }) => (slot, position),
            Some(At::Key(_)) | None => (masters.first().copied().unwrap_or_default(), 0),
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(position).arg("MATCH").arg(self.record_name("*")).arg("COUNT").arg(limit.max(1));
        let found = self.send(Access::Read, None, async |link| link.send_to(slot, &scan).await).await?;
        let (position, names) = scanned(found).ok_or_else(|| self.unexpected("SCAN"))?;
        let keys: Vec<_> = names.iter().filter_map(|name| self.key_of(name)).collect();
        let mut records = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READS) {
            let read = try_join_all(keys.iter().map(|key| self.get(*key, now))).await?;
            records.extend(keys.iter().zip(read).filter_map(|(key, stored)| Some((*key, stored?))));
        }
        let next = match position {
            0 => masters.range(slot.saturating_add(1)..).next().map(|slot| (*slot, 0)),
            position => Some((slot, position)),
        };
        let next = next.map(|(slot, position)| Cursor(At::Scan { slot, position }));
        Ok(Page { records, next })
    }

    /// The lowest slot of each master; 0 for one server.
    async fn masters(&self) -> Result<BTreeSet<u16>, StoreError> {
        if !self.is_cluster() {
            return Ok(BTreeSet::from([0]));
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let slots = self.send(Access::Read, None, async |link| link.send(&command).await).await?;
        lowest(slots).ok_or_else(|| self.unexpected("CLUSTER SLOTS"))
    }

    /// The key in the name that a SCAN found.
    fn key_of(&self, name: &[u8]) -> Option<RecordKey> {
        let hex = name.strip_prefix(self.record_prefix().as_bytes())?.strip_suffix(b"}")?;
        HEXLOWER.decode(hex).ok()?.try_into().ok().map(RecordKey)
    }
}

/// Position and keys.
fn scanned(answer: Value) -> Option<(u64, Vec<Vec<u8>>)> {
    redis::from_redis_value(answer).ok()
}

/// The lowest slot of each master, from ranges that begin with: first slot, last slot, [host, port, ...].
fn lowest(slots: Value) -> Option<BTreeSet<u16>> {
    let Value::Array(ranges) = slots else { return None };
    let mut lowest: BTreeMap<(Vec<u8>, u16), u16> = BTreeMap::new();
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), _, Value::Array(master), ..] = range.as_slice() else { return None };
        let [host, Value::Int(port), ..] = master.as_slice() else { return None };
        let host = if let Value::BulkString(host) = host { host.clone() } else { Vec::new() };
        let first = u16::try_from(*first).ok()?;
        let slot = lowest.entry((host, u16::try_from(*port).ok()?)).or_insert(first);
        *slot = first.min(*slot);
    }
    Some(lowest.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_with_several_ranges_is_asked_once() {
        let range = |first, port| {
            let host = Value::BulkString(b"h".to_vec());
            Value::Array(vec![
                Value::Int(first),
                Value::Int(first + 9),
                Value::Array(vec![host, Value::Int(port)]),
            ])
        };
        let slots = Value::Array(vec![range(500, 1), range(100, 2), range(0, 1), range(900, 2)]);
        assert_eq!(lowest(slots), Some(BTreeSet::from([0, 100])));
        assert_eq!(lowest(Value::Array(vec![Value::Int(1)])), None);
    }
}
