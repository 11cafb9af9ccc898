//! A model checker explores every interleaving in some small worlds.
//!
//! A world's network loses, repeats and reorders messages: each message may arrive at any later
//! time, repeatedly, or never. A restart loses everything that was not stored, and the old
//! process's messages stay in flight. The search covers a restart of any node at any step, the loss
//! of the coordinator's disk, and two consecutive changes, while clients write and read moving
//! partitions.

use std::sync::Arc;

use stateright::semantics::ConsistencyTester;
use stateright::{Model, Property};

use super::checker;
use super::world::{Action, Mutation, Op, Scenario, Seen, World};

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        actions.extend(Self::actions(self, state));
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        let mut after = self.after(state, &action)?;
        let seen = std::mem::take(&mut after.seen);
        self.seen.lock().expect("no holder panics").extend(seen);
        Some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LINEARIZABLE, |_, world: &World| {
                world.history.values().all(ConsistencyTester::is_consistent)
            }),
            Property::always(ONE_PLACE, |_, world: &World| {
                let mut truth = world.truth.iter();
                truth.all(|(key, value)| Scenario::places(world, *key) == [*value])
            }),
            Property::always(ONE_AUTHORITY, |model: &Self, world: &World| {
                let mut keys = world.truth.keys();
                keys.all(|key| model.authorities(world, *key) <= 1)
            }),
            Property::always(WHOLE_LISTINGS, |_, world: &World| !world.listed_wrong),
            Property::always(NOT_LEFT_BEHIND, |_, world: &World| !world.outdated),
            Property::always(NOT_STUCK, |model: &Self, world: &World| {
                let settled = model.settle(world);
                settled.is_some_and(|settled| model.is_settled(&settled))
            }),
        ]
    }
}

const LINEARIZABLE: &str = "each key's history is linearizable";
const ONE_PLACE: &str = "each partition is in one place, with what was written last";
const ONE_AUTHORITY: &str = "no partition has two authorities";
const WHOLE_LISTINGS: &str = "each listing has every key once";
const NOT_LEFT_BEHIND: &str = "no change ends before its sources are done";
const NOT_STUCK: &str = "nothing is stuck once restarts cease";

/// Two shards, with a writer and a reader of a key that moves.
fn two_shards(configured: &[(u32, u32)]) -> Scenario {
    Scenario {
        nodes: 2,
        configured: configured.to_vec(),
        keys: vec![1, 3],
        clients: vec![vec![Op::Write(1, 1)], vec![Op::Read(1)]],
        restarts: 0,
        lost_replies: 0,
        lost_disks: 0,
        mutation: None,
        seen: Arc::default(),
    }
}

/// A third shard is added, and both others have partitions to give it.
fn two_to_three() -> Scenario {
    Scenario {
        nodes: 3,
        keys: vec![2, 3],
        clients: vec![vec![Op::Write(2, 1)], vec![Op::Read(2)]],
        ..two_shards(&[(2, 1), (3, 1)])
    }
}

/// A third shard is added and removed. The first shard never has data, and its disk is lost.
fn without_the_coordinators_disk() -> Scenario {
    Scenario {
        nodes: 3,
        keys: vec![1, 5],
        clients: vec![vec![Op::Write(5, 1)], vec![Op::Read(5)]],
        lost_disks: 1,
        ..two_shards(&[(2, 1), (3, 1)])
    }
}

#[track_caller]
fn check(scenario: Scenario, states: usize, seen: &[Seen]) {
    let found = Arc::clone(&scenario.seen);
    checker::check(scenario, &found, states, seen);
}

#[test]
fn growing_and_shrinking_again() {
    let scenario = two_shards(&[(1, 1), (2, 1), (1, 1)]);
    let seen = [
        Seen::Redirected,
        Seen::RedirectedTwice,
        Seen::Awaited,
        Seen::BatchAgain,
        Seen::LateBatch,
        Seen::ServedByReceiver,
        Seen::SecondChange,
    ];
    check(scenario, 22_851, &seen);
}

#[test]
fn growing_with_a_restart() {
    let scenario = Scenario {
        restarts: 1,
        ..two_shards(&[(1, 1), (2, 1)])
    };
    let seen = [
        Seen::OldProcess,
        Seen::RestartWithOutbox,
        Seen::CoordinatorRestartedMidway,
        Seen::ServedByReceiver,
    ];
    check(scenario, 46_408, &seen);
}

#[test]
fn growing_and_shrinking_with_restarts() {
    let scenario = Scenario {
        restarts: 2,
        keys: vec![1],
        clients: vec![],
        ..two_shards(&[(1, 1), (2, 1), (1, 1)])
    };
    check(scenario, 10_584, &[Seen::OldProcess, Seen::SecondChange]);
}

#[test]
fn growing_and_shrinking_with_a_restart_and_clients() {
    let scenario = Scenario {
        restarts: 1,
        keys: vec![1],
        ..two_shards(&[(1, 1), (2, 1), (1, 1)])
    };
    check(
        scenario,
        192_418,
        &[Seen::OldProcess, Seen::SecondChange, Seen::Awaited],
    );
}

#[test]
fn growing_with_a_reply_that_is_lost() {
    let scenario = Scenario {
        lost_replies: 1,
        clients: vec![vec![Op::Write(1, 1)], vec![Op::Read(1), Op::Read(1)]],
        ..two_shards(&[(1, 1), (2, 1)])
    };
    check(scenario, 13_938, &[Seen::LostReplyThenRead]);
}

#[test]
fn placing_otherwise_on_the_same_shards() {
    let scenario = Scenario {
        keys: vec![0, 1],
        ..two_shards(&[(2, 1), (2, 2)])
    };
    check(scenario, 9_558, &[Seen::Awaited, Seen::ServedByReceiver]);
}

#[test]
fn from_two_shards_to_three() {
    check(
        two_to_three(),
        30_819,
        &[Seen::Awaited, Seen::RedirectedTwice],
    );
}

#[test]
fn listing_while_growing_and_shrinking() {
    let scenario = Scenario {
        keys: vec![0, 1, 3],
        clients: vec![vec![Op::List]],
        ..two_shards(&[(1, 1), (2, 1), (1, 1)])
    };
    check(scenario, 1_840, &[Seen::ListedMidway, Seen::ListedUnfit]);
}

#[test]
fn listing_while_growing_with_a_restart() {
    let scenario = Scenario {
        restarts: 1,
        clients: vec![vec![Op::List]],
        ..two_shards(&[(1, 1), (2, 1)])
    };
    check(scenario, 4_235, &[Seen::ListedUnfit]);
}

#[test]
fn listing_three_shards() {
    let scenario = Scenario {
        clients: vec![vec![Op::List]],
        ..two_to_three()
    };
    check(scenario, 9_157, &[Seen::ListedUnfit]);
}

#[test]
fn growing_while_the_coordinators_disk_is_lost() {
    let scenario = without_the_coordinators_disk();
    check(scenario, 63_398, &[Seen::DiskLostMidway, Seen::Awaited]);
}

#[test]
fn growing_and_shrinking_while_the_coordinators_disk_is_lost() {
    let scenario = Scenario {
        clients: vec![],
        ..without_the_coordinators_disk()
    };
    let scenario = Scenario {
        configured: vec![(2, 1), (3, 1), (2, 1)],
        ..scenario
    };
    check(
        scenario,
        3_595,
        &[Seen::DiskLostMidway, Seen::PlanFound, Seen::SecondChange],
    );
}

/// Tests the checker itself: each deliberate mistake breaks a property in one of these worlds.
#[test]
fn each_mistake_made_on_purpose_is_found() {
    let grow = || two_shards(&[(1, 1), (2, 1)]);
    let again = || Scenario {
        restarts: 1,
        clients: vec![],
        ..grow()
    };
    let list = || Scenario {
        clients: vec![vec![Op::List]],
        ..grow()
    };
    let without = || Scenario {
        clients: vec![],
        configured: vec![(2, 1), (3, 1), (2, 1)],
        ..without_the_coordinators_disk()
    };
    for (mutation, scenario, broken) in [
        (Mutation::ApplyTwice, grow(), ONE_PLACE),
        (Mutation::NotAwaited, grow(), LINEARIZABLE),
        (Mutation::PassedIsMine, grow(), ONE_AUTHORITY),
        (Mutation::ForgetSent, grow(), ONE_PLACE),
        (Mutation::KeepAcknowledged, grow(), ONE_PLACE),
        (Mutation::FirstDoneIsAll, two_to_three(), NOT_STUCK),
        (Mutation::DoneAtEnd, grow(), NOT_LEFT_BEHIND),
        (Mutation::AnyAcknowledgement, grow(), ONE_PLACE),
        (Mutation::NoResume, again(), NOT_STUCK),
        (Mutation::ListUnfit, list(), WHOLE_LISTINGS),
        (Mutation::FirstUnasked, without(), NOT_STUCK),
    ] {
        let scenario = Scenario {
            mutation: Some(mutation),
            ..scenario
        };
        checker::finds(scenario, mutation, broken);
    }
}
