//! One shard's decisions: whether a partition is its own, which partitions to give away next, and
//! how to treat messages from others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::plan::{Cursor, Epoch, HIGHEST_FIRST, Incarnation, MAX_AHEAD, Ordinal, Plan};

/// One shard's part in the protocol.
///
/// The state is stored with the data. A method that changes the state is called together with a
/// change of the data. Both are one transaction, which is durable before any message or reply
/// that depends on it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    me: Ordinal,
    incarnation: Incarnation,
    plan: Option<Plan>,
    /// How far this shard has given away its partitions under the plan.
    cursor: Cursor,
    outboxes: BTreeMap<Ordinal, Outbox>,
    inboxes: BTreeMap<Ordinal, Inbox>,
    /// The highest incarnation of each other shard that this shard heard from, and its store. A
    /// new store's incarnations count from the start.
    heard: BTreeMap<Ordinal, (Incarnation, u128)>,
}

/// The batches for one shard that it has not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Outbox {
    last: u64,
    /// The last batch under earlier plans.
    before: u64,
    kept: VecDeque<Range>,
}

/// The content of a batch: the receiver's partitions in a range of keys. They stay in the data
/// until they are acknowledged; no shard writes them in the meantime.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    pub number: u64,
    /// The range begins after this cursor.
    pub after: Cursor,
    /// The range ends with this cursor.
    pub through: Cursor,
}

/// What one shard has sent to this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Inbox {
    /// The sender's store: the batches of a new one count from the start.
    store: u128,
    applied: u64,
    /// How far the sender's cursor was with the last applied batch.
    passed: Cursor,
    epoch: Epoch,
}

/// States that a source has passed all keys up to a cursor, and that `to`'s partitions among them
/// are in its batches up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HandOff {
    /// The plan under which the source passed the keys.
    pub epoch: Epoch,
    /// The shard that owned the partitions.
    pub source: Ordinal,
    /// The shard that owns them next.
    pub to: Ordinal,
    pub cursor: Cursor,
    /// The last batch from `source` to `to` at that time; 0 if there is none yet.
    pub number: u64,
}

/// Which shard owns a partition, as far as this shard knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    Mine,
    /// This shard owns it once it has applied this batch from this source.
    Awaited {
        source: Ordinal,
        number: u64,
    },
    /// Another shard owns it. The request must carry the hand-off, if one is known.
    Elsewhere {
        /// The shard to ask.
        at: Ordinal,
        /// What that shard needs to know.
        hand_off: Option<HandOff>,
    },
    /// The owner is not known: there is no plan yet.
    Unknown,
}

/// A batch's envelope: everything but its partitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Batch {
    /// The batch's number, counted from this store to this receiver.
    pub number: u64,
    pub store: u128,
    /// What the receiver knows once it has applied the batch.
    pub hand_off: HandOff,
}

/// What to do with a received batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Store its partitions together with this state, then acknowledge it.
    Apply,
    /// Acknowledge it: it was applied before.
    Known,
    /// Ignore it: it is not for this shard now.
    Ignore,
}

/// Why a shard must stop serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Another process of the same ordinal was started later.
    #[error(
        "peers accept another process of this ordinal (number {}): this process serves nothing until it is known whether the other one is running", .0.0
    )]
    Superseded(Incarnation),
    /// The others ended a change under which, by its store, this shard still has partitions to
    /// give away.
    #[error(
        "this shard's data is older than its cluster: by this data it still has partitions to give away in a change that the other shards have ended (they are at epoch {0}); restore the newest copy of its data"
    )]
    Outdated(Epoch),
}

impl Shard {
    /// A new shard that knows no plan.
    pub fn new(me: Ordinal) -> Self {
        Self {
            me,
            incarnation: Incarnation::default(),
            plan: None,
            cursor: Cursor::Start,
            outboxes: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    pub fn ordinal(&self) -> Ordinal {
        self.me
    }

    /// The number of this shard's process.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The plan that the shard follows; `None` before it knows one.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How far the shard has given away its partitions under the plan.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Starts a process, with a number above its last and at least `at_least`.
    pub fn start(&mut self, at_least: Incarnation) {
        self.incarnation = Incarnation(self.incarnation.0.saturating_add(1)).max(at_least);
    }

    /// The accepted process of a shard and its store; none if it was not heard from yet.
    pub fn accepts(&self, shard: Ordinal) -> Option<(Incarnation, u128)> {
        self.heard.get(&shard).copied()
    }

    /// Whether a message from a shard's process on this store comes from a later process than any
    /// before, which is to be accepted.
    ///
    /// # Errors
    /// The number of the process that is accepted instead, to tell the sender: the sender has a
    /// lower number, or the same number on another store.
    pub fn is_later(
        &self,
        from: Ordinal,
        incarnation: Incarnation,
        store: u128,
    ) -> Result<bool, Incarnation> {
        match self.heard.get(&from) {
            Some((heard, of)) if incarnation < *heard || incarnation == *heard && store != *of => {
                Err(*heard)
            }
            Some((heard, _)) => Ok(incarnation > *heard),
            None => Ok(true),
        }
    }

    /// Records a message from a shard's process.
    ///
    /// # Errors
    /// As for [`Shard::is_later`].
    pub fn hear(
        &mut self,
        from: Ordinal,
        incarnation: Incarnation,
        store: u128,
    ) -> Result<(), Incarnation> {
        self.is_later(from, incarnation, store)?;
        self.heard.insert(from, (incarnation, store));
        Ok(())
    }

    /// Whether a plan should replace the known one.
    pub fn is_news(&self, plan: &Plan) -> bool {
        let follows = match &self.plan {
            Some(known) => plan.cluster == known.cluster && plan.may_follow(known),
            None => plan.epoch.0 <= HIGHEST_FIRST,
        };
        follows && plan.is_possible()
    }

    /// Accepts a plan if it is newer; returns whether it was.
    ///
    /// # Errors
    /// If the plan relies on work that this shard has not done.
    pub fn learn(&mut self, plan: &Plan) -> Result<bool, Stopped> {
        if !self.is_news(plan) {
            return Ok(false);
        }
        if let Some(known) = &self.plan {
            let must_give = known.is_source(self.me) && !self.has_given_all();
            if must_give || self.has_missed(known, plan) {
                return Err(Stopped::Outdated(plan.epoch));
            }
        }
        // A shard that learns of a change without having seen it begin has a new disk, and
        // nothing to give away.
        let is_new = self.plan.is_none() && plan.epoch > Epoch::FIRST;
        self.cursor = if is_new && plan.is_source(self.me) {
            Cursor::End
        } else {
            Cursor::Start
        };
        self.plan = Some(plan.clone());
        for outbox in self.outboxes.values_mut() {
            outbox.before = outbox.last;
        }
        Ok(true)
    }

    /// Whether, between two plans, a change has ended that could not end without this shard.
    fn has_missed(&self, known: &Plan, plan: &Plan) -> bool {
        let next_change = if known.is_stable() { 1 } else { 2 };
        let ahead = plan.epoch.0.saturating_sub(known.epoch.0);
        self.me.0 < known.to.shards && ahead > next_change
    }

    /// Which shard owns a partition, given its owners under the plan's two placements and the
    /// source's last hand-off, if one is known.
    pub fn authority(
        &self,
        partition: &[u8],
        from: Ordinal,
        to: Ordinal,
        hand_off: Option<&HandOff>,
    ) -> Authority {
        if self.plan.is_none() {
            return Authority::Unknown;
        }
        if from == to {
            return self.mine_or_elsewhere(to);
        }
        if from == self.me {
            if !self.cursor.covers(partition) {
                return Authority::Mine;
            }
            let hand_off = Some(self.hand_off(to));
            return Authority::Elsewhere { at: to, hand_off };
        }
        let inbox = self.inboxes.get(&from);
        if to == self.me
            && inbox
                .is_some_and(|inbox| inbox.epoch == self.epoch() && inbox.passed.covers(partition))
        {
            return Authority::Mine;
        }
        let hand_off = hand_off.filter(|hand_off| {
            let of_it = (hand_off.epoch, hand_off.source, hand_off.to) == (self.epoch(), from, to);
            of_it && hand_off.cursor.covers(partition)
        });
        match hand_off {
            // The source knows how far its cursor is.
            None => Authority::Elsewhere {
                at: from,
                hand_off: None,
            },
            Some(hand_off) if to != self.me => Authority::Elsewhere {
                at: to,
                hand_off: Some(hand_off.clone()),
            },
            Some(hand_off) if inbox.map_or(0, |inbox| inbox.applied) >= hand_off.number => {
                Authority::Mine
            }
            Some(hand_off) => Authority::Awaited {
                source: from,
                number: hand_off.number,
            },
        }
    }

    fn mine_or_elsewhere(&self, owner: Ordinal) -> Authority {
        if owner == self.me {
            return Authority::Mine;
        }
        Authority::Elsewhere {
            at: owner,
            hand_off: None,
        }
    }

    /// This source's hand-off to a shard: how far its cursor has come.
    fn hand_off(&self, to: Ordinal) -> HandOff {
        HandOff {
            epoch: self.epoch(),
            source: self.me,
            to,
            cursor: self.cursor.clone(),
            number: self.outboxes.get(&to).map_or(0, |outbox| outbox.last),
        }
    }

    fn epoch(&self) -> Epoch {
        self.plan.as_ref().map_or(Epoch(0), |plan| plan.epoch)
    }

    /// Whether there is a next step to take, with partitions after the cursor to examine.
    pub fn may_step(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.is_source(self.me)) && self.cursor != Cursor::End
    }

    /// Takes a step. The partitions after the old cursor and through `cursor` whose next owner is
    /// another shard are given away, in one batch for each shard in `to`.
    pub fn step(&mut self, cursor: Cursor, to: &BTreeSet<Ordinal>) {
        debug_assert!(self.may_step() && cursor > self.cursor);
        for &to in to {
            let outbox = self.outboxes.entry(to).or_default();
            outbox.last += 1;
            outbox.kept.push_back(Range {
                number: outbox.last,
                after: self.cursor.clone(),
                through: cursor.clone(),
            });
        }
        self.cursor = cursor;
    }

    /// For each shard with unacknowledged batches, these batches. The first is sent repeatedly
    /// until it is acknowledged; only then is the next one sent.
    pub fn outboxes(&self) -> impl Iterator<Item = (Ordinal, &VecDeque<Range>)> {
        let outboxes = self.outboxes.iter();
        outboxes
            .filter(|(_, outbox)| !outbox.kept.is_empty())
            .map(|(to, outbox)| (*to, &outbox.kept))
    }

    /// Whether this shard owns all partitions because it is the only shard. False for a shard
    /// that has left, and for one that knows no plan.
    pub fn has_all(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.shards() == 1) && self.me == Ordinal::COORDINATOR
    }

    /// Whether no shard has more than `most` unacknowledged batches.
    pub fn is_within(&self, most: usize) -> bool {
        self.outboxes().all(|(_, kept)| kept.len() <= most)
    }

    /// The last batch for each shard under the plan, if all are acknowledged.
    pub(super) fn given(&self) -> Option<BTreeMap<Ordinal, u64>> {
        if self.outboxes().next().is_some() {
            return None;
        }
        let outboxes = self.outboxes.iter();
        let given = outboxes.filter(|(_, outbox)| outbox.last > outbox.before);
        Some(given.map(|(to, outbox)| (*to, outbox.last)).collect())
    }

    /// The store and the last batch of each shard that has sent one under the plan.
    pub(super) fn taken(&self) -> BTreeMap<Ordinal, (u128, u64)> {
        let inboxes = self.inboxes.iter();
        let taken = inboxes.filter(|(_, inbox)| inbox.epoch == self.epoch());
        taken
            .map(|(from, inbox)| (*from, (inbox.store, inbox.applied)))
            .collect()
    }

    pub fn envelope(&self, to: Ordinal, range: &Range, store: u128) -> Batch {
        Batch {
            number: range.number,
            store,
            hand_off: HandOff {
                epoch: self.epoch(),
                source: self.me,
                to,
                cursor: range.through.clone(),
                number: range.number,
            },
        }
    }

    /// Receives a batch from an accepted process, under a plan that this shard has learned.
    pub fn receive(&mut self, batch: &Batch) -> Received {
        let hand_off = &batch.hand_off;
        if hand_off.to != self.me {
            return Received::Ignore;
        }
        let inbox = self.inboxes.get(&hand_off.source);
        let same_store = inbox.filter(|inbox| inbox.store == batch.store);
        if same_store.is_some_and(|inbox| batch.number <= inbox.applied) {
            return Received::Known;
        }
        // A plan stays in force until all of its batches are acknowledged, so a batch of another
        // plan is a late copy.
        let is_source = |plan: &Plan| plan.is_source(hand_off.source) && hand_off.source != self.me;
        if hand_off.epoch != self.epoch() || !self.plan.as_ref().is_some_and(is_source) {
            return Received::Ignore;
        }
        let highest = same_store.map_or(HIGHEST_FIRST, |inbox| {
            inbox.applied.saturating_add(MAX_AHEAD)
        });
        if batch.number != hand_off.number || !(1..=highest).contains(&batch.number) {
            return Received::Ignore;
        }
        // A batch is sent only after all before it are acknowledged, so a gap in the numbers
        // loses nothing.
        let inbox = Inbox {
            store: batch.store,
            applied: batch.number,
            passed: hand_off.cursor.clone(),
            epoch: hand_off.epoch,
        };
        self.inboxes.insert(hand_off.source, inbox);
        Received::Apply
    }

    /// A receiver has applied a batch durably. Returns the batch's content, to be deleted; none
    /// if that was done before.
    pub fn acknowledged(&mut self, by: Ordinal, number: u64) -> Option<Range> {
        let kept = &mut self.outboxes.get_mut(&by)?.kept;
        kept.pop_front_if(|first| first.number == number)
    }

    /// The plan's epoch, if this shard is a source of it and is done.
    pub fn is_done(&self) -> Option<Epoch> {
        let plan = self.plan.as_ref()?;
        (plan.is_source(self.me) && self.has_given_all()).then_some(plan.epoch)
    }

    fn has_given_all(&self) -> bool {
        self.cursor == Cursor::End && self.outboxes().next().is_none()
    }
}

#[cfg(test)]
mod tests;
