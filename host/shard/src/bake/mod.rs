//! Watching a new generation: what it and the one before it answer in all shards is compared, until it
//! has been watched for long enough.
//!
//! While it serves a part of the partitions, both are compared in the same minutes. Once it serves all,
//! it is compared with what the one before it did in the steps and in its last minutes. What it answers in a step is
//! compared by itself, and together with what it answered in the steps before.

mod counts;
mod judge;

use std::collections::BTreeMap;
use std::time::Duration;

use ostrakon_settings::settings::Rollout;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use counts::{Answered, Counted, Counts};
pub use judge::{Worse, worse};
use judge::{fails, slower};

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
    shards: BTreeMap<u32, Watched>,
}

/// What one shard counted.
#[derive(Debug, Default)]
struct Watched {
    its: Counted,
    /// What had been counted of it when the step began.
    its_before: Counted,
    /// What was counted of the other one meanwhile, or before.
    other: Counted,
    /// What was counted of the other one in this step, or before.
    other_in_step: Counted,
    /// What had been counted of the other one when the watch began, and when the step began.
    other_before: Option<[Counted; 2]>,
    /// All that was counted of the other one.
    other_all: Counted,
}

impl Watched {
    /// What was counted of the generation in this step.
    fn its_in_step(&self) -> Counted {
        self.its.clone().without(&self.its_before)
    }
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
            shards: BTreeMap::new(),
        }
    }

    /// Begins the next step of the same generation, beside the other one or after it. `is_same` says
    /// whether that is the other one of the step before.
    pub fn next_step(&mut self, with: With, is_same: bool) {
        self.since = Instant::now();
        self.with = with;
        for watched in self.shards.values_mut() {
            watched.its_before = watched.its.clone();
            if !is_same {
                *watched = Watched {
                    its: std::mem::take(&mut watched.its),
                    its_before: std::mem::take(&mut watched.its_before),
                    ..Watched::default()
                };
            } else if let Some([_, in_step]) = &mut watched.other_before
                && with == With::Beside
            {
                *in_step = watched.other_all.clone();
            }
        }
    }

    /// Takes what a shard has counted of both by now.
    pub fn note(&mut self, shard: u32, its: Option<Served>, other: Option<Served>) {
        let watched = self.shards.entry(shard).or_default();
        // A process that has started again has counted nothing before.
        let forget = |before: &mut Counted, all: &Counted| {
            if all.requests() < before.requests() {
                *before = Counted::default();
            }
        };
        if let Some(its) = its {
            watched.its = its.all;
            forget(&mut watched.its_before, &watched.its);
        }
        let Some(other) = other else {
            return;
        };
        // Its last minutes count, too. After a step beside it, so does what it answered there.
        if self.with == With::Before && watched.other_before.is_none() {
            watched.other = other.recent.clone();
            watched.other_in_step = other.recent;
        } else {
            let before = watched.other_before.get_or_insert_with(|| {
                let before = other.all.clone().without(&other.recent);
                [before.clone(), before]
            });
            for before in &mut *before {
                forget(before, &other.all);
            }
            watched.other = other.all.clone().without(&before[0]);
            watched.other_in_step = match self.with {
                With::Beside => other.all.clone().without(&before[1]),
                With::Before => watched.other.clone(),
            };
        }
        watched.other_all = other.all;
    }

    fn sum(&self, of: impl Fn(&Watched) -> Counted) -> Counted {
        let mut sum = Counted::default();
        for watched in self.shards.values() {
            sum.add(&of(watched));
        }
        sum
    }

    /// In what the generation does worse, if it does: in this step, or since it began to serve. In a
    /// step it fails more only if it does so compared with all that is known of the other one, too, which
    /// may have answered little in the step.
    pub fn worse(&self, settings: &Rollout) -> Option<Worse> {
        let its = self.sum(Watched::its_in_step);
        let in_step = self.sum(|watched| watched.other_in_step.clone());
        let other = self.other();
        let fails_in_step =
            fails(&its, &in_step, settings).filter(|_| fails(&its, &other, settings).is_some());
        fails_in_step
            .or_else(|| slower(&its, &in_step, settings))
            .or_else(|| {
                let its = self.sum(|watched| watched.its.clone());
                worse(&its, &other, settings)
            })
    }

    fn other(&self) -> Counted {
        self.sum(|watched| watched.other.clone())
    }

    /// How many requests the generation has answered, and how many of them failed.
    pub fn answered(&self) -> (u64, u64) {
        let its = self.sum(|watched| watched.its.clone());
        (its.requests(), its.failures())
    }

    /// How many requests of the other generation it is compared with.
    pub fn compared_with(&self) -> u64 {
        self.other().requests()
    }

    /// What the step still waits for; `None` if it has been watched for long enough.
    pub fn waits(&self, settings: &Rollout) -> Option<Waits> {
        let time = settings.bake.saturating_sub(self.since.elapsed());
        let answered = self.sum(Watched::its_in_step).requests();
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
    async fn what_was_answered_in_earlier_steps_hides_no_failures() {
        let settings = Rollout::default();
        let mut bake = Bake::new(With::Beside, Duration::ZERO);
        bake.note(0, Some(served(0, 0)), Some(served(0, 0)));
        bake.note(0, Some(served(10_000, 0)), Some(served(10_000, 0)));
        bake.next_step(With::Beside, true);
        let by_now = |failed| Some(served(10_400, failed));
        bake.note(0, by_now(2), Some(served(10_400, 0)));
        assert_eq!(bake.worse(&settings), None);
        bake.note(0, by_now(6), Some(served(10_400, 0)));
        let told = bake.worse(&settings).map(|worse| worse.to_string());
        let told = told.unwrap_or_default();
        assert!(told.starts_with("6 of its 400 requests failed"), "{told}");
        // The other one had as many in this step.
        bake.note(0, by_now(6), Some(served(10_400, 6)));
        assert_eq!(bake.worse(&settings), None);
        // After the last step, too.
        bake.note(0, by_now(0), Some(served(10_400, 0)));
        bake.next_step(With::Before, true);
        bake.note(0, Some(served(10_800, 6)), Some(served(10_400, 0)));
        assert!(bake.worse(&settings).is_some());
        // What another one answered is no measure.
        let mut bake = Bake::new(With::Beside, Duration::ZERO);
        bake.note(0, Some(served(1000, 300)), Some(served(1000, 300)));
        bake.next_step(With::Before, false);
        bake.note(0, Some(served(2000, 600)), None);
        assert_eq!(bake.compared_with(), 0);
        assert!(bake.worse(&settings).is_some());
        // And few failures in each of several steps add up.
        let mut bake = Bake::new(With::Beside, Duration::ZERO);
        for step in 1..=4 {
            bake.note(
                0,
                Some(served(100 * step, 2 * step)),
                Some(served(100_000, 0)),
            );
            assert_eq!(bake.worse(&settings).is_some(), step > 1, "{step}");
            bake.next_step(With::Beside, true);
        }
    }

    /// Both fail as often, and the other one answers less in each step.
    #[tokio::test(start_paused = true)]
    async fn what_fails_as_often_as_the_other_is_not_worse_for_the_little_that_is_asked_of_that() {
        let settings = Rollout::default();
        let mut bake = Bake::new(With::Beside, Duration::ZERO);
        bake.note(0, Some(served(0, 0)), Some(served(2000, 100)));
        bake.note(0, Some(served(2000, 100)), Some(served(4000, 200)));
        assert_eq!(bake.worse(&settings), None);
        bake.next_step(With::Beside, true);
        bake.note(0, Some(served(4000, 200)), Some(served(4010, 200)));
        assert_eq!(bake.worse(&settings), None);
        bake.next_step(With::Before, true);
        bake.note(0, Some(served(6000, 300)), Some(served(4010, 200)));
        assert_eq!(bake.worse(&settings), None);
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
        bake.next_step(With::Before, true);
        assert_eq!(bake.waits(&settings), waits(120, 100));
    }
}
