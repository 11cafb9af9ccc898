//! The store's file: opening it, committing to it, and reopening it after a failure.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ostrakon_base::regular;
use redb::{Database, ReadableDatabase, StorageError, WriteTransaction};

use super::check::{check_file, peek};
use super::damage::{Contained, Damage, contain};
use super::disk::{Backend, Disk, FileDisk};
use super::failure::{CommitError, CommitFailure, OpenError};
use super::group::{Group, Limits, Pending};
use super::held::{Held, Missing};
use super::migration::{Migration, record_size, storage};
use super::snapshot::{ReadError, Snapshot};
use super::{ENTRIES, LAYOUT, META, SIZES};

/// How long the store waits after a failure before it tries the disk again.
const BACKOFF: Duration = Duration::from_millis(250);

/// Wraps an opened file in a disk.
pub type MakeDisk = Box<dyn Fn(File) -> Box<dyn Disk> + Send>;

pub struct Options {
    /// The data directory; created if it is missing.
    pub directory: PathBuf,
    /// The memory that redb may use for pages, in bytes.
    pub cache_bytes: usize,
    /// Whether to check the whole file before it is first opened.
    pub check: bool,
    /// Called each time the file is opened.
    pub disk: MakeDisk,
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("directory", &self.directory)
            .field("cache_bytes", &self.cache_bytes)
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Options for a real disk.
    pub fn new(directory: impl Into<PathBuf>, cache_bytes: usize) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes,
            check: false,
            disk: Box::new(|file| Box::new(FileDisk::new(file))),
        }
    }
}

/// The record stored with the data by swaps and by transfers of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The guest's version of the data's layout; none before the first generation.
    pub schema: Option<u32>,
    /// The live generation, in the caller's encoding.
    pub generation: Option<Vec<u8>>,
    /// The state of the topology, in the caller's encoding; none if the shard has always been the
    /// only one.
    pub topology: Option<Vec<u8>>,
}

/// A shard's data on disk. A data directory belongs to one `Store` in one process.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    options: Options,
    /// None if the file could not be reopened after a failure.
    opened: Option<Opened>,
    openings: u64,
    record: Record,
    /// The last failure, until a commit succeeds.
    failure: Option<(CommitFailure, Instant)>,
    held: Held,
    damage: Damage,
    /// Held for the life of the store, across all openings of the file.
    _lock: File,
}

/// A data directory that this process holds. Its file was read, and was not changed.
#[derive(Debug)]
pub struct Found {
    path: PathBuf,
    options: Options,
    record: Record,
    held: Held,
    had_one: bool,
    lock: File,
}

impl Found {
    /// The record stored with the data.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Opens the store whose directory was found.
    ///
    /// # Errors
    /// If the store cannot be used; nothing is changed.
    pub fn open(self) -> Result<Store, OpenError> {
        let Self {
            path,
            options,
            held,
            had_one,
            lock,
            ..
        } = self;
        if !had_one && let Err(error) = remember(&lock) {
            // The disk may be full; the next start tries again.
            let path = options.directory.join(LOCK);
            tracing::warn!(%error, path = %path.display(), "cannot record that a data file exists");
        }
        if options.check {
            let checked = check_file(held.file(), options.cache_bytes);
            if let Some(first) = checked.problems.first() {
                let (first, path) = (first.clone(), path);
                return Err(OpenError::Unsound { path, first });
            }
            tracing::info!(
                entries = checked.entries,
                partitions = checked.partitions,
                "the data file was checked and is undamaged"
            );
        }
        let damage = Damage::default();
        let (opened, record) = open(&path, &options, &held, &damage, 1)?;
        Ok(Store {
            path,
            options,
            opened: Some(opened),
            openings: 1,
            record,
            failure: None,
            held,
            damage,
            _lock: lock,
        })
    }
}

#[derive(Debug)]
struct Opened {
    database: Contained<Database>,
    snapshot: Arc<Snapshot>,
    shut: Arc<AtomicBool>,
}

impl Store {
    /// Opens the store of a data directory, or creates an empty one.
    ///
    /// # Errors
    /// If another process holds the directory, or it cannot be used; nothing is changed.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        Self::find(options)?.open()
    }

    /// Locks a data directory, or creates one with an empty store, and reads the record stored
    /// with the data. An existing file is not changed: the caller decides whether its record can
    /// be used.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn find(options: Options) -> Result<Found, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let directory = &options.directory;
        fs::create_dir_all(directory).map_err(io(directory))?;
        let lock_path = directory.join(LOCK);
        let lock = regular::edit_own(&lock_path, true).map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(directory.clone())),
            Err(TryLockError::Error(error)) => return Err(io(&lock_path)(error)),
        }
        let path = directory.join("shard.redb");
        let had_one = lock.metadata().map_err(io(&lock_path))?.len() > 0;
        if !path.try_exists().map_err(io(&path))? {
            if had_one {
                let lock = lock_path;
                return Err(OpenError::Missing { path, lock });
            }
            create(&path, &options)?;
        }
        let held = Held::take(&path, directory).map_err(io(&path))?;
        let held = held.ok_or_else(|| OpenError::InUse(directory.clone()))?;
        let file = regular::open_own(&path).map_err(io(&path))?;
        let record = peek(&path, (options.disk)(file))?;
        Ok(Found {
            path,
            options,
            record,
            held,
            had_one,
            lock,
        })
    }

    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Checks that the data file is still where it was opened.
    ///
    /// # Errors
    /// If it is not: then nothing is stored until it is back.
    pub fn look(&self) -> Result<(), Missing> {
        self.held.look()
    }

    /// The view of the last durable commit; none if the file could not be reopened after a
    /// failure.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.opened.as_ref().map(|opened| &opened.snapshot)
    }

    /// The record stored by the last swap.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Commits a whole group durably, and returns the view that includes it.
    ///
    /// # Errors
    /// If it fails, nothing of the group is acknowledged. The file was reopened if possible, so
    /// [`Store::snapshot`] may have changed.
    pub fn commit(&mut self, group: &Group) -> Result<Arc<Snapshot>, CommitError> {
        self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            write(&transaction, &group.partitions)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Commits each partition of a group separately, after the whole group could not be committed
    /// because part of the file is damaged. Partitions outside the damaged part are stored; the
    /// errors of the others are returned. A request concerns one partition, so none is stored in
    /// part.
    pub fn commit_apart(&mut self, group: Group) -> HashMap<Vec<u8>, CommitError> {
        let mut failed = HashMap::new();
        for (partition, pending) in group.partitions {
            let alone = HashMap::from([(partition, pending)]);
            let stored = self.attempt(|opened| {
                let transaction = begin(&opened.database)?;
                write(&transaction, &alone)?;
                transaction.commit()?;
                Ok(())
            });
            if let Err(error) = stored {
                failed.extend(
                    alone
                        .into_keys()
                        .map(|partition| (partition, error.clone())),
                );
            }
        }
        failed
    }

    /// Stores a swap's record by itself.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    pub fn set_record(&mut self, record: Record) -> Result<Arc<Snapshot>, CommitError> {
        self.attempt_with(record, |database, record| {
            let transaction = begin(database)?;
            write_record(&transaction, record)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Commits work together with a new record.
    pub(super) fn attempt_with(
        &mut self,
        record: Record,
        commit: impl FnOnce(&Database, &Record) -> Result<(), CommitFailure>,
    ) -> Result<Arc<Snapshot>, CommitError> {
        let snapshot = self.attempt(|opened| commit(&opened.database, &record))?;
        self.record = record;
        Ok(snapshot)
    }

    /// Begins a migration.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_migration(&mut self, limits: Limits) -> Result<Migration, CommitError> {
        let opened = self.opened()?;
        let base = Arc::clone(&opened.snapshot);
        match base.damage.contain(|| begin(&opened.database)) {
            Ok(transaction) => Ok(Migration::new(transaction, base, limits)),
            Err(failure) => Err(self.fail(failure)),
        }
    }

    /// Commits a migration durably, together with the swap's record.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    pub fn commit_migration(
        &mut self,
        mut migration: Migration,
        record: Record,
    ) -> Result<Arc<Snapshot>, CommitError> {
        let snapshot = self.attempt(|_| {
            migration.flush()?;
            write_record(&migration.transaction, &record)?;
            migration.transaction.into_inner().commit()?;
            Ok(())
        })?;
        self.record = record;
        Ok(snapshot)
    }

    /// Reopens the file after a read failed, unless it was already reopened since the opening
    /// whose read failed. Also reopens a file that was closed after a failure, unless that
    /// failure is too recent.
    pub fn recover(&mut self, failed_opening: u64) {
        if failed_opening == self.openings {
            self.shut();
        }
        if self.opened.is_none() {
            let _ = self.opened();
        }
    }

    /// As for [`Store::snapshot`], but reopens the file if it is closed.
    ///
    /// # Errors
    /// If the file cannot be reopened, or failed to be just before.
    pub fn snapshot_or_reopen(&mut self) -> Result<Arc<Snapshot>, CommitError> {
        Ok(Arc::clone(&self.opened()?.snapshot))
    }

    fn backing_off(&self) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() < BACKOFF)
    }

    /// The opened file. Reopens the file if it is closed, at most once per [`BACKOFF`].
    ///
    /// First checks that the file is where it was, since nobody would find writes to a file that
    /// was moved away. The check takes two microseconds.
    fn opened(&mut self) -> Result<&mut Opened, CommitError> {
        self.held.look()?;
        if let Some((failure, _)) = &self.failure
            && self.backing_off()
        {
            return Err(failure.clone().into());
        }
        if self.opened.is_none()
            && let Err(failure) = self.reopen()
        {
            self.failure = Some((failure.clone(), Instant::now()));
            return Err(failure.into());
        }
        Ok(self
            .opened
            .as_mut()
            .expect("the file is open or was just reopened"))
    }

    fn attempt(
        &mut self,
        commit: impl FnOnce(&mut Opened) -> Result<(), CommitFailure>,
    ) -> Result<Arc<Snapshot>, CommitError> {
        let damage = self.damage.clone();
        let opened = self.opened()?;
        let opening = opened.snapshot.opening;
        let committed = damage.contain(|| {
            commit(opened)?;
            let snapshot = read(&opened.database, opening, damage.clone())?;
            opened.snapshot = Arc::new(snapshot);
            Ok(Arc::clone(&opened.snapshot))
        });
        match committed {
            Ok(snapshot) => {
                self.failure = None;
                Ok(snapshot)
            }
            Err(failure) => Err(self.fail(failure)),
        }
    }

    /// Replaces the opening after a failed operation, since redb then answers nothing more from
    /// it.
    fn fail(&mut self, failure: CommitFailure) -> CommitError {
        self.shut();
        self.failure = match self.reopen() {
            Err(again) => Some((again, Instant::now())),
            // Only the operation that met the damage fails: the next may use another part.
            Ok(()) if failure.is_damage() => None,
            Ok(()) => Some((failure.clone(), Instant::now())),
        };
        failure.into()
    }

    fn shut(&mut self) {
        if let Some(opened) = self.opened.take() {
            opened.shut.store(true, Ordering::Release);
        }
    }

    fn reopen(&mut self) -> Result<(), CommitFailure> {
        let opening = self.openings + 1;
        match open(&self.path, &self.options, &self.held, &self.damage, opening) {
            Ok((opened, record)) => {
                self.openings += 1;
                self.opened = Some(opened);
                self.record = record;
                tracing::info!(opening = self.openings, "the store was reopened");
                Ok(())
            }
            Err(
                OpenError::Io { source, .. }
                | OpenError::Damaged {
                    source: redb::Error::Io(source),
                    ..
                },
            ) => Err(StorageError::Io(source).into()),
            Err(other) => Err(CommitFailure::Failed(Arc::new(StorageError::Corrupted(
                other.to_string(),
            )))),
        }
    }
}

const LOCK: &str = "lock";

/// The lock file's content once a data file has existed: if the data file is missing then, no new
/// one is created.
const HAD_ONE: &[u8] = b"The data is in shard.redb.\n";

fn remember(mut lock: &File) -> io::Result<()> {
    lock.write_all(HAD_ONE)?;
    lock.sync_all()
}

fn open(
    path: &Path,
    options: &Options,
    held: &Held,
    damage: &Damage,
    opening: u64,
) -> Result<(Opened, Record), OpenError> {
    let damaged = |source: redb::Error| OpenError::Damaged {
        path: path.to_owned(),
        source,
    };
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let file = regular::edit_own(path, false).map_err(io)?;
    if !held.is(&file).map_err(io)? {
        return Err(io(io::Error::other("it was replaced by another file")));
    }
    let (database, shut) = contain(|| open_database(file, options, false)).map_err(damaged)?;
    let database = Contained::new(database);
    // The layout was checked when the file was found.
    let (_, record) = contain(|| read_meta(&database)).map_err(damaged)?;
    let snapshot = damage.contain(|| read(&database, opening, damage.clone()));
    let snapshot = snapshot.map_err(|ReadError(error)| damaged(error.into()))?;
    Ok((
        Opened {
            database,
            snapshot: Arc::new(snapshot),
            shut,
        },
        record,
    ))
}

/// Creates an empty store under a temporary name and renames it, so that a crash on the way
/// leaves no file that cannot be opened.
fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let unfinished = path.with_extension("new");
    let io = |source| OpenError::Io {
        path: unfinished.clone(),
        source,
    };
    // A new file is never damaged.
    let failed = |error| match error {
        redb::Error::Io(source) => io(source),
        source => OpenError::Damaged {
            path: unfinished.clone(),
            source,
        },
    };
    let file = regular::edit_own(&unfinished, true).map_err(io)?;
    file.set_len(0).map_err(io)?;
    let (database, _) = open_database(file, options, true).map_err(failed)?;
    initialise(&database).map_err(failed)?;
    drop(database);
    fs::rename(&unfinished, path).map_err(io)?;
    File::open(&options.directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io)
}

fn open_database(
    file: File,
    options: &Options,
    is_new: bool,
) -> Result<(Database, Arc<AtomicBool>), redb::Error> {
    let shut = Arc::new(AtomicBool::new(false));
    let disk = (options.disk)(file);
    // redb would turn an empty file into a new store.
    if !is_new && disk.is_empty()? {
        return Err(redb::Error::Corrupted("it is empty".to_owned()));
    }
    let backend = Backend::new(disk, Arc::clone(&shut));
    let database = Database::builder()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(backend)?;
    Ok((database, shut))
}

pub(super) fn read_meta(database: &Database) -> Result<(u32, Record), redb::Error> {
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
    Ok((layout, record))
}

/// Creates the tables, so that a read never finds one missing.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(SIZES)?;
    transaction
        .open_table(META)?
        .insert("layout", LAYOUT.to_le_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Begins a durable transaction.
///
/// Quick repair is on: a start after a kill takes a millisecond for any file size, where redb
/// would otherwise read the whole file. It also commits in two phases, so that a torn commit is
/// never distinguished from a whole one by a checksum alone, which a client could forge. It costs
/// a fifth to a third of the durable rate.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, CommitFailure> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(super) fn read(
    database: &Database,
    opening: u64,
    damage: Damage,
) -> Result<Snapshot, ReadError> {
    let transaction = database.begin_read().map_err(|error| match error {
        redb::TransactionError::Storage(error) => error,
        other => StorageError::Corrupted(other.to_string()),
    })?;
    Ok(Snapshot {
        entries: transaction.open_table(ENTRIES).map_err(storage)?,
        sizes: transaction.open_table(SIZES).map_err(storage)?,
        opening,
        damage,
    })
}

/// Writes in key order, since neighbouring keys share pages.
fn write(
    transaction: &WriteTransaction,
    partitions: &HashMap<Vec<u8>, Pending>,
) -> Result<(), CommitFailure> {
    let mut partitions: Vec<_> = partitions.iter().collect();
    partitions.sort_unstable_by_key(|(partition, _)| *partition);
    let mut entries = transaction.open_table(ENTRIES).map_err(storage)?;
    let mut sizes = transaction.open_table(SIZES).map_err(storage)?;
    for (partition, pending) in partitions {
        let partition = partition.as_slice();
        for (key, change) in &pending.changes {
            match change {
                Some(value) => entries.insert((partition, key.as_slice()), value.as_slice())?,
                None => entries.remove((partition, key.as_slice()))?,
            };
        }
        record_size(&mut sizes, partition, pending.size)?;
    }
    Ok(())
}

pub(super) fn write_record(
    transaction: &WriteTransaction,
    record: &Record,
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
    Ok(())
}
