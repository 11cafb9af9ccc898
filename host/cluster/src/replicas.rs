//! The number of shards that a StatefulSet asks for, as far as this shard knows it.

use std::time::Duration;

use ostrakon_protocol::{Ordinal, Placement, Plan};
use ostrakon_settings::settings::Topology;
use ostrakon_shard::writer::{Membership, View};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Cluster;

/// How long a shard that is told to end waits to learn whether it leaves the cluster. Where the
/// number can be read, that takes some milliseconds; where it cannot, this delays each restart.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How many shards the StatefulSet asks for, as far as this shard knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicas {
    /// Not read yet.
    #[default]
    NotHeard,
    /// There is no usable number: the StatefulSet is gone, asks for no Pods, or may not be
    /// read.
    None,
    /// This many, at least 1.
    Are(u32),
}

impl Replicas {
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Are(number) => Some(number),
            Self::NotHeard | Self::None => None,
        }
    }
}

impl Cluster {
    /// The placement that the live generation asks for; `None` where the number of shards is
    /// not known. The plan's number stays while no other number is read.
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

    /// Returns once it is known whether this shard leaves, if a StatefulSet decides that.
    pub(super) async fn until_heard(&self) {
        if self.0.me == Ordinal::COORDINATOR || !self.goes_by_replicas() {
            return;
        }
        let mut replicas = self.replicas();
        let heard = replicas.wait_for(|replicas| *replicas != Replicas::NotHeard);
        if timeout(HEARD_WITHIN, heard).await.is_err() {
            tracing::warn!(
                "the API server does not say whether this shard leaves: it ends as for a restart"
            );
        }
    }

    /// Whether this shard is to leave by the number that was read, although the plan does not
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
