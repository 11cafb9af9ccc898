//! Stores that nobody opens again: in memory, for data that is migrated before it is stored, and in a
//! file without a name, for a migration that is only tried.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ostrakon_base::regular;
use redb::backends::InMemoryBackend;
use redb::{Database, Durability, StorageError};

use super::compaction::free;
use super::damage::{Contained, Damage};
use super::effort::{GoOn, unbounded};
use super::file::{initialise, read};
use super::group::{Limits, Size};
use super::journal::Place;
use super::migration::{Migration, record_size, storage};
use super::snapshot::{Page, Position, ReadError, Snapshot};
use super::transfer::{Transfer, Whole, write};
use super::{ENTRIES, SIZES};

/// Begins a migration of only these partitions, which must be in order. It uses no disk: the
/// caller stores the result.
///
/// # Errors
/// Only if redb fails in memory.
pub fn begin_migration_of(partitions: Vec<Whole>, limits: Limits) -> Result<Migration, ReadError> {
    begin(partitions, limits)
        .map_err(|error| ReadError(StorageError::Corrupted(format!("in memory: {error}"))))
}

fn begin(partitions: Vec<Whole>, limits: Limits) -> Result<Migration, redb::Error> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
    let database = Arc::new(Contained::new(database));
    initialise(&database, Some(&Place::none()))?;
    let transaction = database.begin_write()?;
    let transfer = Transfer {
        arrived: partitions,
        ..Transfer::default()
    };
    write(&transaction, &transfer).map_err(|error| error.0)?;
    transaction.commit()?;
    let stored = Arc::new(read(&database, 0).map_err(|error| error.0)?);
    let base = Snapshot::of(stored, Damage::default());
    Ok(Migration::new(
        database.begin_write()?,
        Arc::new(base),
        limits,
    ))
}

/// The name of a copy until it has none.
const COPY: &str = "rehearsal";

/// The memory that a copy's pages may take.
const COPY_CACHE: usize = 32 << 20;

/// What is to be free on the disk beside a copy, in bytes.
const COPY_RESERVE: u64 = 64 << 20;

/// Why a copy could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the copy cannot be written")]
    Write(#[source] redb::Error),
    /// Less than three times the data's space is left on the disk.
    #[error("a copy of the data would need {needed} bytes of the disk, of which {free} are free")]
    NoRoom { needed: u64, free: u64 },
}

impl CopyError {
    fn write(error: impl Into<redb::Error>) -> Self {
        Self::Write(error.into())
    }
}

/// Copies a snapshot to a file in this directory that has no name, and is gone with the result; begins a
/// migration of the copy. `go_on` is called with the bytes of each page that was copied; where it
/// refuses, there is no result.
///
/// # Errors
/// If the copy cannot be made.
pub fn begin_migration_of_copy(
    snapshot: &Snapshot,
    directory: &Path,
    limits: Limits,
    go_on: GoOn<'_>,
) -> Result<Option<Migration>, CopyError> {
    // The copy, what the migration writes again, and as much is left for what is stored meanwhile.
    let needed = 3 * snapshot.space() + COPY_RESERVE;
    let free = free(directory);
    if free < needed {
        return Err(CopyError::NoRoom { needed, free });
    }
    let path = directory.join(COPY);
    let file = regular::edit_own(&path, true)?;
    fs::remove_file(&path)?;
    file.set_len(0)?;
    let mut builder = Database::builder();
    let database = builder.set_cache_size(COPY_CACHE).create_file(file);
    let database = Arc::new(Contained::new(database.map_err(CopyError::write)?));
    initialise(&database, Some(&Place::none())).map_err(CopyError::Write)?;
    let mut last: Option<Position> = None;
    // The partition that is being copied, and its size so far.
    let mut current: Option<(Vec<u8>, Size)> = None;
    loop {
        let after = last
            .as_ref()
            .map(|(partition, key)| (&partition[..], &key[..]));
        let page = snapshot.scan(after, usize::MAX, &mut unbounded)?;
        let mut transaction = database.begin_write().map_err(CopyError::write)?;
        // Nothing of it outlives this process.
        let unsynced = transaction.set_durability(Durability::None);
        unsynced.map_err(CopyError::write)?;
        let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
        let mut sizes = transaction.open_table(SIZES).map_err(storage)?;
        let mut bytes = 0;
        for ((partition, key), value) in &page.entries {
            let position = (&partition[..], &key[..]);
            entries
                .insert(position, &value[..])
                .map_err(CopyError::write)?;
            bytes += partition.len() + key.len() + value.len();
            let is_same = current.as_ref().is_some_and(|(of, _)| of == partition);
            let size = if is_same { current.take() } else { None };
            if let Some((partition, size)) = current.take() {
                record_size(&mut sizes, &partition, size)?;
            }
            let size = size.map_or_else(Size::default, |(_, size)| size);
            let size = size.with(key.len(), None, Some(value.len()));
            current = Some((partition.clone(), size));
        }
        if let (false, Some((partition, size))) = (page.more, &current) {
            record_size(&mut sizes, partition, *size)?;
        }
        drop((entries, sizes));
        transaction.commit().map_err(CopyError::write)?;
        if !go_on(bytes) {
            return Ok(None);
        }
        if !page.more {
            break;
        }
        last = page.entries.into_iter().next_back().map(|(at, _)| at);
    }
    let stored = Arc::new(read(&database, 0)?);
    let base = Snapshot::of(stored, Damage::default());
    let transaction = database.begin_write().map_err(CopyError::write)?;
    Ok(Some(Migration::new(transaction, Arc::new(base), limits)))
}

/// What a migration has made of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The entries after it.
    pub entries: u64,
    /// The entries that it added, removed or changed.
    pub changed: u64,
    /// The bytes of the keys and values of the largest partition after it.
    pub largest_partition: u64,
}

/// The entries of a walk in pages, in order.
struct Walk<F> {
    read: F,
    page: std::vec::IntoIter<(Position, Vec<u8>)>,
    last: Option<Position>,
    more: bool,
}

impl<F> Walk<F>
where
    F: FnMut(Option<(&[u8], &[u8])>) -> Result<Page<(Position, Vec<u8>)>, ReadError>,
{
    fn new(read: F) -> Self {
        Self {
            read,
            page: Vec::new().into_iter(),
            last: None,
            more: true,
        }
    }

    fn next(&mut self) -> Result<Option<(Position, Vec<u8>)>, ReadError> {
        loop {
            if let Some(entry) = self.page.next() {
                self.last = Some(entry.0.clone());
                return Ok(Some(entry));
            }
            if !self.more {
                return Ok(None);
            }
            let last = self.last.as_ref();
            let after = last.map(|(partition, key)| (&partition[..], &key[..]));
            let page = (self.read)(after)?;
            self.more = page.more;
            self.page = page.entries.into_iter();
        }
    }
}

impl Migration {
    /// What the migration has made of the shard so far, by walking through all of it; `None` if `go_on`,
    /// which is called with the bytes of each entry, refuses.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn rewritten(&self, go_on: GoOn<'_>) -> Result<Option<Rewritten>, ReadError> {
        let mut before = Walk::new(|after| self.base().scan(after, usize::MAX, &mut unbounded));
        let mut after = Walk::new(|last| self.scan(last, usize::MAX, &mut unbounded));
        let (mut was, mut is) = (before.next()?, after.next()?);
        let mut rewritten = Rewritten::default();
        let mut current = (Vec::new(), 0);
        loop {
            let order = match (&was, &is) {
                (None, None) => return Ok(Some(rewritten)),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((was, _)), Some((is, _))) => was.cmp(is),
            };
            if order.is_ne() || was != is {
                rewritten.changed += 1;
            }
            if order.is_ge()
                && let Some(((partition, key), value)) = &is
            {
                rewritten.entries += 1;
                if current.0 != *partition {
                    current = (partition.clone(), 0);
                }
                let bytes = key.len() + value.len();
                if !go_on(bytes) {
                    return Ok(None);
                }
                current.1 += bytes as u64;
                rewritten.largest_partition = rewritten.largest_partition.max(current.1);
            }
            if order.is_le() {
                was = before.next()?;
            }
            if order.is_ge() {
                is = after.next()?;
            }
        }
    }

    /// All partitions as the migration left them, in order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn into_partitions(self) -> Result<Vec<Whole>, ReadError> {
        let mut partitions = Vec::<Whole>::new();
        loop {
            let last = partitions.last().and_then(|last| {
                let (key, _) = last.entries.last()?;
                Some((&last.partition[..], &key[..]))
            });
            let page = self.scan(last, usize::MAX, &mut unbounded)?;
            for ((partition, key), value) in page.entries {
                match partitions.last_mut() {
                    Some(last) if last.partition == partition => last.entries.push((key, value)),
                    _ => partitions.push(Whole {
                        partition,
                        entries: vec![(key, value)],
                    }),
                }
            }
            if !page.more {
                return Ok(partitions);
            }
        }
    }
}
