//! Whether all shards could go back from a generation in its steps: what was live before answers what
//! that one answers, on what that one wrote.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ostrakon_observe::metrics::Metrics;
use ostrakon_shard::rehearsal::{Candidate, Outcome};
use ostrakon_shard::writer::{View, Writer};
use tokio::time::sleep;

use crate::drain::Drain;

/// How often it is looked whether there is another step.
const EVERY: Duration = Duration::from_secs(1);

/// The shard whose way back is tried.
pub(super) struct WayBack {
    pub(super) writer: Writer,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ordinal: u32,
    /// The data directory.
    pub(super) directory: PathBuf,
}

/// A step: the generation's number, and its share of the partitions.
type Step = (u64, u32);

impl WayBack {
    /// Tries it once in each step, if the new generation's settings have rehearsals, until the shard
    /// drains.
    pub(super) async fn run(self, drain: Drain) {
        let mut done: Option<Step> = None;
        loop {
            let found = self.step().filter(|(step, ..)| done != Some(*step));
            let trying = async {
                match found {
                    Some((step, tried, former)) => self.tries(step, tried, former).await,
                    None => None,
                }
            };
            tokio::select! {
                biased;
                () = drain.begun() => return,
                tried = trying => done = tried.or(done),
            }
            tokio::select! {
                biased;
                () = drain.begun() => return,
                () = sleep(EVERY) => {}
            }
        }
    }

    /// The step that is on, the view of the generation in it, and what was live before.
    fn step(&self) -> Option<(Step, Arc<View>, Candidate)> {
        let live = self.writer.views().get()?;
        let tried = live.tried.as_ref()?;
        let view = tried.view.clone()?;
        let settings = &view.guest.settings().rehearsal;
        if settings.time.is_zero() {
            return None;
        }
        let former = Candidate {
            guest: Arc::clone(&live.guest),
            digest: live.digest,
            settings: settings.clone(),
            ordinal: self.ordinal,
            directory: self.directory.clone(),
            migrate_from: None,
        };
        Some((
            (tried.trial.candidate.number, tried.trial.share),
            view,
            former,
        ))
    }

    /// Returns the step, if it was tried in it.
    async fn tries(&self, step: Step, tried: Arc<View>, former: Candidate) -> Option<Step> {
        let is_over = async {
            while self.step().is_some_and(|(now, ..)| now == step) {
                sleep(EVERY).await;
            }
        };
        let metrics = Arc::clone(&self.metrics);
        let rehearsing = self.writer.stage();
        let rehearsing = rehearsing.rehearse_way_back(former, tried, metrics);
        let found = tokio::select! {
            found = rehearsing => found?,
            () = is_over => return Some(step),
        };
        if found.outcome == Outcome::Refused {
            tracing::warn!(
                generation = step.0,
                failed = found.failed,
                differ = found.differ,
                why = found.why,
                "the generation before this one fails on what it wrote: a way back would not be safe"
            );
        }
        Some(step)
    }
}
