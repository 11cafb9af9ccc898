//! Gives back the space that the data file does not need any more.
//!
//! redb cuts a file off only behind its last used page, and its own compaction needs the file for
//! itself. So a compaction copies the contents to a second file, in small steps, while the store
//! goes on, and then puts that file in the place of the first.
//!
//! A step copies the next rows as they are when it begins. Checkpoints go on meanwhile: each notes
//! the rows that it changes, as far as they were copied, and they are copied again. The file is
//! put in its place while no checkpoint is under way; commits go on in the journal.
//!
//! redb lets a file grow by doubling. Of the second file only what was written takes space, so it
//! may be longer than the space that it takes.

mod notes;
mod outcome;

pub(super) use notes::Notes;
pub use outcome::{CompactError, Compacting, Progress, Stopped};

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notes::{MANY, Row};
use ostrakon_base::regular;
use redb::{Database, ReadableTable as _, StorageError, WriteTransaction};

use super::damage::{Contained, Damage, contain};
use super::disk::sync_directory;
use super::failure::CommitFailure;
use super::file::{Growth, MakeDisk, begin, begin_read, initialise, open_database, read};
use super::held::Identity;
use super::migration::storage;
use super::snapshot::{ReadError, Stored};
use super::store::Options;
use super::{ENTRIES, META, SIZES, space};

/// The second file's name in the data directory, until it takes the first one's place.
pub(super) const UNFINISHED: &str = "shard.compact";

/// The memory for the second file's pages.
const CACHE_BYTES: usize = 8 << 20;
/// The space that an empty file takes, in bytes.
const EMPTY: u64 = 64 << 10;
/// The space on the disk that is left for the store, in bytes.
const MARGIN: u64 = 32 << 20;
/// The longest pause between two steps. A pause is as long as the step before it.
const MOST_PAUSE: Duration = Duration::from_millis(250);

/// What the copying has come to.
#[derive(Debug)]
pub(super) enum Stage {
    More,
    /// Only what checkpoints change from now on is left.
    CaughtUp,
}

/// A compaction under way.
pub(super) struct Compaction {
    from: Arc<Contained<Database>>,
    damage: Damage,
    directory: PathBuf,
    data_file: PathBuf,
    disk: MakeDisk,
    cache_bytes: usize,
    step_bytes: usize,
    /// None before the first step, and once it has taken its place.
    to: Option<Copy>,
    /// There may be an unfinished file.
    is_there: bool,
    notes: Arc<Notes>,
    progress: Compacting,
    /// The space that is left for the store.
    margin: u64,
}

struct Copy {
    database: Contained<Database>,
    file: File,
}

/// The second file, in the place of the first.
pub(super) struct Switched {
    pub(super) database: Arc<Contained<Database>>,
    pub(super) shut: Arc<AtomicBool>,
    pub(super) stored: Arc<Stored>,
    /// The file, locked.
    pub(super) file: File,
    /// Whether its new name is on the disk.
    pub(super) is_synced: bool,
}

impl std::fmt::Debug for Switched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Switched").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Compaction").finish_non_exhaustive()
    }
}

impl Compaction {
    /// # Errors
    /// If the disk has no room for a copy of `needed` bytes.
    pub(super) fn new(
        from: &Arc<Contained<Database>>,
        damage: &Damage,
        data_file: &Path,
        options: &Options,
        needed: u64,
        progress: &Compacting,
    ) -> Result<Self, CompactError> {
        let directory = data_file.parent().unwrap_or_else(|| Path::new("."));
        let free = free(directory);
        let margin = MARGIN.min(free / 2);
        let needed = needed + EMPTY;
        if needed > free - margin {
            return Err(CompactError::NoRoom { free, needed });
        }
        Ok(Self {
            from: Arc::clone(from),
            damage: damage.clone(),
            directory: directory.to_owned(),
            data_file: data_file.to_owned(),
            disk: Arc::clone(&options.disk),
            cache_bytes: options.cache_bytes,
            step_bytes: options.journal.step_bytes,
            to: None,
            is_there: false,
            notes: Arc::default(),
            progress: progress.clone(),
            margin,
        })
    }

    pub(super) fn notes(&self) -> &Arc<Notes> {
        &self.notes
    }

    /// The second file.
    pub(super) fn file(&self) -> Option<&File> {
        Some(&self.to.as_ref()?.file)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(UNFINISHED)
    }

    /// Runs steps until everything is copied.
    pub(super) fn run(&mut self) -> Result<(), CompactError> {
        loop {
            let began = Instant::now();
            match self.step()? {
                Stage::CaughtUp => return Ok(()),
                Stage::More => std::thread::sleep(began.elapsed().min(MOST_PAUSE)),
            }
        }
    }

    /// Copies the next rows.
    pub(super) fn step(&mut self) -> Result<Stage, CompactError> {
        let done = self.go_on();
        // What was stopped fails in many ways.
        match self.notes.stopped() {
            Some(why) => Err(CompactError::Stopped(why)),
            None => done,
        }
    }

    fn go_on(&mut self) -> Result<Stage, CompactError> {
        if self.to.is_none() {
            self.begin()?;
        }
        let free = free(&self.directory);
        if free < self.margin {
            return Err(CompactError::Spare { free });
        }
        let (are_many, is_whole) = {
            let noted = lock(&self.notes.noted);
            (noted.bytes > MANY, noted.is_whole)
        };
        if !is_whole && !are_many {
            self.copy()?;
            return Ok(Stage::More);
        }
        self.copy_changed()
    }

    fn begin(&mut self) -> Result<(), CompactError> {
        let path = self.path();
        let io = |error| CompactError::File(path.clone(), Arc::new(error));
        self.is_there = true;
        let file = regular::edit_own(&path, true).map_err(io)?;
        file.set_len(0).map_err(io)?;
        file.try_lock().map_err(|error| {
            io(match error {
                TryLockError::Error(error) => error,
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            })
        })?;
        let pages = regular::edit_own(&path, false).map_err(io)?;
        let (database, shut) = of_the_copy(|| {
            let how = (&self.disk, CACHE_BYTES);
            let opened = open_database(pages, how, Growth::Sparse, true);
            let (database, shut) = opened.map_err(broken)?;
            initialise(&database, None).map_err(broken)?;
            Ok((database, shut))
        })?;
        let _ = self.notes.shut.set(shut);
        self.to = Some(Copy {
            database: Contained::new(database),
            file,
        });
        Ok(())
    }

    /// Copies the rows after those that were copied.
    fn copy(&self) -> Result<(), CompactError> {
        let (view, after) = {
            let mut noted = lock(&self.notes.noted);
            noted.is_copying = true;
            (self.view()?, noted.copied.clone())
        };
        let found = self
            .damage
            .contain(|| rows_after(&view, after, self.step_bytes));
        let (rows, is_whole) = found?;
        self.write(&rows)?;
        let mut noted = lock(&self.notes.noted);
        noted.is_copying = false;
        noted.is_whole = is_whole;
        if let Some((last, _)) = rows.into_iter().next_back() {
            noted.copied = Some(last);
        }
        noted.keep_copied();
        Ok(())
    }

    /// Copies rows again that were changed since.
    fn copy_changed(&self) -> Result<Stage, CompactError> {
        let (view, changed, is_last) = {
            let mut noted = lock(&self.notes.noted);
            let mut changed = Vec::new();
            let mut bytes = 0;
            while bytes < self.step_bytes
                && let Some(row) = noted.changed.pop_first()
            {
                bytes += row.memory();
                changed.push(row);
            }
            noted.bytes -= bytes;
            (
                self.view()?,
                changed,
                noted.is_whole && noted.changed.is_empty(),
            )
        };
        self.copy_again(&view, changed)?;
        Ok(if is_last {
            Stage::CaughtUp
        } else {
            Stage::More
        })
    }

    /// Copies these rows, or removes them where they were deleted.
    fn copy_again(&self, view: &Stored, changed: Vec<Row>) -> Result<(), CompactError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in changed {
            let value = self.damage.contain(|| value_of(view, &row))?;
            bytes += row.memory() + value.as_ref().map_or(0, Value::len);
            rows.push((row, value));
            if bytes >= self.step_bytes {
                self.write(&rows)?;
                (rows, bytes) = (Vec::new(), 0);
            }
        }
        self.write(&rows)
    }

    /// What is committed now.
    fn view(&self) -> Result<Stored, ReadError> {
        self.damage.contain(|| read(&self.from, 0))
    }

    /// Writes rows to the second file.
    fn write(&self, rows: &[(Row, Option<Value>)]) -> Result<(), CompactError> {
        let Some(to) = &self.to else { return Ok(()) };
        of_the_copy(|| {
            // Nobody opens the file before it is whole: it needs no quick repair.
            let transaction = to.database.begin_write()?;
            write_rows(&transaction, rows)?;
            transaction.commit()?;
            Ok(())
        })?;
        self.progress.copied(rows.iter().map(space_of).sum());
        Ok(())
    }

    /// Copies what is left, and puts the second file in the place of the first. No checkpoint may
    /// be under way.
    ///
    /// # Errors
    /// Also if the first file is not in its place any more.
    pub(super) fn finish(
        mut self,
        opening: u64,
        first: Identity,
    ) -> Result<Switched, CompactError> {
        let finished = self.finish_as_it_is(opening, first);
        match self.notes.stopped() {
            Some(why) if finished.is_err() => Err(CompactError::Stopped(why)),
            _ => finished,
        }
    }

    fn finish_as_it_is(&mut self, opening: u64, first: Identity) -> Result<Switched, CompactError> {
        let changed = std::mem::take(&mut lock(&self.notes.noted).changed);
        let view = self.view()?;
        self.copy_again(&view, changed.into_iter().collect())?;
        drop(view);
        let path = self.path();
        let io = |error| CompactError::File(path.clone(), Arc::new(error));
        let data_file = self.data_file.clone();
        let of_the_first = |error| CompactError::File(data_file.clone(), Arc::new(error));
        let Some(Copy { database, file }) = self.to.take() else {
            return Err(io(io::ErrorKind::NotFound.into()));
        };
        let meta = self.damage.contain(|| meta_of(&self.from))?;
        of_the_copy(|| {
            let transaction = begin(&database)?;
            {
                let mut rows = transaction.open_table(META).map_err(storage)?;
                for (name, row) in &meta {
                    rows.insert(name.as_str(), row.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })?;
        drop(database);
        let mut again = || -> Result<_, CompactError> {
            let pages = regular::edit_own(&path, false).map_err(io)?;
            let (database, shut) = of_the_copy(|| {
                let how = (&self.disk, self.cache_bytes);
                let opened = open_database(pages, how, Growth::Reserved, false);
                opened.map_err(broken)
            })?;
            let database = Arc::new(Contained::new(database));
            let stored = of_the_copy(|| Ok(read(&database, opening)?))?;
            let found = fs::metadata(&self.data_file).map_err(of_the_first)?;
            if Identity::of(&found) != first {
                let other = io::Error::other("it was replaced by another file");
                return Err(of_the_first(other));
            }
            fs::rename(&path, &self.data_file).map_err(io)?;
            self.is_there = false;
            Ok((database, shut, Arc::new(stored)))
        };
        let (database, shut, stored) = again()?;
        Ok(Switched {
            database,
            shut,
            stored,
            file,
            is_synced: sync_directory(&self.directory).is_ok(),
        })
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.to = None;
        let mut noted = lock(&self.notes.noted);
        (noted.changed, noted.bytes) = Default::default();
        drop(noted);
        if self.is_there {
            remove_unfinished(&self.directory);
        }
    }
}

/// Removes what a compaction that did not come to its end has left in a data directory.
pub(super) fn remove_unfinished(directory: &Path) {
    let path = directory.join(UNFINISHED);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        let path = path.display();
        tracing::warn!(%path, %error, "the unfinished copy of the data file could not be removed");
    }
}

/// A row's content.
enum Value {
    Entry(Vec<u8>),
    Size((u64, u64)),
}

impl Value {
    fn len(&self) -> usize {
        match self {
            Self::Entry(value) => value.len(),
            Self::Size(_) => 16,
        }
    }
}

type Rows = Vec<(Row, Option<Value>)>;

/// The space that a row takes, as the row `space` counts it.
fn space_of((row, value): &(Row, Option<Value>)) -> u64 {
    match (row, value) {
        (Row::Entry(partition, key), Some(Value::Entry(value))) => {
            space::of_entry(partition.len(), key.len(), value.len())
        }
        _ => 0,
    }
}

/// The rows after another one, as many as a step copies, and whether they are the last.
fn rows_after(view: &Stored, after: Option<Row>, most: usize) -> Result<(Rows, bool), ReadError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let of_sizes = match after {
        Some(Row::Size(partition)) => Bound::Excluded(partition),
        after => {
            let from = match &after {
                Some(Row::Entry(partition, key)) => Bound::Excluded((&partition[..], &key[..])),
                _ => Bound::Unbounded,
            };
            let range = view
                .entries
                .range::<(&[u8], &[u8])>((from, Bound::Unbounded))?;
            for entry in range {
                let (position, value) = entry?;
                let (partition, key) = position.value();
                let row = Row::Entry(partition.to_vec(), key.to_vec());
                bytes += row.memory() + value.value().len();
                rows.push((row, Some(Value::Entry(value.value().to_vec()))));
                if bytes >= most {
                    return Ok((rows, false));
                }
            }
            Bound::Unbounded
        }
    };
    let from = of_sizes.as_ref().map(|partition| &partition[..]);
    for size in view.sizes.range::<&[u8]>((from, Bound::Unbounded))? {
        let (partition, size) = size?;
        let row = Row::Size(partition.value().to_vec());
        bytes += row.memory() + 16;
        rows.push((row, Some(Value::Size(size.value()))));
        if bytes >= most {
            return Ok((rows, false));
        }
    }
    Ok((rows, true))
}

fn value_of(view: &Stored, row: &Row) -> Result<Option<Value>, ReadError> {
    Ok(match row {
        Row::Entry(partition, key) => {
            let value = view.entries.get((&partition[..], &key[..]))?;
            value.map(|value| Value::Entry(value.value().to_vec()))
        }
        Row::Size(partition) => {
            let size = view.sizes.get(&partition[..])?;
            size.map(|size| Value::Size(size.value()))
        }
    })
}

fn write_rows(
    transaction: &WriteTransaction,
    rows: &[(Row, Option<Value>)],
) -> Result<(), ReadError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
    let mut sizes = transaction.open_table(SIZES).map_err(storage)?;
    for (row, value) in rows {
        match (row, value) {
            (Row::Entry(partition, key), Some(Value::Entry(value))) => {
                entries.insert((&partition[..], &key[..]), &value[..])?;
            }
            (Row::Size(partition), Some(Value::Size(size))) => {
                sizes.insert(&partition[..], size)?;
            }
            (Row::Entry(partition, key), _) => {
                entries.remove((&partition[..], &key[..]))?;
            }
            (Row::Size(partition), _) => {
                sizes.remove(&partition[..])?;
            }
        }
    }
    Ok(())
}

/// The rows of the table `meta`.
fn meta_of(database: &Database) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let meta = begin_read(database)?.open_table(META).map_err(storage)?;
    let rows = meta.iter()?.map(|row| {
        let (name, row) = row?;
        Ok((name.value().to_owned(), row.value().to_vec()))
    });
    rows.collect()
}

/// Works on the second file: its errors are none of the data's.
fn of_the_copy<T>(work: impl FnOnce() -> Result<T, CommitFailure>) -> Result<T, CompactError> {
    contain(work).map_err(|failure| match failure {
        CommitFailure::Full => CompactError::Full,
        CommitFailure::Failed(error) => CompactError::Failed(error),
    })
}

fn broken(error: redb::Error) -> CommitFailure {
    StorageError::Io(match error {
        redb::Error::Io(error) => error,
        other => io::Error::other(other),
    })
    .into()
}

/// The space that is left on a directory's file system, in bytes. What the system does not say is
/// met when it is written.
pub(super) fn free(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(u64::MAX, |found| {
        found.f_bavail.saturating_mul(found.f_frsize)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
