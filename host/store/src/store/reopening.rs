//! What follows a failure: the data file is opened again, the journal begins anew.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ostrakon_base::regular;
use redb::{StorageError, WriteTransaction};

use super::{Opened, Options, Store};
use crate::compaction::Stopped;
use crate::damage::{Contained, Damage, contain};
use crate::failure::{CommitError, CommitFailure, OpenError};
use crate::file::{
    Growth, Meta, begin, open_database, read, read_meta, write_memtable, write_record,
};
use crate::held::Held;
use crate::journal::Place;
use crate::memtable::Memtable;
use crate::snapshot::{ReadError, Snapshot};

impl Store {
    pub(super) fn refuse(&mut self, failure: CommitFailure) -> CommitError {
        self.failure = Some((failure.clone(), Instant::now()));
        failure.into()
    }

    /// Begins another journal after a failure: everything that was acknowledged is in memory, and
    /// is written to the data file.
    pub(super) fn begin_anew(&mut self) -> Result<(), CommitFailure> {
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
    pub(super) fn write_all(&mut self, place: Place) -> Result<(), CommitFailure> {
        let (record, memtables) = (self.record.clone(), self.memtables());
        self.transact(|transaction| {
            for memtable in &memtables {
                write_memtable(transaction, memtable, None)?;
            }
            write_record(transaction, &record, &place)
        })?;
        self.has_all(place);
        Ok(())
    }

    /// Notes that the data file has everything up to a place.
    pub(super) fn has_all(&mut self, place: Place) {
        (self.frozen, self.active) = (None, Memtable::default());
        self.not_stuck();
        self.caught_up(place);
    }

    /// Why the data file is closed.
    pub(super) fn why_closed(&self) -> CommitFailure {
        let failure = self.failure.as_ref().or(self.behind.as_ref());
        failure.map_or_else(
            || StorageError::Io(io::Error::other("the data file is closed")).into(),
            |(failure, _)| failure.clone(),
        )
    }

    /// Shows readers the data file as it is now.
    pub(super) fn read_again(&mut self) -> Result<(), CommitFailure> {
        let damage = self.damage.clone();
        let Some(opened) = &mut self.opened else {
            return Err(self.why_closed());
        };
        let opening = opened.stored.opening;
        let stored = damage.contain(|| read(&opened.database, opening));
        opened.stored = Arc::new(stored?);
        Ok(())
    }

    /// Reopens the file after a read failed, unless it was already reopened since the opening
    /// whose read failed. Also reopens a file that was closed after a failure, unless that
    /// failure is too recent.
    pub fn recover(&mut self, failed_opening: u64) {
        if failed_opening == self.openings {
            self.end_compaction(Stopped::Change);
        }
        // It may have ended with another opening.
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

    pub(super) fn backing_off(&self) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() < self.options.backoff)
    }

    /// The opened file. Reopens the file if it is closed, at most once per [`Options::backoff`].
    ///
    /// First checks that the file is where it was, since nobody would find writes to a file that
    /// was moved away. The check takes two microseconds.
    pub(super) fn opened(&mut self) -> Result<&mut Opened, CommitError> {
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

    /// Commits a transaction of the data file durably, as for [`Store::attempt`].
    pub(super) fn transact(
        &mut self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), CommitFailure>,
    ) -> Result<(), CommitFailure> {
        self.attempt(|opened| {
            let transaction = begin(&opened.database)?;
            write(&transaction)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Writes to the data file, and reads it again. Reopens it after a failure, since redb then
    /// answers nothing more.
    pub(super) fn attempt(
        &mut self,
        commit: impl FnOnce(&mut Opened) -> Result<(), CommitFailure>,
    ) -> Result<(), CommitFailure> {
        self.end_compaction(Stopped::Change);
        self.sync_name()?;
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
    pub(super) fn fail(&mut self, failure: CommitFailure) {
        let is_full = matches!(failure, CommitFailure::Full);
        self.end_compaction(if is_full {
            Stopped::Full
        } else {
            Stopped::Change
        });
        self.shut();
        if let Err(again) = self.reopen() {
            self.failure = Some((again, Instant::now()));
            tracing::warn!(error = %CommitError::from(failure), "the data file is closed until it can be opened again");
        }
    }

    pub(super) fn shut(&mut self) {
        if let Some(opened) = self.opened.take() {
            opened.shut.store(true, Ordering::Release);
        }
    }

    pub(super) fn reopen(&mut self) -> Result<(), CommitFailure> {
        let opening = self.openings + 1;
        match open(&self.path, &self.options, &self.held, &self.damage, opening) {
            Ok((_, meta)) if self.is_overtaken_by(&meta) => {
                self.is_overtaken = true;
                let why = "a migration that was called failed is stored: start the shard again";
                Err(StorageError::Io(io::Error::other(why)).into())
            }
            Ok((opened, meta)) => {
                self.tried = None;
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

    /// Whether the file has a migration that was called failed.
    fn is_overtaken_by(&self, meta: &Meta) -> bool {
        (self.tried.as_ref()).is_some_and(|tried| *tried == meta.record && *tried != self.record)
    }

    /// Takes up what a file that was opened again has: a transaction that was called failed may be
    /// in it, and opening it has made that durable.
    pub(super) fn found(&mut self, meta: Meta) {
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
}

pub(super) fn open(
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
    let opened = contain(|| {
        let how = (&options.disk, options.cache_bytes);
        open_database(file, how, Growth::Reserved, false)
    });
    let (database, shut) = opened.map_err(damaged)?;
    let database = Arc::new(Contained::new(database));
    // The layout was checked when the file was found.
    let meta = contain(|| read_meta(&database)).map_err(damaged)?;
    let stored = damage.contain(|| read(&database, opening));
    let stored = Arc::new(stored.map_err(|ReadError(error)| damaged(error.into()))?);
    Ok((Opened::new(database, stored, shut, damage), meta))
}
