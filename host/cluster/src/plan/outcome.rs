//! The outcome of a survey: what would move, in numbers.

use std::collections::BTreeMap;

use ostrakon_contract::contract::Description;
use ostrakon_protocol::Ordinal;
use ostrakon_shard::survey::{Amount, Owners};
use serde::{Deserialize, Serialize};

/// How many times the mean a shard may have without a warning.
const MAX_OF_MEAN: f64 = 1.3;
/// How many shards the warnings name.
const MAX_NAMED: usize = 5;

/// How much would move between which shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How many shards may have data now.
    pub shards_now: u32,
    /// How many shards would have data then.
    pub shards_then: u32,
    /// Whether a change is under way: partitions on their way were counted where they are, or
    /// twice.
    pub moving: bool,
    pub guest: Asked,
    pub total: Amount,
    /// The part of the data that would move.
    pub moved: Amount,
    /// The moves, ordered by their shards.
    pub moves: Vec<Move>,
    /// All shards, by ordinal.
    pub shards: Vec<Shard>,
    /// Warnings about an uneven spread of the data.
    pub warnings: Vec<String>,
}

/// A guest, as far as its `owner` is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub name: String,
    pub version: String,
    /// The version of the guest's `owner`.
    pub sharding: u32,
}

/// The data that would move from one shard to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard that has it.
    pub from: u32,
    /// The shard that would have it.
    pub to: u32,
    #[serde(flatten)]
    pub amount: Amount,
}

/// The data that a shard has and would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub shard: u32,
    /// The data that it has.
    pub now: Amount,
    /// The data that it would have.
    pub then: Amount,
}

impl Outcome {
    /// Sums up the surveys of the shards.
    pub(super) fn new(
        now: u32,
        then: u32,
        moving: bool,
        guest: &Description,
        owners: &BTreeMap<Ordinal, Owners>,
    ) -> Self {
        let mut shards: Vec<_> = (0..now.max(then))
            .map(|shard| Shard {
                shard,
                ..Shard::default()
            })
            .collect();
        let (mut total, mut moved, mut moves) = (Amount::default(), Amount::default(), Vec::new());
        for (from, owners) in owners {
            for (&to, &amount) in owners {
                shards[from.0 as usize].now += amount;
                shards[to as usize].then += amount;
                total += amount;
                if to != from.0 {
                    moved += amount;
                    moves.push(Move {
                        from: from.0,
                        to,
                        amount,
                    });
                }
            }
        }
        Self {
            shards_now: now,
            shards_then: then,
            moving,
            guest: Asked {
                name: guest.name.clone(),
                version: guest.version.clone(),
                sharding: guest.sharding,
            },
            warnings: warnings(&shards[..then as usize], total),
            total,
            moved,
            moves,
            shards,
        }
    }
}

/// The warning about a guest that shards take for the live one, as far as owners go.
pub(super) fn alike(sharding: u32) -> String {
    format!(
        "its `sharding` is {sharding}, the same as the live guest's: shards take the two `owner` functions to be the same, and keep using the live one; raise `sharding` if they differ"
    )
}

/// The warnings about shards that would have much more than the mean, the worst first. Beyond
/// `MAX_NAMED`, the rest share one warning.
fn warnings(shards: &[Shard], total: Amount) -> Vec<String> {
    let count = shards.len() as u64;
    let of_mean = |part: u64, whole: u64| share(part * count, whole);
    let mut warned: Vec<_> = shards
        .iter()
        .map(|shard| {
            let partitions = of_mean(shard.then.partitions, total.partitions);
            (
                shard.shard,
                partitions,
                of_mean(shard.then.bytes, total.bytes),
            )
        })
        .filter(|(_, partitions, bytes)| partitions.max(*bytes) > MAX_OF_MEAN)
        .collect();
    let worst = |(_, partitions, bytes): &(u32, f64, f64)| partitions.max(*bytes);
    warned.sort_by(|one, other| worst(other).total_cmp(&worst(one)));
    let named = warned.iter().take(MAX_NAMED).map(|(shard, partitions, bytes)| {
        format!(
            "shard {shard} would have {partitions:.2} times the mean of partitions and {bytes:.2} times that of bytes"
        )
    });
    let others = warned.len().saturating_sub(MAX_NAMED);
    let others = (others > 0)
        .then(|| format!("{others} more shards would have over {MAX_OF_MEAN} times the mean"));
    named.chain(others).collect()
}

/// A part as a fraction of the whole; 0 if the whole is 0.
#[expect(
    clippy::cast_precision_loss,
    reason = "the result is for people, who read a few digits"
)]
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(partitions: u64, bytes: u64) -> Amount {
        Amount { partitions, bytes }
    }

    fn outcome(now: u32, then: u32, found: &[(u32, &[(u32, Amount)])]) -> Outcome {
        let guest = Description {
            name: "kv".to_owned(),
            version: "1".to_owned(),
            sharding: 2,
            schema: 1,
        };
        let owners = found.iter().map(|(shard, owners)| {
            let owners = owners.iter().copied().collect();
            (Ordinal(*shard), owners)
        });
        Outcome::new(now, then, false, &guest, &owners.collect())
    }

    #[test]
    fn what_each_shard_finds_is_one_table_of_all() {
        let outcome = outcome(
            2,
            3,
            &[
                (0, &[(0, amount(6, 60)), (2, amount(3, 30))]),
                (
                    1,
                    &[(0, amount(1, 10)), (1, amount(5, 50)), (2, amount(3, 31))],
                ),
            ],
        );
        assert_eq!(outcome.total, amount(18, 181));
        assert_eq!(outcome.moved, amount(7, 71));
        let moves: Vec<_> = outcome
            .moves
            .iter()
            .map(|one| (one.from, one.to, one.amount))
            .collect();
        let expected = [
            (0, 2, amount(3, 30)),
            (1, 0, amount(1, 10)),
            (1, 2, amount(3, 31)),
        ];
        assert_eq!(moves, expected);
        let shards: Vec<_> = outcome
            .shards
            .iter()
            .map(|one| (one.now, one.then))
            .collect();
        let expected = [
            (amount(9, 90), amount(7, 70)),
            (amount(9, 91), amount(5, 50)),
            (amount(0, 0), amount(6, 61)),
        ];
        assert_eq!(shards, expected);
        assert_eq!(outcome.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_shard_far_above_the_mean_is_warned_of_by_partitions_or_bytes() {
        // A shard with exactly 1.3 times the mean is not warned of.
        let even = outcome(1, 2, &[(0, &[(0, amount(13, 13)), (1, amount(7, 7))])]);
        assert_eq!(even.warnings, Vec::<String>::new());
        let many = outcome(1, 2, &[(0, &[(0, amount(14, 10)), (1, amount(6, 10))])]);
        let warning =
            "shard 0 would have 1.40 times the mean of partitions and 1.00 times that of bytes";
        assert_eq!(many.warnings, [warning]);
        let large = outcome(1, 2, &[(0, &[(0, amount(10, 1)), (1, amount(10, 99))])]);
        assert_eq!(large.warnings.len(), 1);
        assert!(
            large.warnings[0].starts_with("shard 1 would have 1.00"),
            "{large:?}"
        );
    }

    #[test]
    fn of_many_shards_far_above_the_mean_the_worst_are_named() {
        let owners: Vec<_> = (0..10).map(|to| (to, amount(u64::from(to), 1))).collect();
        let many = outcome(1, 1000, &[(0, &owners)]);
        assert_eq!(many.warnings.len(), MAX_NAMED + 1);
        assert!(many.warnings[0].starts_with("shard 9 would"), "{many:?}");
        let others = "5 more shards would have over 1.3 times the mean";
        assert_eq!(many.warnings[MAX_NAMED], others);
    }

    #[test]
    fn shards_that_would_be_gone_have_nothing_and_are_no_part_of_the_mean() {
        let fewer = outcome(
            3,
            1,
            &[
                (0, &[]),
                (1, &[(0, amount(5, 5))]),
                (2, &[(0, amount(1, 1))]),
            ],
        );
        assert_eq!(fewer.shards[2].then, amount(0, 0));
        assert_eq!((fewer.moved, fewer.warnings.len()), (amount(6, 6), 0));
        let empty = outcome(1, 4, &[(0, &[])]);
        assert_eq!((empty.total, empty.warnings.len()), (amount(0, 0), 0));
    }
}
