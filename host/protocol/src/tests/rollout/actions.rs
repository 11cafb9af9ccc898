//! The actions that can happen in a world, one step at a time. Some lines here stand in for the parts
//! of the host around the protocol; the protocol itself makes the decisions.

use std::collections::{BTreeMap, BTreeSet};

use ostrakon_base::digest::Digest;

use super::world::*;
use crate::{Generation, Incarnation, Next, Ordinal, Release, Rollout, Serving, Trial, Verdict};

/// Some partitions: in no step, in the first, and in the last.
const PARTITIONS: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];

/// What serves a partition by a release.
fn serves(release: &Release, partition: &[u8]) -> Generation {
    let trial = release.trial.filter(|trial| trial.has(partition));
    trial.map_or(release.live, |trial| trial.candidate)
}

/// The highest number that serves any partition.
fn highest(release: &Release) -> u64 {
    let trial = release.trial;
    trial.map_or(release.live.number, |trial| trial.candidate.number)
}

impl Scenario {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether a release that was made is never forgotten. A coordinator that lost its disk, and has
    /// given up waiting for a shard that knows more, may use a number again.
    fn is_remembered(&self) -> bool {
        self.lost_disks == 0 || self.gives_up == 0
    }

    pub(super) fn refuses(&self, shard: Ordinal, digest: Digest) -> bool {
        let mut refuses = self.refuses.iter();
        refuses.any(|(by, byte)| *by == shard.0 && content(*byte) == digest)
    }

    /// All shards serve the first content.
    pub(super) fn start(&self) -> World {
        let digest = content(self.contents[0]);
        let release = Release::first(ID, Incarnation(1), 0, digest);
        let nodes = (0..self.nodes).map(|_| {
            let mut serving = Serving::start(Some(release), 0);
            serving.asked();
            serving.is_live(&release);
            Node {
                incarnation: Incarnation(1),
                stored: Some(release),
                serving,
                rollout: Rollout::default(),
                unstored: None,
                accepts: Incarnation(1),
                at_least: None,
            }
        });
        World {
            nodes: nodes.collect(),
            sent: BTreeSet::new(),
            content: 0,
            restarts: self.restarts,
            lost_disks: self.lost_disks,
            gives_up: self.gives_up,
            failures: self.failures,
            lived: BTreeMap::from([(1, digest)]),
            broken: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = vec![Action::Observe, Action::Next];
        if world.content + 1 < self.contents.len() {
            actions.push(Action::Configure);
        }
        if world.gives_up > 0 {
            actions.push(Action::GiveUp);
        }
        if !self.steps.is_empty() {
            actions.push(Action::Watched);
        }
        if world.failures > 0 {
            actions.push(Action::Fails);
        }
        if world.lost_disks > 0 {
            actions.push(Action::LoseDisk);
        }
        actions.extend((1..self.nodes).map(|shard| Action::Ask(Ordinal(shard))));
        actions.extend(world.sent.iter().copied().map(Action::Deliver));
        for shard in (0..self.nodes).map(Ordinal) {
            actions.push(Action::GoLive(shard));
            if world.restarts > 0 {
                actions.push(Action::Restart(shard));
            }
        }
        actions
    }

    /// The world after an action; none if the action changes nothing.
    pub(super) fn after(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Configure => world.content += 1,
            Action::Observe => self.observe(&mut world),
            Action::Next => self.next(&mut world),
            Action::GiveUp => self.give_up(&mut world),
            Action::Watched => self.watched(&mut world),
            Action::Fails => Self::fails(&mut world),
            Action::Ask(shard) => self.ask(&mut world, shard),
            Action::Deliver(message) => self.deliver(&mut world, &message),
            Action::GoLive(shard) => self.go_live(&mut world, shard),
            Action::Restart(shard) => self.restart(&mut world, shard),
            Action::LoseDisk => self.lose_disk(&mut world),
        }
        (world != *before).then_some(world)
    }

    fn observe(&self, world: &mut World) {
        let node = &mut world.nodes[0];
        let shown = content(self.contents[world.content]);
        // What is held gives way to what is live.
        let known = node.serving.known();
        let known = known.filter(|known| known.held == Some(shown));
        let digest = known.map_or(shown, |known| known.live.digest);
        let held = known.map(|_| shown);
        let rollout = &mut node.rollout;
        rollout.volume(Some(shown), held);
        let before = rollout.candidate();
        if before.is_some_and(|before| before != digest) {
            world.seen.insert(Seen::CandidateChanged);
            if self.is(Mutation::AnyCandidate) {
                let said: Vec<_> = (0..self.nodes)
                    .map(Ordinal)
                    .filter(|shard| rollout.is_prepared(*shard))
                    .collect();
                rollout.observe(digest);
                for shard in said {
                    rollout.says(shard, rollout.attempt(), Verdict::Prepared);
                }
                return;
            }
        }
        rollout.observe(digest);
        rollout.goes_by(self.steps.clone());
    }

    /// The trial's step has been watched, in shards that all go by it. One that refuses what is live is
    /// not waited for without end.
    fn watched(&self, world: &mut World) {
        let World { nodes, .. } = world;
        let known = nodes[0].serving.known().copied();
        let watched = known.filter(|known| {
            let mut nodes = (0..).map(Ordinal).zip(nodes.iter());
            nodes.all(|(shard, node)| {
                node.serving.serves() == Some(known) || self.refuses(shard, known.live.digest)
            })
        });
        if let Some(trial) = watched.and_then(|known| known.trial) {
            nodes[0].rollout.was_watched(&trial);
        }
    }

    fn fails(world: &mut World) {
        let node = &mut world.nodes[0];
        if let Some(tried) = node.serving.in_trial()
            && !node.rollout.is_given_up(tried)
        {
            node.rollout.give_up(tried);
            world.failures -= 1;
            world.seen.insert(Seen::TrialFailed);
        }
    }

    fn next(&self, world: &mut World) {
        let node = &mut world.nodes[0];
        let me = (ID, node.incarnation);
        match node.rollout.next(me, &node.serving, self.nodes) {
            Next::Nothing => {}
            Next::StartAfter(maker) => {
                node.incarnation = Incarnation(maker.0 + 1);
            }
            Next::Ask(digest, attempt, shards) => {
                for shard in shards {
                    if shard == Ordinal::COORDINATOR {
                        let verdict = self.verdict(shard, digest);
                        world.nodes[0].rollout.says(shard, attempt, verdict);
                    } else {
                        let body = Body::Prepare(digest, attempt);
                        Self::send(world, Ordinal::COORDINATOR, shard, body);
                    }
                }
            }
            Next::Refuse(refused) => {
                world.seen.insert(Seen::Refused);
                node.rollout.refuse(refused);
            }
            Next::GoLive(mut release) => {
                let before = node.serving.known().and_then(|known| known.trial);
                match (before, release.trial) {
                    (None, Some(_)) => {
                        world.seen.insert(Seen::Tried);
                    }
                    (Some(_), Some(_)) if self.is(Mutation::StepsFall) => {
                        release.trial = release.trial.map(|trial| Trial { share: 0, ..trial });
                    }
                    (Some(before), None) if before.candidate == release.live => {
                        world.seen.insert(Seen::TriedToTheEnd);
                    }
                    (Some(before), None) => {
                        world.seen.insert(if node.rollout.refused().is_some() {
                            Seen::TrialRefused
                        } else if node.rollout.is_given_up(before.candidate.digest) {
                            Seen::TrialFailed
                        } else {
                            Seen::TrialOvertaken
                        });
                        if self.is(Mutation::EndsAlike) {
                            release.live.number = before.candidate.number;
                        }
                        if self.is(Mutation::NeverEnds) {
                            node.rollout.not_made();
                            return;
                        }
                    }
                    _ => {}
                }
                let is_prepared = |shard| node.rollout.is_prepared(Ordinal(shard));
                if !(0..self.nodes).all(is_prepared) {
                    world.seen.insert(Seen::LeftBehind);
                }
                let mut lived = world.lived.values();
                let is_again = release.trial.is_none() && before.is_none();
                if is_again && lived.any(|digest| *digest == release.live.digest) {
                    world.seen.insert(Seen::BackAgain);
                }
                if self.is(Mutation::ToldUnstored) {
                    self.tell(world, &release);
                }
                // Another action, so that a restart can come before it.
                world.nodes[0].unstored = Some(release);
            }
        }
    }

    /// The coordinator has waited long enough: for shards to tell it which release they know, or to
    /// say something of the candidate.
    fn give_up(&self, world: &mut World) {
        let node = &mut world.nodes[0];
        let me = (ID, node.incarnation);
        let next = node.rollout.next(me, &node.serving, self.nodes);
        let is_prepared = node.rollout.is_prepared(Ordinal::COORDINATOR);
        if !node.serving.has_asked() {
            node.serving.asked();
        } else if is_prepared && matches!(next, Next::Ask(..)) {
            node.rollout.wait_no_longer();
        } else {
            return;
        }
        world.gives_up -= 1;
    }

    fn verdict(&self, shard: Ordinal, digest: Digest) -> Verdict {
        if self.refuses(shard, digest) && !self.is(Mutation::RefusalIgnored) {
            Verdict::Refused
        } else {
            Verdict::Prepared
        }
    }

    /// The coordinator asks a shard, whose answer is about its process.
    fn ask(&self, world: &mut World, shard: Ordinal) {
        let (me, known) = {
            let node = &world.nodes[0];
            (node.incarnation, node.serving.known().copied())
        };
        let asked = &mut world.nodes[shard.0 as usize];
        if asked.accepts > me {
            // It says so, and the process takes a number above.
            world.nodes[0].incarnation = Incarnation(asked.accepts.0 + 1);
            return;
        }
        asked.accepts = me;
        let has_asked = world.nodes[0].serving.has_asked();
        let asked = &mut world.nodes[shard.0 as usize];
        if let Some(known) = &known
            && !self.is(Mutation::NeverTold)
            && !self.is(Mutation::NumberOnly)
        {
            asked.serving.hear(known);
        }
        let theirs = asked.serving.known().copied();
        // The coordinator's answer counts once it has asked the others itself.
        if has_asked {
            asked.serving.asked();
        }
        let node = &mut world.nodes[0];
        if let Some(theirs) = &theirs
            && node.serving.hear(theirs)
        {
            world.seen.insert(Seen::FoundAtOthers);
        }
        if !has_asked {
            node.rollout.has_told(shard);
            if node.rollout.have_told(self.nodes) {
                node.serving.asked();
            }
        }
    }

    fn tell(&self, world: &mut World, release: &Release) {
        for shard in (1..self.nodes).map(Ordinal) {
            if self.is(Mutation::NeverTold) && !world.nodes[0].rollout.is_prepared(shard) {
                continue;
            }
            Self::send(world, Ordinal::COORDINATOR, shard, Body::Live(*release));
        }
    }

    fn send(world: &mut World, from: Ordinal, to: Ordinal, body: Body) {
        let incarnation = world.nodes[from.0 as usize].incarnation;
        world.sent.insert(Message {
            from,
            incarnation,
            to,
            body,
        });
    }

    fn deliver(&self, world: &mut World, message: &Message) {
        let Message {
            from,
            incarnation,
            to,
            body,
        } = *message;
        let node = &mut world.nodes[to.0 as usize];
        if from == Ordinal::COORDINATOR {
            if incarnation < node.accepts {
                world.seen.insert(Seen::OldProcess);
                return;
            }
            node.accepts = incarnation;
        }
        match body {
            Body::Prepare(digest, attempt) => {
                let verdict = self.verdict(to, digest);
                Self::send(world, to, from, Body::Says(incarnation, attempt, verdict));
            }
            Body::Says(process, attempt, verdict) => {
                if (node.incarnation, node.rollout.attempt()) != (process, attempt) {
                    world.seen.insert(Seen::LateVerdict);
                }
                if node.incarnation == process {
                    node.rollout.says(from, attempt, verdict);
                }
            }
            Body::Live(release) => {
                let known = node.serving.known().copied();
                let is_counted = known.is_none_or(|known| release.live.number > known.live.number);
                if self.is(Mutation::NumberOnly) && !is_counted {
                    return;
                }
                if !node.serving.hear(&release)
                    && known.is_some_and(|known| known.is_after(&release))
                {
                    world.seen.insert(Seen::LateRelease);
                    if self.is(Mutation::LateRelease) {
                        node.serving = Serving::start(Some(release), 0);
                        node.serving.asked();
                    }
                }
                // A late one is no answer to what a process that has started must ask.
                if self.is(Mutation::LateIsAnswer) {
                    node.serving.asked();
                }
            }
        }
    }

    fn go_live(&self, world: &mut World, shard: Ordinal) {
        let index = shard.0 as usize;
        let node = &mut world.nodes[index];
        let due = node.serving.due().copied();
        let made = node.unstored.take_if(|_| due.is_none());
        let made = made.filter(|made| node.serving.is_news(made));
        let Some(release) = due.or(made) else {
            return;
        };
        let digest = release.live.digest;
        // A shard that refuses what is live elsewhere serves on as it did.
        if self.refuses(shard, digest) && !self.is(Mutation::RefusalIgnored) {
            return;
        }
        let before = node.stored;
        if node.serving.serves().is_none() {
            let is_old = node.at_least.is_some_and(|least| least.is_after(&release));
            if is_old && self.is_remembered() {
                world.broken.insert(STARTS_NEWEST);
            }
            if before.is_some_and(|before| release.is_after(&before)) {
                world.seen.insert(Seen::StartedBehind);
            }
        } else if before.is_some_and(|before| release.live.number > before.live.number + 1) {
            world.seen.insert(Seen::CaughtUp);
        }
        if before.is_some_and(|before| before.is_after(&release)) {
            world.broken.insert(NEVER_BACK);
        }
        let is_lower = |partition| {
            let served = |release: &Release| serves(release, partition).number;
            before.is_some_and(|before| served(&release) < served(&before))
        };
        // A coordinator that lost its disk may begin again with lower numbers.
        if PARTITIONS.iter().any(|it| is_lower(*it)) && self.is_remembered() {
            world.broken.insert(NEVER_LOWER);
        }
        node.stored = Some(release);
        node.serving.is_live(&release);
        // What a silent shard would refuse is not known.
        let is_refused = (0..self.nodes).any(|shard| self.refuses(Ordinal(shard), digest));
        if is_refused && self.gives_up == 0 {
            world.broken.insert(NOT_REFUSED);
        }
        let tried = release.trial.map(|trial| trial.candidate);
        for Generation { number, digest } in tried.into_iter().chain([release.live]) {
            let lived = world.lived.entry(number).or_insert(digest);
            if *lived != digest && self.is_remembered() {
                world.broken.insert(NONE_ALIKE);
            }
        }
        if shard == Ordinal::COORDINATOR {
            self.tell(world, &release);
        }
    }

    fn restart(&self, world: &mut World, shard: Ordinal) {
        world.restarts -= 1;
        if shard == Ordinal::COORDINATOR && world.nodes[0].unstored.is_some() {
            world.seen.insert(Seen::RestartBeforeTold);
        }
        self.start_again(world, shard);
    }

    /// Kills the coordinator, and starts it again on an empty disk. What was live nowhere else has
    /// never been.
    fn lose_disk(&self, world: &mut World) {
        world.lost_disks -= 1;
        world.seen.insert(Seen::DiskLost);
        world.nodes[0].stored = None;
        let left = Self::newest(&world.nodes);
        world
            .lived
            .retain(|number, _| left.is_some_and(|left| *number <= highest(&left)));
        for node in &mut world.nodes {
            node.at_least = None;
        }
        self.start_again(world, Ordinal::COORDINATOR);
        // Below what the others accept.
        world.nodes[0].incarnation = Incarnation(0);
    }

    /// The newest release on any disk.
    pub(super) fn newest(nodes: &[Node]) -> Option<Release> {
        let stored = nodes.iter().filter_map(|node| node.stored);
        stored.reduce(|one, other| if other.is_after(&one) { other } else { one })
    }

    /// Starts a process on what its disk has.
    fn start_again(&self, world: &mut World, shard: Ordinal) {
        let at_least = Self::newest(&world.nodes);
        let node = &mut world.nodes[shard.0 as usize];
        node.incarnation = Incarnation(node.incarnation.0 + 1);
        node.serving = Serving::start(node.stored, 0);
        node.rollout = Rollout::default();
        node.unstored = None;
        node.accepts = Incarnation::default();
        node.at_least = at_least;
        let unasked = match shard {
            Ordinal::COORDINATOR => self.is(Mutation::MadeUnasked),
            _ => self.is(Mutation::ServesUnasked),
        };
        if unasked {
            node.serving.asked();
        }
    }
}
