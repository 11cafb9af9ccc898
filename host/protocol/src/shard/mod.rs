//! What one shard decides: whether a partition is its own, which to give away
//! next, and what to make of what others send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::plan::{Cursor, Epoch, HIGHEST_FIRST, Incarnation, MAX_AHEAD, Ordinal, Plan};

/// One shard's part in the protocol.
///
/// It is stored with the data: a method that changes it is called for a change
/// of the data, and both are one transaction, which is durable before anything
/// is sent or answered that depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    me: Ordinal,
    incarnation: Incarnation,
    plan: Option<Plan>,
    /// How far it has given away its partitions under the plan.
    cursor: Cursor,
    outboxes: BTreeMap<Ordinal, Outbox>,
    inboxes: BTreeMap<Ordinal, Inbox>,
    /// The highest incarnation of each other shard that was heard of, and its
    /// store: a new one counts from the start.
    heard: BTreeMap<Ordinal, (Incarnation, u128)>,
}

/// The batches for one shard that it has not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Outbox {
    last: u64,
    /// The last one under the plans before.
    before: u64,
    kept: VecDeque<Range>,
}

/// What is in a batch: the partitions that are its receiver's in a range of
/// keys. They stay among the data until they are acknowledged; nobody writes
/// them meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The batch's number.
    pub number: u64,
    /// The range begins after this.
    pub after: Cursor,
    /// The range ends with this.
    pub through: Cursor,
}

/// What came from one shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Inbox {
    /// The sender's store: a new one counts from the start.
    store: u128,
    applied: u64,
    /// How far the sender had come with the batch applied last.
    passed: Cursor,
    epoch: Epoch,
}

/// That a source has passed all keys up to a cursor, and that those of them
/// that are `to`'s are in its batches up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HandOff {
    /// The plan under which it did.
    pub epoch: Epoch,
    /// Whose partitions they were.
    pub source: Ordinal,
    /// Whose they are.
    pub to: Ordinal,
    /// How far the source had come.
    pub cursor: Cursor,
    /// The last batch from `source` to `to` at that time; 0: none yet.
    pub number: u64,
}

/// Whose a partition is, as far as a shard knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// This shard's.
    Mine,
    /// This shard's once it has applied this batch from this source.
    Awaited {
        /// The sender.
        source: Ordinal,
        /// The batch's number.
        number: u64,
    },
    /// Another's, which is to be told what was passed, if that is known.
    Elsewhere {
        /// The shard to ask.
        at: Ordinal,
        /// What it needs to know.
        hand_off: Option<HandOff>,
    },
    /// Nobody's that is known: there is no plan yet.
    Unknown,
}

/// A batch's envelope: all but the partitions in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Batch {
    /// Its number among those from this store to this receiver.
    pub number: u64,
    /// The sender's store.
    pub store: u128,
    /// What the receiver knows once it has applied it.
    pub hand_off: HandOff,
}

/// What to do with a batch that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Store its partitions together with this state, then acknowledge it.
    Apply,
    /// Acknowledge it: it was applied before.
    Known,
    /// Ignore it: it is not for this shard now.
    Ignore,
}

/// Why a shard must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Another process of the same ordinal was started later.
    #[error(
        "peers accept another process of this ordinal, of the number {}: this one serves nothing until it is known whether that one is there", .0.0
    )]
    Superseded(Incarnation),
    /// The others ended a change for which this store says that it has not given
    /// away its partitions.
    #[error(
        "this shard's data is older than its cluster: by it this shard still has partitions to give away in a change that the others have ended (they go by epoch {0}); bring back the newest copy of its data"
    )]
    Outdated(Epoch),
}

impl Shard {
    /// A shard that knows nothing yet.
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

    /// Its ordinal.
    pub fn ordinal(&self) -> Ordinal {
        self.me
    }

    /// Its process's number.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The plan that it goes by.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How far it has given away its partitions under the plan.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// A process starts, with a number above its last and `at_least`.
    pub fn start(&mut self, at_least: Incarnation) {
        self.incarnation = Incarnation(self.incarnation.0.saturating_add(1)).max(at_least);
    }

    /// The process of a shard that is accepted, and its store; none was heard of yet.
    pub fn accepts(&self, shard: Ordinal) -> Option<(Incarnation, u128)> {
        self.heard.get(&shard).copied()
    }

    /// A message came from a shard's process, on this store; says whether that
    /// is a later one than any before, which is to be heard.
    ///
    /// # Errors
    /// The number of that which is to be accepted instead, to tell the sender: it
    /// has a lower one, or the same on another store.
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

    /// A message came from a shard's process.
    ///
    /// # Errors
    /// As [`Shard::is_later`].
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

    /// Whether it is a plan to go by in place of the one that is known.
    pub fn is_news(&self, plan: &Plan) -> bool {
        let follows = match &self.plan {
            Some(known) => plan.cluster == known.cluster && plan.may_follow(known),
            None => plan.epoch.0 <= HIGHEST_FIRST,
        };
        follows && plan.is_possible()
    }

    /// Takes a plan, if it is newer; says whether it was.
    ///
    /// # Errors
    /// When the plan's coordinator counts on what this shard has not done.
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
        // Whoever learns of a change that it did not see begin has a new disk, and
        // nothing to give.
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

    /// Whether a change has ended, between two plans, that could not without this
    /// shard.
    fn has_missed(&self, known: &Plan, plan: &Plan) -> bool {
        let next_change = if known.is_stable() { 1 } else { 2 };
        let ahead = plan.epoch.0.saturating_sub(known.epoch.0);
        self.me.0 < known.to.shards && ahead > next_change
    }

    /// Whose a partition is, given its owners under the plan's two placements,
    /// and what a source told of how far it has come, if it is known.
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
            // The source knows.
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

    /// What this source tells of how far it has come.
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

    /// Whether there is a next step to take: partitions after the cursor to look
    /// at.
    pub fn may_step(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.is_source(self.me)) && self.cursor != Cursor::End
    }

    /// A step: all partitions after the cursor and through `cursor` are given
    /// away, as far as another shard is their next owner, in one batch for each
    /// of `to`.
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

    /// For each shard that has not acknowledged all, the batches that it has
    /// not. The first is to be sent, again and again until it is acknowledged;
    /// the next only then.
    pub fn outboxes(&self) -> impl Iterator<Item = (Ordinal, &VecDeque<Range>)> {
        let outboxes = self.outboxes.iter();
        outboxes
            .filter(|(_, outbox)| !outbox.kept.is_empty())
            .map(|(to, outbox)| (*to, &outbox.kept))
    }

    /// Whether all partitions there are, are this shard's: it is the only one. One
    /// that has left is not, nor one that knows no plan.
    pub fn has_all(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.shards() == 1) && self.me == Ordinal::COORDINATOR
    }

    /// Whether no shard has more than so many batches that it has not
    /// acknowledged.
    pub fn is_within(&self, most: usize) -> bool {
        self.outboxes().all(|(_, kept)| kept.len() <= most)
    }

    /// The last batch for each shard under the plan, where all are acknowledged.
    pub(super) fn given(&self) -> Option<BTreeMap<Ordinal, u64>> {
        if self.outboxes().next().is_some() {
            return None;
        }
        let outboxes = self.outboxes.iter();
        let given = outboxes.filter(|(_, outbox)| outbox.last > outbox.before);
        Some(given.map(|(to, outbox)| (*to, outbox.last)).collect())
    }

    /// The store and the last batch of each shard that something came from under
    /// the plan.
    pub(super) fn taken(&self) -> BTreeMap<Ordinal, (u128, u64)> {
        let inboxes = self.inboxes.iter();
        let taken = inboxes.filter(|(_, inbox)| inbox.epoch == self.epoch());
        taken
            .map(|(from, inbox)| (*from, (inbox.store, inbox.applied)))
            .collect()
    }

    /// A batch's envelope.
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

    /// A batch came, from a process that is to be accepted, with a plan that was
    /// learned.
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
        // A plan stays until all of its batches are acknowledged: one of another
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
        // It is sent only when all before it are acknowledged, so a gap is none.
        let inbox = Inbox {
            store: batch.store,
            applied: batch.number,
            passed: hand_off.cursor.clone(),
            epoch: hand_off.epoch,
        };
        self.inboxes.insert(hand_off.source, inbox);
        Received::Apply
    }

    /// A receiver has applied a batch durably. Gives what was in it, to be
    /// deleted; none where that was done before.
    pub fn acknowledged(&mut self, by: Ordinal, number: u64) -> Option<Range> {
        let kept = &mut self.outboxes.get_mut(&by)?.kept;
        kept.pop_front_if(|first| first.number == number)
    }

    /// The plan's epoch, if this shard is a source of it that is done.
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
