//! A shard's knowledge of the coordinator's changes.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard};

use ostrakon_protocol::{Coordinator, Ordinal};

use super::Cluster;
use super::conductor::LOOK_EVERY;
use super::log_limit::LogLimit;

/// The knowledge of changes. The mutexes are std's, because they are held only briefly.
#[derive(Debug, Default)]
pub(super) struct Coordination {
    /// Used only in the coordinator.
    coordinator: Mutex<Coordinator>,
    /// The shards that a change waits for before it begins, as far as they were looked for.
    awaited: Mutex<Vec<Ordinal>>,
    /// The schema of this shard that all others are known to have reached.
    reached: Mutex<Option<u32>>,
    /// Whether the coordinator can be asked but had no plan yet when asked last.
    pub(super) is_beginning: AtomicBool,
    /// Rate-limits the warning that peers do not take their partitions.
    pub(super) held_up: LogLimit,
}

impl Cluster {
    /// Returns when the shard knows the plan, or that there is no plan before other shards are
    /// there: in an ordered start those wait for this shard.
    pub async fn until_placed(&self) {
        let is_beginning = || match self.0.me {
            Ordinal::COORDINATOR => !self.awaited().is_empty(),
            _ => self.0.coordination.is_beginning.load(Relaxed),
        };
        while self.plan().is_none() && !is_beginning() {
            let changed = self.0.writer.views().changed();
            let _in_time = tokio::time::timeout(LOOK_EVERY, changed).await;
        }
    }

    /// The shards that a change waits for before it begins, or some of them where they are
    /// many. Only the coordinator knows them.
    ///
    /// # Panics
    /// When a task has panicked while noting them.
    pub fn awaited(&self) -> Vec<Ordinal> {
        let awaited = self.0.coordination.awaited.lock();
        awaited.expect("no holder of this lock panics").clone()
    }

    /// Notes the shards that a change waits for, and says whether they have changed.
    pub(super) fn await_shards(&self, shards: Vec<Ordinal>) -> bool {
        let awaited = self.0.coordination.awaited.lock();
        let mut awaited = awaited.expect("no holder of this lock panics");
        let are_others = *awaited != shards;
        *awaited = shards;
        are_others
    }

    pub(super) fn reached(&self) -> MutexGuard<'_, Option<u32>> {
        let reached = self.0.coordination.reached.lock();
        reached.expect("no holder of this lock panics")
    }

    pub(super) fn coordinator(&self) -> MutexGuard<'_, Coordinator> {
        let coordinator = self.0.coordination.coordinator.lock();
        coordinator.expect("no holder of this lock panics")
    }
}
