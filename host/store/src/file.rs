//! The data file: redb's, as this crate lays it out, and how it is opened and written.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ostrakon_base::regular;
use redb::{Database, ReadTransaction, ReadableDatabase as _, StorageError, WriteTransaction};

use super::ahead::{self, AHEAD};
use super::damage::{Contained, contain};
pub(super) use super::disk::Growth;
use super::disk::{Backend, Disk, sync_directory};
use super::failure::{CommitFailure, OpenError};
use super::journal::{Journal, Place};
use super::memtable::Memtable;
use super::migration::storage;
use super::snapshot::{ReadError, Stored};
use super::space::{self, SPACE};
use super::store::{Options, Record};
use super::{ENTRIES, LAYOUT, META, SIZES};

/// Wraps an opened file in a disk.
pub type MakeDisk = Arc<dyn Fn(File) -> Box<dyn Disk> + Send + Sync>;

/// The table `meta`.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) layout: u32,
    pub(super) record: Record,
    /// Where the file's contents end in the journal; none in layout 1, which has no journal.
    pub(super) place: Option<Place>,
    /// The space that the entries need; none in layout 1.
    pub(super) space: Option<u64>,
}

/// Creates an empty store under a temporary name and renames it, so that a crash on the way
/// leaves no file that cannot be opened.
pub(super) fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let unfinished = path.with_extension("new");
    let io = |source| OpenError::Io {
        path: unfinished.clone(),
        source,
    };
    let failed = unwritten(&unfinished);
    let place = create_journal(options)?;
    let file = regular::edit_own(&unfinished, true).map_err(io)?;
    file.set_len(0).map_err(io)?;
    let how = (&options.disk, options.cache_bytes);
    let opened = open_database(file, how, Growth::Reserved, true);
    let (database, _) = opened.map_err(&failed)?;
    initialise(&database, Some(&place)).map_err(failed)?;
    drop(database);
    fs::rename(&unfinished, path).map_err(io)?;
    sync_directory(&options.directory).map_err(io)
}

fn create_journal(options: &Options) -> Result<Place, OpenError> {
    let sectors = options.journal.segment_bytes / 512;
    Journal::create(&options.directory, sectors, &options.disk).map_err(|source| OpenError::Io {
        path: options.directory.join(super::journal::DIRECTORY),
        source,
    })
}

pub(super) fn open_database(
    file: File,
    (disk, cache_bytes): (&MakeDisk, usize),
    growth: Growth,
    is_new: bool,
) -> Result<(Database, Arc<AtomicBool>), redb::Error> {
    let shut = Arc::new(AtomicBool::new(false));
    let disk = disk(file);
    // redb would turn an empty file into a new store.
    if !is_new && disk.is_empty()? {
        return Err(redb::Error::Corrupted("it is empty".to_owned()));
    }
    let backend = Backend::new(disk, growth, Arc::clone(&shut));
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(backend)?;
    Ok((database, shut))
}

pub(super) fn read_meta(database: &Database) -> Result<Meta, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |name| -> Result<Option<u32>, redb::Error> {
        let Some(value) = meta.get(name)? else {
            return Ok(None);
        };
        let bytes = value.value().try_into();
        let bytes = bytes.map_err(|_| redb::Error::Corrupted(format!("bad `{name}` in `meta`")))?;
        Ok(Some(u32::from_le_bytes(bytes)))
    };
    let record = Record {
        schema: number("schema")?,
        generation: meta.get("generation")?.map(|value| value.value().to_vec()),
        topology: meta.get("topology")?.map(|value| value.value().to_vec()),
    };
    let layout = number("layout")?;
    let layout =
        layout.ok_or_else(|| redb::Error::Corrupted("no `layout` in `meta`".to_owned()))?;
    let place = match meta.get("journal")? {
        Some(place) => Some(
            Place::decode(place.value())
                .map_err(|unreadable| redb::Error::Corrupted(unreadable.to_string()))?,
        ),
        None if layout == LAYOUT => {
            return Err(redb::Error::Corrupted("no `journal` in `meta`".to_owned()));
        }
        None => None,
    };
    let space = meta.get(SPACE)?.and_then(|row| space::decode(row.value()));
    Ok(Meta {
        layout,
        record,
        place,
        space,
    })
}

/// Creates the tables, so that a read never finds one missing.
pub(super) fn initialise(database: &Database, place: Option<&Place>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(SIZES)?;
    if let Some(place) = place {
        write_layout(&transaction, place, Some(0))?;
    }
    transaction.commit()?;
    Ok(())
}

fn write_layout(
    transaction: &WriteTransaction,
    place: &Place,
    space: Option<u64>,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert("layout", LAYOUT.to_le_bytes().as_slice())?;
    meta.insert("journal", place.encode().as_slice())?;
    if let Some(space) = space {
        meta.insert(SPACE, space.to_le_bytes().as_slice())?;
    }
    Ok(())
}

/// The error of a file that redb cannot write.
fn unwritten(path: &Path) -> impl Fn(redb::Error) -> OpenError + '_ {
    |error| {
        let path = path.to_owned();
        match error {
            redb::Error::Io(source) => OpenError::Io { path, source },
            source => OpenError::Damaged { path, source },
        }
    }
}

/// Gives a data file of layout 1 a journal.
pub(super) fn bring_over(database: &Database, options: &Options) -> Result<Place, OpenError> {
    let place = create_journal(options)?;
    let stored = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        write_layout(&transaction, &place, None)?;
        transaction.commit()?;
        Ok(())
    };
    stored().map_err(unwritten(&options.directory))?;
    tracing::info!("the data was brought over to layout {LAYOUT}, which has a journal");
    Ok(place)
}

/// Counts the space that the entries of a file need that does not say so. If that fails, it goes on
/// without.
pub(super) fn count_space(database: &Database) {
    let stored = contain(|| -> Result<(), redb::Error> {
        let space = space::count(database)?;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let mut meta = transaction.open_table(META)?;
        meta.insert(SPACE, space.to_le_bytes().as_slice())?;
        drop(meta);
        transaction.commit()?;
        Ok(())
    });
    if let Err(error) = stored {
        tracing::warn!(%error, "the space that the data needs cannot be counted: nothing says how much a compaction would give back");
    }
}

/// Begins a durable transaction.
///
/// Quick repair is on: a start after a kill takes a millisecond for any file size, where redb
/// would otherwise read the whole file. It also commits in two phases, so that a torn commit is
/// never distinguished from a whole one by a checksum alone, which a client could forge.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, CommitFailure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(super) fn begin_read(database: &Database) -> Result<ReadTransaction, ReadError> {
    let begun = database.begin_read().map_err(|error| match error {
        redb::TransactionError::Storage(error) => error,
        other => StorageError::Corrupted(other.to_string()),
    });
    Ok(begun?)
}

pub(super) fn read(database: &Arc<Contained<Database>>, opening: u64) -> Result<Stored, ReadError> {
    let transaction = begin_read(database)?;
    let meta = transaction.open_table(META).map_err(storage)?;
    let space = meta.get(SPACE)?.and_then(|row| space::decode(row.value()));
    let ahead = match (meta.get(AHEAD)?, meta.get("journal")?) {
        (Some(row), Some(place)) => ahead::decode(row.value(), place.value()),
        _ => 0,
    };
    Ok(Stored {
        entries: transaction.open_table(ENTRIES).map_err(storage)?,
        sizes: transaction.open_table(SIZES).map_err(storage)?,
        space: space.unwrap_or_default(),
        ahead,
        opening,
        _database: Arc::clone(database),
    })
}

/// Writes a memtable's changes, or only those of some partitions, which are in order: then the place
/// that the file names stays as it is. Writes in key order, since neighbouring keys share pages.
pub(super) fn write_memtable(
    transaction: &WriteTransaction,
    memtable: &Memtable,
    only: Option<&[Vec<u8>]>,
) -> Result<(), ReadError> {
    let is_meant = |partition: &[u8]| {
        only.is_none_or(|only| only.binary_search_by(|of| (**of).cmp(partition)).is_ok())
    };
    let mut space = space::Change::default();
    let mut added = 0;
    let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
    for (position, value) in memtable.entries() {
        if !is_meant(position.0) {
            continue;
        }
        let before = match value {
            Some(value) => entries.insert(position, value)?,
            None => entries.remove(position)?,
        };
        let before = before.map(|before| before.value().len());
        space.add(position, before, value.map(<[u8]>::len));
        added += i64::from(value.is_some()) - i64::from(before.is_some());
    }
    space.write(transaction)?;
    if only.is_some() {
        ahead::add(transaction, added)?;
    }
    let mut sizes = transaction.open_table(SIZES).map_err(storage)?;
    for (partition, row) in memtable.rows() {
        if !is_meant(partition) {
            continue;
        }
        match row.size() {
            Some(size) => sizes.insert(partition, (size.bytes, size.entries))?,
            None => sizes.remove(partition)?,
        };
    }
    Ok(())
}

/// Writes what `meta` says already: fails if the table cannot be written.
pub(super) fn write_place(
    transaction: &WriteTransaction,
    place: &Place,
) -> Result<(), CommitFailure> {
    let mut meta = transaction.open_table(META).map_err(storage)?;
    meta.insert("journal", place.encode().as_slice())?;
    Ok(())
}

pub(super) fn write_record(
    transaction: &WriteTransaction,
    record: &Record,
    place: &Place,
) -> Result<(), CommitFailure> {
    let mut meta = transaction.open_table(META).map_err(storage)?;
    if let Some(schema) = record.schema {
        meta.insert("schema", schema.to_le_bytes().as_slice())?;
    }
    if let Some(generation) = &record.generation {
        meta.insert("generation", generation.as_slice())?;
    }
    if let Some(topology) = &record.topology {
        meta.insert("topology", topology.as_slice())?;
    }
    meta.insert("journal", place.encode().as_slice())?;
    Ok(())
}
