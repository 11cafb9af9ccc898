//! Whether the shard is alone or among others: that decides what it serves, and what goes live.

use std::future::pending;

use ostrakon_base::digest::Digest;
use ostrakon_cluster::Cluster;
use ostrakon_shard::swap::{Alone, Back, Busy, Kept, Refusal};

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

    /// Begins to go back to the content of an earlier generation.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub(super) fn go_back(&self, to: Digest) -> Result<(), Busy> {
        match self {
            Self::Alone(alone) => alone.go_back(to),
            Self::Among(cluster) => cluster.go_back(to),
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
            Self::Alone(alone) => !alone.goes_back_to(digest),
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

    /// What is held from the moment when this content goes live; among others, its release says so.
    pub(super) fn holds_with(&self, digest: Digest) -> Option<Digest> {
        match self {
            Self::Alone(alone) => alone.holds_with(digest),
            Self::Among(_) => None,
        }
    }

    /// Notes that the swap refuses content.
    pub(super) fn refuses(&self, refusal: &Refusal) {
        match (self, refusal.digest) {
            (Self::Alone(alone), Some(digest)) => alone.refused(digest, &refusal.reason),
            (Self::Alone(_), None) => {}
            (Self::Among(cluster), _) => cluster.refuses(refusal),
        }
    }
}
