//! Whether the shard may be sent requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A latch of the few conditions for being ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<Conditions>);

#[derive(Debug, Default)]
struct Conditions {
    started: AtomicBool,
    generation_live: AtomicBool,
    is_told: AtomicBool,
    awaits_plan: AtomicBool,
    awaits_peers: AtomicBool,
    stopped: AtomicBool,
    store_missing: AtomicBool,
    draining: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    /// The shard opens its store and binds its ports.
    #[error("the shard is starting")]
    Starting,
    /// The shard runs, but no guest has gone live.
    #[error("no generation is live: see /status for what was refused and why")]
    NoGeneration,
    /// The shard has not been told what to serve, or how many shards there are.
    #[error(
        "the shard does not know yet what to serve, or how many shards there are: shard 0 tells it, once its peer port can be reached; where the number is a StatefulSet's, see `kubernetes` in its /status"
    )]
    NoPlan,
    /// The data file is not where it was opened.
    #[error("the data file was moved or removed: see store.problem in /status")]
    StoreMissing,
    /// The peers do not know this shard's address yet.
    #[error("the shard is telling its peers where it is: this takes a few seconds at most")]
    Unknown,
    /// Another process has this shard's place, or this process's data is outdated.
    #[error(
        "this process must not serve this shard any longer: see its log for why; it asks the other shards whether that is so, and once none confirms it, it ends, to be restarted"
    )]
    Stopped,
    #[error("the shard is draining")]
    Draining,
}

impl Readiness {
    /// The shard's store is open and its ports are bound. Permanent.
    pub(crate) fn set_started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    /// A generation is live. Permanent: a generation ends only when another takes its place,
    /// and a refused generation never makes the shard unready.
    pub(crate) fn set_generation_live(&self) {
        self.0.generation_live.store(true, Ordering::Release);
    }

    /// The shard serves what shard 0 says. Permanent.
    pub(crate) fn set_is_told(&self) {
        self.0.is_told.store(true, Ordering::Release);
    }

    /// Whether the shard belongs to a cluster whose plan it does not know yet.
    pub(crate) fn set_awaits_plan(&self, awaits: bool) {
        self.0.awaits_plan.store(awaits, Ordering::Release);
    }

    /// Whether the data file is not where it was opened.
    pub(crate) fn set_store_missing(&self, missing: bool) {
        self.0.store_missing.store(missing, Ordering::Release);
    }

    /// Whether the peers still have to learn this shard's address.
    pub(crate) fn set_awaits_peers(&self, awaits: bool) {
        self.0.awaits_peers.store(awaits, Ordering::Release);
    }

    /// The process may not go on serving. Permanent.
    pub(crate) fn set_stopped(&self) {
        self.0.stopped.store(true, Ordering::Release);
    }

    /// The shard drains. Permanent.
    pub(crate) fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether the shard has started. It may not be ready yet, or no longer be ready.
    pub(crate) fn is_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Whether the shard may be sent requests.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) fn check(&self) -> Result<(), NotReady> {
        if self.0.stopped.load(Ordering::Acquire) {
            Err(NotReady::Stopped)
        } else if self.0.draining.load(Ordering::Acquire) {
            Err(NotReady::Draining)
        } else if !self.is_started() {
            Err(NotReady::Starting)
        } else if !self.0.generation_live.load(Ordering::Acquire) {
            if self.0.is_told.load(Ordering::Acquire) {
                Err(NotReady::NoPlan)
            } else {
                Err(NotReady::NoGeneration)
            }
        } else if self.0.awaits_plan.load(Ordering::Acquire) {
            Err(NotReady::NoPlan)
        } else if self.0.store_missing.load(Ordering::Acquire) {
            Err(NotReady::StoreMissing)
        } else if self.0.awaits_peers.load(Ordering::Acquire) {
            Err(NotReady::Unknown)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_ready_when_started_with_a_live_generation_and_until_it_drains() {
        let readiness = Readiness::default();
        assert_eq!(readiness.check(), Err(NotReady::Starting));
        readiness.set_generation_live();
        assert_eq!(readiness.check(), Err(NotReady::Starting));
        readiness.set_started();
        assert_eq!(readiness.check(), Ok(()));
        readiness.set_draining();
        assert_eq!(readiness.check(), Err(NotReady::Draining));
        assert!(readiness.is_started());
    }

    #[test]
    fn one_of_a_cluster_is_ready_when_it_knows_the_plan_and_is_known_and_until_it_must_not_go_on() {
        let readiness = Readiness::default();
        readiness.set_started();
        readiness.set_generation_live();
        readiness.set_awaits_plan(true);
        readiness.set_awaits_peers(true);
        assert_eq!(readiness.check(), Err(NotReady::NoPlan));
        readiness.set_awaits_plan(false);
        assert_eq!(readiness.check(), Err(NotReady::Unknown));
        readiness.set_awaits_peers(false);
        assert_eq!(readiness.check(), Ok(()));
        readiness.set_stopped();
        readiness.set_draining();
        assert_eq!(readiness.check(), Err(NotReady::Stopped));
    }

    #[test]
    fn one_whose_data_file_is_missing_is_not_ready_until_it_is_there_again() {
        let readiness = Readiness::default();
        readiness.set_started();
        readiness.set_generation_live();
        readiness.set_store_missing(true);
        assert_eq!(readiness.check(), Err(NotReady::StoreMissing));
        readiness.set_store_missing(false);
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn without_a_generation_it_has_started_but_is_not_ready() {
        let readiness = Readiness::default();
        readiness.set_started();
        assert!(readiness.is_started());
        assert_eq!(readiness.check(), Err(NotReady::NoGeneration));
    }
}
