//! A generation that is about to go live, and its stored record.

use std::sync::Arc;

use ostrakon_base::digest::Digest;
use ostrakon_base::stored::{Format, Unreadable};
use ostrakon_contract::contract::Description;
use ostrakon_engine::{Failure, Guest};
use ostrakon_protocol::{ClusterId, Generation, Incarnation, Release, Trial};
use ostrakon_store::CommitError;
use serde::{Deserialize, Serialize};

use super::record::{self, GENERATION, GENERATION_ALONE, GENERATION_RELEASED};
use crate::swap::history::{self, Entry};

/// A checked generation that is to go live.
#[derive(Debug)]
pub struct Promotion {
    pub guest: Arc<Guest>,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
    /// The release by which it goes live; `None` where there is none, as in a shard that is alone.
    pub release: Option<Release>,
    /// What is held from then on, where there is no release, which says so.
    pub held: Option<Digest>,
}

/// The live generation, as it is stored with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// The generation's number: that of its release. Without one it is 1 for a shard's first, and one
    /// more with each swap.
    pub number: u64,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
    /// Who made the release by which it went live, if it did by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<Made>,
    /// What the volume shows and does not go live while it does: an operator went back from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Digest>,
    /// The step in which another generation serves some of the partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// Who made a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Made {
    pub(super) cluster: ClusterId,
    pub(super) by: Incarnation,
}

impl Live {
    /// Reads the stored record of the live generation.
    ///
    /// # Errors
    /// When the bytes are not such a record, or a later host wrote it.
    pub fn decode(stored: &[u8]) -> Result<Self, Unreadable> {
        let (version, live): (_, Self) = record::decode_json(GENERATION, stored)?;
        if live.format().version == version || version == 0 && live.format() == GENERATION_ALONE {
            Ok(live)
        } else {
            Err(GENERATION.broken("it has what its version does not have, or lacks it"))
        }
    }

    /// A host that knows of no releases can read the record of a generation without one.
    pub(super) fn encode(&self) -> Vec<u8> {
        record::encode_json(self.format(), self)
    }

    fn format(&self) -> Format {
        match (self.made, self.held, self.trial) {
            (None, None, None) => GENERATION_ALONE,
            (_, _, None) => GENERATION_RELEASED,
            _ => GENERATION,
        }
    }

    /// The generation that goes live by a promotion, after the one that was live before.
    pub(super) fn after(before: Option<Self>, promotion: &Promotion) -> Self {
        let Promotion {
            digest,
            component,
            release,
            held,
            ..
        } = *promotion;
        let made = release.filter(|release| !release.is_of_one());
        let made = made.map(|release| Made {
            cluster: release.cluster,
            by: release.maker,
        });
        let number = match (release, before) {
            (Some(release), _) => release.live.number,
            (None, Some(before)) if before.digest == digest => return before,
            (None, before) => before.map_or(0, |before| before.number) + 1,
        };
        Self {
            number,
            digest,
            component,
            made,
            held: release.map_or(held, |release| release.held),
            trial: release.and_then(|release| release.trial),
        }
    }

    /// What the history says of it, if it goes live now.
    pub fn entry(&self, described: &Description) -> Entry {
        Entry {
            generation: self.number,
            digest: self.digest,
            name: described.name.clone(),
            version: described.version.clone(),
            schema: described.schema,
            live_since: history::now(),
            held: self.held,
        }
    }

    /// The release by which it went live; `None` where it did without one, or in a shard that was alone.
    pub fn release(&self) -> Option<Release> {
        let Made { cluster, by } = self.made?;
        Some(Release {
            cluster,
            maker: by,
            ..self.release_of_one()
        })
    }

    /// The release of it in a shard that is alone.
    pub fn release_of_one(&self) -> Release {
        let live = Generation {
            number: self.number,
            digest: self.digest,
        };
        Release {
            live,
            held: self.held,
            trial: self.trial,
            ..Release::of_one(self.number, self.digest)
        }
    }
}

/// Why a checked generation did not go live.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The guest's schema is older than the data's.
    #[error(
        "the guest's schema {guest} is older than the data's, {data}: only a guest of schema {data} or newer can serve this shard"
    )]
    Schema { guest: u32, data: u32 },
    /// `migrate` returned an error.
    #[error("`migrate` from schema {from} failed: {reason}")]
    Refused {
        /// The data's schema.
        from: u32,
        reason: String,
    },
    /// `migrate` did not return.
    #[error("`migrate` from schema {from} failed")]
    Failed {
        /// The data's schema.
        from: u32,
        #[source]
        failure: Failure,
    },
    /// The record of the live generation before this one cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The record of this generation could not be stored.
    #[error(transparent)]
    NotStored(#[from] CommitError),
    #[error("the shard stops")]
    Ended,
}
