//! Decides which claims about plans and changes are believed: only a plausible claim by a shard
//! that was asked at its own address.

use ostrakon_protocol::{Epoch, Ordinal, Plan};
use ostrakon_shard::writer::ChangeError;
use tokio::time::timeout;

use super::Cluster;
use super::conductor::ASK_EVERY;
use super::log_limit::LogLimit;
use super::message::{PeerRequest, PeerResponse};

/// The state of learning plans.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// Held while a plan is stored with its guests.
    pub(super) taking: tokio::sync::Mutex<()>,
    /// Held while a peer is asked for a plan that another peer mentioned.
    asking: tokio::sync::Mutex<()>,
    /// Rate-limits the warning about impossible plans.
    impossible: LogLimit,
}

impl Cluster {
    /// Adopts another shard's plan, if it is newer.
    pub(super) async fn learn(&self, plan: Plan) -> Result<(), ChangeError> {
        let known = self.0.writer.views().get();
        let membership = known.as_ref().and_then(|view| view.membership.as_ref());
        let is_known = membership.is_some_and(|membership| {
            membership.owners.is_some()
                && membership
                    .shard
                    .plan()
                    .is_some_and(|known| known.epoch >= plan.epoch)
        });
        if is_known {
            return Ok(());
        }
        if let Some(membership) = membership
            && membership.shard.plan() != Some(&plan)
            && !membership.shard.is_news(&plan)
        {
            if self.0.learning.impossible.allows() && self.foreign(Some(plan.cluster)).is_none() {
                tracing::warn!(
                    ?plan,
                    "an impossible plan was ignored: find out which process sends it"
                );
            }
            return Ok(());
        }
        self.take(plan).await?;
        self.0.news.notify_one();
        Ok(())
    }

    /// Handles a peer's mention of a plan, and returns whether this shard follows that plan or
    /// a later one. A claim counts only from the address where a shard is asked, not from where
    /// it calls. If the plan is newer, the peer is asked at its own address; where no plan is
    /// known here, the coordinator is asked, because any other peer's plan may be an old one,
    /// by which this shard would answer for another shard's partitions.
    pub(super) async fn learn_of(&self, peer: Ordinal, plan: &Plan) -> Result<bool, ChangeError> {
        let goes_by = || self.plan().is_some_and(|known| known.epoch >= plan.epoch);
        if goes_by() {
            return Ok(true);
        }
        let _one_at_a_time = self.0.learning.asking.lock().await;
        if goes_by() {
            return Ok(true);
        }
        let whom = match self.plan() {
            Some(_) => peer,
            None => Ordinal::COORDINATOR,
        };
        if whom == self.0.me {
            return Ok(false);
        }
        let asked = timeout(ASK_EVERY, self.ask(whom, &PeerRequest::Plan {})).await;
        if let Ok(Ok(PeerResponse::Plan { plan: Some(plan) })) = asked {
            self.learn(plan).await?;
        }
        Ok(goes_by())
    }

    /// Whether this shard has given away everything that the plan of this epoch takes from it.
    pub(super) fn has_given(&self, epoch: Epoch) -> bool {
        let view = self.0.writer.views().get();
        let membership = view.as_ref().and_then(|view| view.membership.as_ref());
        membership.is_some_and(|membership| membership.shard.is_done() == Some(epoch))
    }

    /// Handles a source's claim to have finished the change of an epoch. The source is asked at
    /// its own address: if the claim were false, the change would end without the source's
    /// partitions.
    pub(super) async fn hear_done(&self, source: Ordinal, epoch: Epoch) {
        let is_under_way = self.plan().is_some_and(|plan| {
            let is_known = !self.coordinator().undone(&plan).contains(&source);
            plan.epoch == epoch && plan.is_source(source) && !is_known
        });
        if !is_under_way {
            return;
        }
        let asked = timeout(
            ASK_EVERY,
            self.ask(source, &PeerRequest::HasGiven { epoch }),
        )
        .await;
        if matches!(asked, Ok(Ok(PeerResponse::Done {}))) {
            self.coordinator().done(source, epoch);
            self.0.news.notify_one();
        }
    }
}
