//! A shard's place among others: the protocol's state, the guests whose `owner` functions
//! count, and the changes to them.

use std::sync::Arc;
use std::time::Instant;

use ostrakon_base::stored::Unreadable;
use ostrakon_engine::{Failure, Guest};
use ostrakon_protocol::{Authority, Batch, Cursor, HandOff, Incarnation, Ordinal, Plan};
use ostrakon_protocol::{Received, Shard, Stopped, Tally};
use ostrakon_store::{CommitError, ReadError, Transfer, Whole, begin_migration_of};

use super::parts::Parts;
use super::record::{self, TOPOLOGY};
use super::worker::Worker;

/// Where this shard stands among the others.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The shard's state in the protocol, as it is stored.
    pub shard: Shard,
    /// The store's own number, which no other store has: batches are numbered by store.
    pub store: u128,
    /// The guests whose `owner` counts under the plan; `None` until they are found after a
    /// start.
    pub owners: Option<Owners>,
    /// The contents of the batches, as far as they are known.
    pub(super) parts: Parts,
    /// What became of the shard's partitions in the last change.
    pub tally: Tally,
}

/// The guests whose `owner` functions count under a plan.
#[derive(Clone, Debug)]
pub struct Owners {
    /// Says where partitions come from.
    pub from: Arc<Guest>,
    /// Says where they go to.
    pub to: Arc<Guest>,
}

/// A change of the shard's place. Each is one transaction of the writer.
#[derive(Debug)]
pub enum Change {
    /// A process starts, with a number above its last one and this one.
    Start(Incarnation),
    /// A message arrived from a shard's process, on this store.
    Hear(Ordinal, Incarnation, u128),
    /// This plan is in force.
    Learn(Plan, Owners),
    /// The next partitions are to be given away.
    Step,
    /// A batch arrived, with data of this schema.
    Receive {
        batch: Batch,
        schema: u32,
        /// Its partitions, in order.
        partitions: Vec<Whole>,
    },
    /// A shard has stored this batch.
    Acknowledged {
        by: Ordinal,
        number: u64,
        /// If given, the next step is taken in the same transaction, provided that no shard has
        /// more than this many batches to receive.
        step_within: Option<usize>,
    },
}

/// The outcome of a change. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The change is made, or was made before.
    Done,
    /// The process has this number, and its store has that one.
    Started(Incarnation, u128),
    /// The sender must be rejected: a later process of its ordinal runs.
    Superseded(Incarnation),
    /// What to do about a batch now.
    Received(Received),
    /// The batch has to wait: its data is of a newer schema than this shard's.
    OtherSchema(Option<u32>),
    /// The step came as far as this cursor.
    Stepped(Cursor),
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    NotStored(#[from] CommitError),
    /// A batch is of an older schema, and its data could not be migrated.
    #[error("a batch of schema {0} waits: {1}")]
    Unmigrated(u32, String),
    #[error(transparent)]
    Unread(#[from] ReadError),
    #[error("a guest that the plan names cannot be kept in the data directory")]
    Unkept(#[source] std::io::Error),
    #[error("`owner` failed, and nothing was moved")]
    Owner(#[source] Failure),
    /// The shard is not one of several, or its guests have not been found yet.
    #[error("the shard has no place among others yet: try again soon")]
    Unplaced,
    #[error("the shard stops")]
    Ended,
}

impl Membership {
    /// Reads the stored record of a place.
    pub(super) fn decode(stored: &[u8]) -> Result<Self, Unreadable> {
        let (store, shard) = record::decode_postcard(TOPOLOGY, stored)?;
        Ok(Self::of(shard, store))
    }

    /// A shard's place, without the parts that are not stored.
    pub(super) fn of(shard: Shard, store: u128) -> Self {
        Self {
            tally: Tally::resumed(&shard),
            shard,
            store,
            owners: None,
            parts: Parts::default(),
        }
    }

    /// The place of a new shard.
    pub(super) fn new(ordinal: Ordinal) -> std::io::Result<Self> {
        let mut store = [0; 16];
        rustix::rand::getrandom(&mut store, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self::of(Shard::new(ordinal), u128::from_le_bytes(store)))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        record::encode_postcard(TOPOLOGY, &(self.store, &self.shard))
    }

    /// A partition's owners under the plan's two placements; `None` where there is no plan, or
    /// its guests have not been found yet.
    ///
    /// # Errors
    /// When a guest fails.
    pub(crate) async fn owners_of(
        &self,
        partition: &[u8],
    ) -> Result<Option<(Ordinal, Ordinal)>, Failure> {
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

    /// The shard that may answer for a partition.
    ///
    /// # Errors
    /// When a guest fails.
    pub async fn authority(
        &self,
        partition: &[u8],
        hand_off: Option<&HandOff>,
    ) -> Result<Authority, Failure> {
        Ok(match self.owners_of(partition).await? {
            Some((from, to)) => self.shard.authority(partition, from, to, hand_off),
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
}

impl Worker {
    /// Makes a change, durable with everything that belongs to it.
    pub(super) fn change(&mut self, change: Change) -> Result<Changed, ChangeError> {
        let began = Instant::now();
        let membership = self.membership.clone().ok_or(ChangeError::Unplaced)?;
        let mut next = Membership::clone(&membership);
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
                partitions,
            } => {
                let stored = self.stored_schema();
                let received = next.shard.receive(&batch);
                if received == Received::Apply {
                    transfer.arrived = match stored {
                        Some(stored) if stored == schema => partitions,
                        Some(stored) if stored > schema => self.migrated(schema, partitions)?,
                        _ => return Ok(Changed::OtherSchema(stored)),
                    };
                    let cursor = next.shard.cursor();
                    let ahead = transfer.arriving().filter(|key| !cursor.covers(key));
                    next.tally.arrived_ahead += ahead.count() as u64;
                }
                Changed::Received(received)
            }
            Change::Acknowledged {
                by,
                number,
                step_within,
            } => {
                if let Some(range) = next.shard.acknowledged(by, number) {
                    let snapshot = self.snapshot()?;
                    let part = membership.part(&snapshot, by, &range);
                    transfer.left = self.block_on(part)?;
                    next.tally.acknowledged += transfer.left.len() as u64;
                    next.parts.forget(by, number);
                }
                if step_within.is_some_and(|most| next.shard.is_within(most)) {
                    self.step(&mut next)?;
                }
                Changed::Done
            }
        };
        let moves = !transfer.arrived.is_empty()
            || !transfer.left.is_empty()
            || next.shard.cursor() != membership.shard.cursor();
        self.keep(&membership, next, transfer)?;
        if moves {
            self.state.pacing.moved_in(began.elapsed());
        }
        Ok(changed)
    }

    /// The partitions of a batch of an older schema, as the live guest migrates them.
    fn migrated(&self, from: u32, partitions: Vec<Whole>) -> Result<Vec<Whole>, ChangeError> {
        let guest = self.live_guest().ok_or(ChangeError::Unplaced)?;
        let limits = (&guest.settings().store).into();
        let migration = begin_migration_of(partitions, limits)?;
        let failed = |failure: &Failure| ChangeError::Unmigrated(from, failure.to_string());
        let (migration, migrated) = self.block_on(async {
            let mut lease = guest
                .lease(self.shards())
                .await
                .map_err(|failure| failed(&failure))?;
            Ok::<_, ChangeError>(lease.migrate(from, migration).await)
        })?;
        match migrated {
            Ok(Ok(())) => Ok(migration.into_partitions()?),
            Ok(Err(reason)) => Err(ChangeError::Unmigrated(from, reason)),
            Err(failure) => Err(failed(&failure)),
        }
    }

    fn take_place(&mut self, place: Membership) {
        let place = Arc::new(place);
        self.state.place.store(Some(Arc::clone(&place)));
        self.membership = Some(place);
    }

    /// Stores a place together with the partitions that come and go, and publishes it to
    /// readers.
    fn keep(
        &mut self,
        before: &Membership,
        next: Membership,
        transfer: Transfer,
    ) -> Result<(), ChangeError> {
        if next.shard != before.shard {
            let topology = next.encode();
            let transfer = Transfer {
                topology,
                ..transfer
            };
            if let Err(error) = self.store.transfer(&transfer) {
                // The store may have been reopened.
                self.publish();
                return Err(error.into());
            }
            let (moved, arrived) = (transfer.left.len(), transfer.arriving().count());
            self.metrics.partitions_moved(moved, arrived);
            self.take_place(next);
            self.stored();
            self.committed();
        } else if !next.has_the_owners_of(before) {
            self.take_place(next);
            self.publish();
        }
        Ok(())
    }
}
