//! A model checker explores roll-outs in some small worlds, as `model` does for partitions.
//!
//! A world's network loses, repeats and reorders messages. A restart loses what was not stored, and
//! the old process's messages stay in flight. The volume of the coordinator changes at any time,
//! also back; shards refuse some contents; the coordinator gives up waiting for silent shards, and
//! loses its disk.

mod actions;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use stateright::{Model, Property};

use super::checker;
use crate::Ordinal;
use world::*;

impl Scenario {
    /// Lets everything possible happen, without anything new or bad, until nothing more changes.
    /// Returns `None` if that does not happen.
    fn settle(&self, world: &World) -> Option<World> {
        let goes_on = |action: &Action| {
            matches!(
                action,
                Action::Observe
                    | Action::Next
                    | Action::Ask(_)
                    | Action::Deliver(_)
                    | Action::GoLive(_)
                    | Action::Watched
            )
        };
        let actions = |world: &World| self.actions(world).into_iter().filter(goes_on).collect();
        let after = |world: &World, action| self.after(world, action);
        checker::settle(world, actions, after)
    }

    /// Whether all shards serve by the same release, what the volume shows unless a shard refuses it.
    /// or it failed in its trial. Only a shard that was left behind, and then refuses what is live, may
    /// serve something else.
    fn is_settled(&self, world: &World) -> bool {
        let shown = self.contents[world.content];
        let is_refused = (0..self.nodes).any(|shard| self.refuses.contains(&(shard, shown)));
        let Some(newest) = Self::newest(&world.nodes) else {
            return false;
        };
        let is_shown = newest.live.digest == content(shown);
        let mut nodes = (0..).map(Ordinal).zip(&world.nodes);
        let all_serve = nodes.all(|(shard, node)| {
            node.serving.serves() == Some(&newest) || self.refuses(shard, newest.live.digest)
        });
        let is_held = newest.held == Some(content(shown));
        all_serve && newest.trial.is_none() && (is_shown || is_refused || is_held)
    }
}

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
        let mut after = self.after(state, action)?;
        let seen = std::mem::take(&mut after.seen);
        self.seen.lock().expect("no holder panics").extend(seen);
        Some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NONE_ALIKE, |_, world: &World| {
                !world.broken.contains(NONE_ALIKE)
            }),
            Property::always(NEVER_BACK, |_, world: &World| {
                !world.broken.contains(NEVER_BACK)
            }),
            Property::always(NEVER_LOWER, |_, world: &World| {
                !world.broken.contains(NEVER_LOWER)
            }),
            Property::always(NOT_REFUSED, |_, world: &World| {
                !world.broken.contains(NOT_REFUSED)
            }),
            Property::always(STARTS_NEWEST, |_, world: &World| {
                !world.broken.contains(STARTS_NEWEST)
            }),
            Property::always(SETTLES, |model: &Self, world: &World| {
                let settled = model.settle(world);
                settled.is_some_and(|settled| model.is_settled(&settled))
            }),
        ]
    }
}

/// Two shards that roll out one content after the other.
fn two_shards(contents: &[u8]) -> Scenario {
    Scenario {
        nodes: 2,
        contents: contents.to_vec(),
        refuses: BTreeSet::new(),
        restarts: 0,
        lost_disks: 0,
        gives_up: 0,
        steps: Vec::new(),
        failures: 0,
        mutation: None,
        seen: Arc::default(),
    }
}

#[track_caller]
fn check(scenario: Scenario, states: usize, seen: &[Seen]) {
    let found = Arc::clone(&scenario.seen);
    checker::check(scenario, &found, states, seen);
}

#[test]
fn one_content_after_the_other() {
    let seen = [Seen::CandidateChanged, Seen::BackAgain, Seen::LateVerdict];
    check(two_shards(&[1, 2, 1]), 118, &seen);
}

#[test]
fn what_a_shard_refuses_goes_live_nowhere() {
    let scenario = Scenario {
        refuses: BTreeSet::from([(1, 2)]),
        ..two_shards(&[1, 2, 3])
    };
    check(scenario, 103, &[Seen::Refused, Seen::CandidateChanged]);
}

#[test]
fn rolling_out_with_a_restart() {
    let scenario = Scenario {
        restarts: 1,
        ..two_shards(&[1, 2, 3])
    };
    let seen = [
        Seen::OldProcess,
        Seen::StartedBehind,
        Seen::RestartBeforeTold,
    ];
    check(scenario, 4_479, &seen);
}

#[test]
fn rolling_out_to_three_shards_with_a_restart() {
    let scenario = Scenario {
        nodes: 3,
        restarts: 1,
        refuses: BTreeSet::from([(2, 3)]),
        ..two_shards(&[1, 2, 3])
    };
    check(
        scenario,
        21_704,
        &[Seen::OldProcess, Seen::StartedBehind, Seen::Refused],
    );
}

#[test]
fn a_silent_shard_is_left_behind_and_catches_up() {
    let scenario = Scenario {
        gives_up: 2,
        restarts: 1,
        ..two_shards(&[1, 2, 3])
    };
    let seen = [Seen::LeftBehind, Seen::CaughtUp, Seen::StartedBehind];
    check(scenario, 34_889, &seen);
}

#[test]
fn a_silent_shard_that_refuses_what_is_live_leaves_the_others_alone() {
    let scenario = Scenario {
        gives_up: 1,
        restarts: 1,
        refuses: BTreeSet::from([(1, 2)]),
        ..two_shards(&[1, 2, 3])
    };
    check(scenario, 11_411, &[Seen::LeftBehind, Seen::Refused]);
}

#[test]
fn rolling_out_while_the_coordinators_disk_is_lost() {
    let scenario = Scenario {
        lost_disks: 1,
        ..two_shards(&[1, 2, 3])
    };
    check(
        scenario,
        2_893,
        &[Seen::DiskLost, Seen::FoundAtOthers, Seen::OldProcess],
    );
}

#[test]
fn leaving_a_shard_behind_while_the_coordinators_disk_is_lost() {
    let scenario = Scenario {
        lost_disks: 1,
        gives_up: 1,
        ..two_shards(&[1, 2, 3])
    };
    check(
        scenario,
        26_901,
        &[Seen::DiskLost, Seen::LeftBehind, Seen::LateRelease],
    );
}

/// Two shards that take contents in two steps, one after the other.
fn in_steps(contents: &[u8]) -> Scenario {
    Scenario {
        steps: vec![200_000, 600_000],
        ..two_shards(contents)
    }
}

#[test]
fn in_steps_one_content_after_the_other() {
    let seen = [
        Seen::Tried,
        Seen::TriedToTheEnd,
        Seen::TrialOvertaken,
        Seen::LateRelease,
    ];
    check(in_steps(&[1, 2, 1]), 350, &seen);
}

#[test]
fn what_fails_in_its_trial_is_held() {
    let scenario = Scenario {
        failures: 1,
        ..in_steps(&[1, 2, 3])
    };
    check(scenario, 33_743, &[Seen::TrialFailed, Seen::TriedToTheEnd]);
}

#[test]
fn in_steps_with_a_restart() {
    let scenario = Scenario {
        restarts: 1,
        failures: 1,
        steps: vec![300_000],
        ..two_shards(&[1, 2])
    };
    let seen = [Seen::Tried, Seen::TrialFailed, Seen::StartedBehind];
    check(scenario, 28_322, &seen);
}

#[test]
fn a_shard_that_was_left_behind_and_refuses_ends_a_trial() {
    let scenario = Scenario {
        gives_up: 1,
        refuses: BTreeSet::from([(1, 2)]),
        ..in_steps(&[1, 2, 3])
    };
    check(scenario, 1_744, &[Seen::LeftBehind, Seen::TrialRefused]);
}

#[test]
fn in_steps_while_the_coordinators_disk_is_lost() {
    let scenario = Scenario {
        lost_disks: 1,
        steps: vec![300_000],
        ..two_shards(&[1, 2, 3])
    };
    check(scenario, 11_260, &[Seen::DiskLost, Seen::TriedToTheEnd]);
}

/// Tests the checker itself: each deliberate mistake breaks a property in one of these worlds.
#[test]
fn each_mistake_made_on_purpose_is_found() {
    let plain = || two_shards(&[1, 2, 3]);
    let again = || Scenario {
        restarts: 1,
        ..plain()
    };
    let refusing = || Scenario {
        refuses: BTreeSet::from([(1, 3)]),
        ..plain()
    };
    let left = || Scenario {
        gives_up: 1,
        ..plain()
    };
    let unstored = || Scenario {
        restarts: 1,
        ..left()
    };
    let lost = || Scenario {
        lost_disks: 1,
        ..plain()
    };
    let lost_and_left = || Scenario {
        lost_disks: 1,
        ..left()
    };
    for (mutation, scenario, broken) in [
        (Mutation::ServesUnasked, again(), STARTS_NEWEST),
        (Mutation::RefusalIgnored, refusing(), NOT_REFUSED),
        (Mutation::AnyCandidate, refusing(), NOT_REFUSED),
        (Mutation::ToldUnstored, unstored(), NONE_ALIKE),
        (Mutation::LateRelease, plain(), NEVER_BACK),
        (Mutation::LateIsAnswer, again(), STARTS_NEWEST),
        (Mutation::NumberOnly, lost_and_left(), SETTLES),
        (Mutation::NeverTold, left(), SETTLES),
        (Mutation::MadeUnasked, lost(), NONE_ALIKE),
        (Mutation::EndsAlike, in_steps(&[1, 2, 3]), NONE_ALIKE),
        (Mutation::NeverEnds, in_steps(&[1, 2, 1]), SETTLES),
        (Mutation::StepsFall, in_steps(&[1, 2]), NEVER_LOWER),
    ] {
        let scenario = Scenario {
            mutation: Some(mutation),
            ..scenario
        };
        checker::finds(scenario, mutation, broken);
    }
}
