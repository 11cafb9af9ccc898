//! Plans a change without moving anything: says what another number of shards, or another
//! guest, would move. Each shard surveys its own data, and only counts leave it.

mod outcome;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use ostrakon_contract::contract::Description;
use ostrakon_engine::{Guest, Purpose};
use ostrakon_protocol::{Ordinal, Placement};
use ostrakon_settings::settings::MAX_SHARDS;
use ostrakon_shard::survey::{self, Owners, Surveys};
use ostrakon_shard::swap;
use ostrakon_shard::writer::{View, Writer};

use crate::surveying::Strategy;
use crate::{Cluster, Guests, MakeError, SurveyError};
pub use outcome::{Asked, Move, Outcome, Shard, share};

/// Why there is no plan of the change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of shards is out of range.
    #[error("there cannot be {0} shards: ask for 1 to {MAX_SHARDS}")]
    Shards(u32),
    #[error("the guest would be refused")]
    Guest(#[source] MakeError),
    /// The answer is not available now.
    #[error("the shard {0}: try again soon")]
    NotYet(&'static str),
    /// The live generation's settings cannot be read.
    #[error(
        "the live generation's settings are missing or damaged in the data directory: restart the shard"
    )]
    NotKept,
    /// This shard was not surveyed.
    #[error(transparent)]
    Here(#[from] survey::Error),
    /// Another shard was not surveyed.
    #[error(transparent)]
    There(#[from] SurveyError),
}

/// Plans changes. Clones share the same planner.
#[derive(Clone, Debug)]
pub struct Planner {
    writer: Writer,
    guests: Guests,
    cluster: Option<Cluster>,
    surveys: Surveys,
}

impl Planner {
    /// A planner for a shard, alone or in its cluster.
    pub fn new(writer: Writer, guests: Guests, cluster: Option<Cluster>) -> Self {
        let surveys = cluster.as_ref().map(Cluster::surveys).cloned();
        Self {
            writer,
            guests,
            surveys: surveys.unwrap_or_default(),
            cluster,
        }
    }

    /// Surveys all shards: what would move with this number of shards, under the live guest or
    /// under this component with the live generation's settings.
    ///
    /// # Errors
    /// When any shard cannot be surveyed: partial answers are not given.
    pub async fn find_out(&self, shards: u32, component: Option<&Bytes>) -> Result<Outcome, Error> {
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(Error::Shards(shards));
        }
        let _turn = self.surveys.begin()?;
        let live = || {
            self.writer
                .views()
                .get()
                .ok_or(Error::NotYet("has no live guest yet"))
        };
        let view = live()?;
        let (guest, strategy) = match component {
            None => live_strategy(&view, shards),
            Some(component) => self.trial(&view, component).await?,
        };
        let (before, moving) = self.of_now(&view)?;
        let is_alike = component.is_some()
            && guest.description().sharding == view.guest.description().sharding;
        drop(view);
        let snapshot = Arc::clone(&live()?.snapshot);
        let me = Ordinal(self.guests.identity.ordinal);
        let here = async {
            let surveyed = survey::survey(snapshot, Arc::clone(&guest), shards).await;
            Ok::<_, Error>((me, surveyed?))
        };
        let others = (0..before).map(Ordinal).filter(|shard| *shard != me);
        let others = self.cluster.iter().flat_map(|cluster| {
            let (others, strategy) = (others.clone(), &strategy);
            others.map(async |shard| {
                let surveyed = cluster.survey_of(shard, shards, strategy).await;
                Ok((shard, surveyed?))
            })
        });
        let (here, others) = tokio::join!(here, join_all(others));
        let mut owners = BTreeMap::<Ordinal, Owners>::new();
        for surveyed in others.into_iter().chain([here]) {
            let (shard, surveyed) = surveyed?;
            owners.insert(shard, surveyed);
        }
        let moves_still = self.of_now(&*live()?)?;
        let moving = moving || moves_still.1 || moves_still.0 != before;
        let mut outcome = Outcome::new(before, shards, moving, guest.description(), &owners);
        if is_alike {
            let alike = outcome::alike(outcome.guest.sharding);
            outcome.warnings.insert(0, alike);
        }
        Ok(outcome)
    }

    /// The number of shards that may have data, and whether partitions move.
    fn of_now(&self, view: &View) -> Result<(u32, bool), Error> {
        if self.cluster.is_none() {
            return Ok((1, false));
        }
        let membership = view.membership.as_ref();
        let plan = membership.and_then(|membership| membership.shard.plan());
        let plan = plan.ok_or(Error::NotYet("does not know yet how many shards there are"))?;
        Ok((plan.shards(), !plan.is_stable()))
    }

    /// A guest of a component that is only to be surveyed, with the live generation's settings.
    async fn trial(&self, view: &View, component: &Bytes) -> Result<(Arc<Guest>, Strategy), Error> {
        let live = self.guests.kept.find(view.digest);
        let live = live.ok_or(Error::NotKept)?;
        let files = swap::with_component(&live, component.clone());
        let made = self.guests.make(&files, Purpose::Trial).await;
        let made = made.map_err(Error::Guest)?;
        Ok((Arc::new(made), Strategy::Trial(files)))
    }
}

fn live_strategy(view: &View, shards: u32) -> (Arc<Guest>, Strategy) {
    let Description { sharding, .. } = *view.guest.description();
    let placement = Placement {
        shards,
        owner: view.digest,
        sharding,
    };
    (Arc::clone(&view.guest), Strategy::Kept(placement))
}
