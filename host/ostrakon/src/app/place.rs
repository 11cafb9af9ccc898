//! Whether the shard is alone or among others: that decides what it serves, and what goes live.

use std::future::pending;

use ostrakon_base::digest::Digest;
use ostrakon_cluster::{Cluster, Served};
use ostrakon_protocol::{Ordinal, Release};
use ostrakon_shard::swap::{Alone, Back, Busy, Kept, Refusal};
use ostrakon_shard::writer::Writer;

/// The shard's place.
#[derive(Clone)]
pub(super) enum Place {
    Alone(Alone),
    Among(Cluster),
}

impl Place {
    /// The others, if there are any.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Alone(_) => None,
            Self::Among(cluster) => Some(cluster),
        }
    }

    /// Looks at what an operator went back from, and to.
    pub(super) fn back<T>(&self, look: impl FnOnce(&Back) -> T) -> T {
        match self {
            Self::Alone(alone) => alone.back(look),
            Self::Among(cluster) => cluster.back(look),
        }
    }

    /// Begins to go back to the content of an earlier generation. What the volume shows is held, if it is
    /// what is gone back from, or if that is not said.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub(super) fn go_back(&self, to: Digest, from: Option<Digest>) -> Result<(), Busy> {
        match self {
            Self::Alone(alone) => alone.go_back(to, from),
            Self::Among(cluster) => cluster.go_back(to, from),
        }
    }

    /// Whether the shard says what goes live: it is alone, or shard 0.
    pub(super) fn leads(&self) -> bool {
        self.cluster().is_none_or(Cluster::is_coordinator)
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u32 {
        self.cluster().map_or(1, Cluster::shards)
    }

    /// The release by which the shard serves.
    pub(super) fn serves_by(&self) -> Option<Release> {
        match self {
            Self::Alone(alone) => alone.serves_by(),
            Self::Among(cluster) => cluster.serves_by(),
        }
    }

    /// What each shard has answered by some generations.
    pub(super) async fn served(&self, writer: &Writer, generations: &[u64]) -> Vec<Served> {
        match self {
            Self::Alone(alone) => {
                let served = generations.iter();
                vec![Served {
                    shard: Ordinal::COORDINATOR,
                    release: alone.serves_by(),
                    served: served
                        .map(|number| writer.views().served(*number))
                        .collect(),
                }]
            }
            Self::Among(cluster) => cluster.served(generations).await,
        }
    }

    /// Notes that the trial's step with this turn has been watched for long enough.
    pub(super) fn was_watched(&self, turn: u32) {
        match self {
            Self::Alone(alone) => alone.was_watched(turn),
            Self::Among(cluster) => cluster.was_watched(turn),
        }
    }

    /// Takes the step after the one with this turn; if `full`, that is the last.
    pub(super) fn promote(&self, turn: u32, full: bool) {
        match self {
            Self::Alone(alone) => alone.promote(turn, full),
            Self::Among(cluster) => cluster.promote_trial(turn, full),
        }
    }

    /// Has the trial stay as it is, or go on.
    pub(super) fn pause(&self, paused: bool) {
        match self {
            Self::Alone(alone) => alone.pause(paused),
            Self::Among(cluster) => cluster.pause_trial(paused),
        }
    }

    /// Ends the trial under way. Returns whether there is one: not if what was tried is going live by now.
    pub(super) fn give_up(&self) -> bool {
        match self {
            Self::Alone(alone) => alone.give_up(),
            Self::Among(cluster) => cluster.give_up(),
        }
    }

    /// Whether content can be had.
    pub(super) async fn has(&self, digest: Digest, kept: &Kept) -> bool {
        match self {
            Self::Alone(_) => kept.find(digest).is_some(),
            Self::Among(cluster) => cluster.has_content(digest).await,
        }
    }

    /// Whether it is still to be found out how content serves: it is not what all shards serve already,
    /// nor what an operator goes back to.
    pub(super) fn is_to_try(&self, digest: Digest) -> bool {
        match self {
            Self::Alone(alone) => alone.is_to_try(digest),
            Self::Among(cluster) => cluster.is_to_try(digest),
        }
    }

    /// Waits until content that is tried is live in the other shards.
    pub(super) async fn until_not_to_try(&self, digest: Digest) {
        match self {
            // Other content would end the trial.
            Self::Alone(_) => pending().await,
            Self::Among(cluster) => cluster.until_not_to_try(digest).await,
        }
    }

    /// Notes that the swap refuses content.
    pub(super) fn refuses(&self, refusal: &Refusal) {
        // What the disk refuses now is tried again.
        match (self, refusal.digest.filter(|_| !refusal.transient)) {
            (Self::Alone(alone), Some(digest)) => alone.refused(digest, &refusal.reason),
            (Self::Alone(_), None) => {}
            (Self::Among(cluster), _) => cluster.refuses(refusal),
        }
    }
}
