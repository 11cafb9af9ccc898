//! How swapping stands, for operators.

use ostrakon_base::digest::Digest;
use serde::Serialize;

use super::machine::{Refusal, Step};

/// How swapping stands in this shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The generation that serves.
    pub live: Option<LiveGeneration>,
    /// The candidate on its way.
    pub candidate: Option<InProgress>,
    /// What the volume shows and was refused; none once something went live
    /// since, or the live content is back.
    pub refused: Option<Refused>,
    /// What was refused last, since the process started.
    pub last_refused: Option<Refused>,
}

/// The generation that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveGeneration {
    /// Its number.
    pub generation: u64,
    /// The digest of all its content.
    pub digest: Digest,
    /// The guest's name.
    pub name: String,
    /// The guest's version.
    pub version: String,
    /// The version of the guest's owner function.
    pub sharding: u32,
    /// The version of the stored data's layout.
    pub schema: u32,
}

/// A candidate on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InProgress {
    /// The digest of all its content.
    pub digest: Digest,
    /// The step under way.
    pub step: Step,
}

/// A candidate that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The digest of all its content; none where it could not be read.
    pub digest: Option<Digest>,
    /// The step that failed.
    pub step: Step,
    /// Why, for people, at most 4 KiB.
    pub reason: String,
    /// When, in seconds since 1970.
    pub unix_time: u64,
    /// Whether it is tried again by itself: the disk failed, not the content.
    pub will_retry: bool,
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let Refusal {
            digest,
            step,
            reason,
            at,
            transient,
        } = refusal.clone();
        Self {
            digest,
            step,
            reason,
            unix_time: at,
            will_retry: transient,
        }
    }
}
