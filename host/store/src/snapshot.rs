//! Reads the data as of one durable commit: redb's, below the changes that it does not have yet.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use redb::{AccessGuard, Database, ReadOnlyTable, ReadableTableMetadata as _};

use super::damage::{self, Contained, Damage};
use super::effort::{GoOn, unbounded};
use super::memtable::Memtable;
use super::merged::{Merged, Range, Ranged};
use super::{ENTRY_BYTES, PAGE_BYTES};

/// One entry of a partition: key and value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Some entries in a scan's order, and whether more of the range is left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Whether there is more after the last entry.
    pub more: bool,
}

/// Some partition keys, and whether more of the range is left.
pub type PartitionPage = Page<Vec<u8>>;

/// The position of an entry in a shard: partition key, entry key.
pub type Position = (Vec<u8>, Vec<u8>);

#[derive(Debug, thiserror::Error)]
#[error("the data cannot be read")]
pub struct ReadError(#[source] pub(super) redb::StorageError);

impl ReadError {
    /// Whether the stored data is damaged, so that reading it again cannot help.
    pub fn is_damage(&self) -> bool {
        damage::is_damage(&self.0)
    }
}

impl From<redb::StorageError> for ReadError {
    fn from(error: redb::StorageError) -> Self {
        Self(error)
    }
}

pub(super) type Entries = ReadOnlyTable<(&'static [u8], &'static [u8]), &'static [u8]>;
pub(super) type Sizes = ReadOnlyTable<&'static [u8], (u64, u64)>;

/// A value inside the store: its length is known before it is copied.
pub struct Value(Kept);

enum Kept {
    Stored(AccessGuard<'static, &'static [u8]>),
    Held(Arc<[u8]>),
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.bytes().len();
        formatter.debug_tuple("Value").field(&length).finish()
    }
}

impl Value {
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kept::Stored(value) => value.value(),
            Kept::Held(value) => value,
        }
    }
}

/// The data file's contents as of a checkpoint.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entries: Entries,
    pub(super) sizes: Sizes,
    /// The space that the entries need, in bytes.
    pub(super) space: u64,
    /// How many of the entries memtables count, too.
    pub(super) ahead: i64,
    pub(super) opening: u64,
    /// Is open for as long as somebody reads it.
    pub(super) _database: Arc<Contained<Database>>,
}

/// The shard's data as of one commit; later commits do not change it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) stored: Arc<Stored>,
    /// The changes that are being written to the data file.
    pub(super) frozen: Option<Arc<Memtable>>,
    /// The changes after those.
    pub(super) active: Memtable,
    pub(super) damage: Damage,
}

impl Snapshot {
    /// The data file's contents alone.
    pub(super) fn of(stored: Arc<Stored>, damage: Damage) -> Self {
        Self {
            stored,
            frozen: None,
            active: Memtable::default(),
            damage,
        }
    }

    /// How often this process had opened the file when the snapshot was taken. Reads of an older
    /// opening may fail where those of a newer one succeed.
    pub fn opening(&self) -> u64 {
        self.stored.opening
    }

    /// About how much space the data file would take if it was compacted, in bytes: what pages
    /// of whole entries take, without what checkpoints have not written yet.
    pub fn space(&self) -> u64 {
        self.stored.space
    }

    /// The memtables, the newest first.
    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }

    /// The number of entries in all partitions.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn entries(&self) -> Result<u64, ReadError> {
        let stored = self
            .damage
            .contain(|| Ok::<_, ReadError>(self.stored.entries.len()?))?;
        let changed: i64 = self.memtables().map(Memtable::added).sum();
        Ok(stored.saturating_add_signed(changed - self.stored.ahead))
    }

    /// Counts the partitions from `start` (included) on, by walking through them.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn count_partitions(&self, start: Option<&[u8]>) -> Result<u64, ReadError> {
        let mut count = 0;
        let mut start = start.map(<[u8]>::to_vec);
        loop {
            let page = self.partitions(start.as_deref(), None, usize::MAX, &mut unbounded)?;
            count += page.entries.len() as u64;
            start = page.entries.last().map(|last| successor(last));
            if !page.more {
                return Ok(count);
            }
        }
    }

    /// The value of a key in a partition, not yet copied.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn value(&self, partition: &[u8], key: &[u8]) -> Result<Option<Value>, ReadError> {
        for memtable in self.memtables() {
            if let Some(held) = memtable.get(partition, key) {
                return Ok(held.clone().map(|value| Value(Kept::Held(value))));
            }
        }
        self.damage.contain(|| {
            let value = self.stored.entries.get((partition, key))?;
            let value = value.map(|value| Value(Kept::Stored(value)));
            // Damage to the value is found here: later accesses to it are not contained.
            let _ = value.as_ref().map(Value::bytes);
            Ok(value)
        })
    }

    /// A copy of the value of a key in a partition.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get(&self, partition: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.get_if(partition, key, &mut unbounded)
    }

    /// As for [`Snapshot::get`], if `go_on` allows the value's bytes to be copied. `go_on` is
    /// called even if there is no value.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get_if(
        &self,
        partition: &[u8],
        key: &[u8],
        go_on: GoOn<'_>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let value = self.value(partition, key)?;
        let bytes = value.as_ref().map_or(&[][..], Value::bytes);
        let goes_on = go_on(bytes.len());
        Ok((goes_on && value.is_some()).then(|| bytes.to_vec()))
    }

    /// Whether a partition has entries.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn is_partition(&self, partition: &[u8]) -> Result<bool, ReadError> {
        let mut found = false;
        self.visit(partition, None, None, false, |_, _| {
            found = true;
            false
        })?;
        Ok(found)
    }

    /// The length of the value of a key in a partition.
    pub(super) fn length(&self, partition: &[u8], key: &[u8]) -> Result<Option<usize>, ReadError> {
        let value = self.value(partition, key)?;
        Ok(value.map(|value| value.bytes().len()))
    }

    /// Entries of a partition from `start` (included) to `end` (excluded), backwards if
    /// `reverse`, at most `limit` and [`PAGE_BYTES`]. `go_on` is called before each entry is
    /// copied; if it refuses, the page ends.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scan_partition(
        &self,
        partition: &[u8],
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        reverse: bool,
        limit: usize,
        go_on: GoOn<'_>,
    ) -> Result<Page<Entry>, ReadError> {
        let mut page = PageBuilder::new(limit);
        self.visit(partition, start, end, reverse, |key, value| {
            let bytes = key.len() + value.len();
            page.offer(bytes, go_on, || (key.to_vec(), value.to_vec()))
        })?;
        Ok(page.finish())
    }

    /// Visits the entries of a partition in order until `visit` returns `false`.
    pub(super) fn visit(
        &self,
        partition: &[u8],
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        reverse: bool,
        visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        self.damage
            .contain(|| self.visit_as_it_is(partition, start, end, reverse, visit))
    }

    fn visit_as_it_is(
        &self,
        partition: &[u8],
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadError> {
        let start = start.unwrap_or_default();
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let successor = successor(partition);
        let upper = end.map_or((successor.as_slice(), &[][..]), |end| (partition, end));
        let range = (Bound::Included((partition, start)), Bound::Excluded(upper));
        for entry in self.merged(range, reverse)? {
            let entry = entry?;
            if !visit(entry.position().1, entry.value()) {
                break;
            }
        }
        Ok(())
    }

    /// Partition keys from `start` (included) to `end` (excluded), at most `limit` and
    /// [`PAGE_BYTES`].
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
        self.damage
            .contain(|| partitions(self, start, end, limit, go_on))
    }

    /// Entries of the whole shard after a position, at most `limit` and [`PAGE_BYTES`]. `go_on`
    /// is called before each entry is copied; if it refuses, the page ends.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scan(
        &self,
        after: Option<(&[u8], &[u8])>,
        limit: usize,
        go_on: GoOn<'_>,
    ) -> Result<Page<(Position, Vec<u8>)>, ReadError> {
        self.damage.contain(|| scan(self, after, limit, go_on))
    }

    /// The entries of a range, in order or backwards.
    pub(super) fn merged(&self, range: Range<'_>, reverse: bool) -> Result<Merged<'_>, ReadError> {
        let stored = self.stored.entries.range(range)?;
        let memtables = [Some(&self.active), self.frozen.as_deref()];
        Merged::new(stored, memtables, range, reverse)
    }

    /// The total bytes of a partition's keys and values.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn partition_bytes(&self, partition: &[u8]) -> Result<u64, ReadError> {
        Ok(self.size(partition)?.0)
    }

    /// The total bytes of a partition's keys and values, and the number of its entries.
    pub(super) fn size(&self, partition: &[u8]) -> Result<(u64, u64), ReadError> {
        let size = self.size_if(partition, &mut unbounded)?;
        Ok(size.expect("`unbounded` never refuses"))
    }

    /// As for [`Snapshot::size`]; none if `go_on` refused. Walks through a partition of few
    /// entries, which may be large.
    pub(super) fn size_if(
        &self,
        partition: &[u8],
        go_on: GoOn<'_>,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        let changed = self
            .memtables()
            .find_map(|memtable| memtable.row(partition));
        let noted = match changed {
            Some(row) => row.size().map(|size| (size.bytes, size.entries)),
            None => self.damage.contain(|| {
                let noted = self.stored.sizes.get(partition)?;
                Ok::<_, ReadError>(noted.map(|size| size.value()))
            })?,
        };
        if let Some(size) = noted {
            return Ok(Some(size));
        }
        let (mut size, mut goes_on) = ((0, 0), true);
        self.visit(partition, None, None, false, |key, value| {
            let bytes = key.len() + value.len();
            size.0 += bytes as u64;
            size.1 += 1;
            goes_on = go_on(bytes);
            goes_on
        })?;
        Ok(goes_on.then_some(size))
    }
}

pub(super) fn partitions(
    table: &impl Ranged,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    limit: usize,
    go_on: GoOn<'_>,
) -> Result<PartitionPage, ReadError> {
    let mut page = PageBuilder::new(limit);
    let upper = end.map_or(Bound::Unbounded, |end| Bound::Excluded((end, &[][..])));
    let mut from = start.unwrap_or_default().to_vec();
    'seek: loop {
        if end.is_some_and(|end| end <= from.as_slice()) {
            return Ok(page.finish());
        }
        let range = table.ranged((Bound::Included((from.as_slice(), &[][..])), upper))?;
        let mut last: Option<Vec<u8>> = None;
        let mut repeats = 0;
        for entry in range {
            let entry = entry?;
            let partition = entry.position().0;
            in_order(last.as_deref().unwrap_or(&from), partition)?;
            if !go_on(partition.len()) {
                return Ok(page.finish());
            }
            if last.as_deref() == Some(partition) {
                // Another entry of the same partition. In a large partition, seeking past it is
                // quicker than walking through it.
                repeats += 1;
                if repeats == 8 {
                    from = successor(partition);
                    continue 'seek;
                }
                continue;
            }
            if !page.push(partition.len(), || partition.to_vec()) {
                return Ok(page.finish());
            }
            repeats = 0;
            last = Some(partition.to_vec());
        }
        return Ok(page.finish());
    }
}

pub(super) fn scan(
    table: &impl Ranged,
    after: Option<(&[u8], &[u8])>,
    limit: usize,
    go_on: GoOn<'_>,
) -> Result<Page<(Position, Vec<u8>)>, ReadError> {
    let mut page = PageBuilder::<(Position, Vec<u8>)>::new(limit);
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    for entry in table.ranged((start, Bound::Unbounded))? {
        let entry = entry?;
        let ((partition, key), value) = (entry.position(), entry.value());
        let last = page.page.entries.last();
        let before = last.map(|((partition, key), _)| (&partition[..], &key[..]));
        if let Some(before) = before.or(after) {
            in_order(before, (partition, key))?;
        }
        let bytes = partition.len() + key.len() + value.len();
        if !page.offer(bytes, go_on, || {
            ((partition.to_vec(), key.to_vec()), value.to_vec())
        }) {
            break;
        }
    }
    Ok(page.finish())
}

/// Checks that a walk moves forward. Damaged keys can be in any order, and a walk that seeks by
/// them would never end.
pub(super) fn in_order<K: Ord + Copy>(before: K, now: K) -> Result<(), ReadError> {
    if now < before {
        let what = "entries are out of order".to_owned();
        return Err(redb::StorageError::Corrupted(what).into());
    }
    Ok(())
}

/// The least key above a partition key and the keys of all its entries.
pub fn successor(partition: &[u8]) -> Vec<u8> {
    let mut successor = Vec::with_capacity(partition.len() + 1);
    successor.extend_from_slice(partition);
    successor.push(0);
    successor
}

/// Collects the entries of a page within its limits.
pub(super) struct PageBuilder<T> {
    page: Page<T>,
    limit: usize,
    bytes: usize,
}

impl<T> PageBuilder<T> {
    pub(super) fn new(limit: usize) -> Self {
        let page = Page {
            entries: Vec::new(),
            more: false,
        };
        Self {
            page,
            limit,
            bytes: 0,
        }
    }

    /// Adds an item if it fits; returns whether it did, and so whether to continue.
    pub(super) fn push(&mut self, bytes: usize, item: impl FnOnce() -> T) -> bool {
        self.offer(bytes, &mut unbounded, item)
    }

    /// Adds an item if it fits and `go_on` allows its bytes; returns whether it was added, and so
    /// whether to continue.
    pub(super) fn offer(
        &mut self,
        bytes: usize,
        go_on: GoOn<'_>,
        item: impl FnOnce() -> T,
    ) -> bool {
        let takes = self.has_room(bytes) && go_on(bytes);
        if takes {
            self.bytes += bytes + ENTRY_BYTES;
            self.page.entries.push(item());
        } else {
            self.page.more = true;
        }
        takes
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.page.entries.len() < self.limit
            && (self.page.entries.is_empty() || self.bytes + bytes + ENTRY_BYTES <= PAGE_BYTES)
    }

    pub(super) fn finish(self) -> Page<T> {
        self.page
    }
}
