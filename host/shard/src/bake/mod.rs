//! Watching a new generation: what it and the one before it answer in all shards is compared, until it
//! has been watched for long enough.
//!
//! While it serves a part of the partitions, both are compared in the same minutes. Once it serves all,
//! it is compared with what the one before it did in its last minutes.

mod counts;
mod judge;

use std::collections::BTreeMap;
use std::time::Duration;

use ostrakon_settings::settings::Rollout;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use counts::{Answered, Counted, Counts};
pub use judge::{Worse, worse};

/// What one process counted of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Served {
    pub all: Counted,
    /// In its last one to two minutes.
    pub recent: Counted,
}

/// With what a generation is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Another one that serves meanwhile.
    Beside,
    /// The one that served before.
    Before,
}

/// The watch over one generation.
#[derive(Debug)]
pub struct Bake {
    with: With,
    /// When the step began.
    since: Instant,
    /// How many requests the generation had answered by then.
    requests_before: u64,
    shards: BTreeMap<u32, Watched>,
}

/// What one shard counted.
#[derive(Debug, Default)]
struct Watched {
    its: Counted,
    other: Counted,
    /// What had been counted of the other one when the watch began.
    other_before: Option<Counted>,
}

/// What a step still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    pub time: Duration,
    pub requests: u64,
}

impl Bake {
    /// Begins a watch that has been on for `elapsed`.
    pub fn new(with: With, elapsed: Duration) -> Self {
        let now = Instant::now();
        Self {
            with,
            since: now.checked_sub(elapsed).unwrap_or(now),
            requests_before: 0,
            shards: BTreeMap::new(),
        }
    }

    /// Begins the next step of the same generation, beside the other one or after it.
    pub fn next_step(&mut self, with: With) {
        self.since = Instant::now();
        self.requests_before = self.its().requests();
        if self.with != with {
            self.with = with;
            for watched in self.shards.values_mut() {
                watched.other_before = None;
            }
        }
    }

    /// Takes what a shard has counted of both by now.
    pub fn note(&mut self, shard: u32, its: Option<Served>, other: Option<Served>) {
        let watched = self.shards.entry(shard).or_default();
        if let Some(its) = its {
            watched.its = its.all;
        }
        let Some(other) = other else {
            return;
        };
        watched.other = match self.with {
            With::Before => other.recent,
            With::Beside => {
                // Its last minutes count, too.
                let before = (watched.other_before)
                    .get_or_insert_with(|| other.all.clone().without(&other.recent));
                if other.all.requests() < before.requests() {
                    // A process that has started again has counted nothing before.
                    *before = Counted::default();
                }
                other.all.without(before)
            }
        };
    }

    fn its(&self) -> Counted {
        self.sum(|watched| &watched.its)
    }

    fn sum(&self, of: impl Fn(&Watched) -> &Counted) -> Counted {
        let mut sum = Counted::default();
        for watched in self.shards.values() {
            sum.add(of(watched));
        }
        sum
    }

    /// In what the generation does worse, if it does.
    pub fn worse(&self, settings: &Rollout) -> Option<Worse> {
        worse(&self.its(), &self.sum(|watched| &watched.other), settings)
    }

    /// How many requests the generation has answered, and how many of them failed.
    pub fn answered(&self) -> (u64, u64) {
        let its = self.its();
        (its.requests(), its.failures())
    }

    /// What the step still waits for; `None` if it has been watched for long enough.
    pub fn waits(&self, settings: &Rollout) -> Option<Waits> {
        let time = settings.bake.saturating_sub(self.since.elapsed());
        let answered = self.its().requests().saturating_sub(self.requests_before);
        let requests = settings.requests.saturating_sub(answered);
        (!time.is_zero() || requests > 0).then_some(Waits { time, requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(requests: u64, traps: u64) -> Served {
        let mut all = Counted {
            traps,
            ..Counted::default()
        };
        all.writes.requests = requests;
        let recent = all.clone();
        Served { all, recent }
    }

    #[tokio::test(start_paused = true)]
    async fn beside_the_other_only_what_is_counted_meanwhile_counts() {
        let settings = Rollout::default();
        let mut bake = Bake::new(With::Beside, Duration::ZERO);
        // What failed long before the trial is no excuse.
        let beside = |requests, recent| {
            let all = served(requests, 50_000).all;
            let recent = served(recent, 0).recent;
            Some(Served { all, recent })
        };
        bake.note(0, Some(served(0, 0)), beside(100_000, 100));
        bake.note(0, Some(served(1000, 20)), beside(200_000, 50_000));
        assert!(matches!(bake.worse(&settings), Some(Worse::Fails { .. })));
        // A shard that has started again has counted nothing before.
        bake.note(0, Some(served(1000, 20)), Some(served(100, 2)));
        bake.note(1, None, None);
        assert_eq!(bake.worse(&settings), None);
        assert_eq!(bake.answered(), (1000, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_other_its_last_minutes_count() {
        let settings = Rollout::default();
        let mut bake = Bake::new(With::Before, Duration::ZERO);
        let before = Served {
            all: served(100_000, 0).all,
            recent: served(1000, 30).recent,
        };
        bake.note(0, Some(served(1000, 30)), Some(before.clone()));
        assert_eq!(bake.worse(&settings), None);
        bake.note(0, Some(served(1000, 90)), Some(before));
        assert!(bake.worse(&settings).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_over_after_its_time_and_its_requests() {
        let settings = Rollout {
            requests: 100,
            ..Rollout::default()
        };
        let mut bake = Bake::new(With::Beside, Duration::from_mins(1));
        let waits = |time, requests| {
            let time = Duration::from_secs(time);
            Some(Waits { time, requests })
        };
        assert_eq!(bake.waits(&settings), waits(60, 100));
        bake.note(0, Some(served(40, 0)), None);
        bake.note(1, Some(served(30, 0)), None);
        assert_eq!(bake.waits(&settings), waits(60, 30));
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(bake.waits(&settings), waits(0, 30));
        bake.note(1, Some(served(60, 0)), None);
        assert_eq!(bake.waits(&settings), None);
        bake.next_step(With::Before);
        assert_eq!(bake.waits(&settings), waits(120, 100));
    }
}
