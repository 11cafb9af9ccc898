//! A shard's place among others: the protocol's state with the guests whose
//! owner functions count, and what changes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::worker::Worker;
use crate::guest::{Failure, Guest};
use crate::store::{CommitError, Position, ReadError, Snapshot, Transfer, begin_migration_of};
use crate::topology::{Authority, Batch, Cursor, Incarnation, Ordinal, Passed, Plan, Range};
use crate::topology::{Received, Shard, Stopped, Tally};

/// How many partition keys are looked at in one go.
const PAGE: usize = 256;

/// Where this shard stands among the others.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its part in the protocol, as it is stored.
    pub shard: Shard,
    /// The store's own number, that no other has: batches are numbered by store.
    pub store: u128,
    /// The guests whose `owner` counts under the plan; none until they are
    /// found after a start.
    pub owners: Option<Owners>,
    /// What became of its partitions in the last change.
    pub tally: Tally,
}

/// The guests whose `owner` counts under a plan.
#[derive(Clone, Debug)]
pub struct Owners {
    /// For where partitions come from.
    pub from: Arc<Guest>,
    /// For where they go to.
    pub to: Arc<Guest>,
}

/// A change of the shard's place. Each is one transaction of the lane.
#[derive(Debug)]
pub enum Change {
    /// A process starts, with a number above its last and this one.
    Start(Incarnation),
    /// A message came from a shard's process, on this store.
    Hear(Ordinal, Incarnation, u128),
    /// There is this plan.
    Learn(Plan, Owners),
    /// The next partitions are to be given away.
    Step,
    /// A batch came, of data of this schema.
    Receive {
        /// Its envelope.
        batch: Batch,
        /// The schema of its data.
        schema: u32,
        /// All entries of its partitions, in order.
        entries: Vec<(Position, Vec<u8>)>,
    },
    /// A shard has stored this batch.
    Acknowledged(Ordinal, u64),
}

/// What a change came to. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is made, or was made before.
    Done,
    /// The process has this number, and its store that one.
    Started(Incarnation, u128),
    /// The sender is not to be heeded: a later process of its ordinal runs.
    Superseded(Incarnation),
    /// What to do about a batch now.
    Received(Received),
    /// A batch has to wait: its data is of a newer schema than this shard's.
    OtherSchema(Option<u32>),
    /// A step came as far as this.
    Stepped(Cursor),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// This shard must not go on.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// It could not be stored.
    #[error(transparent)]
    NotStored(#[from] CommitError),
    /// A batch is of an older schema, and its data could not be migrated.
    #[error("a batch of schema {0} waits: {1}")]
    Unmigrated(u32, String),
    /// The data could not be read.
    #[error(transparent)]
    Unread(#[from] ReadError),
    /// A guest's owner function failed.
    #[error("`owner` failed, and nothing was moved")]
    Owner(#[source] Failure),
    /// The shard is not one of several, or its guests are not found yet.
    #[error("the shard has no place among others yet: try again soon")]
    Unplaced,
    /// The lane has ended.
    #[error("the shard stops")]
    Ended,
}

impl Place {
    /// Reads what was stored of a place; none if it is not that.
    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let (store, shard): (_, Shard) = postcard::from_bytes(stored).ok()?;
        Some(Self {
            tally: Tally::resumed(&shard),
            shard,
            store,
            owners: None,
        })
    }

    /// The place of a shard that is new.
    pub(super) fn new(ordinal: Ordinal) -> std::io::Result<Self> {
        let mut store = [0; 16];
        rustix::rand::getrandom(&mut store, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self {
            shard: Shard::new(ordinal),
            store: u128::from_le_bytes(store),
            owners: None,
            tally: Tally::default(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.store, &self.shard)).expect("it can always be encoded")
    }

    /// The shard that a partition goes to, or stays at, under the plan.
    async fn next_owner(&self, partition: &[u8]) -> Result<Ordinal, ChangeError> {
        let (Some(plan), Some(owners)) = (self.shard.plan(), &self.owners) else {
            return Err(ChangeError::Unplaced);
        };
        let owner = owners.to.owner(partition, plan.to.shards).await;
        owner.map(Ordinal).map_err(ChangeError::Owner)
    }

    /// A partition's owners under the plan's two placements; none where there is
    /// no plan, or its guests are not found yet.
    ///
    /// # Errors
    /// When a guest fails.
    pub async fn owners_of(&self, partition: &[u8]) -> Result<Option<(Ordinal, Ordinal)>, Failure> {
        let (Some(plan), Some(owners)) = (self.shard.plan(), &self.owners) else {
            return Ok(None);
        };
        let to = owners.to.owner(partition, plan.to.shards).await?;
        let from = if plan.is_stable() {
            to
        } else {
            owners.from.owner(partition, plan.from.shards).await?
        };
        Ok(Some((Ordinal(from), Ordinal(to))))
    }

    /// Whose a partition is.
    ///
    /// # Errors
    /// When a guest fails.
    pub async fn authority(
        &self,
        partition: &[u8],
        told: Option<&Passed>,
    ) -> Result<Authority, Failure> {
        Ok(match self.owners_of(partition).await? {
            Some((from, to)) => self.shard.authority(partition, from, to, told),
            None => Authority::Unknown,
        })
    }

    fn has_the_owners_of(&self, other: &Self) -> bool {
        match (&self.owners, &other.owners) {
            (Some(mine), Some(theirs)) => {
                Arc::ptr_eq(&mine.from, &theirs.from) && Arc::ptr_eq(&mine.to, &theirs.to)
            }
            (None, None) => true,
            _ => false,
        }
    }

    /// The keys of a batch's partitions, in order.
    ///
    /// # Errors
    /// When the data cannot be read or a guest fails.
    pub async fn partitions_in(
        &self,
        snapshot: &Snapshot,
        to: Ordinal,
        range: &Range,
    ) -> Result<Vec<Vec<u8>>, ChangeError> {
        let mut partitions = Vec::new();
        let mut start = first_after(&range.after).map(|(partition, _)| partition);
        loop {
            let page = snapshot.partitions(start.as_deref(), None, PAGE)?;
            for partition in page.entries {
                if !range.through.covers(&partition) {
                    return Ok(partitions);
                }
                start = Some([&partition[..], &[0]].concat());
                if self.next_owner(&partition).await? == to {
                    partitions.push(partition);
                }
            }
            if !page.more {
                return Ok(partitions);
            }
        }
    }

    /// All entries of a batch, in order.
    ///
    /// # Errors
    /// When the data cannot be read or a guest fails.
    pub async fn contents(
        &self,
        snapshot: &Snapshot,
        to: Ordinal,
        range: &Range,
    ) -> Result<Vec<(Position, Vec<u8>)>, ChangeError> {
        let mut contents = Vec::new();
        let mut is_in: Option<(Vec<u8>, bool)> = None;
        let mut after = first_after(&range.after);
        loop {
            let from = after
                .as_ref()
                .map(|(partition, key)| (&partition[..], &key[..]));
            let page = snapshot.scan(from, usize::MAX)?;
            after = page.entries.last().map(|(position, _)| position.clone());
            for (position, value) in page.entries {
                if !range.through.covers(&position.0) {
                    return Ok(contents);
                }
                let goes = match &is_in {
                    Some((partition, goes)) if *partition == position.0 => *goes,
                    _ => {
                        let goes = self.next_owner(&position.0).await? == to;
                        is_in = Some((position.0.clone(), goes));
                        goes
                    }
                };
                if goes {
                    contents.push((position, value));
                }
            }
            if !page.more {
                return Ok(contents);
            }
        }
    }
}

/// The position before the first entry that a cursor has not passed; none: the
/// start.
pub(super) fn first_after(cursor: &Cursor) -> Option<Position> {
    match cursor {
        Cursor::Start => None,
        // Above the partition's last entry, and no entry's key is empty.
        Cursor::Through(last) => Some(([last, &[0][..]].concat(), Vec::new())),
        Cursor::End => unreachable!("nothing is after the end"),
    }
}

impl Worker {
    /// Makes a change, durable with all that belongs to it.
    pub(super) fn change(&mut self, change: Change) -> Result<Changed, ChangeError> {
        let place = self.place.clone().ok_or(ChangeError::Unplaced)?;
        let mut next = Place::clone(&place);
        let mut transfer = Transfer::default();
        let changed = match change {
            Change::Start(at_least) => {
                next.shard.start(at_least);
                Changed::Started(next.shard.incarnation(), next.store)
            }
            Change::Hear(from, incarnation, store) => {
                match next.shard.hear(from, incarnation, store) {
                    Ok(()) => Changed::Done,
                    Err(highest) => return Ok(Changed::Superseded(highest)),
                }
            }
            Change::Learn(plan, owners) => {
                let is_newer = next.shard.learn(&plan)?;
                if is_newer && !plan.is_stable() {
                    next.tally = Tally::begun(&next.shard);
                }
                if is_newer || next.shard.plan() == Some(&plan) {
                    next.owners = Some(owners);
                }
                Changed::Done
            }
            Change::Step => Changed::Stepped(self.step(&mut next)?),
            Change::Receive {
                batch,
                schema,
                entries,
            } => {
                let stored = self.stored_schema();
                let received = next.shard.receive(&batch);
                if received == Received::Apply {
                    transfer.arrived = match stored {
                        Some(stored) if stored == schema => entries,
                        Some(stored) if stored > schema => self.migrated(schema, entries)?,
                        _ => return Ok(Changed::OtherSchema(stored)),
                    };
                    let cursor = next.shard.cursor();
                    let ahead = transfer.arriving().filter(|key| !cursor.covers(key));
                    next.tally.arrived_ahead += ahead.count() as u64;
                }
                Changed::Received(received)
            }
            Change::Acknowledged(by, number) => {
                if let Some(range) = next.shard.acknowledged(by, number) {
                    let snapshot = self.snapshot()?;
                    let partitions = place.partitions_in(&snapshot, by, &range);
                    transfer.left = self.block_on(partitions)?;
                    next.tally.acknowledged += transfer.left.len() as u64;
                }
                Changed::Done
            }
        };
        self.keep(&place, next, transfer)?;
        Ok(changed)
    }

    /// What arrived of an older schema, as the live guest migrates it.
    fn migrated(
        &self,
        from: u32,
        entries: Vec<(Position, Vec<u8>)>,
    ) -> Result<Vec<(Position, Vec<u8>)>, ChangeError> {
        let guest = self.live_guest().ok_or(ChangeError::Unplaced)?;
        let limits = (&guest.settings().store).into();
        let migration = begin_migration_of(entries, limits)?;
        let failed = |failure: &Failure| ChangeError::Unmigrated(from, failure.to_string());
        let (migration, migrated) = self.block_on(async {
            let mut lease = guest
                .lease(self.shards())
                .await
                .map_err(|failure| failed(&failure))?;
            Ok::<_, ChangeError>(lease.migrate(from, migration).await)
        })?;
        match migrated {
            Ok(Ok(())) => Ok(migration.into_entries()?),
            Ok(Err(reason)) => Err(ChangeError::Unmigrated(from, reason)),
            Err(failure) => Err(failed(&failure)),
        }
    }

    /// Looks at the partitions after the cursor until there is enough for a
    /// batch or the time is up, but at one of them at least.
    fn step(&mut self, place: &mut Place) -> Result<Cursor, ChangeError> {
        if !place.shard.may_step() {
            return Ok(place.shard.cursor().clone());
        }
        let began = Instant::now();
        let snapshot = self.snapshot()?;
        let me = place.shard.ordinal();
        let mut to = BTreeSet::new();
        let (mut partitions, mut bytes) = (0, 0);
        let mut passed = 0;
        let mut start = first_after(place.shard.cursor()).map(|(partition, _)| partition);
        let cursor = 'looking: loop {
            let page = snapshot.partitions(start.as_deref(), None, PAGE)?;
            for partition in page.entries {
                let owner = self.block_on(place.next_owner(&partition))?;
                passed += 1;
                if owner != me {
                    to.insert(owner);
                    partitions += 1;
                    bytes += snapshot.partition_bytes(&partition)?;
                }
                let pace = &self.pace;
                let is_enough = partitions >= pace.step_partitions || bytes >= pace.step_bytes;
                if is_enough || began.elapsed() >= pace.step {
                    break 'looking Cursor::Through(partition);
                }
                start = Some([&partition[..], &[0]].concat());
            }
            if !page.more {
                break Cursor::End;
            }
        };
        place.shard.step(cursor.clone(), &to);
        place.tally.passed += passed;
        place.tally.given += partitions as u64;
        place.tally.is_through = cursor == Cursor::End;
        Ok(cursor)
    }

    /// Stores a place together with the partitions that come and go, and shows
    /// it to readers.
    fn keep(&mut self, before: &Place, next: Place, transfer: Transfer) -> Result<(), ChangeError> {
        if next.shard != before.shard {
            let topology = next.encode();
            let transfer = Transfer {
                topology,
                ..transfer
            };
            if let Err(error) = self.store.transfer(&transfer) {
                // The store may have been opened anew, and perhaps it has the
                // transfer: where only the last sync failed, nobody knows.
                let stored = self.store.record().topology.as_deref();
                if let Some(mut stored) = stored.and_then(Place::decode) {
                    let known = [before, &next].map(|place| (place.shard.plan(), &place.owners));
                    let of_plan = known.iter().find(|(plan, _)| *plan == stored.shard.plan());
                    stored.owners = of_plan.and_then(|(_, owners)| (*owners).clone());
                    let is_next = stored.shard == next.shard;
                    stored.tally = if is_next { next.tally } else { before.tally };
                    self.place = Some(Arc::new(stored));
                }
                self.publish();
                return Err(error.into());
            }
            let (moved, arrived) = (transfer.left.len(), transfer.arriving().count());
            self.metrics.partitions_moved(moved, arrived);
            self.place = Some(Arc::new(next));
            self.committed();
        } else if !next.has_the_owners_of(before) {
            self.place = Some(Arc::new(next));
            self.publish();
        }
        Ok(())
    }
}
