//! The state of shards and a network between two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use ostrakon_base::digest::Digest;

use crate::{Attempt, ClusterId, Incarnation, Ordinal, Release, Rollout, Serving, Verdict};

pub(super) const NONE_ALIKE: &str = "no two contents have the same generation's number";
pub(super) const NEVER_BACK: &str = "no shard goes back to an earlier release";
pub(super) const NOT_REFUSED: &str = "nothing is live that a shard has refused";
pub(super) const STARTS_NEWEST: &str =
    "no shard starts with another generation than the newest release says";
pub(super) const NEVER_LOWER: &str = "no partition is served by a lower number than before";
pub(super) const SETTLES: &str = "all shards serve the same once restarts cease";

pub(super) const ID: ClusterId = ClusterId(7);

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) nodes: u32,
    /// The successive contents of the coordinator's volume.
    pub(super) contents: Vec<u8>,
    /// The contents that a shard refuses.
    pub(super) refuses: BTreeSet<(u32, u8)>,
    pub(super) restarts: u8,
    pub(super) lost_disks: u8,
    /// How often the coordinator gives up waiting.
    pub(super) gives_up: u8,
    /// The shares by which a candidate goes live before it serves all partitions.
    pub(super) steps: Vec<u32>,
    /// How often a candidate fails in its trial.
    pub(super) failures: u8,
    pub(super) mutation: Option<Mutation>,
    /// The events seen so far, in all runs together.
    pub(super) seen: Arc<Mutex<BTreeSet<Seen>>>,
}

/// A deliberate mistake that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
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
    /// A trial that ends gives the candidate's number to what was live.
    EndsAlike,
    /// A trial that fails is left as it is.
    NeverEnds,
    /// A step serves fewer partitions than the one before it.
    StepsFall,
}

/// Events that the checker must see, which shows that it covers what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Seen {
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
    Tried,
    TrialFailed,
    TrialRefused,
    TrialOvertaken,
    TriedToTheEnd,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) incarnation: Incarnation,
    /// What is on the disk: the release by which the shard went live last.
    pub(super) stored: Option<Release>,
    pub(super) serving: Serving,
    /// Only the coordinator's is used.
    pub(super) rollout: Rollout,
    /// The release that the coordinator is about to store.
    pub(super) unstored: Option<Release>,
    /// The coordinator's process that this shard accepts.
    pub(super) accepts: Incarnation,
    /// The newest release on any disk when this process started: at least this one is to be served.
    pub(super) at_least: Option<Release>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) from: Ordinal,
    pub(super) incarnation: Incarnation,
    pub(super) to: Ordinal,
    pub(super) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Body {
    /// The coordinator's question.
    Prepare(Digest, Attempt),
    /// An answer to a process of the coordinator.
    Says(Incarnation, Attempt, Verdict),
    Live(Release),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    /// All messages ever sent: each may arrive at any time, any number of times, or never.
    pub(super) sent: BTreeSet<Message>,
    /// The index of the volume's content.
    pub(super) content: usize,
    pub(super) restarts: u8,
    pub(super) lost_disks: u8,
    pub(super) gives_up: u8,
    pub(super) failures: u8,
    /// The content of each generation that was live anywhere.
    pub(super) lived: BTreeMap<u64, Digest>,
    /// The properties that an action has violated.
    pub(super) broken: BTreeSet<&'static str>,
    /// The events seen in the last action.
    pub(super) seen: BTreeSet<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The coordinator's volume shows its next content.
    Configure,
    /// The coordinator reads its volume.
    Observe,
    /// The coordinator does what is next.
    Next,
    GiveUp,
    /// The coordinator has watched the step of a trial for long enough.
    Watched,
    /// The coordinator sees a candidate fail in its trial.
    Fails,
    /// The coordinator asks a shard which release it knows, and says its own.
    Ask(Ordinal),
    Deliver(Message),
    /// A shard goes live by the newest release that it knows.
    GoLive(Ordinal),
    Restart(Ordinal),
    LoseDisk,
}

pub(super) fn content(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}
