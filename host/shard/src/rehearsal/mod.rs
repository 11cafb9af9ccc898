//! A new generation tries live requests before it goes live: it rehearses.
//!
//! While it does, a share of the requests that this shard answers is sampled ([`Stage`]). Each sample
//! is run twice on the view that the live guest ran on: by a double of the live guest and by one of
//! the candidate (`runs`). What both answered and wrote is compared and thrown away ([`Findings`]).
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
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::writer::View;
pub use findings::{Difference, Example, Findings, Outcome, Refused};
pub use migrating::Migrated;
use migrating::Migrates;
pub use stage::Stage;
pub(crate) use stage::Taken;

use findings::{Differs, Tried, Verdict};
use runs::{Doubles, Of, Ran};
use stage::{Begun, Sample, Sampling};

/// How long after a rehearsed request the next one waits, in multiples of what it took: so
/// rehearsing takes at most a quarter of one processor.
const REST: u32 = 3;

/// How often a guest is tried that did not answer in time, which may be the machine's fault.
const TRIES: usize = 3;

/// Why content was not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTried {
    #[error("another rehearsal is under way: try again when it is over")]
    Busy,
    #[error(
        "the rehearsal ended too early: content that is to go live took its place, or see the log"
    )]
    Ended,
}

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
        live: Arc<View>,
        metrics: Arc<Metrics>,
    ) -> Result<(), Refused> {
        let sampling = self.begin_and_show(&candidate, &live);
        Self::run(&sampling, candidate, live, metrics).await;
        sampling.of().findings().judgement()
    }

    /// Has the generation that was live before answer what one in its steps answers, on what that one
    /// wrote: whether a way back would be safe. `None` if another rehearsal is under way. Dropping the
    /// future ends it.
    pub async fn rehearse_way_back(
        &self,
        former: Candidate,
        tried: Arc<View>,
        metrics: Arc<Metrics>,
    ) -> Option<Findings> {
        let sampling = self.begin_if_free(&former, &tried)?;
        self.show_way_back(&sampling);
        Self::run(&sampling, former, tried, metrics).await;
        let findings = sampling.of().findings().clone();
        Some(findings)
    }

    /// As [`Stage::rehearse`], for content that does not go live. Returns what was found.
    ///
    /// # Errors
    /// If another rehearsal is under way, or takes its place.
    pub async fn try_out(
        &self,
        candidate: Candidate,
        live: Arc<View>,
        metrics: Arc<Metrics>,
    ) -> Result<Findings, NotTried> {
        let sampling = self.begin_if_free(&candidate, &live);
        let sampling = sampling.ok_or(NotTried::Busy)?;
        Self::run(&sampling, candidate, live, metrics).await;
        let findings = sampling.of().findings().clone();
        match findings.outcome {
            Outcome::Passed | Outcome::Refused => Ok(findings),
            Outcome::Rehearses | Outcome::Stopped => Err(NotTried::Ended),
        }
    }

    /// Tries a candidate with the last requests, if those are kept. Whatever comes out, it is not
    /// refused: the log says what differs.
    pub async fn try_last(&self, candidate: Candidate, live: Arc<View>, metrics: Arc<Metrics>) {
        let sampling = self.begin_again(&candidate, &live);
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

    async fn run(
        sampling: &Begun<'_>,
        candidate: Candidate,
        live: Arc<View>,
        metrics: Arc<Metrics>,
    ) {
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
                shards: live.shards(),
                snapshot: Arc::clone(&live.snapshot),
                directory: candidate.directory,
            }),
        };
        // It would keep the data that it shows.
        drop(live);
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

impl Rehearsing {
    fn run(mut self, runtime: &Handle) {
        let until = Instant::now() + self.settings.time;
        match self.migrates.take() {
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
            "a generation has rehearsed"
        );
    }

    fn try_to_migrate(&self, migrates: Migrates, until: Instant, runtime: &Handle) {
        let candidate = &self.doubles.candidate;
        let tried = migrating::try_to(candidate, migrates, until, &self.sampling, runtime);
        if let Ok(migrated) = &tried
            && let Some(why) = &migrated.not_tried
        {
            tracing::warn!(why, "the migration to a new schema was not tried before");
        }
        self.sampling.findings().note_migration(tried);
    }

    fn try_requests(&self, until: Instant, runtime: &Handle) {
        // Neither guest has the advantage of a warm cache.
        let mut is_live_first = true;
        while let Some(sample) = self.sampling.next(until) {
            if !sample.is_of(self.doubles.live.1) || sample.is_old() {
                self.sampling.leave_out();
                continue;
            }
            let began = Instant::now();
            let tried = runtime.block_on(self.tried(&sample, is_live_first));
            is_live_first = !is_live_first;
            if let Some(tried) = tried {
                self.metrics.rehearsed(tried.verdict.counted(), tried.took);
                let mut findings = self.sampling.findings();
                findings.note(&self.settings, sample.request(), tried);
                if self.sampling.is_trial() {
                    // Nothing is refused, and there is no traffic that it could slow down.
                    findings.forgive();
                    continue;
                }
                let is_enough = findings.requests >= self.settings.requests;
                if is_enough || findings.outcome != Outcome::Rehearses {
                    break;
                }
            }
            drop(sample);
            self.sampling.rest(began.elapsed() * REST, until);
        }
    }

    /// Runs a sample by one guest, and measures that.
    async fn ran(&self, of: &Of, sample: &Sample) -> (Result<Ran, Failure>, Duration) {
        let mut tries = 1..TRIES;
        loop {
            let began = Instant::now();
            let ran = runs::run(of, sample, self.ordinal).await;
            if !matches!(ran, Err(Failure::Deadline)) || tries.next().is_none() {
                return (ran, began.elapsed());
            }
        }
    }

    /// Runs a sample by both guests; `None` if it says nothing, because the data could not be read.
    async fn tried(&self, sample: &Sample, is_live_first: bool) -> Option<Tried> {
        let Doubles { live, candidate } = &self.doubles;
        let (of_live, of_candidate);
        if is_live_first {
            of_live = self.ran(live, sample).await;
            of_candidate = self.ran(candidate, sample).await;
        } else {
            of_candidate = self.ran(candidate, sample).await;
            of_live = self.ran(live, sample).await;
        }
        let ((live_ran, live_took), (candidate_ran, candidate_took)) = (of_live, of_candidate);
        let verdict = match (&live_ran, &candidate_ran) {
            (Err(Failure::Store(_)), _) | (_, Err(Failure::Store(_))) => return None,
            (Err(_), Err(_)) => Verdict::BothFailed,
            // It answered the client.
            (Err(Failure::Deadline), Ok(_)) => Verdict::Unsteady,
            (Ok(ran), _) if ran.answer.is_none() => Verdict::Unsteady,
            (Ok(_), Err(failure)) => Verdict::Failed(failure.to_string()),
            (Err(failure), Ok(_)) => Verdict::Differs(Differs::of_failure(failure)),
            (Ok(live_ran), Ok(candidate_ran)) => {
                match findings::compare(live_ran, candidate_ran, self.settings.show_data) {
                    None => Verdict::Same,
                    Some(differs) => {
                        let (again, _) = self.ran(live, sample).await;
                        let own = again.map(|again| findings::compare(live_ran, &again, false));
                        match own {
                            Ok(Some(own)) if own.difference == differs.difference => {
                                Verdict::Unsteady
                            }
                            Ok(_) => Verdict::Differs(differs),
                            Err(_) => Verdict::Unsteady,
                        }
                    }
                }
            }
        };
        let partition = live_ran.ok().and_then(|ran| match ran.route.target {
            Target::Partition(key) => Some(findings::mark(&key)),
            Target::Here | Target::Everywhere => None,
        });
        Some(Tried {
            verdict,
            took: [live_took, candidate_took],
            partition,
        })
    }
}
