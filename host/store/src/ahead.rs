//! How many entries the data file has from after the place in the journal that it names.
//!
//! A checkpoint that meets damage is written in parts. If it fails before its end, the file has some
//! of what the journal will count once more.

use redb::{ReadableTable as _, WriteTransaction};

use super::META;
use super::migration::storage;
use super::snapshot::ReadError;

/// The row's name.
pub(super) const AHEAD: &str = "ahead";

/// Notes that a part was written which added this many entries.
pub(super) fn add(transaction: &WriteTransaction, entries: i64) -> Result<(), ReadError> {
    let mut meta = transaction.open_table(META).map_err(storage)?;
    let place = meta.get("journal")?.map(|row| row.value().to_vec());
    let Some(mut place) = place else {
        return Ok(());
    };
    let before = meta.get(AHEAD)?.map(|row| decode(row.value(), &place));
    let entries = before.unwrap_or_default() + entries;
    place.extend_from_slice(&entries.to_le_bytes());
    meta.insert(AHEAD, place.as_slice())?;
    Ok(())
}

/// The number of entries, by the row and the place that the file names: once there is another
/// place, the row says nothing any more.
pub(super) fn decode(row: &[u8], place: &[u8]) -> i64 {
    let entries = row.strip_prefix(place).map(<[u8; 8]>::try_from);
    entries.map_or(0, |entries| entries.map_or(0, i64::from_le_bytes))
}
