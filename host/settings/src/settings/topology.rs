//! `cluster.topology`: where the number of shards comes from.

use serde::{Deserialize, Serialize};

use super::Cluster;

/// Where the number of shards comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// It is `cluster.shards`.
    #[default]
    Settings,
    /// It is the `spec.replicas` of the StatefulSet that this Pod is of, so that
    /// `kubectl scale` is all there is to do.
    StatefulSet,
}

impl Cluster {
    /// Whether there can be more than one shard.
    pub(super) fn may_be_several(&self) -> bool {
        self.topology != Topology::Settings || self.shards > 1
    }
}
