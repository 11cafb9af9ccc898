//! `cluster.topology`: where the number of shards comes from.

use serde::{Deserialize, Serialize};

use super::Cluster;

/// Where the number of shards comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// From `cluster.shards`.
    #[default]
    Settings,
    /// From the `spec.replicas` of this Pod's StatefulSet, so that `kubectl scale` is enough to
    /// change it.
    StatefulSet,
}

impl Cluster {
    /// Whether there can be more than one shard.
    pub(super) fn may_be_several(&self) -> bool {
        self.topology != Topology::Settings || self.shards > 1
    }
}
