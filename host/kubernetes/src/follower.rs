//! Follows the number of replicas that the StatefulSet specifies, by asking the API server again
//! and again.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, ResourceExt as _};
use ostrakon_observe::metrics::Metrics;
use tokio::time::{Instant, sleep, timeout};

use super::following::{Ask, Following, Heard, Seen};
use super::pod_identity::PodIdentity;
use super::problem::Problem;
use super::server::{self, StatefulSet};
use super::standing::Standing;

/// The times and time limits of the follower.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// The time limit for an answer to begin, or, unless it is a watch, to be complete.
    pub(super) answer: Duration,
    /// How long a watch lasts until the API server ends it in good order. A connection that died
    /// silently is detected not much later.
    pub(super) watch: Duration,
    /// How much longer than that the follower waits.
    pub(super) beyond: Duration,
    /// The wait after the first failure; it doubles with each further failure.
    pub(super) first_wait: Duration,
    pub(super) longest_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            watch: Duration::from_mins(1),
            beyond: Duration::from_secs(10),
            first_wait: Duration::from_millis(500),
            // A leaving Pod waits within its grace period until shard 0 knows the new number.
            longest_wait: Duration::from_secs(5),
        }
    }
}

impl Timing {
    /// The wait after this many consecutive failures: doubled with each, then a random value
    /// between half of that and all of it, so that clients that failed together do not come back
    /// together.
    pub(super) fn wait(&self, failures: u32, random: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let wait = self
            .first_wait
            .saturating_mul(factor)
            .min(self.longest_wait);
        wait.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

/// Follows for as long as it is polled.
pub(super) async fn follow(
    identity: &PodIdentity,
    timing: &Timing,
    standing: &Standing,
    metrics: &Metrics,
) {
    let _followed = standing.followed(metrics);
    let mut follower = Follower {
        identity,
        timing,
        standing,
        metrics,
        following: Following::new(Problem::missing(identity)),
        told: None,
    };
    loop {
        if let Err(error) = follower.ask().await {
            let heard = Problem::of(&error, identity).map_or(Heard::Gone, Heard::Failed);
            follower.hear(heard);
        }
        let failures = follower.following.failures();
        sleep(timing.wait(failures, fastrand::u32(..))).await;
    }
}

struct Follower<'a> {
    identity: &'a PodIdentity,
    timing: &'a Timing,
    standing: &'a Standing,
    metrics: &'a Metrics,
    following: Following,
    told: Option<Problem>,
}

impl Follower<'_> {
    /// Asks on one connection until something fails.
    async fn ask(&mut self) -> Result<(), kube::Error> {
        // A new client reads the token and authority again, because they may be the cause of the
        // failure.
        let client = server::client(self.identity, self.timing.answer)?;
        let sets = server::stateful_sets(client, self.identity);
        loop {
            match self.following.next() {
                Ask::List => self.list(&sets).await?,
                Ask::Watch(version) => self.watch(&sets, &version).await?,
            }
            if !self.following.has_heard() {
                return Ok(());
            }
        }
    }

    async fn list(&mut self, sets: &Api<StatefulSet>) -> Result<(), kube::Error> {
        let wanted = ListParams::default().fields(&server::selector(self.identity));
        let Ok(list) = timeout(self.timing.answer, sets.list(&wanted)).await else {
            self.hear(Heard::Failed(Problem::Silent(self.timing.answer)));
            return Ok(());
        };
        let list = list?;
        let version = list.metadata.resource_version.unwrap_or_default();
        self.hear(Heard::Listed(version, list.items.first().map(seen)));
        Ok(())
    }

    async fn watch(&mut self, sets: &Api<StatefulSet>, version: &str) -> Result<(), kube::Error> {
        let seconds = u32::try_from(self.timing.watch.as_secs()).unwrap_or(u32::MAX);
        let wanted = WatchParams::default()
            .fields(&server::selector(self.identity))
            .timeout(seconds.max(1));
        let began = Instant::now();
        let Ok(events) = timeout(self.timing.answer, sets.watch(&wanted, version)).await else {
            self.hear(Heard::Failed(Problem::Silent(self.timing.answer)));
            return Ok(());
        };
        let silence = self.timing.watch + self.timing.beyond;
        self.hear_all(pin!(events?), began, silence).await
    }

    async fn hear_all(
        &mut self,
        mut events: impl Stream<Item = Result<WatchEvent<StatefulSet>, kube::Error>> + Unpin,
        began: Instant,
        silence: Duration,
    ) -> Result<(), kube::Error> {
        loop {
            let Ok(event) = timeout(silence, events.next()).await else {
                self.hear(Heard::Failed(Problem::Silent(silence)));
                return Ok(());
            };
            let Some(event) = event else {
                self.hear(Heard::Ended(began.elapsed()));
                return Ok(());
            };
            let version = |set: &StatefulSet| set.resource_version().unwrap_or_default();
            let heard = match event? {
                WatchEvent::Added(set) | WatchEvent::Modified(set) => {
                    Heard::Changed(version(&set), seen(&set))
                }
                WatchEvent::Deleted(set) => Heard::Deleted(version(&set)),
                WatchEvent::Bookmark(bookmark) => {
                    Heard::Bookmark(bookmark.metadata.resource_version)
                }
                WatchEvent::Error(status) => {
                    let problem = Problem::of_status(&status, self.identity);
                    self.hear(problem.map_or(Heard::Gone, Heard::Failed));
                    return Ok(());
                }
            };
            self.hear(heard);
        }
    }

    fn hear(&mut self, heard: Heard) {
        let before = self.following.replicas();
        self.following.apply(heard);
        let now = self.following.replicas();
        let metrics = &self.metrics.kubernetes;
        if self.following.has_heard() {
            metrics.heard();
        } else {
            metrics.failed();
        }
        if now != before
            && let Some(replicas) = now.number()
        {
            metrics.replicas(replicas);
            tracing::info!(
                replicas,
                "the API server reported the StatefulSet's desired number of replicas"
            );
        }
        self.standing.note(&self.following);
        self.tell_problem();
    }

    /// Logs a problem once, and its end. A single failure is not logged as a problem yet: API
    /// servers restart, and connections break.
    fn tell_problem(&mut self) {
        let problem = self.following.problem();
        let failures = self.following.failures();
        match problem {
            Some(problem) if !problem.is_final() && failures < 2 => {
                tracing::debug!(%problem, "the API server did not report the number of replicas");
            }
            Some(problem) if self.told.as_ref() != Some(problem) => {
                tracing::warn!(%problem, "the number of replicas is unknown or cannot be used");
                self.told = Some(problem.clone());
            }
            None if self.told.take().is_some() => {
                tracing::info!("the API server reports the number of replicas again");
            }
            _ => {}
        }
    }
}

fn seen(set: &StatefulSet) -> Seen {
    Seen {
        replicas: set.spec.replicas.unwrap_or(1),
        is_deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_differ_up_to_a_bound() {
        let timing = Timing::default();
        let millis = |failures, random| timing.wait(failures, random).as_millis();
        assert_eq!(millis(0, u32::MAX), 0);
        assert_eq!((millis(1, 0), millis(1, u32::MAX)), (250, 500));
        assert_eq!((millis(2, 0), millis(2, u32::MAX)), (500, 1000));
        for failures in [7, 40, u32::MAX] {
            assert_eq!(
                (millis(failures, 0), millis(failures, u32::MAX)),
                (2_500, 5_000)
            );
        }
    }
}
