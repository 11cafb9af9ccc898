//! A new generation tries live requests before it goes live: it rehearses.
//!
//! While it does, a share of the requests that this shard answers is sampled ([`Stage`]). Each sample
//! is run twice on the view that the live guest ran on: by a double of the live guest and by one of
//! the candidate ([`runs`]). What both answered and wrote is compared and thrown away ([`Findings`]).
//! So the live request pays for taking the sample only.
//!
//! Guests are told the same time and get the same random bytes in both runs. What a guest takes from
//! WASI's clock or random numbers differs all the same: where the live guest's own second answer
//! differs from its first, the request says nothing.

mod findings;
mod last;
mod migrating;
mod runs;
mod stage;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ostrakon_base::digest::Digest;
use ostrakon_base::priority::lower_priority;
use ostrakon_contract::contract::Target;
use ostrakon_engine::{Failure, Guest};
use ostrakon_observe::metrics::Metrics;
use ostrakon_settings::settings::Rehearsal;
use ostrakon_store::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::writer::View;
pub use findings::{Difference, Example, Findings, Outcome, Refused};
pub use migrating::Migrated;
pub(crate) use stage::Sample;
pub use stage::Stage;

use findings::{Tried, Verdict};
use runs::{Doubles, Of};
use stage::{Begun, Sampling};

/// How long after a rehearsed request the next one waits, in multiples of what it took: so
/// rehearsing takes at most a quarter of one processor.
const REST: u32 = 3;

/// How old a sample may become: it keeps the data that its request saw.
const MOST_AGE: Duration = Duration::from_secs(1);

/// How often a candidate is tried that did not answer in time, which may be the machine's fault.
const TRIES: usize = 3;

/// A candidate that is to rehearse.
#[derive(Debug)]
pub struct Candidate {
    pub guest: Arc<Guest>,
    pub digest: Digest,
    pub settings: Rehearsal,
    /// This shard's ordinal.
    pub ordinal: u32,
    /// The data directory.
    pub directory: PathBuf,
    /// The schema of the data, if the candidate has to migrate it: then `migrate` is all that it
    /// rehearses, because it cannot answer from data of another schema.
    pub migrate_from: Option<u32>,
}

impl Stage {
    /// Has a candidate rehearse beside the live generation, until it was tried with enough requests or
    /// its time is over. Dropping the future ends that.
    ///
    /// # Errors
    /// If it failed where the live guest did not, or differs where it must not.
    pub async fn rehearse(
        &self,
        candidate: Candidate,
        live: &View,
        metrics: Arc<Metrics>,
    ) -> Result<(), Refused> {
        let sampling = self.begin_and_show(&candidate, live);
        Self::run(&sampling, candidate, live, metrics).await;
        sampling.of().findings().judgement()
    }

    /// As [`Stage::rehearse`], for content that does not go live. Returns what was found; `None` if
    /// another rehearsal is under way, or takes its place.
    pub async fn try_out(
        &self,
        candidate: Candidate,
        live: &View,
        metrics: Arc<Metrics>,
    ) -> Option<Findings> {
        let sampling = self.begin_if_free(&candidate, live)?;
        Self::run(&sampling, candidate, live, metrics).await;
        let findings = sampling.of().findings().clone();
        Some(findings).filter(|findings| findings.outcome != Outcome::Stopped)
    }

    /// Tries a candidate with the last requests, if those are kept. Whatever comes out, it is not
    /// refused: the log says what differs.
    pub async fn try_last(&self, candidate: Candidate, live: &View, metrics: Arc<Metrics>) {
        let sampling = self.begin_again(&candidate, live);
        Self::run(&sampling, candidate, live, metrics).await;
        let findings = sampling.of().findings();
        for example in &findings.examples {
            let Example {
                difference,
                method,
                path,
                detail,
                ..
            } = example;
            tracing::warn!("{method} {path} differs in {difference}: {detail}");
        }
        let differ = findings.differ + findings.failed;
        let more = differ.saturating_sub(findings.examples.len() as u64);
        if more > 0 {
            tracing::warn!("and {more} more of the last requests");
        }
    }

    async fn run(sampling: &Begun<'_>, candidate: Candidate, live: &View, metrics: Arc<Metrics>) {
        let (sender, ended) = oneshot::channel();
        let doubles = Doubles {
            live: (Arc::new(live.guest.double(None)), live.digest),
            candidate: (
                Arc::new(candidate.guest.double(Some(label(candidate.digest)))),
                candidate.digest,
            ),
        };
        let rehearsing = Rehearsing {
            sampling: Arc::clone(sampling.of()),
            doubles,
            settings: candidate.settings,
            metrics,
            ordinal: candidate.ordinal,
            migrates: candidate.migrate_from.map(|from| Migrates {
                from,
                snapshot: Arc::clone(&live.snapshot),
                directory: candidate.directory,
            }),
        };
        let runtime = Handle::current();
        let spawned = thread::Builder::new()
            .name("rehearsal".to_owned())
            .spawn(move || {
                lower_priority();
                rehearsing.run(&runtime);
                // Nobody may wait for it any longer.
                let _ = sender.send(());
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the new generation does not rehearse: the system has no thread for it");
            return;
        }
        // A panic drops the sender, and is reported.
        let _ = ended.await;
    }
}

/// What distinguishes the candidate's log lines.
fn label(candidate: Digest) -> String {
    format!("{} rehearsing", candidate.short())
}

/// The thread that rehearses.
struct Rehearsing {
    sampling: Arc<Sampling>,
    doubles: Doubles,
    settings: Rehearsal,
    metrics: Arc<Metrics>,
    ordinal: u32,
    migrates: Option<Migrates>,
}

/// What `migrate` is tried on.
struct Migrates {
    from: u32,
    snapshot: Arc<Snapshot>,
    directory: PathBuf,
}

impl Rehearsing {
    fn run(&self, runtime: &Handle) {
        let until = Instant::now() + self.settings.time;
        match &self.migrates {
            Some(migrates) => self.try_to_migrate(migrates, until, runtime),
            None => self.try_requests(until, runtime),
        }
        let left_out = self.sampling.end(Outcome::Passed);
        self.metrics.not_rehearsed(left_out);
        let findings = self.sampling.findings();
        let migrated = findings.migration.as_ref();
        tracing::info!(
            digest = %findings.candidate.short(),
            requests = findings.requests,
            differ = findings.differ,
            failed = findings.failed,
            live_us = findings.live_us,
            candidate_us = findings.candidate_us,
            migrate_ms = migrated.map(|migrated| migrated.took_ms),
            "a new generation has rehearsed"
        );
    }

    fn try_to_migrate(&self, migrates: &Migrates, until: Instant, runtime: &Handle) {
        let data = migrating::Data {
            snapshot: &migrates.snapshot,
            directory: &migrates.directory,
            until,
        };
        let candidate = &self.doubles.candidate;
        let tried = migrating::try_to(candidate, migrates.from, &data, &self.sampling, runtime);
        if let Ok(migrated) = &tried
            && let Some(why) = &migrated.not_tried
        {
            tracing::warn!(why, "the migration to a new schema was not tried before");
        }
        self.sampling.findings().note_migration(tried);
    }

    fn try_requests(&self, until: Instant, runtime: &Handle) {
        while let Some(sample) = self.sampling.next(until) {
            let is_old = sample.keeps_data() && sample.age() > MOST_AGE;
            if !sample.is_of(self.doubles.live.1) || is_old {
                self.sampling.leave_out();
                continue;
            }
            let began = Instant::now();
            let tried = runtime.block_on(self.tried(&sample));
            if let Some(tried) = tried {
                self.metrics.rehearsed(tried.verdict.counted(), tried.took);
                let mut findings = self.sampling.findings();
                findings.note(&self.settings, sample.request(), tried);
                if self.sampling.is_trial() {
                    // Nothing is refused, and there is no traffic that it could slow down.
                    findings.forgive();
                    if Instant::now() < until {
                        continue;
                    }
                    break;
                }
                let is_enough = findings.requests >= self.settings.requests;
                if is_enough || findings.outcome != Outcome::Rehearses {
                    break;
                }
            }
            self.sampling.rest(began.elapsed() * REST, until);
        }
    }

    /// Runs a sample by both guests; `None` if it says nothing, because the data could not be read.
    async fn tried(&self, sample: &Sample) -> Option<Tried> {
        // Neither has the advantage of a warm cache.
        let is_live_first = sample.number().is_multiple_of(2);
        let Doubles { live, candidate } = &self.doubles;
        let run = async |of: &Of| {
            let began = Instant::now();
            let ran = runs::run(of, sample, self.ordinal).await;
            (ran, began.elapsed())
        };
        let (of_live, of_candidate);
        if is_live_first {
            of_live = run(live).await;
            of_candidate = run(candidate).await;
        } else {
            of_candidate = run(candidate).await;
            of_live = run(live).await;
        }
        let (live_ran, live_took) = of_live;
        let (mut candidate_ran, candidate_took) = of_candidate;
        for _ in 1..TRIES {
            if !matches!(candidate_ran, Err(Failure::Deadline)) {
                break;
            }
            (candidate_ran, _) = run(candidate).await;
        }
        let took = [live_took, candidate_took];
        let verdict = match (&live_ran, &candidate_ran) {
            (Err(Failure::Store(_)), _) | (_, Err(Failure::Store(_))) => return None,
            (Err(_), Err(_)) => Verdict::BothFailed,
            (Ok(ran), _) if ran.answer.is_none() => Verdict::Unsteady,
            (Ok(_), Err(failure)) => Verdict::Failed(failure.to_string()),
            (Err(failure), Ok(_)) => {
                let live = failure.to_string();
                Verdict::Differs(
                    Difference::Failure,
                    format!("the live guest failed: {live}"),
                )
            }
            (Ok(live_ran), Ok(candidate_ran)) => {
                match findings::compare(live_ran, candidate_ran, &self.settings) {
                    None => Verdict::Same,
                    Some((difference, detail)) => {
                        let (again, _) = run(live).await;
                        let again = again.ok()?;
                        let own = findings::compare(live_ran, &again, &self.settings);
                        match own {
                            Some((own, _)) if own == difference => Verdict::Unsteady,
                            _ => Verdict::Differs(difference, detail),
                        }
                    }
                }
            }
        };
        let partition = live_ran.ok().and_then(|ran| match ran.route.target {
            Target::Partition(key) => Some(Digest::of(&key)),
            Target::Here | Target::Everywhere => None,
        });
        Some(Tried {
            verdict,
            took,
            partition,
        })
    }
}
