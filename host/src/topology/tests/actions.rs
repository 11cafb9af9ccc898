//! What can happen in a world, one step at a time. What the host does around
//! the protocol, its lane and its disk above all, is done here by a few lines;
//! the decisions are the protocol's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use super::world::*;
use crate::topology::{
    Authority, Coordinator, Cursor, Epoch, Incarnation, Moved, Ordinal, Plan, Range, Received,
    Shard,
};

impl Scenario {
    pub(super) fn start(&self) -> World {
        let first = placement(self.configured[0]);
        let plan = Plan::first(first.clone());
        let nodes = (0..self.nodes).map(|ordinal| {
            let mut shard = Shard::new(Ordinal(ordinal));
            shard.start(Incarnation(1));
            if ordinal < first.shards {
                shard.learn(&plan).expect("it is the first plan");
            }
            let mine = |key: &&u8| owner(**key, self.configured[0]) == Ordinal(ordinal);
            let mut coordinator = Coordinator::default();
            coordinator.desire(first.clone());
            Node {
                shard,
                coordinator,
                data: self.keys.iter().filter(mine).map(|key| (*key, 0)).collect(),
                resumed: false,
            }
        });
        let mut world = World {
            nodes: nodes.collect(),
            sent: BTreeSet::new(),
            clients: vec![Client::Idle(0); self.clients.len()],
            history: self
                .keys
                .iter()
                .map(|key| (*key, LinearizabilityTester::new(Register(0))))
                .collect(),
            truth: self.keys.iter().map(|key| (*key, 0)).collect(),
            configured: 0,
            restarts: self.restarts,
            lost_replies: self.lost_replies,
            outdated: false,
            listed_wrong: false,
            seen: BTreeSet::new(),
        };
        for node in 0..world.nodes.len() {
            self.send(&mut world, node);
        }
        world
    }

    pub(super) fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        if world.configured + 1 < self.configured.len() {
            actions.push(Action::Configure);
        }
        actions.push(Action::Plan);
        for message in &world.sent {
            actions.push(Action::Deliver(Box::new(message.clone())));
        }
        for node in 0..self.nodes {
            actions.push(Action::Step(Ordinal(node)));
            if world.restarts > 0 {
                actions.push(Action::Restart(Ordinal(node)));
            }
        }
        for (index, client) in world.clients.iter().enumerate() {
            match client {
                Client::Idle(next) if *next < self.clients[index].len() => {
                    actions
                        .extend((0..self.nodes).map(|node| Action::Invoke(index, Ordinal(node))));
                }
                Client::Asking { .. } => {
                    actions.push(Action::Serve(index));
                    if world.lost_replies > 0 {
                        actions.push(Action::ServeAndLoseReply(index));
                    }
                }
                Client::Listing { .. } => {
                    actions.extend((0..self.nodes).map(|node| Action::Part(index, Ordinal(node))));
                }
                Client::Idle(_) | Client::Gone => {}
            }
        }
        actions
    }

    /// The world after an action; none where it changes nothing.
    pub(super) fn after(&self, before: &World, action: &Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Configure => self.configure(&mut world),
            Action::Plan => self.plan(&mut world),
            Action::Deliver(message) => self.deliver(&mut world, message),
            Action::Step(node) => self.step(&mut world, *node),
            Action::Restart(node) => self.restart(&mut world, *node),
            Action::Invoke(client, at) => self.invoke(&mut world, *client, *at),
            Action::Part(client, node) => self.part(&mut world, *client, *node),
            Action::Serve(client) => self.serve(&mut world, *client, false),
            Action::ServeAndLoseReply(client) => {
                world.lost_replies -= 1;
                self.serve(&mut world, *client, true);
                if !matches!(world.clients[*client], Client::Gone) {
                    return None;
                }
            }
        }
        (world != *before).then_some(world)
    }

    fn configure(&self, world: &mut World) {
        world.configured += 1;
        let desired = placement(self.configured[world.configured]);
        world.nodes[0].coordinator.desire(desired);
    }

    fn plan(&self, world: &mut World) {
        let node = &mut world.nodes[0];
        let Some(plan) = node.shard.plan().cloned() else {
            return;
        };
        let next = match node.coordinator.next(&plan) {
            None if self.is(Mutation::FirstDoneIsAll)
                && !plan.is_stable()
                && node.coordinator.undone(&plan).len() < plan.from.shards as usize =>
            {
                let epoch = Epoch(plan.epoch.0 + 1);
                Some(Plan {
                    epoch,
                    from: plan.to.clone(),
                    to: plan.to,
                })
            }
            next => next,
        };
        let Some(next) = next else {
            return;
        };
        if !next.is_stable() && next.epoch > Epoch(2) {
            world.seen.insert(Seen::SecondChange);
        }
        world.outdated |= world.nodes[0].shard.learn(&next).is_err();
        self.send(world, 0);
    }

    fn deliver(&self, world: &mut World, message: &Message) {
        let index = message.to.0 as usize;
        let node = &mut world.nodes[index];
        if node
            .shard
            .hear(message.from, message.incarnation, 7)
            .is_err()
        {
            world.seen.insert(Seen::OldProcess);
            return;
        }
        match &message.body {
            Body::Plan(plan) => world.outdated |= node.shard.learn(plan).is_err(),
            Body::Batch(batch, partitions) => {
                let received = node.shard.receive(batch);
                let apply = match received {
                    Received::Apply => true,
                    Received::Known => {
                        world.seen.insert(Seen::BatchAgain);
                        self.is(Mutation::ApplyTwice)
                    }
                    Received::Ignore => {
                        world.seen.insert(Seen::LateBatch);
                        false
                    }
                };
                if apply {
                    node.data
                        .extend(partitions.iter().map(|(key, value)| (*key, *value)));
                }
                if received != Received::Ignore {
                    let body = Body::Acknowledged(batch.number);
                    Self::send_one(world, index, message.from, body);
                }
            }
            Body::Acknowledged(number) => {
                let mut number = *number;
                if self.is(Mutation::AnyAcknowledgement) {
                    let mut outboxes = node.shard.outboxes();
                    let outbox = outboxes.find(|(to, _)| *to == message.from);
                    number = outbox.map_or(number, |(_, kept)| kept[0].number);
                }
                if self.is(Mutation::KeepAcknowledged) {
                    node.shard.acknowledged(message.from, number);
                } else {
                    node.forget(message.from, number);
                }
            }
            Body::Done(epoch) => node.coordinator.done(message.from, *epoch),
        }
        self.send(world, index);
    }

    /// Takes out what comes next in key order and has another owner to go to.
    fn step(&self, world: &mut World, ordinal: Ordinal) {
        let node = &mut world.nodes[ordinal.0 as usize];
        if !node.shard.may_step() || (self.is(Mutation::NoResume) && node.resumed) {
            return;
        }
        let plan = node.shard.plan().expect("it may step").clone();
        let passed = |key: &u8| node.shard.cursor().covers(&[*key]);
        let goes = |key: &&u8| !passed(key) && owners(**key, &plan).1 != ordinal;
        match node.data.keys().copied().find(|key| goes(&key)) {
            None => node.shard.step(Cursor::End, &BTreeSet::new()),
            Some(key) => {
                let to = owners(key, &plan).1;
                node.shard
                    .step(Cursor::Through(vec![key]), &BTreeSet::from([to]));
            }
        }
        self.send(world, ordinal.0 as usize);
    }

    /// A process is killed, and started again on its disk.
    fn restart(&self, world: &mut World, ordinal: Ordinal) {
        world.restarts -= 1;
        let node = &mut world.nodes[ordinal.0 as usize];
        if node.shard.outboxes().next().is_some() {
            world.seen.insert(Seen::RestartWithOutbox);
        }
        let moving = node.shard.plan().is_some_and(|plan| !plan.is_stable());
        if ordinal == Ordinal::COORDINATOR && moving {
            world.seen.insert(Seen::CoordinatorRestartedMidway);
        }
        let stored = serde_json::to_vec(&node.shard).expect("it can be stored");
        node.shard = serde_json::from_slice(&stored).expect("it was stored");
        node.shard.start(Incarnation::default());
        node.coordinator = Coordinator::default();
        node.coordinator
            .desire(placement(self.configured[world.configured]));
        node.resumed = self.is(Mutation::NoResume);
        self.send(world, ordinal.0 as usize);
    }

    fn invoke(&self, world: &mut World, client: usize, at: Ordinal) {
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
            passed: None,
            plan: None,
        };
    }

    fn serve(&self, world: &mut World, client: usize, lose_reply: bool) {
        let Client::Asking {
            index,
            at,
            passed,
            plan,
        } = world.clients[client].clone()
        else {
            unreachable!("it asks");
        };
        let node = &mut world.nodes[at.0 as usize];
        if let Some(plan) = &plan
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
        let is_mine = match node.shard.authority(&[key], from, to, passed.as_ref()) {
            Authority::Mine => true,
            Authority::Elsewhere { .. } if self.is(Mutation::PassedIsMine) && from == at => true,
            Authority::Elsewhere { at, passed } => {
                world.seen.insert(Seen::Redirected);
                let plan = Some(plan);
                if passed.is_some() {
                    world.seen.insert(Seen::RedirectedTwice);
                }
                world.clients[client] = Client::Asking {
                    index,
                    at,
                    passed,
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
            // 255: there is none, which no write has made so.
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

    /// A shard gives its part of a listing; once all have, it is joined, or, where
    /// the parts do not fit, begun anew.
    fn part(&self, world: &mut World, client: usize, from: Ordinal) {
        let Client::Listing { index, mut parts } = world.clients[client].clone() else {
            // It has what it needs.
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
        // Those of another epoch are of no use any more.
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

    /// Sends what a node has to say: its plan, if it is the coordinator, its
    /// first batches, and that it is done.
    fn send(&self, world: &mut World, index: usize) {
        let node = &mut world.nodes[index];
        let me = node.shard.ordinal();
        if me == Ordinal::COORDINATOR
            && let Some(plan) = node.shard.plan().cloned()
        {
            for to in 1..self.nodes {
                Self::send_one(
                    world,
                    index,
                    Ordinal(to),
                    Body::Plan(Box::new(plan.clone())),
                );
            }
        }
        let node = &world.nodes[index];
        let first = |(to, kept): (Ordinal, &VecDeque<Range>)| (to, kept[0].clone());
        let batches: Vec<_> = node.shard.outboxes().map(first).collect();
        for (to, range) in batches {
            let node = &mut world.nodes[index];
            let batch = node.shard.envelope(to, &range, 7);
            let partitions = node.contents(to, &range);
            if self.is(Mutation::ForgetSent) {
                node.forget(to, range.number);
            }
            Self::send_one(world, index, to, Body::Batch(batch, partitions));
        }
        let node = &mut world.nodes[index];
        let at_end = *node.shard.cursor() == Cursor::End && self.is(Mutation::DoneAtEnd);
        let epoch = node.shard.plan().map(|plan| plan.epoch).filter(|_| at_end);
        if let Some(epoch) = epoch.or_else(|| node.shard.is_done()) {
            if me == Ordinal::COORDINATOR {
                node.coordinator.done(me, epoch);
            } else {
                Self::send_one(world, index, Ordinal::COORDINATOR, Body::Done(epoch));
            }
        }
    }

    fn send_one(world: &mut World, index: usize, to: Ordinal, body: Body) {
        let shard = &world.nodes[index].shard;
        world.sent.insert(Message {
            from: shard.ordinal(),
            incarnation: shard.incarnation(),
            to,
            body,
        });
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// How many shards take a key for theirs.
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

    /// The values of a key wherever it is: in the data, or on its way.
    pub(super) fn places(world: &World, key: u8) -> Vec<u8> {
        let mut places = Vec::new();
        for node in &world.nodes {
            let applied = |(to, kept): (Ordinal, &VecDeque<Range>)| {
                kept.iter().any(|range| {
                    let batch = node.shard.envelope(to, range, 7);
                    let mut receiver = world.nodes[to.0 as usize].shard.clone();
                    // Applied, and only not deleted yet.
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

    /// Lets everything happen that can, without restarts or new demands, until
    /// nothing more does; none if that does not come.
    pub(super) fn settle(&self, world: &World) -> Option<World> {
        let mut world = world.clone();
        for _ in 0..100 {
            let mut changed = false;
            for action in self.actions(&world) {
                let goes_on = matches!(
                    action,
                    Action::Plan
                        | Action::Deliver(_)
                        | Action::Step(_)
                        | Action::Serve(_)
                        | Action::Part(..)
                );
                if goes_on && let Some(after) = self.after(&world, &action) {
                    world = after;
                    changed = true;
                }
            }
            if !changed {
                return Some(world);
            }
        }
        None
    }

    /// Whether each key is where it is configured to be, and nobody waits.
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
