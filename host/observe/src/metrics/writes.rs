//! Metrics of the writer, its commits, and the store.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::labels::{Labelled, NotStored};
use super::{Level, Maybe, Metrics};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSize {
    /// The length of its file.
    pub bytes: u64,
    pub entries: u64,
    /// About how much less space its file would take if it was compacted.
    pub reclaimable: u64,
    /// The size of the file's filesystem, and how much of it the store may still take, in bytes;
    /// `None` if the system does not report it.
    pub filesystem: Option<(u64, u64)>,
}

#[derive(Debug)]
pub(super) struct Writes {
    depth: Level,
    wait: Histogram,
    group: Histogram,
    commit_duration: Histogram,
    commit_errors: Counter,
    not_stored: Labelled<NotStored, Counter>,
    last_commit: Maybe<f64>,
    journal_written: Counter,
    journal_size: Level,
    journal_used: Level,
    memtable_size: Level,
    memtable_entries: Level,
    checkpoint_duration: Histogram,
    checkpoint_errors: Counter,
    checkpoint_entries: Counter,
    checkpoint_size: Counter,
    commit_wait: Histogram,
    replay_duration: Maybe<f64>,
    replay_size: Level,
    replay_commits: Level,
    compactions: Counter,
    compaction_errors: Counter,
    size: Level,
    reclaimable: Level,
    entries: Level,
    filesystem_size: Maybe,
    filesystem_available: Maybe,
    missing: Level,
    damaged: Level,
}

impl Writes {
    pub(super) fn new() -> Self {
        Self {
            depth: Level::default(),
            wait: Histogram::of_durations(),
            group: Histogram::of_sizes(),
            commit_duration: Histogram::of_durations(),
            commit_errors: Counter::default(),
            not_stored: Labelled::new(Counter::default),
            last_commit: Maybe::default(),
            journal_written: Counter::default(),
            journal_size: Level::default(),
            journal_used: Level::default(),
            memtable_size: Level::default(),
            memtable_entries: Level::default(),
            checkpoint_duration: Histogram::of_durations(),
            checkpoint_errors: Counter::default(),
            checkpoint_entries: Counter::default(),
            checkpoint_size: Counter::default(),
            commit_wait: Histogram::of_durations(),
            replay_duration: Maybe::default(),
            replay_size: Level::default(),
            replay_commits: Level::default(),
            compactions: Counter::default(),
            compaction_errors: Counter::default(),
            size: Level::default(),
            reclaimable: Level::default(),
            entries: Level::default(),
            filesystem_size: Maybe::default(),
            filesystem_available: Maybe::default(),
            missing: Level::default(),
            damaged: Level::default(),
        }
    }

    pub(super) fn register(&self, to: &mut Registry) {
        let help = "Write requests that wait for the writer";
        to.register("writer_depth", help, self.depth.clone());
        let help = "Time from a write request's arrival at the writer to its turn";
        to.register_with_unit("writer_wait", help, Unit::Seconds, self.wait.clone());
        let help = "Write requests in one commit";
        to.register("writer_group_size", help, self.group.clone());
        let help = "Time to make one group of writes durable";
        to.register_with_unit(
            "commit_duration",
            help,
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        let help = "Commits that failed, of which nothing was acknowledged";
        to.register("commit_errors", help, self.commit_errors.clone());
        let help = "Write requests that were not acknowledged because they could not be stored";
        to.register("writes_not_stored", help, self.not_stored.clone());
        let help = "When the last commit was made, in Unix time";
        to.register_with_unit(
            "last_commit_timestamp",
            help,
            Unit::Seconds,
            self.last_commit.clone(),
        );
        self.register_journal(to);
        let help = "The size of the data file";
        to.register_with_unit("store", help, Unit::Bytes, self.size.clone());
        let help = "About how much less space the data file would take if it was compacted";
        let reclaimable = self.reclaimable.clone();
        to.register_with_unit("store_reclaimable", help, Unit::Bytes, reclaimable);
        let help = "Compactions of the data file";
        to.register("compactions", help, self.compactions.clone());
        let help = "Compactions that ended without effect";
        to.register("compaction_errors", help, self.compaction_errors.clone());
        let help = "Entries in the store";
        to.register("store_entries", help, self.entries.clone());
        let help = "The size of the filesystem that the store is on";
        to.register_with_unit(
            "store_filesystem_size",
            help,
            Unit::Bytes,
            self.filesystem_size.clone(),
        );
        let help = "Space that the store may still take on its filesystem";
        to.register_with_unit(
            "store_filesystem_available",
            help,
            Unit::Bytes,
            self.filesystem_available.clone(),
        );
        let help = "1 while the store's file is not where it was opened, and writes are refused";
        to.register("store_missing", help, self.missing.clone());
        let help = "1 if a part of the store's file was found to be damaged";
        to.register("store_damaged", help, self.damaged.clone());
    }

    fn register_journal(&self, to: &mut Registry) {
        let help = "Bytes of commits that were written to the journal";
        let written = self.journal_written.clone();
        to.register_with_unit("journal_written", help, Unit::Bytes, written);
        let help = "The size of the journal's files";
        to.register_with_unit("journal", help, Unit::Bytes, self.journal_size.clone());
        let help =
            "The size of those files of the journal that have commits which the data file may lack";
        to.register_with_unit("journal_used", help, Unit::Bytes, self.journal_used.clone());
        let help = "The memory of changes that the data file lacks";
        to.register_with_unit("memtable", help, Unit::Bytes, self.memtable_size.clone());
        let help = "Changed entries that the data file lacks";
        to.register("memtable_entries", help, self.memtable_entries.clone());
        let help = "Time to bring the data file up to date, in the background";
        to.register_with_unit(
            "checkpoint_duration",
            help,
            Unit::Seconds,
            self.checkpoint_duration.clone(),
        );
        let help = "Failures to bring the data file up to date, after which the journal keeps what it lacks";
        to.register("checkpoint_errors", help, self.checkpoint_errors.clone());
        let help = "Changed entries that were written to the data file";
        to.register("checkpoint_entries", help, self.checkpoint_entries.clone());
        let help = "The memory of the changes that were written to the data file";
        let size = self.checkpoint_size.clone();
        to.register_with_unit("checkpoint", help, Unit::Bytes, size);
        let help = "Time that commits waited for a checkpoint or for space in the journal";
        to.register_with_unit("commit_wait", help, Unit::Seconds, self.commit_wait.clone());
        let help = "Time that the start took to replay the journal";
        let duration = self.replay_duration.clone();
        to.register_with_unit("replay_duration", help, Unit::Seconds, duration);
        let help = "Bytes of the journal that the start replayed";
        to.register_with_unit("replay", help, Unit::Bytes, self.replay_size.clone());
        let help = "Commits that the start replayed";
        to.register("replay_commits", help, self.replay_commits.clone());
    }
}

impl Metrics {
    /// Sets how many write requests wait for the writer.
    pub fn writer_depth(&self, depth: usize) {
        self.writes.depth.set(depth as u64);
    }

    /// Records how long a write request waited for its turn.
    pub fn writer_wait(&self, duration: Duration) {
        self.writes.wait.observe_duration(duration);
    }

    /// Records a group of `size` write requests that became durable.
    pub fn commit(&self, duration: Duration, size: usize) {
        self.writes.commit_duration.observe_duration(duration);
        self.writes.group.observe(size as u64);
    }

    /// Counts the bytes of a commit in the journal.
    pub fn journal_written(&self, bytes: usize) {
        self.writes.journal_written.inc_by(bytes as u64);
    }

    /// Sets the size of the journal, and of that part of it that the data file may lack.
    pub fn journal(&self, bytes: u64, used: u64) {
        self.writes.journal_size.set(bytes);
        self.writes.journal_used.set(used);
    }

    /// Sets what is in memory and not in the data file.
    pub fn memtables(&self, bytes: usize, entries: usize) {
        self.writes.memtable_size.set(bytes as u64);
        self.writes.memtable_entries.set(entries as u64);
    }

    /// Records that the data file was brought up to date.
    pub fn checkpoint(&self, duration: Duration, entries: usize, bytes: usize) {
        self.writes.checkpoint_duration.observe_duration(duration);
        self.writes.checkpoint_entries.inc_by(entries as u64);
        self.writes.checkpoint_size.inc_by(bytes as u64);
    }

    pub fn checkpoint_failed(&self) {
        self.writes.checkpoint_errors.inc();
    }

    /// Records how long a commit waited for a checkpoint, or for space in the journal.
    pub fn commit_waited(&self, duration: Duration) {
        self.writes.commit_wait.observe_duration(duration);
    }

    /// Sets what the start replayed.
    pub fn replayed(&self, duration: Duration, bytes: u64, commits: u64) {
        self.writes
            .replay_duration
            .set(Some(duration.as_secs_f64()));
        self.writes.replay_size.set(bytes);
        self.writes.replay_commits.set(commits);
    }

    /// Counts a compaction of the data file.
    pub fn compacted(&self, is_done: bool) {
        if is_done {
            self.writes.compactions.inc();
        } else {
            self.writes.compaction_errors.inc();
        }
    }

    pub fn commit_failed(&self) {
        self.writes.commit_errors.inc();
    }

    /// Counts a write request that was answered as not stored.
    pub fn write_not_stored(&self, why: NotStored) {
        self.writes.not_stored.of(why).inc();
    }

    /// Sets when the last commit was made, in Unix time. Hidden if there was none since the start.
    pub fn last_commit(&self, at: Option<f64>) {
        self.writes.last_commit.set(at);
    }

    /// Sets whether the store's file is missing, and whether a part of it is damaged.
    pub fn store_standing(&self, is_missing: bool, is_damaged: bool) {
        self.writes.missing.set(is_missing.into());
        self.writes.damaged.set(is_damaged.into());
    }

    pub fn store_size(&self, size: StoreSize) {
        self.writes.size.set(size.bytes);
        self.writes.entries.set(size.entries);
        self.writes.reclaimable.set(size.reclaimable);
        let (all, available) = size.filesystem.unzip();
        self.writes.filesystem_size.set(all);
        self.writes.filesystem_available.set(available);
    }
}
