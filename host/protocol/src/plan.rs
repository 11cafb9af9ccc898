//! Topologies, and the progress of a change in one shard.

use std::fmt;

use ostrakon_base::digest::Digest;
use serde::{Deserialize, Serialize};

/// The largest number of shards in a cluster.
pub const MAX_SHARDS: u32 = 1024;
/// How far a received number may be ahead of the known one. Applies to epochs, of which a change
/// uses two, and to batches: one a second makes this many in a century.
pub(super) const MAX_AHEAD: u64 = 1 << 32;
/// The highest number that is accepted if none of its kind is known yet. It leaves room for any
/// number of steps after it.
pub(super) const HIGHEST_FIRST: u64 = 1 << 48;

/// A shard's ordinal in its `StatefulSet`, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ordinal(pub u32);

impl Ordinal {
    /// The only shard that starts and ends changes.
    pub const COORDINATOR: Self = Self(0);
}

impl fmt::Display for Ordinal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a plan. Of two plans, the one with the higher epoch is always the newer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a shard's process: each start takes a higher one. If two run at once, the one
/// with the lower number must not be accepted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Where partitions live: the number of shards, and the function that assigns each partition to
/// one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Placement {
    /// The number of shards, at least 1.
    pub shards: u32,
    /// The digest of the generation whose guest's `owner` is used.
    pub owner: Digest,
    /// The version of that function. Two generations of the same version place partitions alike.
    pub sharding: u32,
}

impl Placement {
    /// Whether every partition has the same owner under both.
    pub fn places_as(&self, other: &Self) -> bool {
        (self.shards, self.sharding) == (other.shards, other.sharding)
    }
}

/// A cluster's identity: the store of the coordinator that made its first plan. Shards never
/// follow a plan of another cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// A topology, or a change from one topology to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster that the plan belongs to.
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// Where partitions move from.
    pub from: Placement,
    /// Where partitions move to; the same as `from` if none moves.
    pub to: Placement,
}

impl Plan {
    /// A cluster's first plan. `alone`: the first shard already has data from running as a single
    /// shard, which must be spread.
    pub fn first(cluster: ClusterId, placement: Placement, alone: bool) -> Self {
        let shards = if alone { 1 } else { placement.shards };
        Self {
            cluster,
            epoch: Epoch::FIRST,
            from: Placement {
                shards,
                ..placement.clone()
            },
            to: placement,
        }
    }

    /// The plan that ends this change.
    #[must_use]
    pub fn ended(&self) -> Self {
        self.then(&self.to)
    }

    /// The plan of a change that starts from this plan.
    #[must_use]
    pub fn then(&self, to: &Placement) -> Self {
        Self {
            cluster: self.cluster,
            epoch: Epoch(self.epoch.0.saturating_add(1)),
            from: self.to.clone(),
            to: to.clone(),
        }
    }

    /// Whether any cluster could have such a plan.
    pub fn is_possible(&self) -> bool {
        let can_be = |placement: &Placement| (1..=MAX_SHARDS).contains(&placement.shards);
        let epochs = Epoch::FIRST.0..=u64::MAX / 2;
        can_be(&self.from) && can_be(&self.to) && epochs.contains(&self.epoch.0)
    }

    /// Whether a plan can come after the known one. The next plans must continue from where the
    /// known plan ends; those further ahead cannot be checked fully.
    pub fn may_follow(&self, known: &Self) -> bool {
        let Some(ahead) = self.epoch.0.checked_sub(known.epoch.0) else {
            return false;
        };
        match (ahead, known.is_stable()) {
            (0, _) => false,
            (1, false) => *self == known.ended(),
            (1, true) | (2, false) => self.from == known.to && !self.is_stable(),
            _ => ahead <= MAX_AHEAD,
        }
    }

    pub fn is_stable(&self) -> bool {
        self.from == self.to
    }

    /// The number of shards that may hold data.
    pub fn shards(&self) -> u32 {
        self.from.shards.max(self.to.shards)
    }

    /// Whether a shard has partitions to give away under this plan.
    pub fn is_source(&self, shard: Ordinal) -> bool {
        !self.is_stable() && shard.0 < self.from.shards
    }
}

/// How far a shard has gone through its partitions, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cursor {
    /// The shard has not begun.
    #[default]
    Start,
    /// The shard has passed this key and all before it.
    Through(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The shard has passed every possible key.
    End,
}

impl Cursor {
    /// Whether the cursor has passed a key.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Start => false,
            Self::Through(last) => key <= last.as_slice(),
            Self::End => true,
        }
    }
}
