//! Checks that the parts of a listing fit together. While partitions move, each shard takes its
//! part from its own data at a time of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Epoch, Ordinal};
use super::shard::Shard;

/// What a shard has given away and received at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moved {
    /// The plan that the shard follows.
    pub epoch: Epoch,
    /// The number that identifies the shard's store.
    pub store: u128,
    /// The last batch under the plan for each other shard that has one. It is deleted here, like
    /// all batches before it. `None` while any batch is not yet acknowledged.
    pub given: Option<BTreeMap<Ordinal, u64>>,
    /// For each other shard that sent a batch under the plan: its store, and its last batch that
    /// is stored here.
    pub taken: BTreeMap<Ordinal, (u128, u64)>,
}

impl Moved {
    /// Whether each partition is in exactly one of the parts that all shards of a plan took, each
    /// with the data at the instant of its `Moved`.
    ///
    /// This holds if every batch is gone from its source and stored at its receiver: each shard
    /// has received what the others gave it, and no batch is under way.
    pub fn fit(parts: &BTreeMap<Ordinal, Self>) -> bool {
        let epoch = parts.values().next().map(|part| part.epoch);
        let pairs_fit = |(source, part): (&Ordinal, &Self)| {
            part.given.as_ref().is_some_and(|given| {
                parts.iter().all(|(receiver, other)| {
                    let given = given.get(receiver).copied().unwrap_or_default();
                    let taken = other.taken.get(source);
                    let taken = taken.filter(|(store, _)| *store == part.store);
                    given == taken.map_or(0, |(_, number)| *number)
                })
            })
        };
        parts.values().all(|part| Some(part.epoch) == epoch) && parts.iter().all(pairs_fit)
    }
}

impl Shard {
    /// What this shard has given away and received; none if there is no plan.
    pub fn moved(&self, store: u128) -> Option<Moved> {
        Some(Moved {
            epoch: self.plan()?.epoch,
            store,
            given: self.given(),
            taken: self.taken(),
        })
    }
}
