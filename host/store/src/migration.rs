//! A guest's rewrite of the whole shard in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use redb::{ReadableTable, WriteTransaction};

use super::damage::Contained;
use super::effort::GoOn;
use super::group::{Limits, Size, WriteError};
use super::snapshot::{self, Page, PartitionPage, Position, ReadError, Snapshot};
use super::{ENTRIES, SIZES, SMALL, space};

/// An open migration: its reads see its own writes; dropping it undoes all of them.
pub struct Migration {
    pub(super) transaction: Contained<WriteTransaction>,
    base: Arc<Snapshot>,
    limits: Limits,
    /// The partition written last, and its size. A migration goes through partitions in order, so
    /// one is enough.
    current: Option<(Vec<u8>, Size)>,
    space: space::Change,
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Migration").finish_non_exhaustive()
    }
}

impl Migration {
    pub(super) fn new(transaction: WriteTransaction, base: Arc<Snapshot>, limits: Limits) -> Self {
        Self {
            transaction: Contained::new(transaction),
            base,
            limits,
            current: None,
            space: space::Change::default(),
        }
    }

    /// The data that is migrated.
    pub(super) fn base(&self) -> &Snapshot {
        &self.base
    }

    /// As for [`Snapshot::partitions`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn partitions(
        &self,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        limit: usize,
        go_on: GoOn<'_>,
    ) -> Result<PartitionPage, ReadError> {
        self.base.damage.contain(|| {
            let table = self.transaction.open_table(ENTRIES).map_err(storage)?;
            snapshot::partitions(&table, start, end, limit, go_on)
        })
    }

    /// As for [`Snapshot::scan`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scan(
        &self,
        after: Option<(&[u8], &[u8])>,
        limit: usize,
        go_on: GoOn<'_>,
    ) -> Result<Page<(Position, Vec<u8>)>, ReadError> {
        self.base.damage.contain(|| {
            let table = self.transaction.open_table(ENTRIES).map_err(storage)?;
            snapshot::scan(&table, after, limit, go_on)
        })
    }

    /// As for [`Snapshot::get_if`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get_if(
        &self,
        partition: &[u8],
        key: &[u8],
        go_on: GoOn<'_>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        self.base.damage.contain(|| {
            let table = self.transaction.open_table(ENTRIES).map_err(storage)?;
            let value = table.get((partition, key))?;
            let bytes = value.as_ref().map_or(&[][..], |value| value.value());
            let goes_on = go_on(bytes.len());
            Ok((goes_on && value.is_some()).then(|| bytes.to_vec()))
        })
    }

    /// Stores all of several entries, or none, in partitions that the shard had when the
    /// migration began.
    ///
    /// # Errors
    /// If a limit would be exceeded, a partition is new, or the disk fails.
    pub fn set_many(
        &mut self,
        entries: &[(Position, Vec<u8>)],
        go_on: GoOn<'_>,
    ) -> Result<(), WriteError> {
        // First checks that all entries can be set. Keeping the old values for an undo is not
        // possible, as they may be any number of times as large.
        let damage = self.base.damage.clone();
        if !damage.contain(|| self.check(entries, go_on))? {
            return Ok(());
        }
        for ((partition, key), value) in entries {
            if !go_on(key.len() + value.len()) {
                break;
            }
            self.put(partition, key, Some(value), go_on)?;
        }
        Ok(())
    }

    /// Removes several entries; returns how many of them existed.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn delete_many(
        &mut self,
        positions: &[Position],
        go_on: GoOn<'_>,
    ) -> Result<u32, ReadError> {
        let mut count = 0;
        for (partition, key) in positions {
            if !go_on(key.len()) {
                break;
            }
            count += u32::from(self.put(partition, key, None, go_on)?);
        }
        Ok(count)
    }

    /// Fails if one of these entries, set one after another, could not be set; false if `go_on`
    /// refused.
    fn check(
        &mut self,
        entries: &[(Position, Vec<u8>)],
        go_on: GoOn<'_>,
    ) -> Result<bool, WriteError> {
        let mut sizes = HashMap::<&[u8], Size>::new();
        let mut lengths = HashMap::<&Position, usize>::new();
        for (position, value) in entries {
            let (partition, key) = position;
            if !go_on(key.len()) {
                return Ok(false);
            }
            self.limits.check(key, value)?;
            let size = match sizes.get(&partition[..]) {
                Some(size) => *size,
                None if self.base.is_partition(partition)? => match self.size(partition, go_on)? {
                    Some(size) => size,
                    None => return Ok(false),
                },
                None => return Err(WriteError::NoSuchPartition),
            };
            let old = if let Some(length) = lengths.get(position) {
                Some(*length)
            } else {
                let table = self.transaction.open_table(ENTRIES).map_err(storage)?;
                let old = table.get((&partition[..], &key[..])).map_err(ReadError)?;
                old.map(|old| old.value().len())
            };
            let size = size.with(key.len(), old, Some(value.len()));
            if size.bytes > u64::from(self.limits.max_partition_bytes) {
                return Err(WriteError::PartitionFull(self.limits.max_partition_bytes));
            }
            sizes.insert(partition, size);
            lengths.insert(position, value.len());
        }
        Ok(true)
    }

    /// Sets or removes a key's value; returns whether there was one. Nothing is changed if
    /// `go_on` refuses.
    fn put(
        &mut self,
        partition: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
        go_on: GoOn<'_>,
    ) -> Result<bool, ReadError> {
        let damage = self.base.damage.clone();
        damage.contain(|| self.put_as_it_is(partition, key, value, go_on))
    }

    fn put_as_it_is(
        &mut self,
        partition: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
        go_on: GoOn<'_>,
    ) -> Result<bool, ReadError> {
        let Some(size) = self.size(partition, go_on)? else {
            return Ok(false);
        };
        let mut table = self.transaction.open_table(ENTRIES).map_err(storage)?;
        let old = match value {
            Some(value) => table.insert((partition, key), value),
            None => table.remove((partition, key)),
        }?
        .map(|old| old.value().len());
        let new = value.map(<[u8]>::len);
        self.space.add((partition, key), old, new);
        let size = size.with(key.len(), old, new);
        self.current = Some((partition.to_vec(), size));
        Ok(old.is_some())
    }

    /// The size of a partition; none if `go_on` refused.
    fn size(&mut self, partition: &[u8], go_on: GoOn<'_>) -> Result<Option<Size>, ReadError> {
        match &self.current {
            Some((current, size)) if current == partition => return Ok(Some(*size)),
            _ => self.flush()?,
        }
        let sizes = self.transaction.open_table(SIZES).map_err(storage)?;
        if let Some(size) = sizes.get(partition)? {
            return Ok(Some(Size::of(size.value())));
        }
        let table = self.transaction.open_table(ENTRIES).map_err(storage)?;
        let successor = snapshot::successor(partition);
        let mut size = Size::default();
        for entry in table.range((partition, &[][..])..(successor.as_slice(), &[][..]))? {
            let (position, value) = entry?;
            let (key, value) = (position.value().1.len(), value.value().len());
            if !go_on(key + value) {
                return Ok(None);
            }
            size = size.with(key, None, Some(value));
        }
        Ok(Some(size))
    }

    /// Writes the row of the current partition's size.
    pub(super) fn flush(&mut self) -> Result<(), ReadError> {
        let Some((partition, size)) = self.current.take() else {
            return Ok(());
        };
        let mut sizes = self.transaction.open_table(SIZES).map_err(storage)?;
        record_size(&mut sizes, &partition, size)
    }

    /// Writes what is left to be written before the commit.
    pub(super) fn complete(&mut self) -> Result<(), ReadError> {
        self.flush()?;
        self.space.write(&self.transaction)
    }
}

/// Maintains the invariant of `sizes`: a row for each partition of more than [`SMALL`] entries,
/// and for no other.
pub(super) fn record_size(
    sizes: &mut redb::Table<'_, &'static [u8], (u64, u64)>,
    partition: &[u8],
    size: Size,
) -> Result<(), ReadError> {
    if size.entries > SMALL {
        sizes.insert(partition, (size.bytes, size.entries))?;
    } else {
        sizes.remove(partition)?;
    }
    Ok(())
}

pub(super) fn storage(error: redb::TableError) -> ReadError {
    match error {
        redb::TableError::Storage(error) => ReadError(error),
        // The tables are created with the file, and only this module opens them.
        other => ReadError(redb::StorageError::Corrupted(other.to_string())),
    }
}
