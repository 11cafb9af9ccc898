//! Properties of every world, and of a world in which everything has happened.

use std::collections::VecDeque;

use super::checker::settle;
use super::world::*;
use crate::{Authority, Ordinal, Range, Received};

impl Scenario {
    /// The number of shards that consider a key their own.
    pub(super) fn authorities(&self, world: &World, key: u8) -> usize {
        let is_mine = |node: &&Node| {
            let Some(plan) = node.shard.plan() else {
                return false;
            };
            let (from, to) = owners(key, plan);
            match node.shard.authority(&[key], from, to, None) {
                Authority::Mine => true,
                Authority::Elsewhere { .. } => {
                    self.is(Mutation::PassedIsMine) && from == node.shard.ordinal()
                }
                Authority::Awaited { .. } => self.is(Mutation::NotAwaited),
                Authority::Unknown => false,
            }
        };
        world.nodes.iter().filter(is_mine).count()
    }

    /// The values of a key in all its places: in data, or in a batch in flight.
    pub(super) fn places(world: &World, key: u8) -> Vec<u8> {
        let mut places = Vec::new();
        for node in &world.nodes {
            let applied = |(to, kept): (Ordinal, &VecDeque<Range>)| {
                kept.iter().any(|range| {
                    let batch = node.shard.envelope(to, range, 7);
                    let mut receiver = world.nodes[to.0 as usize].shard.clone();
                    // Applied, but not yet deleted here.
                    receiver.receive(&batch) == Received::Known
                        && node.contents(to, range).contains_key(&key)
                })
            };
            if !node.shard.outboxes().any(applied) {
                places.extend(node.data.get(&key));
            }
        }
        places
    }

    /// Lets everything possible happen, without restarts or new configurations, until nothing more
    /// changes. Returns `None` if that does not happen.
    pub(super) fn settle(&self, world: &World) -> Option<World> {
        let goes_on = |action: &Action| {
            matches!(
                action,
                Action::Plan
                    | Action::Ask(_)
                    | Action::Deliver(_)
                    | Action::Step(_)
                    | Action::Serve(_)
                    | Action::Part(..)
            )
        };
        let actions = |world: &World| self.actions(world).into_iter().filter(goes_on).collect();
        let after = |world: &World, action| self.after(world, &action);
        settle(world, actions, after)
    }

    /// Whether each key is at its configured place, and no client waits.
    pub(super) fn is_settled(&self, world: &World) -> bool {
        let configured = self.configured[world.configured];
        let stable = |node: &Node| {
            node.shard
                .plan()
                .is_some_and(|plan| plan.is_stable() && plan.to == placement(configured))
        };
        let in_place = |key: &u8| {
            let owner = owner(*key, configured);
            Self::places(world, *key).len() == 1
                && world.nodes[owner.0 as usize].data.contains_key(key)
        };
        let answered =
            |client: &Client| !matches!(client, Client::Asking { .. } | Client::Listing { .. });
        world.nodes[..configured.0 as usize].iter().all(stable)
            && world.truth.keys().all(in_place)
            && world.clients.iter().all(answered)
    }
}
