//! Transfers whole partitions in or out as their placement changes.

use std::sync::Arc;

use redb::{ReadableTable as _, WriteTransaction};

use super::failure::CommitError;
use super::file::{Store, begin, write_record};
use super::group::Size;
use super::migration::{record_size, storage};
use super::snapshot::{Entry, ReadError, Snapshot, successor};
use super::{ENTRIES, SIZES};

/// The partitions that arrive and leave, in one transaction with the new state of the topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// The topology's new state, in the caller's encoding.
    pub topology: Vec<u8>,
    /// The partitions that arrive. They replace any that exist.
    pub arrived: Vec<Whole>,
    /// The keys of the partitions that leave.
    pub left: Arc<Vec<Vec<u8>>>,
}

/// A partition with all of its entries, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub partition: Vec<u8>,
    pub entries: Vec<Entry>,
}

impl Transfer {
    /// The keys of the arriving partitions, in order.
    pub fn arriving(&self) -> impl Iterator<Item = &[u8]> {
        self.arrived.iter().map(|whole| &*whole.partition)
    }
}

impl Store {
    /// Commits a whole transfer durably, and returns the view that includes it.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    pub fn transfer(&mut self, transfer: &Transfer) -> Result<Arc<Snapshot>, CommitError> {
        let mut record = self.record().clone();
        record.topology = Some(transfer.topology.clone());
        self.attempt_with(record, |opened, record| {
            let transaction = begin(opened)?;
            write(&transaction, transfer)?;
            write_record(&transaction, record)?;
            transaction.commit()?;
            Ok(())
        })
    }
}

pub(super) fn write(transaction: &WriteTransaction, transfer: &Transfer) -> Result<(), ReadError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
    let mut sizes = transaction.open_table(SIZES).map_err(storage)?;
    for partition in transfer.left.iter() {
        remove(&mut entries, &mut sizes, partition)?;
    }
    for Whole {
        partition,
        entries: arrived,
    } in &transfer.arrived
    {
        // Usually the partition does not exist, and seeing that is quicker than removing it.
        let first = (partition.as_slice(), &[][..])..;
        let found = entries.range::<(&[u8], &[u8])>(first)?.next().transpose()?;
        if found.is_some_and(|(position, _)| position.value().0 == partition) {
            remove(&mut entries, &mut sizes, partition)?;
        }
        let mut size = Size::default();
        for (key, value) in arrived {
            entries.insert((partition.as_slice(), key.as_slice()), value.as_slice())?;
            size = size.with(key.len(), None, Some(value.len()));
        }
        record_size(&mut sizes, partition, size)?;
    }
    Ok(())
}

fn remove(
    entries: &mut redb::Table<'_, (&'static [u8], &'static [u8]), &'static [u8]>,
    sizes: &mut redb::Table<'_, &'static [u8], (u64, u64)>,
    partition: &[u8],
) -> Result<(), ReadError> {
    let successor = successor(partition);
    let all = (partition, &[][..])..(successor.as_slice(), &[][..]);
    entries.retain_in(all, |_, _| false)?;
    sizes.remove(partition)?;
    Ok(())
}
