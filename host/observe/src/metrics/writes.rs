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
    size: Level,
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
            size: Level::default(),
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
        let help = "The store's size on disk";
        to.register_with_unit("store", help, Unit::Bytes, self.size.clone());
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
        let (all, available) = size.filesystem.unzip();
        self.writes.filesystem_size.set(all);
        self.writes.filesystem_available.set(available);
    }
}
