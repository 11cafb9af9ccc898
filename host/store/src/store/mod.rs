//! The store: commits to the journal, migrations, and views.

mod checkpoints;
mod compacting;
mod opening;
mod reopening;

pub(super) use opening::replay;
pub use opening::{Found, Options, Sizes};

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

#[cfg(test)]
use ostrakon_observe::metrics::Metrics;
use redb::{Database, StorageError};

use super::checkpoint::{Background, Done};
use super::commit::{self, Changes};
use super::compaction::{Compacting, Stopped};
use super::damage::{Contained, Damage};
use super::failure::{CommitError, CommitFailure};
use super::file::{begin, write_memtable, write_record};
use super::group::{Group, Limits};
use super::held::{Held, Missing};
use super::journal::{Journal, Place};
use super::memtable::Memtable;
use super::migration::Migration;
use super::snapshot::{Snapshot, Stored};
use checkpoints::WAIT;
use compacting::Stand;

/// The memory that is kept for encoding commits.
const KEPT_BYTES: usize = 1 << 20;

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
    compaction: Stand,
    compacting: Compacting,
    /// How often the rows that were changed meanwhile were copied again.
    copied_again: u32,
    /// Whether it is unknown that the data file's name is on the disk.
    is_unsynced: bool,
    /// The last commit.
    committed: Instant,
    /// The record of a migration of which it is not known whether it was stored.
    tried: Option<Record>,
    /// It was stored, although it was called failed.
    is_overtaken: bool,
    /// The last failure, until a commit succeeds.
    failure: Option<(CommitFailure, Instant)>,
    /// How many checkpoints in a row failed because a page could not be read, and since when.
    unread: Option<(u32, Instant)>,
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

#[derive(Debug)]
struct Opened {
    database: Arc<Contained<Database>>,
    stored: Arc<Stored>,
    snapshot: Arc<Snapshot>,
    shut: Arc<AtomicBool>,
}

impl Opened {
    fn new(
        database: Arc<Contained<Database>>,
        stored: Arc<Stored>,
        shut: Arc<AtomicBool>,
        damage: &Damage,
    ) -> Self {
        Self {
            snapshot: Arc::new(Snapshot::of(Arc::clone(&stored), damage.clone())),
            database,
            stored,
            shut,
        }
    }
}

impl Store {
    #[cfg(test)]
    pub(crate) fn metrics(&self) -> &Metrics {
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
        if self.journal_failed {
            return;
        }
        if let Err(error) = self.journal.look(at_all) {
            tracing::warn!(%error, "another journal is begun");
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

    /// Whether the data was migrated although the migration was called failed: the disk failed
    /// when it was committed, and still did when the file was to be opened again. Nothing is read
    /// or stored any more; the next start has the migrated data.
    pub fn is_overtaken(&self) -> bool {
        self.is_overtaken
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
        let written = self.journal.write(body);
        if let Err(error) = written.and_then(|()| self.journal.look(false)) {
            self.journal_failed = true;
            return Err(StorageError::Io(error).into());
        }
        self.options.metrics.journal_written(body.len());
        Ok(())
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
            } else if !self.is_writing() && !self.is_finishing() {
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

    /// Begins a migration, on top of everything that was committed.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_migration(&mut self, limits: Limits) -> Result<Migration, CommitError> {
        self.ready()?;
        self.end_compaction(Stopped::Change);
        self.end_checkpoint();
        let memtables = self.memtables();
        let opened = self.opened()?;
        let base = Arc::clone(&opened.snapshot);
        let begun = base.damage.contain(|| {
            let transaction = begin(&opened.database)?;
            for memtable in &memtables {
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
            migration.complete()?;
            write_record(&migration.transaction, &record, &place)?;
            migration.transaction.into_inner().commit()?;
            Ok(())
        });
        if let Err(failure) = committed
            // It failed after it was stored, and the file was opened again.
            && (self.opened.is_none() || self.record != record)
        {
            if self.opened.is_none() {
                self.tried = Some(record);
            }
            return Err(self.refuse(failure));
        }
        self.record = record;
        self.failure = None;
        self.has_all(place);
        let snapshot = self.snapshot().expect("the store is open");
        Ok(Arc::clone(snapshot))
    }

    /// What the data file lacks, the older changes first.
    fn memtables(&self) -> Vec<Memtable> {
        let frozen = self.frozen.as_ref();
        let frozen = frozen.map(|frozen| Memtable::clone(&frozen.memtable));
        frozen.into_iter().chain([self.active.clone()]).collect()
    }

    /// Lets readers see what is committed.
    fn publish(&mut self) {
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.memtable);
        let of_frozen = frozen.map_or((0, 0), |frozen| (frozen.bytes(), frozen.len()));
        let (journal, used) = self.journal.bytes();
        let metrics = &self.options.metrics;
        metrics.memtables(
            self.active.bytes() + of_frozen.0,
            self.active.len() + of_frozen.1,
        );
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
