//! The store's file: opening, committing, and opening anew after a failure.

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

/// Makes a disk out of an opened file.
pub type MakeDisk = Box<dyn Fn(File) -> Box<dyn Disk> + Send>;

/// How to open a store.
pub struct Options {
    /// The data directory; made if it is missing.
    pub directory: PathBuf,
    /// The most memory redb uses for pages, in bytes.
    pub cache_bytes: usize,
    /// Whether the whole file is looked through before it is opened first.
    pub check: bool,
    /// Called at each new opening.
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

/// What is stored with the data: by a swap, and by a transfer of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The version of the data's layout by the guest; none before the first
    /// generation.
    pub schema: Option<u32>,
    /// The generation that goes live, in the caller's encoding.
    pub generation: Option<Vec<u8>>,
    /// The state of the topology, in the caller's encoding; none in a shard that
    /// was never one of several.
    pub topology: Option<Vec<u8>>,
}

/// A shard's data on disk. One value of this type, in one process, has a data
/// directory.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    options: Options,
    /// None while the file could not be opened anew after a failure.
    opened: Option<Opened>,
    openings: u64,
    record: Record,
    /// The last failure, until a commit succeeds.
    failure: Option<(CommitFailure, Instant)>,
    held: Held,
    damage: Damage,
    /// Held for the life of the store, over all openings of the file.
    _lock: File,
}

/// A data directory that this process has. Its file was looked at, and is as it was.
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
    /// What was stored with the data.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Opens the store.
    ///
    /// # Errors
    /// When it cannot be used; nothing is changed.
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
            tracing::warn!(%error, path = %path.display(), "that there is a data file cannot be noted");
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
                "the data file was checked, and is whole"
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
    /// Opens the store of a data directory, or makes an empty one.
    ///
    /// # Errors
    /// When another process has it, or it cannot be used; nothing is changed.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        Self::find(options)?.open()
    }

    /// Takes a data directory, or makes one with an empty store, and reads what is stored with the
    /// data. A file that is there stays as it is: whether its record can be used is the caller's to
    /// know.
    ///
    /// # Errors
    /// As [`Store::open`].
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

    /// What was found to be damaged.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Looks whether the data file is where it was opened.
    ///
    /// # Errors
    /// When it is not: nothing is stored until it is there again.
    pub fn look(&self) -> Result<(), Missing> {
        self.held.look()
    }

    /// The view of the last durable commit; none while the file cannot be
    /// opened anew after a failure.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.opened.as_ref().map(|opened| &opened.snapshot)
    }

    /// What was stored by the last swap.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Makes a group durable, whole, and gives the view with it.
    ///
    /// # Errors
    /// Nothing of the group is acknowledged. The file has been opened anew if it
    /// could be, so [`Store::snapshot`] may have changed.
    pub fn commit(&mut self, group: &Group) -> Result<Arc<Snapshot>, CommitError> {
        self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            write(&transaction, &group.partitions)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Commits each partition of a group that could not be committed whole, as a
    /// part of the file is damaged: those that are elsewhere are stored. Gives why
    /// the others are not. A request is about one partition, so none is cut.
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

    /// Stores what a swap says, alone.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn set_record(&mut self, record: Record) -> Result<Arc<Snapshot>, CommitError> {
        self.attempt_with(record, |database, record| {
            let transaction = begin(database)?;
            write_record(&transaction, record)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Commits something together with a new record.
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
    /// When the disk fails.
    pub fn begin_migration(&mut self, limits: Limits) -> Result<Migration, CommitError> {
        let opened = self.opened()?;
        let base = Arc::clone(&opened.snapshot);
        match base.damage.contain(|| begin(&opened.database)) {
            Ok(transaction) => Ok(Migration::new(transaction, base, limits)),
            Err(failure) => Err(self.fail(failure)),
        }
    }

    /// Makes a migration durable together with what the swap stores.
    ///
    /// # Errors
    /// As [`Store::commit`].
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

    /// Opens the file anew after a read failed, if it has not been since the
    /// opening that failed; or if it is closed after a failure that is not too
    /// recent.
    pub fn recover(&mut self, failed_opening: u64) {
        if failed_opening == self.openings {
            self.shut();
        }
        if self.opened.is_none() {
            let _ = self.opened();
        }
    }

    /// As [`Store::snapshot`], but opens the file anew if it is closed.
    ///
    /// # Errors
    /// When it cannot be, or failed to be just before.
    pub fn snapshot_or_reopen(&mut self) -> Result<Arc<Snapshot>, CommitError> {
        Ok(Arc::clone(&self.opened()?.snapshot))
    }

    fn backing_off(&self) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() < BACKOFF)
    }

    /// The opened file; opens it anew if it is not, at most once a [`BACKOFF`].
    ///
    /// Looks first whether the file is where it was: nothing is written to one that nobody would
    /// find again. That takes two microseconds.
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
        Ok(self.opened.as_mut().expect("it is open or was just opened"))
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

    /// After a failed operation redb answers nothing more from this opening, so
    /// a new one takes its place.
    fn fail(&mut self, failure: CommitFailure) -> CommitError {
        self.shut();
        self.failure = match self.reopen() {
            Err(again) => Some((again, Instant::now())),
            // Only what met the damage fails: the next may be elsewhere.
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
                tracing::info!(opening = self.openings, "the store was opened anew");
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

/// The file that is locked.
const LOCK: &str = "lock";

/// What the lock's file says once there was a data file: one that is missing then is not made anew.
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
        return Err(io(io::Error::other("it is another file by now")));
    }
    let (database, shut) = contain(|| open_database(file, options, false)).map_err(damaged)?;
    let database = Contained::new(database);
    // Its layout was looked at when it was found.
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

/// Makes an empty store: beside its place first, then renamed into it, so that
/// a crash on the way leaves nothing that does not open.
fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let unfinished = path.with_extension("new");
    let io = |source| OpenError::Io {
        path: unfinished.clone(),
        source,
    };
    // A file that is new is not damaged.
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
    // redb would make a new store of it.
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

/// Makes the tables, so that a read never finds one missing.
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
/// Quick repair: a start after a kill takes a millisecond however large the
/// file is, where it would otherwise read all of it. It also commits in two
/// phases, so that a torn commit is never told from a whole one by a checksum
/// that a client could forge. It costs a fifth to a third of the durable rate.
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

/// Writes in key order: neighbours share pages.
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
