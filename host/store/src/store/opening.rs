//! Finding and opening a data directory, and what can be chosen about it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ostrakon_base::regular;
use ostrakon_base::stored::Unreadable;
use ostrakon_observe::metrics::Metrics;

use super::compacting::Stand;
use super::reopening::open;
use super::{Record, Store};
use crate::RECORDS;
use crate::check::{check_file, peek};
use crate::checkpoint::Background;
use crate::commit;
use crate::compaction::{Compacting, remove_unfinished};
use crate::damage::Damage;
use crate::disk::FileDisk;
use crate::failure::OpenError;
use crate::file::{MakeDisk, bring_over, count_space, create};
use crate::held::Held;
use crate::journal::{self, Fault, Journal, Place, Replayed};
use crate::memtable::Memtable;

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
    /// How much a compaction copies at a time, in bytes.
    pub step_bytes: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 20,
            segments: 64,
            memtable_bytes: 16 << 20,
            idle: Duration::from_secs(3),
            step_bytes: 1 << 20,
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
        if meta.space.is_none() {
            count_space(&opened.database);
        }
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
            compaction: Stand::None,
            compacting: Compacting::default(),
            copied_again: 0,
            is_unsynced: false,
            committed: Instant::now(),
            tried: None,
            is_overtaken: false,
            failure: None,
            unread: None,
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
        remove_unfinished(directory);
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
}

/// What the journal has after a place.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) memtable: Memtable,
    pub(crate) record: Option<Record>,
}

/// Reads what the journal has after a place.
pub(crate) fn replay(
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
