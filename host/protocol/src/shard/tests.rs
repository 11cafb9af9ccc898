//! Messages that a shard must reject, whoever sends them.

use ostrakon_base::digest::Digest;

use super::*;
use crate::{ClusterId, MAX_SHARDS, Placement};

fn placement(shards: u32) -> Placement {
    Placement {
        shards,
        owner: Digest::of(b"guest"),
        sharding: 1,
    }
}

fn first() -> Plan {
    Plan::first(ClusterId(7), placement(3), false)
}

#[test]
fn what_no_coordinator_would_say_is_not_gone_by() {
    let known = first();
    let change = known.then(&placement(5));
    let mut shard = Shard::new(Ordinal(1));
    assert_eq!(shard.learn(&known), Ok(true));
    let with = |plan: &Plan, epoch| Plan {
        epoch: Epoch(epoch),
        ..plan.clone()
    };
    for impossible in [
        with(&change, u64::MAX),
        with(&change, 1 << 40),
        known.then(&placement(0)),
        known.then(&placement(MAX_SHARDS + 1)),
        // The plan begins from another placement, or changes nothing.
        known.then(&placement(4)).then(&placement(5)),
        known.ended(),
    ]
    .map(|plan| {
        if plan.epoch == Epoch(3) {
            with(&plan, 2)
        } else {
            plan
        }
    }) {
        assert_eq!(shard.learn(&impossible), Ok(false), "{impossible:?}");
    }
    let mut new = Shard::new(Ordinal(1));
    assert_eq!(new.learn(&with(&known, u64::MAX)), Ok(false));
    assert_eq!(shard.learn(&change), Ok(true));
    // A change ends as it should.
    let mut given = shard.clone();
    given.cursor = Cursor::End;
    let elsewhere = with(&known.then(&placement(4)).ended(), 3);
    assert_eq!(given.learn(&elsewhere), Ok(false));
    assert_eq!(given.learn(&change.ended()), Ok(true));
    // A plan that shows missed work still stops the shard.
    assert!(shard.learn(&with(&change, 9)).is_err());
}

#[test]
fn a_batch_of_a_number_that_cannot_be_is_ignored_and_the_next_one_is_taken() {
    let change = first().then(&placement(5));
    let mut shard = Shard::new(Ordinal(4));
    assert_eq!(shard.learn(&change), Ok(true));
    let batch = |source: u32, number: u64| Batch {
        number,
        store: 1,
        hand_off: HandOff {
            epoch: change.epoch,
            source: Ordinal(source),
            to: Ordinal(4),
            cursor: Cursor::Start,
            number,
        },
    };
    for (source, number) in [(1, u64::MAX), (1, 0), (3, 1), (4, 1)] {
        assert_eq!(shard.receive(&batch(source, number)), Received::Ignore);
    }
    assert_eq!(shard.receive(&batch(1, 1)), Received::Apply);
    assert_eq!(shard.receive(&batch(1, u64::MAX)), Received::Ignore);
    let mut apart = batch(1, 2);
    apart.hand_off.number = 3;
    assert_eq!(shard.receive(&apart), Received::Ignore);
    assert_eq!(shard.receive(&batch(1, 2)), Received::Apply);
    let mut last = Shard::new(Ordinal(1));
    last.start(Incarnation(u64::MAX));
    last.start(Incarnation::default());
    assert_eq!(last.incarnation(), Incarnation(u64::MAX));
}
