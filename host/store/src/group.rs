//! The writes of one group of requests, on top of a snapshot, until they are committed together.

use std::cell::Cell;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use super::commit::{Change, Changes, Entries, Pending};
use super::effort::{GoOn, unbounded};
use super::snapshot::{Entry, Page, PageBuilder, ReadError, Snapshot};
use super::{ENTRY_BYTES, SMALL};

/// The limits on writes; all inclusive, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of an entry's key, which has at least one byte.
    pub max_key_bytes: u32,
    /// The length of an entry's value.
    pub max_value_bytes: u32,
    /// The total of a partition's keys and values.
    pub max_partition_bytes: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The key is empty or longer than this.
    #[error("the key is empty or longer than {0} bytes")]
    KeySize(u32),
    #[error("the value is longer than {0} bytes")]
    ValueSize(u32),
    /// The partition would hold more bytes than this.
    #[error("the partition would hold more than {0} bytes")]
    PartitionFull(u32),
    /// The partition did not exist when the migration began.
    #[error("there was no such partition when the migration began")]
    NoSuchPartition,
    /// The existing data could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<redb::StorageError> for WriteError {
    fn from(error: redb::StorageError) -> Self {
        Self::Read(error.into())
    }
}

impl From<&ostrakon_settings::settings::Store> for Limits {
    fn from(settings: &ostrakon_settings::settings::Store) -> Self {
        let bytes = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            max_key_bytes: bytes(settings.max_key_bytes),
            max_value_bytes: bytes(settings.max_value_bytes),
            max_partition_bytes: bytes(settings.max_partition_bytes),
        }
    }
}

impl Limits {
    pub(super) fn check(&self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        if key.is_empty() || key.len() > self.max_key_bytes as usize {
            return Err(WriteError::KeySize(self.max_key_bytes));
        }
        if value.len() > self.max_value_bytes as usize {
            return Err(WriteError::ValueSize(self.max_value_bytes));
        }
        Ok(())
    }
}

/// The memory overhead of a change beyond its key and value, in bytes: its slot in the map, and
/// the overhead of two allocations.
const CHANGE_BYTES: usize = 2 * ENTRY_BYTES;

/// Bytes of keys and values, and the number of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Size {
    pub(super) fn of((bytes, entries): (u64, u64)) -> Self {
        Self { bytes, entries }
    }

    /// Whether a partition of this size has a row in the table `sizes`.
    pub(super) fn is_noted(self) -> bool {
        self.entries > SMALL
    }

    /// The size after `key`'s value changes from length `old` to `new` (none: no entry).
    pub(super) fn with(self, key: usize, old: Option<usize>, new: Option<usize>) -> Self {
        let mut size = self;
        if let Some(old) = old {
            size.bytes -= (key + old) as u64;
            size.entries -= 1;
        }
        if let Some(new) = new {
            size.bytes += (key + new) as u64;
            size.entries += 1;
        }
        size
    }
}

/// The writes of a group of requests so far.
#[derive(Debug)]
pub struct Group {
    base: Arc<Snapshot>,
    pub(super) changes: Changes,
    bytes: usize,
}

impl Group {
    /// An empty group on top of a snapshot.
    pub fn new(base: Arc<Snapshot>) -> Self {
        Self {
            base,
            changes: Changes::new(),
            bytes: 0,
        }
    }

    /// Whether the group has no writes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The memory that the writes take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same group as a transaction on this partition sees it: with no other partition's writes.
    #[must_use]
    pub fn fork(&self, partition: &[u8]) -> Self {
        let pending = self.changes.get(partition).cloned();
        let changes = pending.iter().flat_map(|pending| &pending.changes);
        Self {
            base: Arc::clone(&self.base),
            bytes: changes
                .map(|(key, change)| held_by(key.len(), change))
                .sum(),
            changes: pending
                .map(|pending| (partition.to_vec(), pending))
                .into_iter()
                .collect(),
        }
    }

    /// The writes to a partition so far, in key order; a deletion has no value.
    pub fn writes(&self, partition: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let pending = self.changes.get(partition);
        let writes = pending.into_iter().flat_map(|pending| &pending.changes);
        writes.map(|(key, change)| (key.as_slice(), change.as_deref()))
    }

    /// Begins one request's transaction on its partition.
    pub fn begin(self, partition: Vec<u8>, limits: Limits) -> Transaction {
        Transaction {
            group: self,
            partition,
            limits,
            changes: Entries::new(),
            held: 0,
            size: None,
            before: None,
        }
    }
}

/// One request's reads and writes on its partition, on top of all earlier writes of the group.
#[derive(Debug)]
pub struct Transaction {
    group: Group,
    partition: Vec<u8>,
    limits: Limits,
    changes: Entries,
    /// The memory that `changes` takes, in bytes.
    held: usize,
    /// The partition's size with `changes`; none until the first write.
    size: Option<Size>,
    /// The partition's size without `changes`, once known: finding it can require going through
    /// the partition.
    before: Option<Size>,
}

/// The memory that a change of a key of this length takes, in bytes.
fn held_by(key: usize, change: &Change) -> usize {
    CHANGE_BYTES + key + change.as_ref().map_or(0, Vec::len)
}

/// The result of storing a value.
enum Put {
    /// The value was stored in place of this change, if there was one.
    Instead(Option<Change>),
    /// The caller's `go_on` stopped it.
    Stopped,
}

impl Transaction {
    /// The key of its partition.
    pub fn partition(&self) -> &[u8] {
        &self.partition
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.get_if(key, &mut unbounded)
    }

    /// As for [`Snapshot::get_if`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get_if(&self, key: &[u8], go_on: GoOn<'_>) -> Result<Option<Vec<u8>>, ReadError> {
        match self.changed(key) {
            Some(change) => {
                let goes_on = go_on(change.as_ref().map_or(0, Vec::len));
                Ok(if goes_on { change.clone() } else { None })
            }
            None => self.group.base.get_if(&self.partition, key, go_on),
        }
    }

    /// The memory that the changes so far take, in bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Stores a value under a key.
    ///
    /// # Errors
    /// If a limit would be exceeded or the disk fails; nothing is written then.
    pub fn set(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), WriteError> {
        self.set_if(key, value, &mut unbounded)
    }

    /// As for [`Transaction::set`], but writes nothing if `go_on` refuses.
    ///
    /// # Errors
    /// As for [`Transaction::set`].
    pub fn set_if(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        go_on: GoOn<'_>,
    ) -> Result<(), WriteError> {
        self.put(key, value, go_on).map(drop)
    }

    /// Stores all of several entries, or none. If a key occurs twice, its last value is stored.
    /// Stops unfinished once the changes take more memory than `most_held`.
    ///
    /// # Errors
    /// As for [`Transaction::set`].
    pub fn set_many(
        &mut self,
        entries: Vec<Entry>,
        most_held: usize,
        go_on: GoOn<'_>,
    ) -> Result<(), WriteError> {
        let size = self.size;
        let mut undo = Vec::new();
        for (key, value) in entries {
            if self.held > most_held {
                break;
            }
            match self.put(key.clone(), value, go_on) {
                Ok(Put::Instead(before)) => undo.push((key, before)),
                Ok(Put::Stopped) => break,
                Err(error) => {
                    for (key, before) in undo.into_iter().rev() {
                        self.change(key, before);
                    }
                    self.size = size;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Removes an entry; returns whether there was one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn delete(&mut self, key: Vec<u8>) -> Result<bool, ReadError> {
        self.delete_if(key, &mut unbounded)
    }

    /// As for [`Transaction::delete`], but removes nothing if `go_on` refuses.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn delete_if(&mut self, key: Vec<u8>, go_on: GoOn<'_>) -> Result<bool, ReadError> {
        let Some((Some(_), size)) = self.replaced(&key, None, go_on)? else {
            return Ok(false);
        };
        // A mark for the deletion is needed only if the entry exists without this request.
        // Otherwise, setting and deleting one key after another would pile up marks that no limit
        // counts.
        let is_own = self.changes.contains_key(&key);
        let mark = (!is_own || self.is_below(&key)?).then_some(None);
        self.size = Some(size);
        self.change(key, mark);
        Ok(true)
    }

    /// Entries from `start` (included) to `end` (excluded), backwards if `reverse`, at most
    /// `limit` and [`super::PAGE_BYTES`].
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scan(
        &self,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        reverse: bool,
        limit: usize,
        go_on: GoOn<'_>,
    ) -> Result<Page<Entry>, ReadError> {
        let mut page = PageBuilder::new(limit);
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            return Ok(page.finish());
        }
        let mut changes = self.changes_between(start, end, reverse);
        let mut next = changes.next();
        let ended = Cell::new(false);
        let mut push = |key: &[u8], value: Option<&[u8]>| {
            let bytes = key.len() + value.map_or(0, <[u8]>::len);
            let goes_on = match value {
                Some(value) => page.offer(bytes, go_on, || (key.to_vec(), value.to_vec())),
                None => go_on(bytes),
            };
            ended.set(!goes_on);
            goes_on
        };
        self.group
            .base
            .visit(&self.partition, start, end, reverse, |key, value| {
                while let Some((changed, change)) = next {
                    if changed == key || (changed > key) != reverse {
                        break;
                    }
                    next = changes.next();
                    if !push(changed, change) {
                        return false;
                    }
                }
                match next {
                    Some((changed, change)) if changed == key => {
                        next = changes.next();
                        push(key, change)
                    }
                    _ => push(key, Some(value)),
                }
            })?;
        if !ended.get() {
            for (key, change) in next.into_iter().chain(changes) {
                if !push(key, change) {
                    break;
                }
            }
        }
        Ok(page.finish())
    }

    /// Ends the transaction and adds its writes to the group.
    pub fn commit(mut self) -> Group {
        if let Some(size) = self.size {
            let before = self.before.unwrap_or_default();
            let pending = self.group.changes.entry(self.partition);
            let pending = pending.or_insert_with(|| Pending {
                before,
                ..Pending::default()
            });
            self.group.bytes += self.held;
            pending.changes.append(&mut self.changes);
            pending.size = size;
        }
        self.group
    }

    /// Ends the transaction and drops its writes.
    pub fn discard(self) -> Group {
        self.group
    }

    fn pending(&self) -> Option<&Pending> {
        self.group.changes.get(&self.partition)
    }

    fn changed(&self, key: &[u8]) -> Option<&Change> {
        let pending = || self.pending()?.changes.get(key);
        self.changes.get(key).or_else(pending)
    }

    /// Whether the entry exists without this request's changes.
    fn is_below(&self, key: &[u8]) -> Result<bool, ReadError> {
        match self.pending().and_then(|pending| pending.changes.get(key)) {
            Some(change) => Ok(change.is_some()),
            None => Ok(self.group.base.length(&self.partition, key)?.is_some()),
        }
    }

    /// Stores a value under a key, within the limits.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, go_on: GoOn<'_>) -> Result<Put, WriteError> {
        self.limits.check(&key, &value)?;
        let Some((_, size)) = self.replaced(&key, Some(value.len()), go_on)? else {
            return Ok(Put::Stopped);
        };
        if size.bytes > u64::from(self.limits.max_partition_bytes) {
            return Err(WriteError::PartitionFull(self.limits.max_partition_bytes));
        }
        self.size = Some(size);
        Ok(Put::Instead(self.change(key, Some(Some(value)))))
    }

    /// Sets a key's change, or removes it; returns the previous one.
    fn change(&mut self, key: Vec<u8>, change: Option<Change>) -> Option<Change> {
        let length = key.len();
        let held = |change: &Option<Change>| {
            let change = change.as_ref();
            change.map_or(0, |change| held_by(length, change))
        };
        self.held += held(&change);
        let before = match change {
            Some(change) => self.changes.insert(key, change),
            None => self.changes.remove(&key),
        };
        self.held -= held(&before);
        before
    }

    /// The changes of the group and of this request in a range, in key order.
    fn changes_between<'a>(
        &'a self,
        start: Option<&'a [u8]>,
        end: Option<&'a [u8]>,
        reverse: bool,
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let range = (
            start.map_or(Bound::Unbounded, Bound::Included),
            end.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let ordered = move |changes: &'a Entries| -> Box<dyn Iterator<Item = _>> {
            let range = changes.range::<[u8], _>(range);
            if reverse {
                Box::new(range.rev())
            } else {
                Box::new(range)
            }
        };
        let mut group = self
            .pending()
            .into_iter()
            .flat_map(move |pending| ordered(&pending.changes))
            .peekable();
        let mut own = ordered(&self.changes).peekable();
        std::iter::from_fn(move || {
            let order = match (own.peek(), group.peek()) {
                (Some((own, _)), Some((group, _))) if reverse => group.cmp(own),
                (Some((own, _)), Some((group, _))) => own.cmp(group),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            if order == Ordering::Equal {
                // The request's own change takes precedence.
                group.next();
            }
            if order == Ordering::Greater {
                group.next()
            } else {
                own.next()
            }
        })
        .map(|(key, change): (&Vec<u8>, &Change)| (key.as_slice(), change.as_deref()))
    }

    /// The length of a key's current value, and the partition's size once that value has length
    /// `new` (none: deleted). None if `go_on` refused.
    fn replaced(
        &mut self,
        key: &[u8],
        new: Option<usize>,
        go_on: GoOn<'_>,
    ) -> Result<Option<(Option<usize>, Size)>, ReadError> {
        if !go_on(key.len() + new.unwrap_or(0)) {
            return Ok(None);
        }
        let old = match self.changed(key) {
            Some(change) => change.as_ref().map(Vec::len),
            None => self.group.base.length(&self.partition, key)?,
        };
        let known = self.size.or(self.before);
        let size = match (known, self.pending()) {
            (Some(size), _) => size,
            (None, Some(pending)) => pending.size,
            (None, None) => match self.group.base.size_if(&self.partition, go_on)? {
                Some(size) => Size::of(size),
                None => return Ok(None),
            },
        };
        // Kept even if the write is then refused: otherwise each refused write would go through
        // the partition.
        self.before.get_or_insert(size);
        Ok(Some((old, size.with(key.len(), old, new))))
    }
}
