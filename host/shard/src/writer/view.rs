//! Views: a generation and a snapshot that belong together.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use ostrakon_base::digest::Digest;
use ostrakon_contract::contract::Origin;
use ostrakon_engine::{Failure, Guest, Lease};
use ostrakon_store::Snapshot;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::membership::Membership;

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
}

impl View {
    /// Leases an instance of its guest, for answers among the shards that the view knows of.
    ///
    /// # Errors
    /// When a new instance is needed and cannot be made.
    pub(crate) async fn lease(&self) -> Result<Lease, Failure> {
        self.guest.lease(self.shards()).await
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
}

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

    pub(super) fn publish(&self, view: View) {
        self.0.view.store(Some(Arc::new(view)));
        self.0.changed.notify_waiters();
    }
}
