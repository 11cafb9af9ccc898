//! The status of swapping, for operators.

use ostrakon_base::digest::Digest;
use serde::Serialize;

use super::machine::{Refusal, Step};

/// The status of swapping in this shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub live: Option<LiveGeneration>,
    pub candidate: Option<InProgress>,
    /// The refusal of the volume's content; `None` once a generation has gone live since, or
    /// the live content is back.
    pub refused: Option<Refused>,
    /// The last refusal since the process started.
    pub last_refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveGeneration {
    pub generation: u64,
    /// The digest of all its content.
    pub digest: Digest,
    /// The guest's name.
    pub name: String,
    /// The guest's version.
    pub version: String,
    /// The version of the guest's `owner` function.
    pub sharding: u32,
    /// The version of the stored data's layout.
    pub schema: u32,
}

/// A candidate under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InProgress {
    /// The digest of all its content.
    pub digest: Digest,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The digest of all its content; `None` where it could not be read.
    pub digest: Option<Digest>,
    pub step: Step,
    /// The reason, for people, at most 4 KiB.
    pub reason: String,
    /// When it was refused, in seconds since 1970.
    pub unix_time: u64,
    /// Whether it is retried automatically: the disk failed, not the content.
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
