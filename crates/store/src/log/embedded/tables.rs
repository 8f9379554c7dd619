//! The tables of the file, and what a write does to them inside a transaction.

use bytes::Bytes;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction,
};

use crate::log::{Appended, Event, Excerpt, Head, Keep, StreamKey, length};
use crate::record::{Millis, RecordKey};

type Key = &'static [u8; 24];
/// First, last, bytes, until.
type HeadRow = (u64, u64, u64, u64);

/// (stream, number) to payload. Its name holds the format: what another release has written is not read.
const EVENTS: TableDefinition<'_, (Key, u64), &[u8]> = TableDefinition::new("events-1");
/// Stream to its head.
const STREAMS: TableDefinition<'_, Key, HeadRow> = TableDefinition::new("streams-1");
/// (until, stream), so that a sweep finds what is over without looking at the rest.
const ENDS: TableDefinition<'_, (u64, Key), ()> = TableDefinition::new("ends-1");

/// The tables in a write transaction.
pub(super) struct Tables<'txn> {
    events: Table<'txn, (Key, u64), &'static [u8]>,
    streams: Table<'txn, Key, HeadRow>,
    ends: Table<'txn, (u64, Key), ()>,
    /// Bytes of payload in all.
    pub(super) bytes: u64,
}

fn row(head: &Head) -> HeadRow {
    (head.first, head.last, head.bytes, head.until.0)
}

fn head((first, last, bytes, until): HeadRow) -> Head {
    Head { first, last, bytes, until: Millis(until) }
}

fn flat(key: StreamKey) -> [u8; 24] {
    let mut flat = [0; 24];
    flat[..16].copy_from_slice(&key.session.0);
    flat[16..].copy_from_slice(&key.stream);
    flat
}

impl<'txn> Tables<'txn> {
    /// Opens the tables, which makes those that are missing.
    pub(super) fn open(transaction: &'txn WriteTransaction, bytes: u64) -> Result<Tables<'txn>, redb::Error> {
        Ok(Tables {
            events: transaction.open_table(EVENTS)?,
            streams: transaction.open_table(STREAMS)?,
            ends: transaction.open_table(ENDS)?,
            bytes,
        })
    }

    /// Bytes of payload that all streams hold.
    pub(super) fn count(&self) -> Result<u64, redb::Error> {
        let mut bytes = 0;
        for entry in self.streams.iter()? {
            bytes += head(entry?.1.value()).bytes;
        }
        Ok(bytes)
    }

    /// Removes tables of other formats.
    pub(super) fn forget_others(transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let known = [EVENTS.name(), STREAMS.name(), ENDS.name()];
        let others: Vec<_> =
            transaction.list_tables()?.filter(|table| !known.contains(&table.name())).collect();
        for table in others {
            transaction.delete_table(table)?;
        }
        Ok(())
    }

    /// See [`EventLog::append`](crate::EventLog::append).
    pub(super) fn append(
        &mut self,
        key: StreamKey,
        after: u64,
        payloads: &[Bytes],
        keep: &Keep,
        now: Millis,
    ) -> Result<Appended, redb::Error> {
        let key = flat(key);
        let standing = self.streams.get(&key)?.map(|row| head(row.value()));
        let mut head = match standing {
            Some(head) if head.lives(now) && head.last != after => return Ok(Appended::Conflict(head.last)),
            Some(head) if head.lives(now) => head,
            Some(_) => {
                self.remove(&key)?;
                Head::behind(after)
            }
            None => Head::behind(after),
        };
        if !payloads.is_empty() && self.bytes + length(payloads) > keep.total {
            return Ok(Appended::Full);
        }
        self.bytes -= head.bytes;
        self.ends.remove((head.until.0, &key))?;
        head.until = keep.until;
        for payload in payloads {
            head.push(payload.len());
            self.events.insert((&key, head.last), payload.as_ref())?;
        }
        while head.overflows(keep) {
            let oldest = self.events.remove((&key, head.first))?.map_or(0, |payload| payload.value().len());
            head.shift(oldest);
        }
        self.bytes += head.bytes;
        self.ends.insert((head.until.0, &key), ())?;
        self.streams.insert(&key, row(&head))?;
        Ok(Appended::Stored(head.last))
    }

    /// See [`EventLog::remove`](crate::EventLog::remove).
    pub(super) fn remove_all(&mut self, session: RecordKey) -> Result<(), redb::Error> {
        let from = flat(StreamKey { session, stream: [0; 8] });
        let to = flat(StreamKey { session, stream: [0xff; 8] });
        let keys: Vec<[u8; 24]> = self
            .streams
            .range::<&[u8; 24]>(&from..=&to)?
            .map(|entry| entry.map(|(key, _)| *key.value()))
            .collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.remove(key))
    }

    /// See [`EventLog::sweep`](crate::EventLog::sweep).
    pub(super) fn sweep(&mut self, now: Millis, limit: usize) -> Result<usize, redb::Error> {
        let over: Vec<[u8; 24]> = self
            .ends
            .range(..=(now.0, &[0xff; 24]))?
            .take(limit)
            .map(|entry| entry.map(|(entry, _)| *entry.value().1))
            .collect::<Result<_, _>>()?;
        over.iter().try_for_each(|key| self.remove(key))?;
        Ok(over.len())
    }

    fn remove(&mut self, key: &[u8; 24]) -> Result<(), redb::Error> {
        let Some(head) = self.streams.remove(key)?.map(|row| head(row.value())) else { return Ok(()) };
        self.ends.remove((head.until.0, key))?;
        self.events.retain_in((key, 0)..=(key, u64::MAX), |_, _| false)?;
        self.bytes -= head.bytes;
        Ok(())
    }
}

/// The tables in a read transaction.
pub(super) struct View {
    events: ReadOnlyTable<(Key, u64), &'static [u8]>,
    streams: ReadOnlyTable<Key, HeadRow>,
}

impl View {
    /// Opens the tables.
    pub(super) fn open(transaction: &ReadTransaction) -> Result<View, redb::Error> {
        Ok(View { events: transaction.open_table(EVENTS)?, streams: transaction.open_table(STREAMS)? })
    }

    /// See [`EventLog::read`](crate::EventLog::read).
    pub(super) fn read(
        &self,
        key: StreamKey,
        after: u64,
        limit: usize,
        now: Millis,
    ) -> Result<Excerpt, redb::Error> {
        let key = flat(key);
        let head = self.streams.get(&key)?.map(|row| head(row.value()));
        let Some(head) = head.filter(|head| head.lives(now)) else { return Ok(Excerpt::default()) };
        let mut left = limit;
        let mut events = Vec::new();
        for entry in self.events.range((&key, after.saturating_add(1))..=(&key, u64::MAX))? {
            let (place, payload) = entry?;
            let payload = payload.value();
            if !events.is_empty() && payload.len() > left {
                break;
            }
            left = left.saturating_sub(payload.len());
            events.push(Event { number: place.value().1, payload: Bytes::copy_from_slice(payload) });
        }
        Ok(Excerpt { events, last: head.last, until: Some(head.until) })
    }
}
