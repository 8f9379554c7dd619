//! The tables of the file, and what a write does to them inside a transaction.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::frame::{self, Frame};
use crate::Put;
use crate::record::{Millis, Record, RecordKey, Stored, Version};
use crate::rules::{self, Decision};
use crate::watch::Changed;

type Key = &'static [u8; 16];

/// Key to frame (see `frame`).
const RECORDS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("records");
/// (expiry, key), so that a sweep finds what has expired without looking at the rest. An entry may be left
/// behind by a record that could not be read when it was replaced; the record decides.
const EXPIRY: TableDefinition<'_, (u64, Key), ()> = TableDefinition::new("expiry");
/// Key to the time of the last touch. Apart from the records, so that a touch neither rewrites a record nor
/// races with its version.
const TOUCHES: TableDefinition<'_, Key, u64> = TableDefinition::new("touches");

/// The tables in a write transaction.
pub(super) struct Tables<'txn> {
    records: Table<'txn, Key, &'static [u8]>,
    expiry: Table<'txn, (u64, Key), ()>,
    touches: Table<'txn, Key, u64>,
    /// What is to be announced after the commit.
    pub(super) changed: Vec<Changed>,
}

/// What stands at a key.
struct Standing {
    stored: Option<Stored>,
    version: Version,
    expires: Option<Millis>,
}

impl<'txn> Tables<'txn> {
    /// Opens the tables, which makes those that are missing.
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Tables<'txn>, redb::Error> {
        Ok(Tables {
            records: transaction.open_table(RECORDS)?,
            expiry: transaction.open_table(EXPIRY)?,
            touches: transaction.open_table(TOUCHES)?,
            changed: Vec::new(),
        })
    }

    /// See [`Store::put_if`](crate::Store::put_if).
    pub(super) fn put_if(
        &mut self,
        key: RecordKey,
        expected: Option<Version>,
        record: Record,
        now: Millis,
    ) -> Result<Put, redb::Error> {
        let standing = self.standing(key)?;
        match rules::put(standing.stored.as_ref(), standing.version, expected, record, now) {
            Decision::Conflict(mut current) => {
                if let Some(stored) = &mut current {
                    stored.touched = stored.touched.max(self.touched(key)?);
                }
                Ok(Put::Conflict(current))
            }
            Decision::Write(stored) => {
                self.write(key, &stored, standing.expires)?;
                self.changed.push(Changed::One(key, stored.version));
                Ok(Put::Stored(stored.version))
            }
        }
    }

    /// See [`Store::delete`](crate::Store::delete). A record that cannot be read is buried too.
    pub(super) fn delete(
        &mut self,
        key: RecordKey,
        tombstone: Record,
        now: Millis,
    ) -> Result<Option<Stored>, redb::Error> {
        let Standing { stored, version, expires } = self.standing(key)?;
        if let Some(buried) = rules::bury(stored.as_ref(), version, tombstone, now) {
            self.write(key, &buried, expires)?;
            self.changed.push(Changed::One(key, buried.version));
        }
        Ok(stored.filter(|stored| stored.lives(now)))
    }

    /// See [`Store::sweep`](crate::Store::sweep).
    pub(super) fn sweep(&mut self, now: Millis, limit: usize) -> Result<usize, redb::Error> {
        let expired: Vec<(u64, [u8; 16])> = self
            .expiry
            .range(..=(now.0, &[0xff; 16]))?
            .take(limit)
            .map(|entry| entry.map(|(entry, _)| (entry.value().0, *entry.value().1)))
            .collect::<Result<_, _>>()?;
        let mut removed = 0;
        for (expires, key) in expired {
            self.expiry.remove((expires, &key))?;
            // An entry that was left behind must not take a living record with it.
            let standing = self.standing(RecordKey(key))?;
            if standing.expires.is_none_or(|expires| expires <= now) {
                removed += usize::from(self.records.remove(&key)?.is_some());
                self.touches.remove(&key)?;
            }
        }
        Ok(removed)
    }

    /// Notes one touch.
    pub(super) fn touch(&mut self, key: RecordKey, at: Millis) -> Result<(), redb::Error> {
        if self.records.get(&key.0)?.is_some() && self.touched(key)? < at {
            self.touches.insert(&key.0, at.0)?;
        }
        Ok(())
    }

    /// Puts `stored` at `key` whatever stands there, as a salvage does.
    pub(super) fn write(
        &mut self,
        key: RecordKey,
        stored: &Stored,
        was: Option<Millis>,
    ) -> Result<(), redb::Error> {
        let expires = stored.record.expires;
        if let Some(was) = was
            && was != expires
        {
            self.expiry.remove((was.0, &key.0))?;
        }
        self.expiry.insert((expires.0, &key.0), ())?;
        self.records.insert(&key.0, frame::encode(key, stored)?.as_slice())?;
        Ok(())
    }

    fn touched(&self, key: RecordKey) -> Result<Millis, redb::Error> {
        Ok(Millis(self.touches.get(&key.0)?.map_or(0, |at| at.value())))
    }

    fn standing(&self, key: RecordKey) -> Result<Standing, redb::Error> {
        let frame = self.records.get(&key.0)?.map(|bytes| frame::decode(key, bytes.value()));
        Ok(match frame {
            Some(Frame::Intact(stored)) => {
                let (version, expires) = (stored.version, Some(stored.record.expires));
                Standing { stored: Some(stored), version, expires }
            }
            Some(Frame::Damaged(header)) => {
                Standing { stored: None, version: header.version, expires: Some(header.expires) }
            }
            Some(Frame::Unreadable) | None => {
                Standing { stored: None, version: Version::NONE, expires: None }
            }
        })
    }
}

/// The tables in a read transaction.
pub(super) struct View {
    records: ReadOnlyTable<Key, &'static [u8]>,
    touches: ReadOnlyTable<Key, u64>,
}

impl View {
    /// Opens the tables.
    pub(super) fn open(transaction: &ReadTransaction) -> Result<View, redb::Error> {
        Ok(View { records: transaction.open_table(RECORDS)?, touches: transaction.open_table(TOUCHES)? })
    }

    /// The record of `key`, if it lives at `now`.
    pub(super) fn get(&self, key: RecordKey, now: Millis) -> Result<Option<Stored>, redb::Error> {
        match self.records.get(&key.0)? {
            Some(bytes) => self.live(key, bytes.value(), now),
            None => Ok(None),
        }
    }

    /// See [`Store::list`](crate::Store::list).
    pub(super) fn list(
        &self,
        after: Option<RecordKey>,
        limit: usize,
        now: Millis,
    ) -> Result<Vec<(RecordKey, Stored)>, redb::Error> {
        let from = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key.0));
        let mut found = Vec::new();
        let mut entries = self.records.range::<&[u8; 16]>((from, Bound::Unbounded))?;
        while found.len() < limit
            && let Some(entry) = entries.next()
        {
            let (key, bytes) = entry?;
            let key = RecordKey(*key.value());
            if let Some(stored) = self.live(key, bytes.value(), now)? {
                found.push((key, stored));
            }
        }
        Ok(found)
    }

    fn live(&self, key: RecordKey, bytes: &[u8], now: Millis) -> Result<Option<Stored>, redb::Error> {
        let Frame::Intact(mut stored) = frame::decode(key, bytes) else { return Ok(None) };
        if !stored.lives(now) {
            return Ok(None);
        }
        if let Some(at) = self.touches.get(&key.0)? {
            stored.touched = stored.touched.max(Millis(at.value()));
        }
        Ok(Some(stored))
    }
}
