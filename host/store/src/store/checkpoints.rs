//! Checkpoints: when they begin, what follows them, and what a damaged data file does not take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::StorageError;

use super::{Frozen, Store};
use crate::checkpoint::{Checkpoint, Done};
use crate::commit::{self, Changes};
use crate::compaction::Stopped;
use crate::failure::{CommitError, CommitFailure};
use crate::file::{write_memtable, write_place, write_record};
use crate::journal::Place;
use crate::memtable::Memtable;

/// How long the store waits at a time for its other threads.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// How long partitions that the data file does not take are left alone.
const STUCK: Duration = Duration::from_mins(1);

/// After how many checkpoints in a row that failed because a page could not be read this is no
/// failure of the whole disk, but of a part of the data.
const MOST_UNREAD: u32 = 3;
/// How long they must have failed for that, as a multiple of [`Options::backoff`]: 5 s.
///
/// [`Options::backoff`]: crate::Options::backoff
const OUTAGE: u32 = 20;

/// How many transactions may fail while it is found which partitions the data file does not take:
/// each costs an opening of the file, while writes wait.
const MOST_ATTEMPTS: u32 = 100;

impl Store {
    /// The data file takes every partition.
    pub(super) fn not_stuck(&mut self) {
        self.stuck.clear();
        (self.stuck_since, self.carried_bytes) = (None, 0);
    }

    pub(super) fn caught_up(&mut self, place: Place) {
        self.behind = None;
        self.unread = None;
        self.stored_up_to = place;
        self.journal.release(&place);
        self.publish();
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
            self.tend_compaction();
            if !self.is_finishing() && self.is_due() {
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
    pub(super) fn is_large(&self) -> bool {
        self.active.bytes() >= self.options.journal.memtable_bytes + self.carried_bytes
    }

    /// Whether a checkpoint is to begin, or to be tried again.
    pub(super) fn is_due(&self) -> bool {
        if let Some(frozen) = &self.frozen {
            let failed_lately = |(_, at): &(_, Instant)| at.elapsed() < self.options.backoff;
            return !frozen.is_being_written && !self.behind.as_ref().is_some_and(failed_lately);
        }
        let sizes = &self.options.journal;
        let is_idle = self.committed.elapsed() >= sizes.idle && self.lacks_something();
        self.is_large() || self.journal.is_long() || is_idle
    }

    pub(super) fn begin_checkpoint(&mut self) {
        let notes = self.notes();
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
            unsynced: self.is_unsynced.then(|| self.options.directory.clone()),
            notes,
        };
        self.publish();
        self.background.checkpoint(checkpoint);
    }

    /// Whether a checkpoint is under way.
    pub(super) fn is_writing(&self) -> bool {
        let frozen = self.frozen.as_ref();
        frozen.is_some_and(|frozen| frozen.is_being_written)
    }

    /// Waits for the end of a checkpoint, if one is under way, or until a second data file is in
    /// the place of the first.
    pub(super) fn end_checkpoint(&mut self) {
        while self.is_writing() || self.is_finishing() {
            if let Some(done) = self.background.wait(WAIT) {
                self.take(done);
            }
        }
    }

    /// Takes up what was done in the background.
    pub(super) fn take(&mut self, done: Done) {
        match done {
            Done::Segment(made) => {
                let made = self.journal.take(made);
                self.no_space = made.is_err().then(Instant::now);
                if let Err(error) = made {
                    tracing::warn!(%error, "no further segment of the journal can be made");
                }
            }
            Done::Copied(copied) => self.copied(copied),
            Done::Switched(switched) => self.switched(switched),
            Done::Checkpoint(ended) => {
                let Some(frozen) = &mut self.frozen else {
                    return;
                };
                frozen.is_being_written = false;
                self.is_unsynced &= ended.result.is_err();
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

    pub(super) fn checkpoint_failed(&mut self, failure: CommitFailure) {
        self.options.metrics.checkpoint_failed();
        tracing::warn!(error = %CommitError::from(failure.clone()), "the data file could not be brought up to date: the journal keeps what it lacks");
        if self.opened.is_some() {
            self.fail(failure.clone());
        }
        self.unread = failure.is_unread().then(|| {
            let (times, since) = self.unread.unwrap_or_else(|| (0, Instant::now()));
            (times + 1, since)
        });
        let is_no_outage = self.unread.is_some_and(|(times, since)| {
            times >= MOST_UNREAD && since.elapsed() >= self.options.backoff * OUTAGE
        });
        let concerns_some = self.opened.is_some() && (failure.is_damage() || is_no_outage);
        let failure = match concerns_some.then(|| self.write_apart()) {
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
    pub(super) fn write_apart(&mut self) -> Result<(), CommitFailure> {
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
        // If this fails it is not because of any partition.
        let place = self.stored_up_to;
        self.transact(|transaction| write_place(transaction, &place))?;
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
        self.transact(|transaction| write_record(transaction, &frozen.record, &frozen.place))?;
        self.frozen = None;
        self.caught_up(frozen.place);
        Ok(())
    }

    /// Writes these partitions' changes: all at once, or, where that fails, each half by itself.
    pub(super) fn write_parts(
        &mut self,
        memtable: &Memtable,
        partitions: &[Vec<u8>],
        failed: &mut HashMap<Vec<u8>, CommitError>,
        attempts: &mut u32,
    ) -> Result<(), CommitFailure> {
        if partitions.is_empty() {
            return Ok(());
        }
        let written = self
            .transact(|transaction| Ok(write_memtable(transaction, memtable, Some(partitions))?));
        *attempts += u32::from(written.is_err());
        match written {
            Ok(()) => Ok(()),
            Err(failure)
                if !(failure.is_damage() || failure.is_unread())
                    || self.opened.is_none()
                    || *attempts >= MOST_ATTEMPTS =>
            {
                Err(failure)
            }
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
        self.end_compaction(Stopped::End);
        if let Err(error) = self.catch_up() {
            tracing::warn!(%error, "the data file could not be brought up to date: the next start replays the journal");
        }
    }

    /// Whether the data file lacks something that it can take.
    pub(super) fn lacks_something(&self) -> bool {
        let waits = self.stuck_since.is_some_and(|at| at.elapsed() < STUCK);
        self.journal.end() != self.stored_up_to && !waits
    }
}
