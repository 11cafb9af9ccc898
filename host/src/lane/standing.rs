//! What is wrong with the data file, as operators are told.

use tokio::sync::watch;

use super::Lane;
use super::worker::Worker;
use crate::store::{CommitError, Damage, Missing};

impl Lane {
    /// Why the data file is not where it was opened, now and as that changes.
    pub fn missing(&self) -> watch::Receiver<Option<Missing>> {
        self.state.missing.subscribe()
    }

    /// What was found to be damaged in the data file.
    pub fn damage(&self) -> &Damage {
        &self.damage
    }

    /// What is wrong with the data file, in a line; none: nothing that is known.
    pub fn store_problem(&self) -> Option<String> {
        let missing = self
            .state
            .missing
            .borrow()
            .as_ref()
            .map(ToString::to_string);
        let damaged = self.damage.first().map(|why| {
            format!(
                "a part of the data is damaged: {why}; stop the shard, and `ostrakon check` says what"
            )
        });
        let problems = missing.into_iter().chain(damaged);
        problems.reduce(|one, other| format!("{one}; {other}"))
    }
}

impl Worker {
    /// Looks whether the data file is where it was, and tells.
    pub(super) fn look(&self) {
        look(&self.state.missing, self.store.look());
    }

    /// Tells what is wrong with the data file, where that is why something was not stored.
    pub(super) fn tell(&self, error: &CommitError) {
        if let CommitError::Missing(_) = error {
            self.look();
        }
    }
}

/// Says once in the log that the file is missing, or is there again.
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
