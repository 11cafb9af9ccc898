//! Changes that are in the journal, and not yet in redb: in memory, in key order.
//!
//! The maps are persistent: a clone costs nothing, shares everything with the original, and stays
//! as it is. So each commit has a view of its own for as long as somebody keeps it.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;
use imbl::ordmap::RangedIter;
use imbl::shared_ptr::DefaultSharedPtr;

use super::ENTRY_BYTES;
use super::commit::{Changes, Entries, Pending};
use super::group::Size;
use super::merged::Position;
use super::snapshot::successor;

/// The memory overhead of a changed entry beyond its key and value, in bytes: two allocations
/// with their counters, and its slot in a node of the map, which may be half full.
const OVERHEAD: usize = 3 * ENTRY_BYTES;

/// The key of an entry in a shard. Ordered by partition key first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    bytes: Arc<[u8]>,
    split: u32,
}

impl Key {
    fn new(partition: &[u8], key: &[u8]) -> Self {
        Self {
            bytes: [partition, key].concat().into(),
            split: u32::try_from(partition.len()).expect("a request's head bounds its partition"),
        }
    }

    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.split as usize)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A borrowed [`Key`].
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a>(pub(super) &'a [u8], pub(super) &'a [u8]);

impl Equivalent<Key> for At<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        (self.0, self.1) == key.parts()
    }
}

impl Comparable<Key> for At<'_> {
    fn compare(&self, key: &Key) -> Ordering {
        (self.0, self.1).cmp(&key.parts())
    }
}

/// A changed entry's value; none if the entry was deleted.
pub(super) type Held = Option<Arc<[u8]>>;

/// A change of a partition's row in the table `sizes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Is(Size),
    Removed,
}

impl Row {
    pub(super) fn size(self) -> Option<Size> {
        match self {
            Self::Is(size) => Some(size),
            Self::Removed => None,
        }
    }
}

/// The changes of some commits, one after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Memtable {
    entries: OrdMap<Key, Held>,
    sizes: OrdMap<Arc<[u8]>, Row>,
    bytes: usize,
    /// How many entries its changes add.
    added: i64,
}

impl Memtable {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of changed entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The memory that its entries take, in bytes. Earlier values of the same entries, which older
    /// views may hold, are not counted.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many entries its changes add.
    pub(super) fn added(&self) -> i64 {
        self.added
    }

    /// Takes up a commit's changes.
    pub(super) fn apply(&mut self, changes: Changes) {
        for (partition, pending) in changes {
            let Pending {
                changes,
                before,
                size,
            } = pending;
            self.added += size.entries.cast_signed() - before.entries.cast_signed();
            if size.is_noted() {
                self.sizes
                    .insert(partition.as_slice().into(), Row::Is(size));
            } else if before.is_noted() {
                self.sizes.insert(partition.as_slice().into(), Row::Removed);
            }
            for (key, value) in changes {
                let fixed = OVERHEAD + partition.len() + key.len();
                let value: Held = value.map(Arc::from);
                self.bytes += fixed + length(&value);
                if let Some(before) = self.entries.insert(Key::new(&partition, &key), value) {
                    self.bytes -= fixed + length(&before);
                }
            }
        }
    }

    /// The change of an entry, if it was changed.
    pub(super) fn get(&self, partition: &[u8], key: &[u8]) -> Option<&Held> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.get(&At(partition, key))
    }

    /// The change of a partition's row in the table `sizes`, if it was changed.
    pub(super) fn row(&self, partition: &[u8]) -> Option<Row> {
        self.sizes.get(partition).copied()
    }

    /// The keys of the partitions with changes, in order.
    pub(super) fn partitions(&self) -> Vec<Vec<u8>> {
        let mut partitions: Vec<Vec<u8>> = Vec::new();
        for key in self.entries.keys() {
            let (partition, _) = key.parts();
            if partitions.last().is_none_or(|last| last != partition) {
                partitions.push(partition.to_vec());
            }
        }
        partitions
    }

    /// All changed entries, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Position<'_>, Option<&[u8]>)> {
        let entries = self.entries.iter();
        entries.map(|(key, value)| (key.parts(), value.as_deref()))
    }

    /// All changed rows of the table `sizes`, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[u8], Row)> {
        self.sizes
            .iter()
            .map(|(partition, row)| (&**partition, *row))
    }

    /// A partition's changes in two memtables, as one more commit.
    pub(super) fn carried(older: &Self, newer: &Self, partition: &[u8]) -> Pending {
        let end = successor(partition);
        let (from, to) = (At(partition, &[]), At(&end, &[]));
        let mut changes = Entries::new();
        for memtable in [older, newer] {
            let entries = memtable.range(Bound::Included(from), Bound::Excluded(to));
            let entries = entries.map(|(key, value)| (key.parts(), value.as_deref()));
            changes
                .extend(entries.map(|((_, key), value)| (key.to_vec(), value.map(<[u8]>::to_vec))));
        }
        let row = newer.row(partition).or_else(|| older.row(partition));
        let size = row.and_then(Row::size).unwrap_or_default();
        Pending {
            changes,
            before: size,
            size,
        }
    }

    /// The changed entries of a range, in order.
    pub(super) fn range<'a>(
        &'a self,
        from: Bound<At<'_>>,
        to: Bound<At<'_>>,
    ) -> RangedIter<'a, Key, Held, DefaultSharedPtr> {
        self.entries.range((from, to))
    }
}

fn length(value: &Held) -> usize {
    value.as_ref().map_or(0, |value| value.len())
}
