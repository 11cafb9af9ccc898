//! Transfers whole partitions in or out as their placement changes.

use std::sync::Arc;

use redb::{ReadableTable as _, WriteTransaction};

use super::commit::{Changes, Pending};
use super::failure::{CommitError, CommitFailure};
use super::group::Size;
use super::migration::{record_size, storage};
use super::snapshot::{Entry, ReadError, Snapshot, successor};
use super::store::Store;
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
    /// As for [`Store::commit`]; also if the partitions that leave cannot be read.
    pub fn transfer(&mut self, transfer: &Transfer) -> Result<Arc<Snapshot>, CommitError> {
        let mut record = self.record().clone();
        record.topology = Some(transfer.topology.clone());
        let snapshot = self.snapshot_or_reopen()?;
        match transfer.changes(&snapshot) {
            Ok(changes) => self.append(changes, Some(record)),
            Err(error) => {
                self.recover(snapshot.opening());
                Err(CommitFailure::from(error).into())
            }
        }
    }
}

impl Transfer {
    /// What it changes in this data.
    fn changes(&self, snapshot: &Snapshot) -> Result<Changes, ReadError> {
        let mut changes = Changes::new();
        let arriving = self.arrived.iter().map(|whole| &whole.partition);
        for partition in self.left.iter().chain(arriving) {
            // The entries that are there are deleted, or replaced.
            let mut pending = Pending::default();
            snapshot.visit(partition, None, None, false, |key, value| {
                pending.before = pending.before.with(key.len(), None, Some(value.len()));
                pending.changes.insert(key.to_vec(), None);
                true
            })?;
            changes.insert(partition.clone(), pending);
        }
        for Whole { partition, entries } in &self.arrived {
            let pending = changes.entry(partition.clone()).or_default();
            for (key, value) in entries {
                pending.changes.insert(key.clone(), Some(value.clone()));
                pending.size = pending.size.with(key.len(), None, Some(value.len()));
            }
        }
        Ok(changes)
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
