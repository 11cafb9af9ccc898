//! Surveys: who would own a shard's partitions, counted without moving any.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_base::priority::lower_priority;
use ostrakon_engine::{Failure, Guest};
use ostrakon_store::{ReadError, Snapshot, successor};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How long a survey may take. Its snapshot keeps the space of everything that is deleted
/// meanwhile.
pub const DEADLINE: Duration = Duration::from_mins(1);
/// How many partition keys one page reads.
const PAGE: usize = 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub partitions: u64,
    /// The total size of the keys and values in these partitions.
    pub bytes: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        // Saturates, because other shards report some of the amounts.
        self.partitions = self.partitions.saturating_add(other.partitions);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// How much of a shard's data each shard would own, by ordinal.
pub type Owners = BTreeMap<u32, Amount>;

/// Why a shard's data was not surveyed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another survey is under way: try again when it has ended")]
    Busy,
    #[error("a survey takes {} s at most, and this one would take longer", DEADLINE.as_secs())]
    Long,
    #[error("nobody waits for the survey any longer")]
    Alone,
    #[error("`owner` failed: {0}")]
    Owner(Failure),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the system has no thread to give")]
    Thread(#[source] std::io::Error),
}

/// The surveys of a process: one runs at a time. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Surveys(Arc<Semaphore>);

/// The right to run a survey, until it is dropped.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "dropping it returns the permit")] OwnedSemaphorePermit,
);

impl Default for Surveys {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Surveys {
    /// Begins a survey.
    ///
    /// # Errors
    /// When another survey is running.
    pub fn begin(&self) -> Result<Turn, Error> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        permit.map(Turn).map_err(|_| Error::Busy)
    }
}

/// Asks the guest who would own each partition of a snapshot among `shards` shards, on a thread
/// of lower priority. Dropping the future ends the survey soon.
///
/// # Errors
/// When the survey fails, or takes longer than [`DEADLINE`].
pub async fn survey(
    snapshot: Arc<Snapshot>,
    guest: Arc<Guest>,
    shards: u32,
) -> Result<Owners, Error> {
    let (sender, receiver) = oneshot::channel();
    let runtime = Handle::current();
    let deadline = Instant::now() + DEADLINE;
    let spawned = thread::Builder::new()
        .name("survey".to_owned())
        .spawn(move || {
            lower_priority();
            let surveyed = runtime.block_on(count(&snapshot, &guest, shards, || {
                if sender.is_closed() {
                    Err(Error::Alone)
                } else if Instant::now() >= deadline {
                    Err(Error::Long)
                } else {
                    Ok(())
                }
            }));
            // The caller may be gone.
            let _ = sender.send(surveyed);
        });
    spawned.map_err(Error::Thread)?;
    receiver.await.unwrap_or(Err(Error::Alone))
}

async fn count(
    snapshot: &Snapshot,
    guest: &Arc<Guest>,
    shards: u32,
    may_go_on: impl Fn() -> Result<(), Error>,
) -> Result<Owners, Error> {
    let mut owners = Owners::new();
    let mut start = None::<Vec<u8>>;
    loop {
        may_go_on()?;
        let page = snapshot.measure(start.as_deref(), PAGE)?;
        // Leases an instance for each page, so that one that has grown is not used for ever.
        let mut owning = guest.owning(shards).await.map_err(Error::Owner)?;
        for (partition, bytes) in &page.entries {
            let owner = owning.owner(partition).await.map_err(Error::Owner)?;
            *owners.entry(owner).or_default() += Amount {
                partitions: 1,
                bytes: *bytes,
            };
        }
        start = page.entries.last().map(|(last, _)| successor(last));
        if !page.more {
            return Ok(owners);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_survey_is_made_at_a_time() {
        let surveys = Surveys::default();
        let turn = surveys.begin().expect("no survey runs");
        assert!(matches!(surveys.begin(), Err(Error::Busy)));
        drop(turn);
        assert!(surveys.begin().is_ok());
    }
}
