//! A shard's place among others: the protocol's state with the guests whose
//! owner functions count, and what changes it.

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
    /// Its part in the protocol, as it is stored.
    pub shard: Shard,
    /// The store's own number, that no other has: batches are numbered by store.
    pub store: u128,
    /// The guests whose `owner` counts under the plan; none until they are
    /// found after a start.
    pub owners: Option<Owners>,
    /// What is in the batches, as far as it is known.
    pub(super) parts: Parts,
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

/// A change of the shard's place. Each is one transaction of the writer.
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
        /// Its partitions, in order.
        partitions: Vec<Whole>,
    },
    /// A shard has stored this batch.
    Acknowledged {
        /// The shard.
        by: Ordinal,
        /// The batch's number.
        number: u64,
        /// The next step is taken in the same transaction, if no shard has more
        /// than so many batches to get.
        step_within: Option<usize>,
    },
}

/// What a change came to. It is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is made, or was made before.
    Done,
    /// The process has this number, and its store that one.
    Started(Incarnation, u128),
    /// The sender is not to be accepted: a later process of its ordinal runs.
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
    /// A guest that the plan names could not be kept in the data directory.
    #[error("a guest that the plan names cannot be kept in the data directory")]
    Unkept(#[source] std::io::Error),
    /// A guest's owner function failed.
    #[error("`owner` failed, and nothing was moved")]
    Owner(#[source] Failure),
    /// The shard is not one of several, or its guests are not found yet.
    #[error("the shard has no place among others yet: try again soon")]
    Unplaced,
    /// The writer has ended.
    #[error("the shard stops")]
    Ended,
}

impl Membership {
    /// Reads what was stored of a place.
    pub(super) fn decode(stored: &[u8]) -> Result<Self, Unreadable> {
        let (store, shard) = record::decode_postcard(TOPOLOGY, stored)?;
        Ok(Self::of(shard, store))
    }

    /// A shard's place, without what is not stored.
    pub(super) fn of(shard: Shard, store: u128) -> Self {
        Self {
            tally: Tally::resumed(&shard),
            shard,
            store,
            owners: None,
            parts: Parts::default(),
        }
    }

    /// The place of a shard that is new.
    pub(super) fn new(ordinal: Ordinal) -> std::io::Result<Self> {
        let mut store = [0; 16];
        rustix::rand::getrandom(&mut store, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self::of(Shard::new(ordinal), u128::from_le_bytes(store)))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        record::encode_postcard(TOPOLOGY, &(self.store, &self.shard))
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
    /// Makes a change, durable with all that belongs to it.
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
        let moves = !transfer.arrived.is_empty() || !transfer.left.is_empty();
        self.keep(&membership, next, transfer)?;
        if moves {
            self.moved_in(began.elapsed());
        }
        Ok(changed)
    }

    /// What arrived of an older schema, as the live guest migrates it.
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

    /// Stores a place together with the partitions that come and go, and shows
    /// it to readers.
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
                // The store may have been opened anew, and perhaps it has the
                // transfer: where only the last sync failed, nobody knows.
                let stored = self.store.record().topology.as_deref();
                if let Some(Ok(mut stored)) = stored.map(Membership::decode) {
                    let known = [before, &next]
                        .map(|membership| (membership.shard.plan(), &membership.owners));
                    let of_plan = known.iter().find(|(plan, _)| *plan == stored.shard.plan());
                    stored.owners = of_plan.and_then(|(_, owners)| (*owners).clone());
                    let is_next = stored.shard == next.shard;
                    stored.tally = if is_next { next.tally } else { before.tally };
                    self.membership = Some(Arc::new(stored));
                }
                self.publish();
                return Err(error.into());
            }
            let (moved, arrived) = (transfer.left.len(), transfer.arriving().count());
            self.metrics.partitions_moved(moved, arrived);
            self.membership = Some(Arc::new(next));
            self.stored();
            self.committed();
        } else if !next.has_the_owners_of(before) {
            self.membership = Some(Arc::new(next));
            self.publish();
        }
        Ok(())
    }
}
