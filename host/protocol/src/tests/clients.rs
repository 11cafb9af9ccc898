//! The clients' requests and replies: reads, writes and listings.

use std::collections::BTreeMap;

use stateright::semantics::ConsistencyTester;
use stateright::semantics::register::{RegisterOp, RegisterRet};

use super::world::*;
use crate::{Authority, Moved, Ordinal};

impl Scenario {
    pub(super) fn invoke(&self, world: &mut World, client: usize, at: Ordinal) {
        let Client::Idle(index) = world.clients[client] else {
            unreachable!("it is idle");
        };
        let (key, op) = match self.clients[client][index] {
            Op::Write(key, value) => (key, RegisterOp::Write(value)),
            Op::Read(key) => (key, RegisterOp::Read),
            Op::List => {
                let parts = BTreeMap::new();
                world.clients[client] = Client::Listing { index, parts };
                return;
            }
        };
        let history = world.history.get_mut(&key).expect("a known key");
        history.on_invoke(client, op).expect("a valid history");
        world.clients[client] = Client::Asking {
            index,
            at,
            hand_off: None,
            plan: None,
        };
    }

    pub(super) fn serve(&self, world: &mut World, client: usize, lose_reply: bool) {
        let Client::Asking {
            index,
            at,
            hand_off,
            plan,
        } = world.clients[client].clone()
        else {
            unreachable!("it asks");
        };
        let node = &mut world.nodes[at.0 as usize];
        // A shard that knows no plan accepts one only from the coordinator.
        if let Some(plan) = plan.as_ref().filter(|_| node.shard.plan().is_some())
            && node.shard.learn(plan).is_err()
        {
            world.outdated = true;
            return;
        }
        let Some(plan) = node.shard.plan().cloned() else {
            return;
        };
        let (Op::Write(key, _) | Op::Read(key)) = self.clients[client][index] else {
            unreachable!("a listing asks for parts");
        };
        let (from, to) = owners(key, &plan);
        let is_mine = match node.shard.authority(&[key], from, to, hand_off.as_ref()) {
            Authority::Mine => true,
            Authority::Elsewhere { .. } if self.is(Mutation::PassedIsMine) && from == at => true,
            Authority::Elsewhere { at, hand_off } => {
                world.seen.insert(Seen::Redirected);
                let plan = Some(plan);
                if hand_off.is_some() {
                    world.seen.insert(Seen::RedirectedTwice);
                }
                world.clients[client] = Client::Asking {
                    index,
                    at,
                    hand_off,
                    plan,
                };
                false
            }
            Authority::Awaited { .. } => {
                world.seen.insert(Seen::Awaited);
                self.is(Mutation::NotAwaited)
            }
            Authority::Unknown => false,
        };
        if is_mine {
            if from != to && at == to {
                world.seen.insert(Seen::ServedByReceiver);
            }
            self.execute(world, client, index, at, lose_reply);
        }
        self.send(world, at.0 as usize);
    }

    fn execute(
        &self,
        world: &mut World,
        client: usize,
        index: usize,
        at: Ordinal,
        lose_reply: bool,
    ) {
        let node = &mut world.nodes[at.0 as usize];
        let (key, ret) = match self.clients[client][index] {
            Op::Write(key, value) => {
                node.data.insert(key, value);
                world.truth.insert(key, value);
                (key, RegisterRet::WriteOk)
            }
            // 255 means no value, because no write uses it.
            Op::Read(key) => (
                key,
                RegisterRet::ReadOk(node.data.get(&key).copied().unwrap_or(255)),
            ),
            Op::List => unreachable!("a listing asks for parts"),
        };
        if lose_reply {
            world.clients[client] = Client::Gone;
            return;
        }
        if world.clients.contains(&Client::Gone) && matches!(ret, RegisterRet::ReadOk(_)) {
            world.seen.insert(Seen::LostReplyThenRead);
        }
        let history = world.history.get_mut(&key).expect("a known key");
        history.on_return(client, ret).expect("a valid history");
        world.clients[client] = Client::Idle(index + 1);
    }

    /// A shard gives its part of a listing. Once all shards have, the parts are joined or, if
    /// they do not fit together, the listing starts again.
    pub(super) fn part(&self, world: &mut World, client: usize, from: Ordinal) {
        let Client::Listing { index, mut parts } = world.clients[client].clone() else {
            // The listing already has what it needs.
            return;
        };
        let node = &world.nodes[from.0 as usize];
        let (Some(plan), Some(moved)) = (node.shard.plan(), node.shard.moved(7)) else {
            return;
        };
        let (shards, stable) = (plan.shards(), plan.is_stable());
        if from.0 >= shards {
            return;
        }
        // Parts of another epoch are no longer of use.
        parts.retain(|_, (part, _)| part.epoch == moved.epoch);
        if parts.contains_key(&from) {
            return;
        }
        parts.insert(from, (moved, node.data.keys().copied().collect()));
        if parts.len() < shards as usize {
            world.clients[client] = Client::Listing { index, parts };
            return;
        }
        let moved = parts
            .iter()
            .map(|(from, (moved, _))| (*from, moved.clone()));
        if !Moved::fit(&moved.collect()) && !self.is(Mutation::ListUnfit) {
            world.seen.insert(Seen::ListedUnfit);
            let parts = BTreeMap::new();
            world.clients[client] = Client::Listing { index, parts };
            return;
        }
        if !stable && parts.values().all(|(_, keys)| !keys.is_empty()) {
            world.seen.insert(Seen::ListedMidway);
        }
        let mut listed: Vec<u8> = parts.into_values().flat_map(|(_, keys)| keys).collect();
        listed.sort_unstable();
        world.listed_wrong |= !listed.iter().eq(world.truth.keys());
        world.clients[client] = Client::Idle(index + 1);
    }
}
