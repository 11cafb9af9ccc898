//! What a source gives away: its steps, and the contents of its batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ostrakon_engine::Owning;
use ostrakon_protocol::{Cursor, Ordinal, Range};
use ostrakon_store::{Snapshot, Whole, successor, unbounded};

use super::membership::{ChangeError, Membership};
use super::worker::Worker;

/// How many partitions one page reads.
const PAGE: usize = 1024;

/// The partition keys in each batch that this process has made, by receiver and number. They
/// follow from the ranges, the data and the guest's `owner`, so they are not stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(BTreeMap<(Ordinal, u64), Arc<Vec<Vec<u8>>>>);

impl Parts {
    pub(super) fn forget(&mut self, to: Ordinal, number: u64) {
        self.0.remove(&(to, number));
    }
}

impl Membership {
    /// A handle to ask which shard each partition goes to, or stays at, under the plan.
    async fn next_owners(&self) -> Result<Owning, ChangeError> {
        let (Some(plan), Some(owners)) = (self.shard.plan(), &self.owners) else {
            return Err(ChangeError::Unplaced);
        };
        let owning = owners.to.owning(plan.to.shards).await;
        owning.map_err(ChangeError::Owner)
    }

    /// The keys of a batch's partitions, in order.
    pub(super) async fn part(
        &self,
        snapshot: &Snapshot,
        to: Ordinal,
        range: &Range,
    ) -> Result<Arc<Vec<Vec<u8>>>, ChangeError> {
        if let Some(known) = self.parts.0.get(&(to, range.number)) {
            return Ok(Arc::clone(known));
        }
        let mut part = Vec::new();
        let mut owners = self.next_owners().await?;
        let mut start = first_after(&range.after);
        loop {
            let page = snapshot.partitions(start.as_deref(), None, PAGE, &mut unbounded)?;
            start = page.entries.last().map(|last| successor(last));
            for partition in page.entries {
                if !range.through.covers(&partition) {
                    return Ok(Arc::new(part));
                }
                let owner = owners.owner(&partition).await;
                if Ordinal(owner.map_err(ChangeError::Owner)?) == to {
                    part.push(partition);
                }
            }
            if !page.more {
                return Ok(Arc::new(part));
            }
        }
    }

    /// The partitions of a batch, in order.
    ///
    /// # Errors
    /// When the data cannot be read or a guest fails.
    pub async fn contents(
        &self,
        snapshot: &Snapshot,
        to: Ordinal,
        range: &Range,
    ) -> Result<Vec<Whole>, ChangeError> {
        let part = self.part(snapshot, to, range).await?;
        Ok(snapshot.whole(&part)?)
    }
}

/// The least key that a cursor has not passed; `None` means any key.
pub(super) fn first_after(cursor: &Cursor) -> Option<Vec<u8>> {
    match cursor {
        Cursor::Start => None,
        Cursor::Through(last) => Some(successor(last)),
        Cursor::End => unreachable!("nothing is after the end"),
    }
}

impl Worker {
    /// Takes a step: looks at the partitions after the cursor until there are enough for a
    /// batch or the time is up, but at least at one. While the shard rests from moving
    /// partitions, it takes none.
    pub(super) fn step(&mut self, membership: &mut Membership) -> Result<Cursor, ChangeError> {
        let pacing = &self.state.pacing;
        if !membership.shard.may_step() || pacing.rest().is_some() {
            return Ok(membership.shard.cursor().clone());
        }
        let began = Instant::now();
        let (time, me) = (pacing.allowed() / 2, membership.shard.ordinal());
        let (stride, most_bytes) = (pacing.next_stride(), pacing.pace.bytes);
        let snapshot = self.snapshot()?;
        let mut owners = self.block_on(membership.next_owners())?;
        let mut parts = BTreeMap::<Ordinal, Vec<Vec<u8>>>::new();
        let (mut passed, mut partitions, mut bytes) = (0, 0, 0);
        let mut start = first_after(membership.shard.cursor());
        let cursor = 'looking: loop {
            let page = snapshot.measure(start.as_deref(), PAGE)?;
            start = page.entries.last().map(|(last, _)| successor(last));
            for (partition, size) in page.entries {
                let owner = self.block_on(owners.owner(&partition));
                let owner = Ordinal(owner.map_err(ChangeError::Owner)?);
                passed += 1;
                if owner != me {
                    parts.entry(owner).or_default().push(partition.clone());
                    partitions += 1;
                    bytes += size;
                }
                let is_enough = partitions >= stride || bytes >= most_bytes;
                if is_enough || began.elapsed() >= time {
                    break 'looking Cursor::Through(partition);
                }
            }
            if !page.more {
                break Cursor::End;
            }
        };
        let to: BTreeSet<_> = parts.keys().copied().collect();
        membership.shard.step(cursor.clone(), &to);
        membership.tally.passed += passed;
        membership.tally.given += partitions as u64;
        membership.tally.is_through = cursor == Cursor::End;
        for (to, kept) in membership.shard.outboxes() {
            let last = kept.back().map(|range| range.number);
            if let (Some(number), Some(part)) = (last, parts.remove(&to)) {
                membership.parts.0.insert((to, number), Arc::new(part));
            }
        }
        Ok(cursor)
    }
}
