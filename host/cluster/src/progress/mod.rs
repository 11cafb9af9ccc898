//! The progress of a change: in this shard, and, where it is the coordinator, in all sources.

mod meter;
mod watching;

use std::collections::BTreeMap;
use std::time::Duration;

use meter::Meter;
use ostrakon_protocol::{Counted, Epoch, MAX_SHARDS, Ordinal};
use ostrakon_shard::writer::Membership;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Cluster;
pub(super) use watching::watch;

/// How long a receiver may take no partitions before it counts as holding the change up. At the
/// beginning, and while shards restart, a short pause is normal.
const HELD_UP_AFTER: Duration = Duration::from_secs(2);

/// A source's progress with a change, in partitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub shard: Ordinal,
    /// The plan of the change.
    pub epoch: Epoch,
    /// The partitions that it still has to look at or to give; `None` while they are being
    /// counted. Off by as many as clients made or removed since the count.
    pub left: Option<u64>,
    /// The partitions that their receivers have acknowledged.
    pub moved: u64,
    /// The partitions that it has looked at and that stay.
    pub stayed: u64,
    /// The partitions moved or found to stay per second, over the last ten seconds.
    pub rate: Option<f64>,
    /// The time that the rest will take at this rate.
    pub seconds_left: Option<f64>,
    /// Whether its process was started during the change: `moved` and `stayed` then count from
    /// that start.
    pub resumed: bool,
    /// The shards that have not taken partitions for two seconds: they are unreachable, hang,
    /// or have a guest of an older schema. The log says which.
    pub held_up_by: Vec<Ordinal>,
}

/// The coordinator's knowledge of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Known {
    pub shard: Ordinal,
    /// Whether the last attempt to ask it failed.
    pub away: bool,
    /// How many seconds ago its last report arrived; `None` if there was none yet.
    pub heard_seconds_ago: Option<f64>,
    /// Its last report; `None` if there was none yet.
    #[serde(flatten)]
    pub said: Option<Source>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// The plan of the change: the one under way, or else the last.
    pub epoch: Epoch,
    pub moving: bool,
    /// In the coordinator, all sources; elsewhere only this shard, where it is a source.
    pub sources: Vec<Known>,
}

/// The measurements of this shard, and the reports of other shards.
#[derive(Debug, Default)]
pub(super) struct Measured {
    meter: Meter,
    heard: BTreeMap<Ordinal, Heard>,
    /// The shards that do not take partitions, and since when.
    held_up_by: BTreeMap<Ordinal, Instant>,
}

#[derive(Debug, Default)]
struct Heard {
    last: Option<(Instant, Source)>,
    away: bool,
}

impl Measured {
    /// Notes another shard's progress, if that shard knows of a change.
    pub(super) fn hear(&mut self, shard: Ordinal, source: Option<Source>) {
        let heard = self.heard.entry(shard).or_default();
        heard.away = false;
        let is_its_own = |source: &Source| {
            source.shard == shard && source.held_up_by.len() <= MAX_SHARDS as usize
        };
        if let Some(source) = source.filter(is_its_own) {
            heard.last = Some((Instant::now(), source));
        }
    }

    /// Notes a count of the partitions that this shard still has to move.
    fn take(&mut self, counted: Counted) {
        self.meter.take(counted);
    }

    /// Notes whether a shard takes partitions from here, and says whether it holds the change
    /// up.
    pub(super) fn takes(&mut self, shard: Ordinal, takes: bool) -> bool {
        if takes {
            self.held_up_by.remove(&shard);
            return false;
        }
        let since = self.held_up_by.entry(shard).or_insert_with(Instant::now);
        since.elapsed() >= HELD_UP_AFTER
    }

    /// Notes that a source did not answer.
    fn miss(&mut self, shard: Ordinal) {
        self.heard.entry(shard).or_default().away = true;
    }

    /// The progress of the shard in this place; `None` where it was no source.
    fn of(&self, membership: &Membership) -> Option<Source> {
        let tally = &membership.tally;
        let plan = membership.shard.plan()?;
        let mut reading = self.meter.read(tally);
        let is_done = plan.epoch > tally.epoch || membership.shard.is_done().is_some();
        if is_done {
            (reading.left, reading.seconds_left) = (Some(0), Some(0.0));
        }
        let held_up_by = self.held_up_by.iter().filter(|(shard, since)| {
            let is_receiver = shard.0 < plan.to.shards && !is_done;
            is_receiver && since.elapsed() >= HELD_UP_AFTER
        });
        (tally.epoch > Epoch(0)).then(|| Source {
            shard: membership.shard.ordinal(),
            epoch: tally.epoch,
            left: reading.left,
            moved: tally.acknowledged,
            stayed: tally.stayed(),
            rate: reading.rate,
            seconds_left: reading.seconds_left,
            resumed: !tally.is_whole,
            held_up_by: held_up_by.map(|(shard, _)| *shard).collect(),
        })
    }

    /// The state of another source of a change, as far as it is known.
    fn of_other(&self, shard: Ordinal, epoch: Epoch) -> Known {
        let heard = self.heard.get(&shard);
        let last = heard.and_then(|heard| heard.last.as_ref());
        let last = last.filter(|(_, said)| said.epoch == epoch);
        Known {
            shard,
            away: heard.is_some_and(|heard| heard.away),
            heard_seconds_ago: last.map(|(at, _)| at.elapsed().as_secs_f64()),
            said: last.map(|(_, said)| said.clone()),
        }
    }
}

impl Cluster {
    /// This shard's progress with the last change, if it is a source of it.
    pub(super) fn source(&self) -> Option<Source> {
        let view = self.0.writer.views().get()?;
        self.measured().of(view.membership.as_ref()?)
    }

    /// The progress of the change under way, or the outcome of the last one; `None` where this
    /// process knows of no change in which this shard was a source.
    pub fn progress(&self) -> Option<Progress> {
        let view = self.0.writer.views().get()?;
        let membership = view.membership.as_ref()?;
        let measured = self.measured();
        let own = measured.of(membership)?;
        let (epoch, me) = (own.epoch, own.shard);
        let known = |shard| {
            if shard != me {
                return measured.of_other(shard, epoch);
            }
            Known {
                shard,
                away: false,
                heard_seconds_ago: Some(0.0),
                said: Some(own.clone()),
            }
        };
        let is_coordinator = me == Ordinal::COORDINATOR;
        let all = (0..membership.tally.sources).map(Ordinal);
        Some(Progress {
            epoch,
            moving: membership
                .shard
                .plan()
                .is_some_and(|plan| !plan.is_stable()),
            sources: all
                .filter(|shard| is_coordinator || *shard == me)
                .map(known)
                .collect(),
        })
    }

    /// The partitions that this shard still has to look at or to give; zero where it is no
    /// source, and `None` while they are being counted.
    pub fn partitions_to_settle(&self) -> Option<u64> {
        self.source().map_or(Some(0), |source| source.left)
    }

    pub(super) fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        let measured = self.0.measured.lock();
        measured.expect("no holder of this lock panics")
    }
}
