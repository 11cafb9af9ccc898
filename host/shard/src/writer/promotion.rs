//! A generation that is about to go live, and its stored record.

use std::sync::Arc;

use ostrakon_base::digest::Digest;
use ostrakon_base::stored::Unreadable;
use ostrakon_engine::{Failure, Guest};
use ostrakon_store::CommitError;
use serde::{Deserialize, Serialize};

use super::record::{self, GENERATION};

/// A checked generation that is to go live.
#[derive(Debug)]
pub struct Promotion {
    pub guest: Arc<Guest>,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
}

/// The live generation, as it is stored with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Live {
    /// The generation's number: 1 for a shard's first, one more with each swap.
    pub number: u64,
    /// The digest of component and settings.
    pub digest: Digest,
    /// The digest of the component alone.
    pub component: Digest,
}

impl Live {
    /// Reads the stored record of the live generation.
    ///
    /// # Errors
    /// When the bytes are not such a record, or a later host wrote it.
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
