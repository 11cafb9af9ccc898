//! Partitions that come or go as a whole, as their placement changes.

use std::sync::Arc;

use redb::WriteTransaction;

use super::failure::CommitError;
use super::file::{Store, begin, write_record};
use super::group::Size;
use super::migration::{record_size, storage};
use super::snapshot::{Position, ReadError, Snapshot, successor};
use super::{ENTRIES, SIZES};

/// What comes and what goes, in one transaction with what is stored of the
/// topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// The topology's state after it, in the caller's encoding.
    pub topology: Vec<u8>,
    /// All entries of each partition that comes, in order. They take the place
    /// of what is there.
    pub arrived: Vec<(Position, Vec<u8>)>,
    /// The partitions that go, by their keys.
    pub left: Vec<Vec<u8>>,
}

impl Transfer {
    /// The keys of the partitions that come, in order.
    pub fn arriving(&self) -> impl Iterator<Item = &[u8]> {
        self.arrived
            .chunk_by(of_partition)
            .map(|arrived| &*arrived[0].0.0)
    }
}

fn of_partition((one, _): &(Position, Vec<u8>), (other, _): &(Position, Vec<u8>)) -> bool {
    one.0 == other.0
}

impl Store {
    /// Makes a transfer durable, whole, and gives the view with it.
    ///
    /// # Errors
    /// As [`Store::commit`].
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
    let arriving = transfer.arrived.chunk_by(of_partition);
    let partitions = arriving.clone().map(|arrived| &arrived[0].0.0);
    for partition in transfer.left.iter().chain(partitions) {
        let successor = successor(partition);
        let all = (partition.as_slice(), &[][..])..(successor.as_slice(), &[][..]);
        entries.retain_in(all, |_, _| false)?;
        sizes.remove(partition.as_slice())?;
    }
    for arrived in arriving {
        let mut size = Size::default();
        for ((partition, key), value) in arrived {
            entries.insert((partition.as_slice(), key.as_slice()), value.as_slice())?;
            size = size.with(key.len(), None, Some(value.len()));
        }
        record_size(&mut sizes, &arrived[0].0.0, size)?;
    }
    Ok(())
}
