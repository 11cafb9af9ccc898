//! Whether the parts of a listing fit together, which each shard takes from its
//! own data at an instant of its own while partitions move.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::{Epoch, Ordinal};
use super::shard::Shard;

/// What a shard has given away and taken in, at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moved {
    /// The plan it goes by.
    pub epoch: Epoch,
    /// Its store.
    pub store: u128,
    /// The last batch under the plan for each other shard that there is one for;
    /// it is deleted here, like all before it. None in all while one is not.
    pub given: Option<BTreeMap<Ordinal, u64>>,
    /// Of each other shard that a batch of came under the plan, its store and the
    /// last one that is stored here.
    pub taken: BTreeMap<Ordinal, (u128, u64)>,
}

impl Moved {
    /// Whether each partition is in exactly one of the parts that all shards of
    /// a plan took, each with the data at the instant of its `Moved`.
    ///
    /// It is, where every batch of theirs is gone from its source and stored at
    /// its receiver: what one has given is what the other has taken, and no
    /// batch is under way.
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
    /// What this shard has given away and taken in; none where there is no plan.
    pub fn moved(&self, store: u128) -> Option<Moved> {
        Some(Moved {
            epoch: self.plan()?.epoch,
            store,
            given: self.given(),
            taken: self.taken(),
        })
    }
}
