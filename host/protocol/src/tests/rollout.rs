//! A model checker explores roll-outs in some small worlds, as `model` does for partitions.
//!
//! A world's network loses, repeats and reorders messages. A restart loses what was not stored, and
//! the old process's messages stay in flight. The volume of the coordinator changes at any time,
//! also back; shards refuse some contents; the coordinator gives up waiting for silent shards, and
//! loses its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use ostrakon_base::digest::Digest;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::{
    Attempt, ClusterId, Generation, Incarnation, Next, Ordinal, Release, Rollout, Serving, Verdict,
};

const ID: ClusterId = ClusterId(7);

#[derive(Clone, Debug)]
struct Scenario {
    nodes: u32,
    /// The successive contents of the coordinator's volume.
    contents: Vec<u8>,
    /// The contents that a shard refuses.
    refuses: BTreeSet<(u32, u8)>,
    restarts: u8,
    lost_disks: u8,
    /// How often the coordinator gives up waiting.
    gives_up: u8,
    mutation: Option<Mutation>,
    /// The events seen so far, in all runs together.
    seen: Arc<Mutex<BTreeSet<Seen>>>,
}

/// A deliberate mistake that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// A shard that starts serves what it has stored, and asks nobody.
    ServesUnasked,
    /// A refusal is overlooked.
    RefusalIgnored,
    /// What a shard says of one candidate counts for another.
    AnyCandidate,
    /// The coordinator tells the others of a release before it has stored it.
    ToldUnstored,
    /// A release counts that arrives late.
    LateRelease,
    /// A process that has started takes a release that arrives late for an answer.
    LateIsAnswer,
    /// Who made a release does not count, only its number.
    NumberOnly,
    /// A shard that was left behind is never told.
    NeverTold,
    /// A coordinator that starts asks nobody before it makes a release.
    MadeUnasked,
}

/// Events that the checker must see, which shows that it covers what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Seen {
    Refused,
    LeftBehind,
    CaughtUp,
    CandidateChanged,
    BackAgain,
    LateVerdict,
    LateRelease,
    OldProcess,
    StartedBehind,
    RestartBeforeTold,
    DiskLost,
    FoundAtOthers,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    incarnation: Incarnation,
    /// What is on the disk: the release by which the shard went live last.
    stored: Option<Release>,
    serving: Serving,
    /// Only the coordinator's is used.
    rollout: Rollout,
    /// The release that the coordinator is about to store.
    unstored: Option<Release>,
    /// The coordinator's process that this shard accepts.
    accepts: Incarnation,
    /// The release that the coordinator had when this process started: at least this one is to be
    /// served.
    at_least: Option<Release>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    from: Ordinal,
    incarnation: Incarnation,
    to: Ordinal,
    body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Body {
    /// The coordinator's question.
    Prepare(Digest, Attempt),
    /// An answer to a process of the coordinator.
    Says(Incarnation, Attempt, Verdict),
    Live(Release),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    /// All messages ever sent: each may arrive at any time, any number of times, or never.
    sent: BTreeSet<Message>,
    /// The index of the volume's content.
    content: usize,
    restarts: u8,
    lost_disks: u8,
    gives_up: u8,
    /// The content of each generation that was live anywhere.
    lived: BTreeMap<u64, Digest>,
    /// The properties that an action has violated.
    broken: BTreeSet<&'static str>,
    /// The events seen in the last action.
    seen: BTreeSet<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// The coordinator's volume shows its next content.
    Configure,
    /// The coordinator reads its volume.
    Observe,
    /// The coordinator does what is next.
    Next,
    GiveUp,
    /// The coordinator asks a shard which release it knows, and says its own.
    Ask(Ordinal),
    Deliver(Message),
    /// A shard goes live by the newest release that it knows.
    GoLive(Ordinal),
    Restart(Ordinal),
    LoseDisk,
}

fn content(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
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

    fn refuses(&self, shard: Ordinal, digest: Digest) -> bool {
        let mut refuses = self.refuses.iter();
        refuses.any(|(by, byte)| *by == shard.0 && content(*byte) == digest)
    }

    /// All shards serve the first content.
    fn start(&self) -> World {
        let digest = content(self.contents[0]);
        let release = Release::first(ID, Incarnation(1), Generation { number: 1, digest });
        let nodes = (0..self.nodes).map(|_| {
            let mut serving = Serving::start(Some(release));
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
            lived: BTreeMap::from([(1, digest)]),
            broken: BTreeSet::new(),
            seen: BTreeSet::new(),
        }
    }

    fn actions(&self, world: &World) -> Vec<Action> {
        let mut actions = vec![Action::Observe, Action::Next];
        if world.content + 1 < self.contents.len() {
            actions.push(Action::Configure);
        }
        if world.gives_up > 0 {
            actions.push(Action::GiveUp);
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
    fn after(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Configure => world.content += 1,
            Action::Observe => self.observe(&mut world),
            Action::Next => self.next(&mut world),
            Action::GiveUp => self.give_up(&mut world),
            Action::Ask(shard) => self.ask(&mut world, shard),
            Action::Deliver(message) => self.deliver(&mut world, &message),
            Action::GoLive(shard) => self.go_live(&mut world, shard),
            Action::Restart(shard) => self.restart(&mut world, shard),
            Action::LoseDisk => self.lose_disk(&mut world),
        }
        (world != *before).then_some(world)
    }

    fn observe(&self, world: &mut World) {
        let digest = content(self.contents[world.content]);
        let rollout = &mut world.nodes[0].rollout;
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
            Next::GoLive(release) => {
                let said = |shard: &u32| node.rollout.is_prepared(Ordinal(*shard));
                if !(0..self.nodes).all(|shard| said(&shard)) {
                    world.seen.insert(Seen::LeftBehind);
                }
                let mut lived = world.lived.values();
                if lived.any(|digest| *digest == release.live.digest) {
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
                let is_counted = known.is_none_or(|known| release.number > known.number);
                if self.is(Mutation::NumberOnly) && !is_counted {
                    return;
                }
                if !node.serving.hear(&release)
                    && known.is_some_and(|known| known.is_after(&release))
                {
                    world.seen.insert(Seen::LateRelease);
                    if self.is(Mutation::LateRelease) {
                        node.serving = Serving::start(Some(release));
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
        } else if before.is_some_and(|before| release.number > before.number + 1) {
            world.seen.insert(Seen::CaughtUp);
        }
        if before.is_some_and(|before| before.is_after(&release)) {
            world.broken.insert(NEVER_BACK);
        }
        node.stored = Some(release);
        node.serving.is_live(&release);
        // What a silent shard would refuse is not known.
        let is_refused = (0..self.nodes).any(|shard| self.refuses(Ordinal(shard), digest));
        if is_refused && self.gives_up == 0 {
            world.broken.insert(NOT_REFUSED);
        }
        let lived = world.lived.entry(release.live.number).or_insert(digest);
        if *lived != digest && self.is_remembered() {
            world.broken.insert(NONE_ALIKE);
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
            .retain(|number, _| left.is_some_and(|left| *number <= left.live.number));
        for node in &mut world.nodes {
            node.at_least = None;
        }
        self.start_again(world, Ordinal::COORDINATOR);
        // Below what the others accept.
        world.nodes[0].incarnation = Incarnation(0);
    }

    /// The newest release on any disk.
    fn newest(nodes: &[Node]) -> Option<Release> {
        let stored = nodes.iter().filter_map(|node| node.stored);
        stored.reduce(|one, other| if other.is_after(&one) { other } else { one })
    }

    /// Starts a process on what its disk has.
    fn start_again(&self, world: &mut World, shard: Ordinal) {
        let at_least = Self::newest(&world.nodes);
        let node = &mut world.nodes[shard.0 as usize];
        node.incarnation = Incarnation(node.incarnation.0 + 1);
        node.serving = Serving::start(node.stored);
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

impl Scenario {
    /// Lets everything possible happen, without anything new or bad, until nothing more changes.
    /// Returns `None` if that does not happen.
    fn settle(&self, world: &World) -> Option<World> {
        let mut world = world.clone();
        for _ in 0..100 {
            let mut changed = false;
            for action in self.actions(&world) {
                let goes_on = matches!(
                    action,
                    Action::Observe
                        | Action::Next
                        | Action::Ask(_)
                        | Action::Deliver(_)
                        | Action::GoLive(_)
                );
                if goes_on && let Some(after) = self.after(&world, action) {
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

    /// Whether all shards serve by the same release, what the volume shows unless a shard refuses it.
    /// Only a shard that was left behind, and then refuses what is live, may serve something else.
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
        all_serve && (is_shown || is_refused)
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

const NONE_ALIKE: &str = "no two contents have the same generation's number";
const NEVER_BACK: &str = "no shard goes back to an earlier release";
const NOT_REFUSED: &str = "nothing is live that a shard has refused";
const STARTS_NEWEST: &str = "no shard starts with another generation than the newest release says";
const SETTLES: &str = "all shards serve the same once restarts cease";

/// Two shards that roll out one content after the other.
fn two_shards(contents: &[u8]) -> Scenario {
    Scenario {
        nodes: 2,
        contents: contents.to_vec(),
        refuses: BTreeSet::new(),
        restarts: 0,
        lost_disks: 0,
        gives_up: 0,
        mutation: None,
        seen: Arc::default(),
    }
}

/// Explores a scenario completely. The number of states must match, because a lower number means
/// that the search no longer covers everything. The search must also still see the events that
/// matter.
#[track_caller]
fn check(scenario: Scenario, states: usize, seen: &[Seen]) {
    let found = Arc::clone(&scenario.seen);
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let found = found.lock().expect("no holder panics");
    let missing: BTreeSet<_> = seen.iter().filter(|seen| !found.contains(seen)).collect();
    assert!(
        missing.is_empty(),
        "these states were never reached: {missing:?}"
    );
    assert_eq!(checker.unique_state_count(), states);
    println!("{states} states, all of them good");
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
    check(scenario, 38_075, &seen);
}

#[test]
fn a_silent_shard_that_refuses_what_is_live_leaves_the_others_alone() {
    let scenario = Scenario {
        gives_up: 1,
        restarts: 1,
        refuses: BTreeSet::from([(1, 2)]),
        ..two_shards(&[1, 2, 3])
    };
    check(scenario, 12_319, &[Seen::LeftBehind, Seen::Refused]);
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
        27_835,
        &[Seen::DiskLost, Seen::LeftBehind, Seen::LateRelease],
    );
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
    ] {
        let scenario = Scenario {
            mutation: Some(mutation),
            ..scenario
        };
        let any_of = HasDiscoveries::AnyOf(BTreeSet::from([broken]).into_iter().collect());
        let checker = scenario
            .checker()
            .threads(2)
            .finish_when(any_of)
            .spawn_bfs()
            .join();
        let found = checker.discovery(broken);
        assert!(found.is_some(), "{mutation:?} is not found");
        println!(
            "{mutation:?}: {broken} is violated after {} states",
            checker.unique_state_count()
        );
    }
}
