//! What a topology is, and how far a change of it has come in one shard.

use std::fmt;

use ostrakon_base::digest::Digest;
use serde::{Deserialize, Serialize};

/// The most shards of a cluster.
pub const MAX_SHARDS: u32 = 1024;
/// So far ahead of a number that is known another of its kind can be, at most: of
/// epochs, of which two come with a change, and of batches, as many come in a century
/// of one each second.
pub(super) const MAX_AHEAD: u64 = 1 << 32;
/// As high can a number be where none of its kind is known. What follows it has still
/// room for any number of steps.
pub(super) const HIGHEST_FIRST: u64 = 1 << 48;

/// A shard's number in its `StatefulSet`, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ordinal(pub u32);

impl Ordinal {
    /// The one shard that starts and ends changes.
    pub const COORDINATOR: Self = Self(0);
}

impl fmt::Display for Ordinal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a plan. A plan of a higher epoch is the newer one, always.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// That of the first plan.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a shard's process: each start takes a higher one. Of two that
/// run at once, the one with the lower number is not to be accepted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Where partitions live: a number of shards, and the function that gives each
/// partition one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Placement {
    /// The number of shards, at least 1.
    pub shards: u32,
    /// The generation whose guest's `owner` counts, by its digest.
    pub owner: Digest,
    /// The version of that function: two generations of the same version place
    /// alike.
    pub sharding: u32,
}

impl Placement {
    /// Whether every partition has the same owner under both.
    pub fn places_as(&self, other: &Self) -> bool {
        (self.shards, self.sharding) == (other.shards, other.sharding)
    }
}

/// A cluster's identity: the store of the coordinator that made its first plan.
/// Shards of one never go by a plan of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// A topology, or a change from one to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Plan {
    /// Whose it is.
    pub cluster: ClusterId,
    /// Its number.
    pub epoch: Epoch,
    /// Where partitions come from.
    pub from: Placement,
    /// Where they go to; the same as `from` where none moves.
    pub to: Placement,
}

impl Plan {
    /// The first plan there is. `alone`: the first shard has data from a time when it
    /// was alone, which is to be spread.
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

    /// The plan of a change from here.
    #[must_use]
    pub fn then(&self, to: &Placement) -> Self {
        Self {
            cluster: self.cluster,
            epoch: Epoch(self.epoch.0.saturating_add(1)),
            from: self.to.clone(),
            to: to.clone(),
        }
    }

    /// Whether there can be such a plan at all, whoever says it.
    pub fn is_possible(&self) -> bool {
        let can_be = |placement: &Placement| (1..=MAX_SHARDS).contains(&placement.shards);
        let epochs = Epoch::FIRST.0..=u64::MAX / 2;
        can_be(&self.from) && can_be(&self.to) && epochs.contains(&self.epoch.0)
    }

    /// Whether a plan can be that comes after one that is known: the next ones go on
    /// from where that one ends. Of those that are further ahead not all is known.
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

    /// Whether no partition moves.
    pub fn is_stable(&self) -> bool {
        self.from == self.to
    }

    /// The number of shards that may have data.
    pub fn shards(&self) -> u32 {
        self.from.shards.max(self.to.shards)
    }

    /// Whether a shard has partitions to give away.
    pub fn is_source(&self, shard: Ordinal) -> bool {
        !self.is_stable() && shard.0 < self.from.shards
    }
}

/// How far a shard has gone through its partitions, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cursor {
    /// It has not begun.
    #[default]
    Start,
    /// It has passed this key and all before it.
    Through(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It has passed every key there is and can be.
    End,
}

impl Cursor {
    /// Whether a key is passed.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Start => false,
            Self::Through(last) => key <= last.as_slice(),
            Self::End => true,
        }
    }
}
