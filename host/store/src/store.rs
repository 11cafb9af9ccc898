//! The store: finding, opening, committing to the journal, checkpoints, and what follows a failure.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ostrakon_base::regular;
use ostrakon_base::stored::Unreadable;
use ostrakon_observe::metrics::Metrics;
use redb::{Database, StorageError};

use super::RECORDS;
use super::check::{check_file, peek};
use super::checkpoint::{Background, Checkpoint, Done};
use super::commit::{self, Changes};
use super::damage::{Contained, Damage, contain};
use super::disk::FileDisk;
use super::failure::{CommitError, CommitFailure, OpenError};
use super::file::{
    MakeDisk, Meta, begin, bring_over, create, open_database, read, read_meta, write_memtable,
    write_record,
};
use super::group::{Group, Limits};
use super::held::{Held, Missing};
use super::journal::{self, Fault, Journal, Place, Replayed};
use super::memtable::Memtable;
use super::migration::Migration;
use super::snapshot::{ReadError, Snapshot, Stored};

/// How long the store waits at a time for its other threads.
const WAIT: Duration = Duration::from_secs(1);

/// How long partitions that the data file does not take are left alone.
const STUCK: Duration = Duration::from_mins(1);

/// How many transactions may fail while it is found which partitions the data file does not take:
/// each costs an opening of the file, while writes wait.
const MOST_ATTEMPTS: u32 = 100;

/// The memory that is kept for encoding commits.
const KEPT_BYTES: usize = 1 << 20;

pub struct Options {
    /// The data directory; created if it is missing.
    pub directory: PathBuf,
    /// The memory that redb may use for pages, in bytes.
    pub cache_bytes: usize,
    /// Whether to check the whole file before it is first opened.
    pub check: bool,
    /// Called each time a file is opened.
    pub disk: MakeDisk,
    pub journal: Sizes,
    /// How long the store waits after a failure before it tries the disk again.
    pub backoff: Duration,
    /// Whether checkpoints and new segments have threads. If not, they are done in commits.
    pub threads: bool,
    pub metrics: Arc<Metrics>,
}

/// How much the journal and memory have before the data file is brought up to date.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The bytes of a new journal's segments: 512 times a number of at least 2.
    pub segment_bytes: u32,
    /// How many segments there are at most, unless one commit needs more. A checkpoint begins
    /// when half of them are in use.
    pub segments: usize,
    /// How much memory a memtable takes before a checkpoint begins. There are two.
    pub memtable_bytes: usize,
    /// How long after the last commit a checkpoint begins.
    pub idle: Duration,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 20,
            segments: 64,
            memtable_bytes: 16 << 20,
            idle: Duration::from_secs(3),
        }
    }
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
            disk: Arc::new(|file| Box::new(FileDisk::new(file))),
            journal: Sizes::default(),
            backoff: Duration::from_millis(250),
            threads: true,
            metrics: Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))),
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
    journal: Journal,
    /// The journal failed: only what is in memory is known to be so.
    journal_failed: bool,
    /// A commit's record before it is in sectors.
    body: Vec<u8>,
    /// What the data file does not have, and no checkpoint writes yet.
    active: Memtable,
    /// What a checkpoint writes.
    frozen: Option<Frozen>,
    /// The place up to which the data file has everything.
    stored_up_to: Place,
    background: Background,
    /// The last commit.
    committed: Instant,
    /// The last failure, until a commit succeeds.
    failure: Option<(CommitFailure, Instant)>,
    /// The last failure of a checkpoint, until one succeeds.
    behind: Option<(CommitFailure, Instant)>,
    /// When a segment could not be made, until one can be.
    no_space: Option<Instant>,
    /// The partitions that the data file does not take, because a part of it is damaged. They are
    /// in the journal and in memory.
    stuck: HashMap<Vec<u8>, CommitError>,
    /// When they were last tried, if there are any.
    stuck_since: Option<Instant>,
    /// The memory that they take in the active memtable, at most.
    carried_bytes: usize,
    held: Held,
    damage: Damage,
    /// Held for the life of the store, across all openings of the file.
    _lock: File,
}

/// Changes that a checkpoint writes.
#[derive(Clone, Debug)]
struct Frozen {
    memtable: Arc<Memtable>,
    /// The record as of its last commit.
    record: Record,
    /// The place after its last commit.
    place: Place,
    /// Whether a checkpoint is under way. If not, one has failed.
    is_being_written: bool,
}

/// A data directory that this process holds. Its files were read, and were not changed.
#[derive(Debug)]
pub struct Found {
    path: PathBuf,
    options: Options,
    record: Record,
    /// What the journal has and the data file has not.
    memtable: Memtable,
    /// None in layout 1, which has no journal.
    replayed: Option<Replayed>,
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
            record,
            memtable,
            replayed,
            held,
            had_one,
            lock,
        } = self;
        if !had_one && let Err(error) = remember(&lock) {
            // The disk may be full; the next start tries again.
            let path = options.directory.join(LOCK);
            tracing::warn!(%error, path = %path.display(), "cannot record that a data file exists");
        }
        if options.check {
            let checked = check_file(held.file(), &options.directory, options.cache_bytes);
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
        let (opened, meta) = open(&path, &options, &held, &damage, 1)?;
        let directory = options.directory.join(journal::DIRECTORY);
        let io = |source| OpenError::Io {
            path: directory.clone(),
            source,
        };
        let place = match meta.place {
            Some(place) => place,
            None => bring_over(&opened.database, &options)?,
        };
        let replayed = match replayed {
            Some(replayed) => replayed,
            None => replay(&options.directory, &options.disk, place)?.1,
        };
        let journal = Journal::open(
            &options.directory,
            options.journal.segments,
            Arc::clone(&options.disk),
            &replayed,
        );
        let mut store = Store {
            path,
            journal: journal.map_err(io)?,
            journal_failed: false,
            body: Vec::new(),
            opened: Some(opened),
            openings: 1,
            record,
            active: memtable,
            frozen: None,
            stored_up_to: place,
            background: Background::start(options.threads).map_err(io)?,
            committed: Instant::now(),
            failure: None,
            behind: None,
            no_space: None,
            stuck: HashMap::new(),
            stuck_since: None,
            carried_bytes: 0,
            held,
            damage,
            options,
            _lock: lock,
        };
        store.publish();
        store.tend();
        Ok(store)
    }
}

#[derive(Debug)]
struct Opened {
    database: Arc<Contained<Database>>,
    stored: Arc<Stored>,
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
    /// with the data. Existing files are not changed: the caller decides whether the record can
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
        let meta = peek(&path, (options.disk)(file))?;
        let mut record = meta.record;
        let (memtable, replayed) = match meta.place {
            Some(place) => {
                let began = Instant::now();
                let (contents, replayed) = replay(directory, &options.disk, place)?;
                let (bytes, commits) = (replayed.bytes, replayed.commits);
                options.metrics.replayed(began.elapsed(), bytes, commits);
                if let Some(newer) = contents.record {
                    record = newer;
                }
                (contents.memtable, Some(replayed))
            }
            None => (Memtable::default(), None),
        };
        Ok(Found {
            path,
            options,
            record,
            memtable,
            replayed,
            held,
            had_one,
            lock,
        })
    }

    pub fn metrics(&self) -> &Metrics {
        &self.options.metrics
    }

    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Checks that the files are still where they were opened.
    ///
    /// # Errors
    /// If the data file is not: then nothing is stored until it is back. The journal is replaced
    /// by another one before the next commit.
    pub fn look(&mut self) -> Result<(), Missing> {
        self.held.look()?;
        self.look_at_the_journal(true);
        Ok(())
    }

    fn look_at_the_journal(&mut self, at_all: bool) {
        if !self.journal_failed && !self.journal.is_there(at_all) {
            tracing::warn!(
                "a file of the journal was removed or replaced: another journal is begun"
            );
            self.journal_failed = true;
        }
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
    /// If it fails, nothing of the group is acknowledged. Files may have been reopened, so
    /// [`Store::snapshot`] may have changed.
    pub fn commit(&mut self, group: Group) -> Result<Arc<Snapshot>, CommitError> {
        self.append(group.changes, None)
    }

    /// Why a partition takes no writes, if a part of the data file is damaged.
    pub fn stuck(&self, partition: &[u8]) -> Option<&CommitError> {
        self.stuck.get(partition)
    }

    /// Stores a swap's record by itself.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    pub fn set_record(&mut self, record: Record) -> Result<Arc<Snapshot>, CommitError> {
        self.append(Changes::new(), Some(record))
    }

    /// Makes a commit durable: in the journal, by one write and one sync.
    pub(super) fn append(
        &mut self,
        changes: Changes,
        record: Option<Record>,
    ) -> Result<Arc<Snapshot>, CommitError> {
        self.ready()?;
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        commit::encode(&changes, record.as_ref(), &mut body);
        if let Err(failure) = self.make_room(body.len()) {
            return Err(self.refuse(failure));
        }
        if let Err(failure) = self.write_to_journal(&body) {
            return Err(self.refuse(failure));
        }
        self.active.apply(changes);
        if let Some(record) = record {
            self.record = record;
        }
        self.failure = None;
        self.committed = Instant::now();
        body.shrink_to(KEPT_BYTES);
        self.body = body;
        self.publish();
        let snapshot = self.snapshot().expect("the store is open");
        Ok(Arc::clone(snapshot))
    }

    fn write_to_journal(&mut self, body: &[u8]) -> Result<(), CommitFailure> {
        let mut written = self.journal.write(body);
        if written.is_ok() && !self.journal.is_there(false) {
            let gone = "a file of the journal was removed or replaced";
            written = Err(io::Error::new(io::ErrorKind::NotFound, gone));
        }
        if let Err(error) = written {
            self.journal_failed = true;
            return Err(StorageError::Io(error).into());
        }
        self.options.metrics.journal_written(body.len());
        Ok(())
    }

    fn refuse(&mut self, failure: CommitFailure) -> CommitError {
        self.failure = Some((failure.clone(), Instant::now()));
        failure.into()
    }

    /// Gets everything ready for a commit: the data file is open and where it was, and the journal
    /// works. Tries a disk that failed at most once per [`Options::backoff`].
    fn ready(&mut self) -> Result<(), CommitError> {
        self.opened()?;
        self.look_at_the_journal(false);
        if self.journal_failed
            && let Err(failure) = self.begin_anew()
        {
            return Err(self.refuse(failure));
        }
        Ok(())
    }

    /// Begins another journal after a failure: everything that was acknowledged is in memory, and
    /// is written to the data file.
    fn begin_anew(&mut self) -> Result<(), CommitFailure> {
        self.end_checkpoint();
        let place = self.journal.anew().map_err(StorageError::Io)?;
        self.write_all(place)?;
        self.journal.restart();
        self.journal_failed = false;
        tracing::info!("another journal was begun");
        Ok(())
    }

    /// Writes everything that is in memory to the data file, which then says that it has all up to
    /// this place.
    fn write_all(&mut self, place: Place) -> Result<(), CommitFailure> {
        let record = self.record.clone();
        let frozen = self
            .frozen
            .as_ref()
            .map(|frozen| Arc::clone(&frozen.memtable));
        let active = self.active.clone();
        self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            for memtable in frozen.as_deref().into_iter().chain([&active]) {
                write_memtable(&transaction, memtable, None)?;
            }
            write_record(&transaction, &record, &place)?;
            transaction.commit()?;
            Ok(())
        })?;
        self.has_all(place);
        Ok(())
    }

    /// Notes that the data file has everything up to a place.
    fn has_all(&mut self, place: Place) {
        (self.frozen, self.active) = (None, Memtable::default());
        self.not_stuck();
        self.caught_up(place);
    }

    /// The data file takes every partition.
    fn not_stuck(&mut self) {
        self.stuck.clear();
        (self.stuck_since, self.carried_bytes) = (None, 0);
    }

    fn caught_up(&mut self, place: Place) {
        self.behind = None;
        self.stored_up_to = place;
        self.journal.release(&place);
        self.publish();
    }

    /// Sees that a commit whose record has this length has room in the journal, and its changes in
    /// memory.
    fn make_room(&mut self, length: usize) -> Result<(), CommitFailure> {
        let began = Instant::now();
        let mut waited = false;
        loop {
            self.tend();
            if self.opened.is_none() || self.journal_failed {
                return Err(self.why_closed());
            }
            let is_full = self.is_large() && self.frozen.is_some();
            let lacks = self.journal.lacks(length);
            if !is_full && lacks == 0 {
                break;
            }
            waited = true;
            if !is_full && self.journal.may_grow(lacks) {
                while self.journal.ordered() < lacks {
                    self.background.segment(self.journal.order());
                }
            } else if !self.is_writing() {
                if let Some((failure, _)) = &self.behind {
                    return Err(failure.clone());
                }
                self.begin_checkpoint();
            }
            match self.background.wait(WAIT) {
                Some(Done::Segment(made)) => self.journal.take(made).map_err(StorageError::Io)?,
                Some(done) => self.take(done),
                None => {}
            }
        }
        if waited {
            self.options.metrics.commit_waited(began.elapsed());
        }
        Ok(())
    }

    /// Does what is due besides commits: checkpoints, and segments ahead of need. Returns whether
    /// there is another view of the last commit.
    pub fn tend(&mut self) -> bool {
        let before = self.snapshot().map(Arc::as_ptr);
        while let Some(done) = self.background.done() {
            self.take(done);
        }
        if self.opened.is_some()
            && self.journal_failed
            && !self.backing_off()
            && let Err(failure) = self.begin_anew()
        {
            // What was acknowledged is in memory only: it is tried again and again.
            self.refuse(failure);
        }
        if self.opened.is_some() && !self.journal_failed {
            if self.is_due() {
                self.begin_checkpoint();
            }
            if self
                .no_space
                .is_none_or(|at| at.elapsed() >= self.options.backoff)
                && self.journal.wants_more()
            {
                self.background.segment(self.journal.order());
            }
        }
        before != self.snapshot().map(Arc::as_ptr)
    }

    /// Whether the active memtable should be written.
    fn is_large(&self) -> bool {
        self.active.bytes() >= self.options.journal.memtable_bytes + self.carried_bytes
    }

    /// Whether a checkpoint is to begin, or to be tried again.
    fn is_due(&self) -> bool {
        if let Some(frozen) = &self.frozen {
            let failed_lately = |(_, at): &(_, Instant)| at.elapsed() < self.options.backoff;
            return !frozen.is_being_written && !self.behind.as_ref().is_some_and(failed_lately);
        }
        let sizes = &self.options.journal;
        let is_idle = self.committed.elapsed() >= sizes.idle && self.lacks_something();
        self.is_large() || self.journal.is_long() || is_idle
    }

    fn begin_checkpoint(&mut self) {
        let Some(opened) = &self.opened else { return };
        let database = Arc::clone(&opened.database);
        let frozen = self.frozen.get_or_insert_with(|| Frozen {
            memtable: Arc::new(std::mem::take(&mut self.active)),
            record: self.record.clone(),
            place: self.journal.end(),
            is_being_written: false,
        });
        frozen.is_being_written = true;
        let checkpoint = Checkpoint {
            database,
            damage: self.damage.clone(),
            memtable: Arc::clone(&frozen.memtable),
            record: frozen.record.clone(),
            place: frozen.place,
        };
        self.publish();
        self.background.checkpoint(checkpoint);
    }

    /// Whether a checkpoint is under way.
    fn is_writing(&self) -> bool {
        let frozen = self.frozen.as_ref();
        frozen.is_some_and(|frozen| frozen.is_being_written)
    }

    /// Waits for the end of a checkpoint, if one is under way.
    fn end_checkpoint(&mut self) {
        while self.is_writing() {
            if let Some(done) = self.background.wait(WAIT) {
                self.take(done);
            }
        }
    }

    /// Takes up what was done in the background.
    fn take(&mut self, done: Done) {
        match done {
            Done::Segment(made) => {
                let made = self.journal.take(made);
                self.no_space = made.is_err().then(Instant::now);
                if let Err(error) = made {
                    tracing::warn!(%error, "no further segment of the journal can be made");
                }
            }
            Done::Checkpoint(ended) => {
                let Some(frozen) = &mut self.frozen else {
                    return;
                };
                frozen.is_being_written = false;
                let (entries, bytes) = (frozen.memtable.len(), frozen.memtable.bytes());
                let place = frozen.place;
                match ended.result.and_then(|()| self.read_again()) {
                    Ok(()) => {
                        self.options.metrics.checkpoint(ended.took, entries, bytes);
                        self.frozen = None;
                        self.not_stuck();
                        self.caught_up(place);
                    }
                    Err(failure) => self.checkpoint_failed(failure),
                }
            }
        }
    }

    /// Why the data file is closed.
    fn why_closed(&self) -> CommitFailure {
        let failure = self.failure.as_ref().or(self.behind.as_ref());
        failure.map_or_else(
            || StorageError::Io(io::Error::other("the data file is closed")).into(),
            |(failure, _)| failure.clone(),
        )
    }

    /// Shows readers the data file as it is now.
    fn read_again(&mut self) -> Result<(), CommitFailure> {
        let damage = self.damage.clone();
        let Some(opened) = &mut self.opened else {
            return Err(self.why_closed());
        };
        let opening = opened.stored.opening;
        let stored = damage.contain(|| read(&opened.database, opening));
        opened.stored = Arc::new(stored?);
        Ok(())
    }

    fn checkpoint_failed(&mut self, failure: CommitFailure) {
        self.options.metrics.checkpoint_failed();
        tracing::warn!(error = %CommitError::from(failure.clone()), "the data file could not be brought up to date: the journal keeps what it lacks");
        if self.opened.is_some() {
            self.fail(failure.clone());
        }
        let failure = match failure.is_damage().then(|| self.write_apart()) {
            None => failure,
            Some(Ok(())) => return,
            Some(Err(other)) => other,
        };
        self.behind = Some((failure, Instant::now()));
        self.publish();
    }

    /// Writes what is frozen in parts, after it could not be written as a whole because part of
    /// the file is damaged. The partitions that cannot be written go to the journal once more, so
    /// that what is before can be used again; from then on they take no writes.
    fn write_apart(&mut self) -> Result<(), CommitFailure> {
        let Some(frozen) = self.frozen.clone() else {
            return Ok(());
        };
        let mut partitions = frozen.memtable.partitions();
        // Those that were not written before are not tried again for each checkpoint.
        let is_patient = self.stuck_since.is_none_or(|at| at.elapsed() < STUCK);
        let mut failed = HashMap::new();
        if is_patient {
            partitions.retain(|partition| {
                let error = self.stuck.get(partition);
                failed.extend(error.map(|error| (partition.clone(), error.clone())));
                error.is_none()
            });
        }
        self.write_parts(&frozen.memtable, &partitions, &mut failed, &mut 0)?;
        tracing::warn!(
            partitions = failed.len(),
            "a part of the data cannot be written to the data file"
        );
        let mut changes = Changes::new();
        for partition in failed.keys() {
            let pending = Memtable::carried(&frozen.memtable, &self.active, partition);
            changes.insert(partition.clone(), pending);
        }
        if !is_patient || self.stuck_since.is_none() {
            self.stuck_since = Some(Instant::now());
        }
        self.stuck = failed;
        let mut body = Vec::new();
        commit::encode(&changes, None, &mut body);
        while self.journal.lacks(body.len()) > 0 {
            let made = self.journal.order().run();
            self.journal.take(made).map_err(StorageError::Io)?;
        }
        self.write_to_journal(&body)?;
        let before = self.active.bytes();
        self.active.apply(changes);
        self.carried_bytes = self.active.bytes() - before;
        self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            write_record(&transaction, &frozen.record, &frozen.place)?;
            transaction.commit()?;
            Ok(())
        })?;
        self.frozen = None;
        self.caught_up(frozen.place);
        Ok(())
    }

    /// Writes these partitions' changes: all at once, or, where that fails, each half by itself.
    fn write_parts(
        &mut self,
        memtable: &Memtable,
        partitions: &[Vec<u8>],
        failed: &mut HashMap<Vec<u8>, CommitError>,
        attempts: &mut u32,
    ) -> Result<(), CommitFailure> {
        if partitions.is_empty() {
            return Ok(());
        }
        let written = self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            write_memtable(&transaction, memtable, Some(partitions))?;
            transaction.commit()?;
            Ok(())
        });
        *attempts += u32::from(written.is_err());
        match written {
            Ok(()) => Ok(()),
            Err(failure) if !failure.is_damage() || *attempts >= MOST_ATTEMPTS => Err(failure),
            Err(failure) if partitions.len() == 1 => {
                failed.insert(partitions[0].clone(), failure.into());
                Ok(())
            }
            Err(_) => {
                let (one, other) = partitions.split_at(partitions.len() / 2);
                self.write_parts(memtable, one, failed, attempts)?;
                self.write_parts(memtable, other, failed, attempts)
            }
        }
    }

    /// Brings the data file up to date, and waits until it is.
    ///
    /// # Errors
    /// If the disk fails. Then the journal has what the data file lacks.
    pub fn catch_up(&mut self) -> Result<(), CommitError> {
        self.ready()?;
        self.end_checkpoint();
        while self.frozen.is_some() || self.lacks_something() {
            self.begin_checkpoint();
            self.end_checkpoint();
            if let Some((failure, _)) = &self.behind {
                return Err(failure.clone().into());
            }
        }
        Ok(())
    }

    /// Ends the work on the store: the next start will have nothing to replay, if possible.
    pub fn close(mut self) {
        if let Err(error) = self.catch_up() {
            tracing::warn!(%error, "the data file could not be brought up to date: the next start replays the journal");
        }
    }

    /// Whether the data file lacks something that it can take.
    fn lacks_something(&self) -> bool {
        let waits = self.stuck_since.is_some_and(|at| at.elapsed() < STUCK);
        self.journal.end() != self.stored_up_to && !waits
    }

    /// Begins a migration, on top of everything that was committed.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_migration(&mut self, limits: Limits) -> Result<Migration, CommitError> {
        self.ready()?;
        self.end_checkpoint();
        let frozen = self
            .frozen
            .as_ref()
            .map(|frozen| Arc::clone(&frozen.memtable));
        let active = self.active.clone();
        let opened = self.opened()?;
        let base = Arc::clone(&opened.snapshot);
        let begun = base.damage.contain(|| {
            let transaction = begin(&opened.database)?;
            for memtable in frozen.as_deref().into_iter().chain([&active]) {
                write_memtable(&transaction, memtable, None)?;
            }
            Ok::<_, CommitFailure>(transaction)
        });
        match begun {
            Ok(transaction) => Ok(Migration::new(transaction, base, limits)),
            Err(failure) => {
                self.fail(failure.clone());
                Err(self.refuse(failure))
            }
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
        let place = self.journal.end();
        let committed = self.attempt(|_| {
            migration.flush()?;
            write_record(&migration.transaction, &record, &place)?;
            migration.transaction.into_inner().commit()?;
            Ok(())
        });
        if let Err(failure) = committed
            // It failed after it was stored, and the file was opened again.
            && (self.opened.is_none() || self.record != record)
        {
            return Err(self.refuse(failure));
        }
        self.record = record;
        self.failure = None;
        self.has_all(place);
        let snapshot = self.snapshot().expect("the store is open");
        Ok(Arc::clone(snapshot))
    }

    /// Reopens the file after a read failed, unless it was already reopened since the opening
    /// whose read failed. Also reopens a file that was closed after a failure, unless that
    /// failure is too recent.
    pub fn recover(&mut self, failed_opening: u64) {
        if failed_opening == self.openings {
            let was_behind = self.behind.take();
            self.shut();
            self.end_checkpoint();
            // A checkpoint that failed because of this says nothing of the disk.
            self.behind = was_behind;
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
            .is_some_and(|(_, at)| at.elapsed() < self.options.backoff)
    }

    /// The opened file. Reopens the file if it is closed, at most once per [`Options::backoff`].
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
            return Err(self.refuse(failure));
        }
        Ok(self
            .opened
            .as_mut()
            .expect("the file is open or was just reopened"))
    }

    /// Writes to the data file, and reads it again. Reopens it after a failure, since redb then
    /// answers nothing more.
    fn attempt(
        &mut self,
        commit: impl FnOnce(&mut Opened) -> Result<(), CommitFailure>,
    ) -> Result<(), CommitFailure> {
        let damage = self.damage.clone();
        let committed = match &mut self.opened {
            Some(opened) => damage.contain(|| commit(opened)),
            None => Err(self.why_closed()),
        };
        let committed = committed.and_then(|()| self.read_again());
        if let Err(failure) = &committed {
            self.fail(failure.clone());
        }
        committed
    }

    /// Replaces the opening after a failed operation.
    fn fail(&mut self, failure: CommitFailure) {
        self.shut();
        if let Err(again) = self.reopen() {
            self.failure = Some((again, Instant::now()));
            tracing::warn!(error = %CommitError::from(failure), "the data file is closed until it can be opened again");
        }
    }

    fn shut(&mut self) {
        if let Some(opened) = self.opened.take() {
            opened.shut.store(true, Ordering::Release);
        }
    }

    fn reopen(&mut self) -> Result<(), CommitFailure> {
        let opening = self.openings + 1;
        match open(&self.path, &self.options, &self.held, &self.damage, opening) {
            Ok((opened, meta)) => {
                self.openings += 1;
                self.opened = Some(opened);
                self.found(meta);
                self.publish();
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

    /// Takes up what a file that was opened again has: a transaction that was called failed may be
    /// in it, and opening it has made that durable.
    fn found(&mut self, meta: Meta) {
        let Some(place) = meta.place else { return };
        if (self.frozen.as_ref()).is_some_and(|frozen| frozen.place.is_up_to(&place)) {
            self.frozen = None;
            self.behind = None;
            self.not_stuck();
            self.stored_up_to = place;
        }
        if self.journal.end().is_up_to(&place) {
            self.active = Memtable::default();
            self.record = meta.record;
        }
    }

    /// Lets readers see what is committed.
    fn publish(&mut self) {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.memtable);
        let [active, below] = [Some(&self.active), frozen.map(|frozen| &**frozen)]
            .map(|memtable| memtable.map_or((0, 0), |memtable| (memtable.bytes(), memtable.len())));
        let (journal, used) = self.journal.bytes();
        let metrics = &self.options.metrics;
        metrics.memtables(active.0 + below.0, active.1 + below.1);
        metrics.journal(journal, used);
        if let Some(opened) = &mut self.opened {
            opened.snapshot = Arc::new(Snapshot {
                stored: Arc::clone(&opened.stored),
                frozen: frozen.cloned(),
                active: self.active.clone(),
                damage: self.damage.clone(),
            });
        }
    }
}

/// What the journal has after a place.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) memtable: Memtable,
    pub(super) record: Option<Record>,
}

/// Reads what the journal has after a place.
pub(super) fn replay(
    data: &Path,
    disk: &MakeDisk,
    place: Place,
) -> Result<(Contents, Replayed), OpenError> {
    let directory = data.join(journal::DIRECTORY);
    let mut contents = Contents::default();
    let replayed = journal::replay(&directory, disk, place, |body| {
        let Ok((changes, record)) = commit::decode(body) else {
            return false;
        };
        contents.memtable.apply(changes);
        if record.is_some() {
            contents.record = record;
        }
        true
    });
    match replayed {
        Ok(replayed) => Ok((contents, replayed)),
        Err(fault) => Err(match fault {
            Fault::Io(path, source) => OpenError::Io { path, source },
            Fault::Newer(path, found) => OpenError::Newer {
                path,
                source: Unreadable::Newer {
                    format: RECORDS,
                    found: found.into(),
                },
            },
            Fault::Damaged(damaged) => OpenError::Journal(damaged),
        }),
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
) -> Result<(Opened, Meta), OpenError> {
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
    let meta = contain(|| read_meta(&database)).map_err(damaged)?;
    let stored = damage.contain(|| read(&database, opening));
    let stored = Arc::new(stored.map_err(|ReadError(error)| damaged(error.into()))?);
    let snapshot = Arc::new(Snapshot {
        stored: Arc::clone(&stored),
        frozen: None,
        active: Memtable::default(),
        damage: damage.clone(),
    });
    let opened = Opened {
        database: Arc::new(database),
        stored,
        snapshot,
        shut,
    };
    Ok((opened, meta))
}
