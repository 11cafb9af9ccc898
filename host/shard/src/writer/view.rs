//! Views: a generation and a snapshot that belong together.

use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::{ArcSwapOption, Guard};
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::Origin;
use ostrakon_engine::{Failure, Guest, Lease};
use ostrakon_protocol::Trial;
use ostrakon_store::Snapshot;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::membership::Membership;
use crate::bake::{Counts, Served};

/// A generation and the last durable commit, published together: a read never pairs new code
/// with old data, or the reverse.
#[derive(Debug)]
pub struct View {
    pub generation: u64,
    pub digest: Digest,
    pub guest: Arc<Guest>,
    pub snapshot: Arc<Snapshot>,
    /// The shard's place among others; `None` where it is alone.
    pub membership: Option<Arc<Membership>>,
    /// What the generation answered.
    pub counts: Arc<Counts>,
    /// The generation that serves some of the partitions instead.
    pub tried: Option<Tried>,
}

/// A generation that serves some of the partitions.
#[derive(Clone, Debug)]
pub struct Tried {
    pub trial: Trial,
    /// The view with its guest; `None` as long as that is not prepared here.
    pub view: Option<Arc<View>>,
}

impl Tried {
    /// Whether it serves a partition. If its settings name some, and its guest is not prepared here, it
    /// is not known which, so all of them wait.
    pub fn has(&self, partition: &[u8]) -> bool {
        let is_named = || match &self.view {
            None => true,
            Some(view) => {
                let mut first = view.guest.settings().rollout.first.iter();
                first.any(|first| partition.starts_with(first.as_bytes()))
            }
        };
        self.trial.has(partition) || self.trial.names_some && is_named()
    }
}

impl View {
    /// Leases an instance of its guest, for answers among the shards that the view knows of.
    ///
    /// # Errors
    /// When a new instance is needed and cannot be made.
    pub(crate) async fn lease(&self) -> Result<Lease, Failure> {
        self.guest.lease(self.shards()).await
    }

    /// Which change of a trial it shows; 0 without one.
    pub(crate) fn turn(&self) -> u32 {
        self.tried.as_ref().map_or(0, |tried| tried.trial.turn)
    }

    /// What a generation answered that is live or tried in this view.
    pub(crate) fn counts_of(&self, generation: u64) -> Option<&Counts> {
        let tried = self.tried.as_ref().and_then(|tried| tried.view.as_deref());
        let view = [Some(self), tried].into_iter().flatten();
        let mut view = view.filter(|view| view.generation == generation);
        view.next().map(|view| &*view.counts)
    }

    /// What the answers of its guest are of.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            digest: self.digest,
            description: self.guest.description().clone(),
        }
    }

    /// The number of shards, as far as this shard knows it.
    pub fn shards(&self) -> u32 {
        shards(self.membership.as_deref())
    }
}

/// The number of shards under the plan; 1 where there is none.
pub(super) fn shards(membership: Option<&Membership>) -> u32 {
    let plan = membership.and_then(|membership| membership.shard.plan());
    plan.map_or(1, |plan| plan.to.shards)
}

/// The place where the writer publishes its views.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<Published>);

#[derive(Debug, Default)]
struct Published {
    view: ArcSwapOption<View>,
    changed: Notify,
    /// What the last generations answered, the newest last. A std mutex, because it is held only
    /// briefly.
    counts: Mutex<Vec<(u64, Arc<Counts>)>>,
}

/// The counts of so many generations are kept: one that is tried, the live one, and those before it.
const COUNTED: usize = 6;

impl Views {
    /// The current view; `None` before the first generation is live.
    pub fn load(&self) -> Guard<Option<Arc<View>>> {
        self.0.view.load()
    }

    /// The current view, to keep.
    pub fn get(&self) -> Option<Arc<View>> {
        self.0.view.load_full()
    }

    /// Waits for a view that is published after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// What a generation answered in this process; `None` if it is not one of the last.
    pub fn served(&self, generation: u64) -> Option<Served> {
        let counts = self.counts();
        let mut of_it = counts.iter().rev().filter(|(of, _)| *of == generation);
        let (_, counts) = of_it.next()?;
        Some(Served {
            all: counts.counted(),
            recent: counts.recent(),
        })
    }

    /// Notes what a generation's answers are counted in.
    pub(super) fn counts_in(&self, generation: u64, counts: &Arc<Counts>) {
        let mut known = self.counts();
        if !known
            .iter()
            .any(|(of, it)| *of == generation && Arc::ptr_eq(it, counts))
        {
            known.push((generation, Arc::clone(counts)));
            let spare = known.len().saturating_sub(COUNTED);
            known.drain(..spare);
        }
    }

    fn counts(&self) -> MutexGuard<'_, Vec<(u64, Arc<Counts>)>> {
        let counts = self.0.counts.lock();
        counts.expect("no holder of this lock panics")
    }

    pub(super) fn publish(&self, view: View) {
        self.0.view.store(Some(Arc::new(view)));
        self.0.changed.notify_waiters();
    }
}
