//! How many shards a StatefulSet is to have, as far as a shard has heard.

use std::time::Duration;

use ostrakon_protocol::{Ordinal, Placement, Plan};
use ostrakon_settings::settings::Topology;
use ostrakon_shard::writer::{Membership, View};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Cluster;

/// How long a shard that is told to end waits to hear whether it leaves. Where
/// the number can be heard at all it takes some milliseconds; where it cannot, a
/// restart takes so much longer.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How many shards the StatefulSet is to have, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// Nobody has said it yet.
    #[default]
    NotHeard,
    /// There is no number to go by: the StatefulSet is gone, is to have no
    /// Pods, or may not be read.
    None,
    /// So many, at least 1.
    Are(u32),
}

impl Replicas {
    /// The number, where there is one.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Are(number) => Some(number),
            Self::NotHeard | Self::None => None,
        }
    }
}

impl Cluster {
    /// Where partitions are to be, by what is live here; none: it is not known
    /// among how many shards. A plan stays as it is while nobody says another
    /// number.
    pub(super) fn desired(&self, view: &View, plan: Option<&Plan>) -> Option<Placement> {
        let settings = &view.guest.settings().cluster;
        let shards = match settings.topology {
            Topology::Settings => settings.shards,
            Topology::StatefulSet => {
                let heard = self.0.replicas.borrow().number();
                heard.or_else(|| plan.map(|plan| plan.to.shards))?
            }
        };
        Some(Placement {
            shards,
            owner: view.digest,
            sharding: view.guest.description().sharding,
        })
    }

    /// Returns when it is heard whether this shard leaves, if that is to be heard
    /// from a StatefulSet.
    pub(super) async fn until_heard(&self) {
        if self.0.me == Ordinal::COORDINATOR || !self.goes_by_replicas() {
            return;
        }
        let mut replicas = self.replicas();
        let heard = replicas.wait_for(|replicas| *replicas != Replicas::NotHeard);
        if timeout(HEARD_WITHIN, heard).await.is_err() {
            tracing::warn!(
                "the API server does not say whether this shard leaves: it ends as if it came back"
            );
        }
    }

    /// Whether this shard is to leave, by what is heard, and the plan does not
    /// say so yet.
    pub(super) fn is_to_leave(&self, membership: &Membership) -> bool {
        let replicas = self.0.replicas.borrow().number();
        let is_surplus = replicas.is_some_and(|replicas| replicas <= self.0.me.0);
        let stays = |plan: &Plan| plan.to.shards > self.0.me.0;
        is_surplus && self.goes_by_replicas() && membership.shard.plan().is_some_and(stays)
    }

    pub(super) fn replicas(&self) -> watch::Receiver<Replicas> {
        self.0.replicas.clone()
    }

    fn goes_by_replicas(&self) -> bool {
        let view = self.0.writer.views().get();
        view.is_some_and(|view| view.guest.settings().cluster.topology == Topology::StatefulSet)
    }
}
