//! Surveys of this shard's data, for itself and for others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ostrakon_engine::{Guest, Purpose};
use ostrakon_protocol::{MAX_SHARDS, Ordinal, Placement};
use ostrakon_shard::survey::{self, Owners, Surveys};
use ostrakon_volumes::volume::Files;
use tokio::time::timeout;

use super::message::{Basis, PeerRequest, PeerResponse};
use super::{AskError, Cluster};

/// How long another shard may take to answer: it may have to fetch and compile the guest.
const PATIENCE: Duration = Duration::from_secs(15).saturating_add(survey::DEADLINE);

/// Whose `owner` a survey asks.
#[derive(Clone, Debug)]
pub(crate) enum Strategy {
    /// The `owner` of a generation that some shard has.
    Kept(Placement),
    /// The `owner` of a generation that is only to be surveyed.
    Trial(Files),
}

#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(
        "shard {shard} is away, and nothing can be said without it: try again when it is back ({why})"
    )]
    Away { shard: Ordinal, why: String },
    #[error("shard {shard}: {why}")]
    Refused { shard: Ordinal, why: String },
}

impl Cluster {
    pub(crate) fn surveys(&self) -> &Surveys {
        &self.0.surveys
    }

    /// Asks another shard who would own its partitions among `shards` shards.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub(crate) async fn survey_of(
        &self,
        shard: Ordinal,
        shards: u32,
        strategy: &Strategy,
    ) -> Result<Owners, SurveyError> {
        let basis = match strategy {
            Strategy::Kept(placement) => Basis::Kept {
                placement: placement.clone(),
            },
            Strategy::Trial(files) => Basis::Trial {
                files: BTreeMap::clone(files.contents()),
            },
        };
        let away = |why: String| SurveyError::Away { shard, why };
        let ask = PeerRequest::Survey { shards, basis };
        let asked = timeout(PATIENCE, self.ask(shard, &ask)).await;
        let said = asked.map_err(|_| away(format!("no answer within {} s", PATIENCE.as_secs())))?;
        match said {
            Ok(PeerResponse::Survey { owners }) if owners.keys().all(|owner| *owner < shards) => {
                Ok(owners)
            }
            Ok(PeerResponse::Later { reason: why }) => Err(SurveyError::Refused { shard, why }),
            Ok(_) => Err(SurveyError::Refused {
                shard,
                why: AskError::Answer.to_string(),
            }),
            Err(error) => Err(away(error.to_string())),
        }
    }

    /// Surveys who would own the partitions here among `shards` shards.
    pub(super) async fn survey_here(&self, shards: u32, basis: Basis) -> Result<Owners, String> {
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(format!("there are 1 to {MAX_SHARDS} shards, not {shards}"));
        }
        let _turn = self.0.surveys.begin().map_err(|error| error.to_string())?;
        let guest = self.surveyor(basis).await?;
        let Some(view) = self.0.writer.views().get() else {
            return Err("the shard has no generation yet: try again soon".to_owned());
        };
        let snapshot = Arc::clone(&view.snapshot);
        drop(view);
        let surveyed = survey::survey(snapshot, guest, shards).await;
        surveyed.map_err(|error| error.to_string())
    }

    /// The guest whose `owner` counts.
    async fn surveyor(&self, basis: Basis) -> Result<Arc<Guest>, String> {
        match basis {
            Basis::Kept { placement } => {
                let owner = self.owner(&placement).await;
                owner.map_err(|error| error.to_string())
            }
            Basis::Trial { files } => {
                let files = Files::new(files);
                // Waits no longer than the asking shard does.
                let making = timeout(PATIENCE, self.0.guests.make(&files, Purpose::Trial)).await;
                let made = making.map_err(|_| "its guest was not compiled in time".to_owned())?;
                made.map(Arc::new).map_err(|error| error.to_string())
            }
        }
    }
}
