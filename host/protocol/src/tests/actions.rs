//! The actions that can happen in a world, one step at a time. Some lines here stand in for the
//! parts of the host around the protocol, mainly its writer and its disk. The protocol itself makes
//! the decisions.

use std::collections::{BTreeSet, VecDeque};

use stateright::semantics::LinearizabilityTester;
use stateright::semantics::register::Register;

use super::world::*;
use crate::{
    ClusterId, Coordinator, Cursor, Epoch, Incarnation, Ordinal, Plan, Range, Received, Shard,
};

impl Scenario {
    pub(super) fn start(&self) -> World {
        let first = placement(self.configured[0]);
        let plan = Plan::first(ClusterId(1), first.clone(), false);
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
            lost_disks: self.lost_disks,
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
        let concerned = Self::concerned(&world.nodes[0]);
        actions.extend((1..concerned.min(self.nodes)).map(|node| Action::Ask(Ordinal(node))));
        if world.lost_disks > 0 {
            actions.push(Action::LoseDisk);
        }
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

    /// The world after an action; none if the action changes nothing.
    pub(super) fn after(&self, before: &World, action: &Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Configure => self.configure(&mut world),
            Action::Plan => self.plan(&mut world),
            Action::Ask(node) => self.ask(&mut world, *node),
            Action::LoseDisk => self.lose_disk(&mut world),
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

    /// The number of shards that the coordinator deals with.
    fn concerned(coordinator: &Node) -> u32 {
        match coordinator.shard.plan() {
            None => coordinator.coordinator.to_ask(),
            Some(plan) => {
                let change = coordinator.coordinator.change(plan);
                change.map_or_else(|| plan.shards(), |change| change.shards())
            }
        }
    }

    fn ask(&self, world: &mut World, of: Ordinal) {
        let me = &world.nodes[0].shard;
        let (incarnation, plan) = (me.incarnation(), me.plan().cloned());
        let asked = &mut world.nodes[of.0 as usize].shard;
        if asked.hear(Ordinal::COORDINATOR, incarnation, 7).is_err() {
            return;
        }
        if let Some(plan) = &plan {
            world.outdated |= asked.learn(plan).is_err();
        }
        let theirs = asked.plan().cloned();
        let node = &mut world.nodes[0];
        node.coordinator.goes_by(of, theirs.clone());
        if let (Some(theirs), Some(_)) = (theirs, plan) {
            world.outdated |= node.shard.learn(&theirs).is_err();
        }
        self.send(world, 0);
        self.send(world, of.0 as usize);
    }

    fn plan(&self, world: &mut World) {
        let node = &mut world.nodes[0];
        let Some(plan) = node.shard.plan().cloned() else {
            let Some(desired) = node.coordinator.desired().cloned() else {
                return;
            };
            if self.is(Mutation::FirstUnasked) {
                (1..desired.shards)
                    .for_each(|shard| node.coordinator.goes_by(Ordinal(shard), None));
            }
            let id = ClusterId(node.shard.incarnation().0.into());
            if let Some(first) = node.coordinator.begin(id, false) {
                if first.epoch > Epoch(1) {
                    world.seen.insert(Seen::PlanFound);
                }
                world.outdated |= node.shard.learn(&first).is_err();
                self.send(world, 0);
            }
            return;
        };
        let next = match node.coordinator.next(&plan) {
            None if self.is(Mutation::FirstDoneIsAll)
                && !plan.is_stable()
                && node.coordinator.undone(&plan).len() < plan.from.shards as usize =>
            {
                Some(plan.ended())
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

    /// Kills the coordinator, and starts it again on an empty disk.
    fn lose_disk(&self, world: &mut World) {
        world.lost_disks -= 1;
        let node = &mut world.nodes[0];
        if node.shard.plan().is_some_and(|plan| !plan.is_stable()) {
            world.seen.insert(Seen::DiskLostMidway);
        }
        let Incarnation(last) = node.shard.incarnation();
        node.shard = Shard::new(Ordinal::COORDINATOR);
        node.shard.start(Incarnation(last + 1));
        node.data.clear();
        node.coordinator = Coordinator::default();
        node.coordinator
            .desire(placement(self.configured[world.configured]));
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

    /// Extracts the next partitions in key order that have another owner.
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

    /// Kills a process, and starts it again on its disk.
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

    /// Sends a node's messages: its plan, if it is the coordinator; its first batches; and the
    /// report that it is done.
    pub(super) fn send(&self, world: &mut World, index: usize) {
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

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}
