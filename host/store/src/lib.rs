//! Stores a shard's data: partitions of ordered entries in a journal and one redb file.
//!
//! Readers use a [`Snapshot`]. The writer builds a [`Group`] of [`Transaction`]s on top of a
//! snapshot; [`Store::commit`] makes the group durable and returns the next snapshot. This crate
//! is the only one that names redb.
//!
//! A commit is durable when its record is in the journal (`journal`). Its changes are then in a
//! memtable (`memtable`), and a snapshot is redb's below two memtables: the active one, and the
//! frozen one, which a checkpoint (`checkpoint`) writes to redb. A start replays the journal from
//! the place that redb names. A compaction (`compaction`) copies the file to a smaller one.
//!
//! The file's format is redb's, version 3. A file of a later format or layout is refused. One of
//! layout 1, which has no journal, is brought over.
//!
//! # The file's layout, version 2
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `entries` | (partition key, entry key) | the value |
//! | `sizes` | partition key | (bytes of keys and values, entries), for each partition of more than [`SMALL`] entries |
//! | `meta` | `layout`, `schema`, `generation`, `topology`, `journal`, `space` | little-endian u32; little-endian u32; the caller's bytes; the caller's bytes; the place in the journal up to which everything is here; the space that the entries need, a little-endian u64 |

mod ahead;
mod check;
mod checkpoint;
mod commit;
mod compaction;
mod damage;
mod disk;
mod effort;
mod failure;
mod file;
mod group;
mod held;
mod journal;
mod memtable;
mod merged;
mod migration;
mod scratch;
mod snapshot;
mod space;
mod store;
mod transfer;
mod walk;

#[cfg(test)]
mod tests;

pub use check::{Checked, check};
pub use compaction::{CompactError, Compacting, Progress, Stopped};
pub use damage::Damage;
pub use disk::Disk;
pub use effort::{GoOn, unbounded};
pub use failure::{CommitError, OpenError, advice};
pub use file::MakeDisk;
pub use group::{Group, Limits, Transaction, WriteError};
pub use held::Missing;
pub use journal::Damaged;
pub use migration::Migration;
pub use scratch::{CopyError, Rewritten, begin_migration_of, begin_migration_of_copy};
pub use snapshot::{Entry, Page, PartitionPage, Position, ReadError, Snapshot, Value, successor};
pub use store::{Found, Options, Record, Sizes, Store};
pub use transfer::{Transfer, Whole};

use ostrakon_base::stored::Format;
use redb::TableDefinition;

/// The layout that this version writes.
const LAYOUT: u32 = FORMAT.version as u32;

/// The tables and their contents.
const FORMAT: Format = Format {
    what: "the data's layout",
    version: 2,
};

/// The records in the journal.
const RECORDS: Format = Format {
    what: "the journal",
    version: journal::VERSION,
};

/// The format of the file that redb writes.
const REDB: Format = Format {
    what: "the data's file format",
    version: 3,
};

/// A partition with at most this many entries has no row in `sizes`: counting its entries again
/// is cheaper than writing to a second tree for each small partition.
pub const SMALL: u64 = 32;

/// The limit on the keys and values in one page of a scan, in bytes. Each entry counts
/// [`ENTRY_BYTES`] more.
pub const PAGE_BYTES: usize = 1 << 20;

/// The memory overhead of an entry beyond its key and value, in bytes. Without it, tiny entries
/// would take many times the memory that is counted.
pub const ENTRY_BYTES: usize = 64;

const ENTRIES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("entries");
const SIZES: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("sizes");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
