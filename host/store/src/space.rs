//! How much space the data needs, and so how much of the data file could be given back.
//!
//! The row `space` of `meta` is kept up to date with each transaction, because counting takes a
//! walk through the whole file.

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};

use super::migration::storage;
use super::snapshot::ReadError;
use super::{ENTRIES, META};

/// The row's name.
pub(super) const SPACE: &str = "space";

/// A page of redb, in bytes.
const PAGE: u64 = 4096;
/// What a page has for entries.
const USABLE: u64 = PAGE - 16;
/// What redb adds to an entry: where its key and value begin, and how long its partition key is.
const PER_ENTRY: u64 = 16;

/// The space that an entry takes in a file that was just compacted, in bytes: its share of a page,
/// or, if it is larger, its pages, whose number is a power of two.
pub(super) fn of_entry(partition: usize, key: usize, value: usize) -> u64 {
    let bytes = (partition + key + value) as u64 + PER_ENTRY;
    if bytes <= USABLE {
        PAGE / (USABLE / bytes)
    } else {
        (bytes + PAGE - USABLE).next_power_of_two()
    }
}

/// What the changes of a transaction change about the space that is needed.
#[derive(Debug, Default)]
pub(super) struct Change(i64);

impl Change {
    /// Counts the change of an entry, by the lengths of its value before and after.
    pub(super) fn add(
        &mut self,
        (partition, key): (&[u8], &[u8]),
        before: Option<usize>,
        after: Option<usize>,
    ) {
        let of = |value: Option<usize>| {
            let bytes = value.map(|value| of_entry(partition.len(), key.len(), value));
            bytes.unwrap_or_default().cast_signed()
        };
        self.0 += of(after) - of(before);
    }

    /// Updates the row. A file without one gets it when it is opened.
    pub(super) fn write(&mut self, transaction: &WriteTransaction) -> Result<(), ReadError> {
        let change = std::mem::take(&mut self.0);
        if change == 0 {
            return Ok(());
        }
        let mut meta = transaction.open_table(META).map_err(storage)?;
        let space = meta.get(SPACE)?.and_then(|row| decode(row.value()));
        if let Some(space) = space {
            let space = space.saturating_add_signed(change);
            meta.insert(SPACE, space.to_le_bytes().as_slice())?;
        }
        Ok(())
    }
}

pub(super) fn decode(row: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(row.try_into().ok()?))
}

/// Counts the space that all entries need, by walking through them.
pub(super) fn count(database: &Database) -> Result<u64, redb::Error> {
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    let mut space = 0;
    for entry in entries.iter()? {
        let (position, value) = entry?;
        let (partition, key) = position.value();
        space += of_entry(partition.len(), key.len(), value.value().len());
    }
    Ok(space)
}
