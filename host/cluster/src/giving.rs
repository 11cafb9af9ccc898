//! Giving partitions away: sending batches, holding partitions for a moment, and handing them
//! over before the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ostrakon_protocol::Ordinal;
use ostrakon_shard::writer::{Change, ChangeError, Membership};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::holds::Holds;
use super::message::{Partition, PeerRequest, PeerResponse};
use super::{AskError, Cluster};

/// How many batches are kept ready for each receiver, beyond the one under way.
pub(super) const AHEAD: usize = 1;
/// How long a listing waits for batches that are on their way.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a migration waits for batches that are on their way.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Request(#[from] AskError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the receiver takes it later: {0}")]
    Later(String),
}

/// The reasons for which a shard gives no partitions away.
#[derive(Debug, Default)]
pub(super) struct Giving {
    /// A std mutex, because it is held only briefly.
    holds: Mutex<Holds>,
    /// How many callers ask that no partitions move meanwhile.
    pauses: AtomicUsize,
    /// Whether this process is about to end.
    stopping: watch::Sender<bool>,
}

impl Cluster {
    fn holds(&self) -> MutexGuard<'_, Holds> {
        let holds = self.0.giving.holds.lock();
        holds.expect("no holder of this lock panics")
    }

    /// Sends all batches for a shard, one after another. The acknowledgement of a batch is
    /// noted while the next one is on its way: if the note is lost, the receiver recognizes the
    /// batch when it is sent again.
    pub(super) async fn send_to(&self, to: Ordinal) -> Result<(), SendError> {
        let mut acknowledged = None;
        loop {
            let (said, noted) = tokio::join!(
                self.send_after(to, acknowledged),
                self.note(to, acknowledged)
            );
            noted?;
            match said? {
                Some(number) => acknowledged = Some(number),
                None if acknowledged.is_some() => acknowledged = None,
                None => return Ok(()),
            }
        }
    }

    /// Sends the first batch for a shard, or the first after the one it has acknowledged.
    /// Returns the batch's number once it is acknowledged; `None` if there is no batch.
    async fn send_after(
        &self,
        to: Ordinal,
        acknowledged: Option<u64>,
    ) -> Result<Option<u64>, SendError> {
        let Some(view) = self.0.writer.views().get() else {
            return Ok(None);
        };
        let Some(membership) = &view.membership else {
            return Ok(None);
        };
        let kept = membership
            .shard
            .outboxes()
            .find_map(|(receiver, kept)| (receiver == to).then_some(kept));
        let next = kept.and_then(|kept| {
            let mut kept = kept.iter();
            kept.find(|range| acknowledged.is_none_or(|acknowledged| range.number > acknowledged))
        });
        let (Some(range), Some(plan)) = (next, membership.shard.plan()) else {
            return Ok(None);
        };
        let began = std::time::Instant::now();
        let contents = membership.contents(&view.snapshot, to, range).await?;
        let ask = PeerRequest::Receive {
            plan: plan.clone(),
            batch: membership.shard.envelope(to, range, membership.store),
            schema: view.guest.description().schema,
            partitions: contents.into_iter().map(Partition::from).collect(),
        };
        self.0.writer.moved_in(began.elapsed());
        match self.ask(to, &ask).await? {
            PeerResponse::Acknowledged {
                number,
                was_long,
                rest_ms,
            } if number == range.number => {
                if was_long {
                    self.0.writer.press();
                }
                self.0.writer.rest_for(Duration::from_millis(rest_ms));
                Ok(Some(number))
            }
            PeerResponse::Later { reason: why } => Err(SendError::Later(why)),
            _ => Err(AskError::Answer.into()),
        }
    }

    /// Notes that a shard has acknowledged a batch, which is deleted here.
    async fn note(&self, by: Ordinal, acknowledged: Option<u64>) -> Result<(), ChangeError> {
        if let Some(number) = acknowledged {
            let acknowledged = Change::Acknowledged {
                by,
                number,
                step_within: self.may_step().then_some(AHEAD),
            };
            self.change(acknowledged).await?;
            self.0.news.notify_one();
        }
        Ok(())
    }

    /// Whether this shard may take a step now, as far as it knows.
    fn may_step(&self) -> bool {
        let reached = *self.reached();
        let has_reached = self.schema().is_some_and(|schema| reached >= Some(schema));
        has_reached && self.is_now(|membership| self.may_give(membership))
    }

    /// Whether this shard may give partitions away now.
    pub(super) fn may_give(&self, membership: &Membership) -> bool {
        // A shard that is to leave by a later plan keeps giving: the current plan has to end
        // first, and may need that.
        let stays = || !self.is_leaving(membership) && !self.is_to_leave(membership);
        let is_stopping = *self.0.giving.stopping.borrow() && stays();
        let is_paused = self.0.giving.pauses.load(Ordering::Relaxed) > 0;
        !is_stopping && !is_paused && !self.holds().is_held(Instant::now())
    }

    /// Whether this process is about to end.
    pub(super) fn is_stopping(&self) -> bool {
        *self.0.giving.stopping.borrow()
    }

    /// Whether the plan leaves this shard no partitions.
    fn is_leaving(&self, membership: &Membership) -> bool {
        let plan = membership.shard.plan();
        plan.is_some_and(|plan| self.0.me.0 >= plan.to.shards)
    }

    /// Holds this shard's partitions for a moment, and waits until none is on its way to
    /// another shard.
    pub(super) async fn hold_here(&self) -> Result<(), String> {
        let now = Instant::now();
        if !self.holds().take(now) {
            return Err("partitions are moving: ask again".to_owned());
        }
        let settled = self.until(|membership| membership.shard.outboxes().next().is_none());
        let settled = timeout_at(now + SETTLE, settled).await;
        settled.map_err(|_| "a shard does not accept its partitions: ask again".to_owned())
    }

    /// Called before the data's schema changes. Waits until no partition is on its way, so that
    /// none waits for a receiver with the older schema, and stops partitions from moving until
    /// the returned guard is dropped. Does not wait long for a receiver that is unreachable.
    pub async fn pause(&self) -> Pause {
        self.0.giving.pauses.fetch_add(1, Ordering::Relaxed);
        let pause = Pause(self.clone());
        let settled = self.until(|membership| membership.shard.outboxes().next().is_none());
        if timeout_at(Instant::now() + PAUSE, settled).await.is_err() {
            tracing::warn!("migrating with partitions on their way: they wait for their receivers");
        }
        pause
    }

    /// Called before the process ends. A shard that is to have no partitions gives all of them
    /// away, even where the plan that says so is yet to come; any other shard waits until no
    /// partition is on its way. If the future is dropped, the remaining partitions come back
    /// when the shard does.
    pub async fn hand_over(&self) {
        self.0.giving.stopping.send_replace(true);
        self.0.news.notify_one();
        if self.has_stopped() {
            // No peer accepts anything from this process.
            return;
        }
        self.until_heard().await;
        let mut left = Left {
            cluster: self,
            ended: false,
        };
        let is_handed_over = |membership: &Membership| {
            let moves = membership
                .shard
                .plan()
                .is_some_and(|plan| !plan.is_stable());
            let gives = membership.shard.outboxes().next().is_some();
            !(gives || moves && self.is_leaving(membership) || self.is_to_leave(membership))
        };
        if let Some(partitions) = self.partitions_left()
            && !self.is_now(is_handed_over)
        {
            tracing::info!(partitions, "handing over before the end");
        }
        let mut replicas = self.replicas();
        let mut stopped = self.stopped();
        loop {
            replicas.mark_unchanged();
            tokio::select! {
                biased;
                () = self.until(is_handed_over) => break,
                Ok(_) = stopped.wait_for(Option::is_some) => break,
                // The shard may turn out to stay, or to leave.
                Ok(()) = replicas.changed() => {}
            }
        }
        left.ended = true;
    }

    /// How many partitions there are here; `None` where that is not known.
    fn partitions_left(&self) -> Option<u64> {
        let view = self.0.writer.views().get()?;
        view.snapshot.count_partitions(None).ok()
    }

    fn is_now(&self, is_so: impl Fn(&Membership) -> bool) -> bool {
        let view = self.0.writer.views().get();
        let membership = view.as_ref().and_then(|view| view.membership.as_ref());
        membership.is_none_or(|membership| is_so(membership))
    }

    /// Waits until a condition holds for this shard's place.
    async fn until(&self, is_so: impl Fn(&Membership) -> bool) {
        loop {
            let changed = self.0.writer.views().changed();
            if self.is_now(&is_so) {
                return;
            }
            changed.await;
        }
    }
}

/// While it exists, no partitions move.
#[derive(Debug)]
pub struct Pause(Cluster);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.0.giving.pauses.fetch_sub(1, Ordering::Relaxed);
        self.0.0.news.notify_one();
    }
}

/// Logs the remaining partitions when handing over is cut off.
struct Left<'a> {
    cluster: &'a Cluster,
    ended: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        match self.cluster.partitions_left() {
            // Where this shard leaves for good, the plan cannot end before the coordinator
            // knows this.
            Some(0) => tracing::warn!(
                "all partitions are handed over, but shard 0 has not confirmed it: if the change does not end, start this shard once more"
            ),
            partitions => tracing::warn!(
                partitions,
                "not all partitions are handed over: they come back when this shard does; give it a longer `drain.deadline`"
            ),
        }
    }
}
