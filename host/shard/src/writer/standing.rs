//! Faults of the data file, as operators see them.

use std::sync::atomic::Ordering;

use ostrakon_observe::metrics::NotStored;
use ostrakon_store::{CommitError, Damage, Missing};
use tokio::sync::watch;

use super::worker::Worker;
use super::{Writer, Written};

impl Writer {
    /// Why the data file is not where it was opened, now and as that changes.
    pub fn missing(&self) -> watch::Receiver<Option<Missing>> {
        self.state.missing.subscribe()
    }

    /// The damage found in the data file.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Why writes are refused, in one line; `None` if no reason is known.
    pub fn writes_problem(&self) -> Option<String> {
        let missing = self.state.missing.borrow();
        let missing = missing.as_ref().map(ToString::to_string);
        let is_full = self.state.full.load(Ordering::Relaxed);
        missing.or_else(|| is_full.then(|| CommitError::Full.to_string()))
    }

    /// What is wrong with the data file, in one line; `None` if no fault is known.
    pub fn store_problem(&self) -> Option<String> {
        let damaged = self.damage.first().map(|why| {
            format!(
                "a part of the data is damaged: {why}; stop the shard, and `ostrakon check` says what"
            )
        });
        let problems = self.writes_problem().into_iter().chain(damaged);
        problems.reduce(|one, other| format!("{one}; {other}"))
    }
}

impl Worker {
    /// Checks that the data file is where it was, and reports a change.
    pub(super) fn look(&mut self) {
        let looked = self.store.look();
        look(&self.state.missing, looked);
    }

    /// Reports a fault of the data file, where that is why a commit failed.
    pub(super) fn tell(&mut self, error: &CommitError) {
        match error {
            CommitError::Missing(_) => self.look(),
            CommitError::Full if !self.state.full.swap(true, Ordering::Relaxed) => {
                tracing::error!("the disk is full: writes are refused, reads go on");
            }
            CommitError::Full | CommitError::Failed(_) => {}
        }
    }

    /// Notes that a commit succeeded.
    pub(super) fn stored(&self) {
        if self.state.full.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk has space again: writes go on");
        }
    }

    /// The outcome of a write that was not stored.
    pub(super) fn not_stored(&self, error: &CommitError) -> Written {
        self.metrics.write_not_stored(match error {
            CommitError::Full => NotStored::Full,
            CommitError::Missing(_) => NotStored::Missing,
            CommitError::Failed(_) if error.is_damage() => NotStored::Damaged,
            CommitError::Failed(_) => NotStored::Failed,
        });
        Written::NotStored(error.clone())
    }

    /// The outcome of a request of a failed group. Even a request that wrote nothing may have
    /// read data that was not stored. Only a request that was not run can be run again.
    pub(super) fn instead(&self, written: Written, error: &CommitError) -> Written {
        match written {
            Written::Rerouted | Written::NotOwner(_) => written,
            _ => self.not_stored(error),
        }
    }
}

/// Logs once that the file is missing, or is there again.
fn look(known: &watch::Sender<Option<Missing>>, looked: Result<(), Missing>) {
    let missing = looked.err();
    known.send_if_modified(|known| {
        if *known == missing {
            return false;
        }
        if let Some(error) = &missing {
            tracing::error!(%error, "the data file is missing: writes are refused, reads go on");
        } else {
            tracing::info!("the data file is there again: writes go on");
        }
        *known = missing;
        true
    });
}
