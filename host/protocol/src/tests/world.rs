//! The state of shards, clients and a network between two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use ostrakon_base::digest::Digest;
use stateright::semantics::LinearizabilityTester;
use stateright::semantics::register::Register;

use crate::{
    Batch, Coordinator, Cursor, Epoch, HandOff, Incarnation, Moved, Ordinal, Placement, Plan,
    Range, Shard,
};

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) nodes: u32,
    /// The successive configurations: number of shards, and version of sharding.
    pub(super) configured: Vec<(u32, u32)>,
    pub(super) keys: Vec<u8>,
    /// Each client's operations, in order.
    pub(super) clients: Vec<Vec<Op>>,
    pub(super) restarts: u8,
    pub(super) lost_replies: u8,
    /// How often the coordinator's disk is lost and replaced by an empty one.
    pub(super) lost_disks: u8,
    pub(super) mutation: Option<Mutation>,
    /// The events seen so far, in all runs together.
    pub(super) seen: Arc<Mutex<BTreeSet<Seen>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Write(u8, u8),
    Read(u8),
    /// Lists all keys, of every shard.
    List,
}

/// A deliberate mistake that the checker must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A receiver applies a batch again if it arrives again.
    ApplyTwice,
    /// A receiver answers before it has applied the batch that it must wait for.
    NotAwaited,
    /// A source answers for partitions that it has handed off.
    PassedIsMine,
    /// A source forgets a batch once it is sent.
    ForgetSent,
    /// Acknowledged partitions are not deleted.
    KeepAcknowledged,
    /// The coordinator ends a change when the first source is done.
    FirstDoneIsAll,
    /// A source is done when its cursor is at the end, even if its outbox is not empty.
    DoneAtEnd,
    /// An acknowledgement is taken for one of the batch sent last.
    AnyAcknowledgement,
    /// A source that has begun never continues after a restart.
    NoResume,
    /// A listing joins parts that do not fit together.
    ListUnfit,
    /// A coordinator that knows no plan makes the first one without asking.
    FirstUnasked,
}

/// The owner of a key: version 1 counts up from the first shard, version 2 down from the last.
pub(super) fn owner(key: u8, (shards, version): (u32, u32)) -> Ordinal {
    let shard = u32::from(key) % shards;
    Ordinal(if version == 1 {
        shard
    } else {
        shards - 1 - shard
    })
}

pub(super) fn placement((shards, sharding): (u32, u32)) -> Placement {
    Placement {
        shards,
        owner: Digest::from_bytes([u8::try_from(sharding).unwrap(); 32]),
        sharding,
    }
}

pub(super) fn owners(key: u8, plan: &Plan) -> (Ordinal, Ordinal) {
    let of = |placement: &Placement| owner(key, (placement.shards, placement.sharding));
    (of(&plan.from), of(&plan.to))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) shard: Shard,
    pub(super) coordinator: Coordinator,
    pub(super) data: BTreeMap<u8, u8>,
    /// Used only by a mutation.
    pub(super) resumed: bool,
}

impl Node {
    /// The partitions in a batch.
    pub(super) fn contents(&self, to: Ordinal, range: &Range) -> BTreeMap<u8, u8> {
        let plan = self.shard.plan().expect("it has batches");
        let is_in = |key: u8| {
            let key_is = |cursor: &Cursor| cursor.covers(&[key]);
            owners(key, plan).1 == to && key_is(&range.through) && !key_is(&range.after)
        };
        self.data
            .iter()
            .filter(|(key, _)| is_in(**key))
            .map(|(key, value)| (*key, *value))
            .collect()
    }

    pub(super) fn forget(&mut self, by: Ordinal, number: u64) {
        if let Some(range) = self.shard.acknowledged(by, number) {
            for key in self.contents(by, &range).keys() {
                self.data.remove(key);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) from: Ordinal,
    pub(super) incarnation: Incarnation,
    pub(super) to: Ordinal,
    pub(super) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Body {
    Plan(Box<Plan>),
    Batch(Batch, BTreeMap<u8, u8>),
    Acknowledged(u64),
    Done(Epoch),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// The index of the client's next operation.
    Idle(usize),
    Asking {
        index: usize,
        at: Ordinal,
        hand_off: Option<HandOff>,
        plan: Option<Plan>,
    },
    /// The client lists all keys, and has these parts.
    Listing {
        index: usize,
        parts: BTreeMap<Ordinal, (Moved, BTreeSet<u8>)>,
    },
    /// The client's reply was lost: it does nothing more.
    Gone,
}

pub(super) type History = LinearizabilityTester<usize, Register<u8>>;

#[derive(Clone, Debug, PartialEq, Hash)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    /// All messages ever sent: each may arrive at any time, any number of times, or never.
    pub(super) sent: BTreeSet<Message>,
    pub(super) clients: Vec<Client>,
    pub(super) history: BTreeMap<u8, History>,
    /// The value written last, by any shard.
    pub(super) truth: BTreeMap<u8, u8>,
    /// The index of the current configuration.
    pub(super) configured: usize,
    pub(super) restarts: u8,
    pub(super) lost_replies: u8,
    pub(super) lost_disks: u8,
    pub(super) outdated: bool,
    /// A listing lacked a key, or had one twice.
    pub(super) listed_wrong: bool,
    /// The events seen in the last action.
    pub(super) seen: BTreeSet<Seen>,
}

/// Events that the checker must see, which shows that it covers what matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Seen {
    Redirected,
    RedirectedTwice,
    Awaited,
    BatchAgain,
    LateBatch,
    OldProcess,
    ServedByReceiver,
    RestartWithOutbox,
    CoordinatorRestartedMidway,
    SecondChange,
    LostReplyThenRead,
    ListedMidway,
    ListedUnfit,
    DiskLostMidway,
    PlanFound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Configure,
    Plan,
    /// The coordinator asks a shard which plan it follows, and sends its own plan.
    Ask(Ordinal),
    LoseDisk,
    Deliver(Box<Message>),
    Step(Ordinal),
    /// This shard's part of this client's listing.
    Part(usize, Ordinal),
    Restart(Ordinal),
    Invoke(usize, Ordinal),
    Serve(usize),
    ServeAndLoseReply(usize),
}
