//! What checkpoints change while the data file is copied.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::lock;
use super::outcome::Stopped;
use crate::memtable::Memtable;

/// Above this much memory for the changed rows, these are copied before others are.
pub(super) const MANY: usize = 1 << 20;
/// The limit on the memory for the changed rows. If a shard changes rows faster than they can be
/// copied, the compaction ends.
const MOST: usize = 16 << 20;
/// The memory of a changed row, beyond its keys.
const ROW_BYTES: usize = 96;

/// A row's place. The tables are copied one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Entry(Vec<u8>, Vec<u8>),
    Size(Vec<u8>),
}

impl Row {
    pub(super) fn memory(&self) -> usize {
        ROW_BYTES
            + match self {
                Self::Entry(partition, key) => partition.len() + key.len(),
                Self::Size(partition) => partition.len(),
            }
    }
}

/// What checkpoints changed of what was copied.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(super) noted: Mutex<Noted>,
    stopped: OnceLock<Stopped>,
    /// Ends the writes to the second file.
    pub(super) shut: OnceLock<Arc<AtomicBool>>,
}

#[derive(Debug, Default)]
pub(super) struct Noted {
    /// The last row that was copied.
    pub(super) copied: Option<Row>,
    /// All rows were copied.
    pub(super) is_whole: bool,
    /// A step is under way: it does not see what is committed from now on, and may copy any row.
    pub(super) is_copying: bool,
    pub(super) changed: BTreeSet<Row>,
    /// The memory of `changed`.
    pub(super) bytes: usize,
}

impl Noted {
    fn concerns(&self, row: &Row) -> bool {
        self.is_copying || self.is_whole || Some(row) <= self.copied.as_ref()
    }

    /// Returns whether there is memory for it.
    fn note(&mut self, row: Row) -> bool {
        let memory = row.memory();
        if self.changed.insert(row) {
            self.bytes += memory;
        }
        self.bytes <= MOST
    }

    /// Notes the rows that a memtable changed. Returns whether there is memory for them.
    fn note_all(&mut self, memtable: &Memtable) -> bool {
        for ((partition, key), _) in memtable.entries() {
            let row = Row::Entry(partition.to_vec(), key.to_vec());
            if !self.concerns(&row) {
                break;
            }
            if !self.note(row) {
                return false;
            }
        }
        for (partition, _) in memtable.rows() {
            let row = Row::Size(partition.to_vec());
            if !self.concerns(&row) {
                break;
            }
            if !self.note(row) {
                return false;
            }
        }
        true
    }

    /// Forgets the rows that are yet to be copied.
    pub(super) fn keep_copied(&mut self) {
        if let (Some(copied), false) = (&self.copied, self.is_whole) {
            let (from, later) = (Bound::Excluded(copied), Bound::Unbounded);
            if let Some(first) = self.changed.range((from, later)).next().cloned() {
                let later = self.changed.split_off(&first);
                self.bytes -= later.iter().map(Row::memory).sum::<usize>();
            }
        }
    }
}

impl Notes {
    /// Commits a checkpoint, and notes what it changes.
    pub(crate) fn commit<T, E>(
        &self,
        memtable: &Memtable,
        commit: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut noted = lock(&self.noted);
        let done = commit()?;
        if self.stopped().is_none() && !noted.note_all(memtable) {
            (noted.changed, noted.bytes) = (BTreeSet::new(), 0);
            self.stop(Stopped::Changes);
        }
        Ok(done)
    }

    /// Ends the compaction at its next step.
    pub(crate) fn stop(&self, why: Stopped) {
        let _ = self.stopped.set(why);
        if let Some(shut) = self.shut.get() {
            shut.store(true, Ordering::Release);
        }
    }

    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.stopped.get().copied()
    }

    /// Whether few rows were changed since they were copied.
    pub(crate) fn are_few(&self) -> bool {
        lock(&self.noted).bytes <= MANY
    }
}
