//! Checks of a data file that do not change it: of its version only, or of the whole file.

use std::collections::HashMap;
use std::error::Error as _;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostrakon_base::regular;
use ostrakon_base::stored::{Format, Unreadable};
use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::damage::{Contained, contain};
use super::disk::{Disk, FileDisk};
use super::failure::OpenError;
use super::file::{MakeDisk, Meta, read_meta};
use super::group::Size;
use super::held::Held;
use super::journal::Place;
use super::memtable::Memtable;
use super::merged::Merged;
use super::migration::storage;
use super::snapshot::{ReadError, successor};
use super::store::{Record, replay};
use super::{ENTRIES, FORMAT, LAYOUT, REDB, SIZES, SMALL};

/// The limit on the problems that are listed; further ones are only counted.
const MOST: usize = 20;

/// The contents of a data file, and its problems.
#[derive(Debug, Default)]
pub struct Checked {
    /// The number of entries that could be read.
    pub entries: u64,
    /// The number of their partitions.
    pub partitions: u64,
    /// The total bytes of their keys and values.
    pub bytes: u64,
    /// The record stored with them, as far as it could be read.
    pub record: Record,
    /// The problems found, at most twenty lines.
    pub problems: Vec<String>,
    /// The number of further problems.
    pub more: u64,
}

impl Checked {
    /// Records one more problem. Above the limit it is only counted.
    pub fn problem(&mut self, what: impl Into<String>) {
        if self.problems.len() < MOST {
            self.problems.push(what.into());
        } else {
            self.more += 1;
        }
    }
}

/// Reads the whole data file of a directory that no process holds, and verifies all its
/// checksums.
///
/// # Errors
/// If the file cannot be found, a process holds it, or a later version of ostrakon wrote it.
/// Damage is no error, but part of the result.
pub fn check(directory: &Path, cache_bytes: usize) -> Result<Checked, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    let path = directory.join("shard.redb");
    let lock_path = directory.join("lock");
    // A data directory that was restored may have no lock file; the data file has a lock of its
    // own.
    let lock = match regular::open_own(&lock_path) {
        Ok(lock) => Some(lock),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(io(&lock_path)(error)),
    };
    match lock.as_ref().map(File::try_lock) {
        None | Some(Ok(())) => {}
        Some(Err(TryLockError::WouldBlock)) => {
            return Err(OpenError::InUse(directory.to_owned()));
        }
        Some(Err(TryLockError::Error(error))) => return Err(io(&lock_path)(error)),
    }
    let held = match Held::take(&path, directory) {
        Err(error) if is_absent(&error) => {
            let had_one = lock.is_some_and(|lock| lock.metadata().is_ok_and(|of| of.len() > 0));
            return Err(if had_one {
                let lock = lock_path;
                OpenError::Missing { path, lock }
            } else {
                OpenError::NoData(directory.to_owned())
            });
        }
        taken => taken.map_err(io(&path))?,
    };
    let held = held.ok_or_else(|| OpenError::InUse(directory.to_owned()))?;
    let file = held.file().try_clone().map_err(io(&path))?;
    let peeked = peek(&path, Box::new(FileDisk::new(file))).and_then(|meta| {
        let place = meta.place;
        place.map_or(Ok(()), |place| replay(directory, &real(), place).map(drop))
    });
    if let Err(newer @ OpenError::Newer { .. }) = peeked {
        return Err(newer);
    }
    Ok(check_file(held.file(), directory, cache_bytes))
}

/// Whether a path leads to nothing, or its directory is not one.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The memory for pages while only a file's record is read.
const PEEK: usize = 1 << 20;

/// Reads the record stored with the data without opening the file for writes: redb marks a file
/// as open, and repairs it.
///
/// # Errors
/// If a later version of ostrakon wrote the file, or it is damaged.
pub(super) fn peek(path: &Path, disk: Box<dyn Disk>) -> Result<Meta, OpenError> {
    let damaged = |source: redb::Error| OpenError::Damaged {
        path: path.to_owned(),
        source,
    };
    let io = |source| damaged(redb::Error::Io(source));
    let newer = |format: Format, found: u64| OpenError::Newer {
        path: path.to_owned(),
        source: Unreadable::Newer { format, found },
    };
    // redb would turn an empty file into a new store.
    if disk.is_empty().map_err(io)? {
        return Err(damaged(redb::Error::Corrupted("it is empty".to_owned())));
    }
    if let Some(format) = format_of(&*disk).map_err(io)?
        && format > REDB.version
    {
        return Err(newer(REDB, format.into()));
    }
    let overlay = Overlay::new(disk).map_err(io)?;
    let meta = contain(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(PEEK);
        let database = Contained::new(builder.create_with_backend(overlay)?);
        read_meta(&database)
    })
    .map_err(damaged)?;
    match meta.layout {
        1..=LAYOUT => Ok(meta),
        0 => Err(damaged(redb::Error::Corrupted(
            "there is no layout 0".to_owned(),
        ))),
        layout => Err(newer(FORMAT, layout.into())),
    }
}

/// The version of redb's own format according to the last commit; none if the file does not begin
/// like one of redb's.
fn format_of(disk: &dyn Disk) -> io::Result<Option<u16>> {
    let mut head = [0; HEAD];
    if disk.len()? < HEAD as u64 {
        return Ok(None);
    }
    disk.read(0, &mut head)?;
    let last = usize::from(head[9] & 1);
    let is_redb = &head[..4] == b"redb";
    Ok(is_redb.then(|| head[SLOTS + SLOT * last].into()))
}

/// redb's file header, which contains the slots of the last two commits (redb's design, "Super
/// header").
const HEAD: usize = 320;
const SLOTS: usize = 64;
const SLOT: usize = 128;

/// As for [`check`], for a file that is already held, in its data directory.
pub(super) fn check_file(file: &File, directory: &Path, cache_bytes: usize) -> Checked {
    let mut checked = Checked::default();
    match head(file) {
        Ok(None) => {}
        Ok(Some(wrong)) => checked.problem(wrong),
        Err(error) => {
            checked.problem(format!("the file cannot be read: {error}"));
            return checked;
        }
    }
    let opened = file.try_clone().map_err(redb::Error::Io).and_then(|file| {
        let disk = Box::new(FileDisk::new(file));
        let overlay = Overlay::new(disk).map_err(redb::Error::Io)?;
        contain(|| -> Result<_, redb::Error> {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes);
            Ok(builder.create_with_backend(overlay)?)
        })
    });
    match opened {
        Ok(database) => {
            // Closing the database goes through its pages, too.
            let mut database = Contained::new(database);
            let place = look(&database, &mut checked);
            if let Some(place) = place {
                check_journal(directory, place, &database, &mut checked);
            }
            verify(&mut database, &mut checked);
        }
        Err(error) => checked.problem(format!("it cannot be opened: {error}")),
    }
    checked
}

/// Checks the part of redb's file header that redb cannot check itself: which of two commits is
/// the last.
fn head(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = [0; HEAD];
    if file.metadata()?.len() < HEAD as u64 {
        return Ok(Some("the file is empty or truncated"));
    }
    FileExt::read_exact_at(file, &mut head, 0)?;
    if &head[..4] != b"redb" {
        return Ok(Some("the file is not a store: it does not begin like one"));
    }
    let number = |slot: usize| {
        let at = SLOTS + SLOT * slot + 104;
        u64::from_le_bytes(
            head[at..at + 8]
                .try_into()
                .expect("the slice has eight bytes"),
        )
    };
    let (last, is_open) = (usize::from(head[9] & 1), head[9] & 2 != 0);
    let is_behind = !is_open && number(1 - last) > number(last);
    Ok(is_behind.then_some("the header names an older commit as the last one"))
}

/// Real disks.
fn real() -> MakeDisk {
    Arc::new(|file| Box::new(FileDisk::new(file)))
}

/// Reads what the journal has and the file does not.
fn check_journal(directory: &Path, place: Place, database: &Database, checked: &mut Checked) {
    match replay(directory, &real(), place) {
        Ok((contents, _)) => {
            if let Err(ReadError(error)) = contain(|| add(database, &contents.memtable, checked)) {
                checked.problem(format!(
                    "table `entries`, where the journal changes it: {error}"
                ));
            }
            if let Some(record) = contents.record {
                checked.record = record;
            }
        }
        Err(OpenError::Journal(damaged)) => checked.problem(damaged.to_string()),
        Err(error) => {
            let why = error.source().map(ToString::to_string);
            checked.problem(format!(
                "the journal cannot be read: {}",
                why.unwrap_or_else(|| error.to_string())
            ));
        }
    }
}

/// Counts what a memtable changes about a file's contents. Some of it may be in the file already.
fn add(database: &Database, memtable: &Memtable, checked: &mut Checked) -> Result<(), ReadError> {
    let entries = tables(database)?.open_table(ENTRIES).map_err(storage)?;
    let mut last = None;
    for ((partition, key), value) in memtable.entries() {
        let before = entries.get((partition, key))?;
        let before = before.map(|before| before.value().len());
        for (of, sign) in [(before, -1), (value.map(<[u8]>::len), 1)] {
            let bytes = of.map_or(0, |of| (key.len() + of).cast_signed() as i64);
            let count = i64::from(of.is_some());
            checked.entries = checked.entries.saturating_add_signed(sign * count);
            checked.bytes = checked.bytes.saturating_add_signed(sign * bytes);
        }
        if last.replace(partition) != Some(partition) {
            let end = successor(partition);
            let range = (
                Bound::Included((partition, &[][..])),
                Bound::Excluded((&*end, &[][..])),
            );
            let stored = || entries.range::<(&[u8], &[u8])>(range);
            let was_there = i64::from(stored()?.next().transpose()?.is_some());
            let mut merged = Merged::new(stored()?, [Some(memtable), None], range, false)?;
            let is_there = i64::from(merged.next().transpose()?.is_some());
            checked.partitions = checked
                .partitions
                .saturating_add_signed(is_there - was_there);
        }
    }
    Ok(())
}

/// Reads all tables. Returns where the file's contents end in the journal, if that can be read.
fn look(database: &Database, checked: &mut Checked) -> Option<Place> {
    let place = match contain(|| read_meta(database)) {
        Ok(meta) => {
            checked.record = meta.record;
            meta.place
        }
        Err(error) => {
            checked.problem(format!("table `meta`: {error}"));
            None
        }
    };
    let noted = contain(|| noted_sizes(database)).unwrap_or_else(|ReadError(error)| {
        checked.problem(format!("table `sizes`: {error}"));
        HashMap::new()
    });
    if let Err(ReadError(error)) = contain(|| walk(database, noted, checked)) {
        checked.problem(format!(
            "table `entries`, after {} entries: {error}",
            checked.entries
        ));
    }
    place
}

fn noted_sizes(database: &Database) -> Result<HashMap<Vec<u8>, Size>, ReadError> {
    let sizes = tables(database)?.open_table(SIZES).map_err(storage)?;
    let mut noted = HashMap::new();
    for row in sizes.iter()? {
        let (partition, size) = row?;
        noted.insert(partition.value().to_vec(), Size::of(size.value()));
    }
    Ok(noted)
}

fn tables(database: &Database) -> Result<redb::ReadTransaction, ReadError> {
    database.begin_read().map_err(|error| {
        ReadError(match error {
            redb::TransactionError::Storage(error) => error,
            other => redb::StorageError::Corrupted(other.to_string()),
        })
    })
}

/// Walks through all entries. They must be in order, none may have an empty key, and each
/// partition must have its recorded size.
fn walk(
    database: &Database,
    mut noted: HashMap<Vec<u8>, Size>,
    checked: &mut Checked,
) -> Result<(), ReadError> {
    let entries = tables(database)?.open_table(ENTRIES).map_err(storage)?;
    let mut last: Option<(Vec<u8>, Vec<u8>)> = None;
    let mut size = Size::default();
    let mut end = |partition: &[u8], size: Size, checked: &mut Checked| {
        checked.partitions += 1;
        match noted.remove(partition) {
            None if size.entries <= SMALL => {}
            Some(of) if size.entries > SMALL && of == size => {}
            of => checked.problem(format!(
                "partition {} has {} entries of {} bytes, but {} are recorded",
                shown(partition),
                size.entries,
                size.bytes,
                of.map_or_else(
                    || "none".to_owned(),
                    |of| format!("{} of {} bytes", of.entries, of.bytes)
                )
            )),
        }
    };
    for entry in entries.iter()? {
        let (position, value) = entry?;
        let ((partition, key), value) = (position.value(), value.value());
        if let Some((before, before_key)) = &last {
            if (before.as_slice(), before_key.as_slice()) >= (partition, key) {
                checked.problem(format!(
                    "an entry of partition {} is out of order",
                    shown(partition)
                ));
            }
            if before.as_slice() != partition {
                end(before, size, checked);
                size = Size::default();
            }
        }
        if partition.is_empty() || key.is_empty() {
            checked.problem(format!(
                "an entry of partition {} has an empty key",
                shown(partition)
            ));
        }
        size = size.with(key.len(), None, Some(value.len()));
        checked.entries += 1;
        checked.bytes += (key.len() + value.len()) as u64;
        last = Some((partition.to_vec(), key.to_vec()));
    }
    if let Some((partition, _)) = &last {
        end(partition, size, checked);
    }
    for partition in noted.keys() {
        let partition = shown(partition);
        checked.problem(format!(
            "partition {partition} has a recorded size but no entries"
        ));
    }
    let counted =
        contain(|| -> Result<_, ReadError> { Ok(redb::ReadableTableMetadata::len(&entries)?) })?;
    if counted != checked.entries {
        let found = checked.entries;
        checked.problem(format!("{counted} entries are recorded, but {found} exist"));
    }
    Ok(())
}

/// Compares each page in use with its checksum, and the pages in use with redb's record of them.
fn verify(database: &mut Database, checked: &mut Checked) {
    let verified = contain(|| -> Result<_, redb::Error> { Ok(database.check_integrity()?) });
    match verified {
        Ok(true) => {}
        Ok(false) => {
            checked.problem("pages do not match their checksums, or the record of pages in use");
        }
        Err(error) => checked.problem(format!("pages: {error}")),
    }
}

/// A key, shortened, as readable text.
fn shown(key: &[u8]) -> String {
    let some = &key[..key.len().min(64)];
    let rest = if some.len() < key.len() { "..." } else { "" };
    format!("{:?}{rest}", String::from_utf8_lossy(some))
}

/// A file's pages, overlaid in memory with the pages that redb writes. The file is not changed.
#[derive(Debug)]
struct Overlay {
    disk: Box<dyn Disk>,
    /// A std mutex: only one thread uses the database.
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    length: u64,
    /// How many bytes of the file are still visible.
    shows: u64,
    pages: HashMap<u64, Box<[u8; PAGE]>>,
}

const PAGE: usize = 4096;

impl Overlay {
    fn new(disk: Box<dyn Disk>) -> io::Result<Self> {
        let length = disk.len()?;
        let over = Mutex::new(Over {
            length,
            shows: length,
            pages: HashMap::new(),
        });
        Ok(Self { disk, over })
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page as it is in the file; zero beyond its end.
    fn below(&self, over: &Over, page: u64) -> io::Result<[u8; PAGE]> {
        let mut bytes = [0; PAGE];
        let from = page * PAGE as u64;
        let there = over.shows.saturating_sub(from).min(PAGE as u64);
        let there = usize::try_from(there).expect("the length is at most a page");
        self.disk.read(from, &mut bytes[..there])?;
        Ok(bytes)
    }

    /// Calls `each` with the page, the offset in the page, and the matching range of a buffer.
    fn split(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = usize::try_from(at % PAGE as u64).expect("the offset is below a page");
            let step = (PAGE - within).min(length - done);
            each(at / PAGE as u64, within, done..done + step)?;
            done += step;
        }
        Ok(())
    }
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset.saturating_add(out.len() as u64) > over.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::split(offset, out.len(), |page, within, range| {
            let length = range.len();
            let bytes = match over.pages.get(&page) {
                Some(bytes) => **bytes,
                None => self.below(&over, page)?,
            };
            out[range].copy_from_slice(&bytes[within..within + length]);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut over = self.over();
        over.length = length;
        over.shows = over.shows.min(length);
        over.pages.retain(|page, _| page * (PAGE as u64) < length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        Self::split(offset, data.len(), |page, within, range| {
            if !over.pages.contains_key(&page) {
                let below = self.below(&over, page)?;
                over.pages.insert(page, Box::new(below));
            }
            let bytes = over
                .pages
                .get_mut(&page)
                .expect("the page was just inserted");
            bytes[within..within + range.len()].copy_from_slice(&data[range]);
            Ok(())
        })
    }
}
