//! A generation on its way to be live, and what is stored of it.

use std::sync::Arc;

use ostrakon_base::digest::Digest;
use ostrakon_base::stored::Unreadable;
use ostrakon_engine::{Failure, Guest};
use ostrakon_store::CommitError;
use serde::{Deserialize, Serialize};

use super::record::{self, GENERATION};

/// A checked generation.
#[derive(Debug)]
pub struct Promotion {
    /// Its guest.
    pub guest: Arc<Guest>,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
}

/// The generation that is live, as it is stored with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// Its number: 1 for a shard's first, one more with each swap.
    pub number: u64,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
}

impl Live {
    /// Reads what was stored of the live generation.
    ///
    /// # Errors
    /// When it is not that, or a later host wrote it.
    pub fn decode(stored: &[u8]) -> Result<Self, Unreadable> {
        record::decode_json(GENERATION, stored)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        record::encode_json(GENERATION, self)
    }
}

/// Why a checked generation did not go live.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// Its schema is older than the data's.
    #[error(
        "the guest's schema {guest} is older than the data's, {data}: only a guest of schema {data} or newer can serve this shard"
    )]
    Schema {
        /// The guest's.
        guest: u32,
        /// The data's.
        data: u32,
    },
    /// Its migration said no.
    #[error("`migrate` from schema {from} failed: {reason}")]
    Refused {
        /// The data's schema.
        from: u32,
        /// What the guest says.
        reason: String,
    },
    /// Its migration failed.
    #[error("`migrate` from schema {from} failed")]
    Failed {
        /// The data's schema.
        from: u32,
        /// How.
        #[source]
        failure: Failure,
    },
    /// What is stored of the one before cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It could not be stored that it is live.
    #[error(transparent)]
    NotStored(#[from] CommitError),
    /// The writer has ended.
    #[error("the shard stops")]
    Ended,
}
