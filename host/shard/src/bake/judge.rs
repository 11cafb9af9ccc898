//! Whether a generation does worse than the one before it.

use std::fmt;
use std::time::Duration;

use ostrakon_settings::settings::Rollout;

use super::counts::{Answered, Counted};

/// Fewer failures than this may be chance, however few requests there were.
const LEAST_FAILURES: f64 = 3.0;

/// How many failures of how many requests are taken for granted of the other generation, besides what
/// it answered: where that is nothing, as after a restart, one of a hundred is expected to fail.
const GRANTED: (f64, f64) = (0.5, 50.0);

/// How many deviations of what is to be expected are chance.
const DEVIATIONS: f64 = 4.0;

/// How many requests of each generation must have been timed.
const LEAST_TIMED: u64 = 100;

/// A smaller difference is not worth going back for.
const LEAST_SLOWER: Duration = Duration::from_micros(50);

/// In what a generation does worse.
#[derive(Clone, Debug, PartialEq)]
pub enum Worse {
    Fails {
        failures: u64,
        requests: u64,
        /// What the other generation had.
        other: (u64, u64),
        /// Most of the failures are of this kind.
        mostly: &'static str,
    },
    Slower {
        what: &'static str,
        median: Duration,
        other: Duration,
    },
}

impl fmt::Display for Worse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails {
                failures,
                requests,
                other,
                mostly,
            } => write!(
                formatter,
                "{failures} of its {requests} requests failed, mostly {mostly}; with the generation before it {} of {}",
                other.0, other.1
            ),
            Self::Slower {
                what,
                median,
                other,
            } => write!(
                formatter,
                "the median of its {what} takes {median:?}; with the generation before it {other:?}"
            ),
        }
    }
}

/// Compares a generation with another one.
///
/// It fails too much if its failures are more than chance explains: more than four deviations above
/// the other's share of failures and what the settings allow on top, and at least three. The other's
/// share is taken with what is granted, and is itself uncertain, so that few requests prove little.
pub fn worse(its: &Counted, other: &Counted, settings: &Rollout) -> Option<Worse> {
    fails(its, other, settings).or_else(|| slower(its, other, settings))
}

/// The failures alone, of [`worse`].
pub(super) fn fails(its: &Counted, other: &Counted, settings: &Rollout) -> Option<Worse> {
    let (failures, requests) = (its.failures(), its.requests());
    let known = count(other.requests()) + GRANTED.1;
    let share = ((count(other.failures()) + GRANTED.0) / known).min(1.0);
    let allowed = share + f64::from(settings.failures.millionths()) / 1e6;
    let expected = (count(requests) * allowed).min(count(requests));
    // A share of all leaves no room for chance.
    let of_its = expected * (1.0 - allowed).max(0.0);
    let of_the_share = count(requests).powi(2) * share * (1.0 - share) / known;
    let spread = DEVIATIONS * (of_its + of_the_share).sqrt();
    let most = (expected + spread).max(LEAST_FAILURES - 1.0);
    (count(failures) > most).then(|| Worse::Fails {
        failures,
        requests,
        other: (other.failures(), other.requests()),
        mostly: mostly(its),
    })
}

/// The times alone, of [`worse`].
pub(super) fn slower(its: &Counted, other: &Counted, settings: &Rollout) -> Option<Worse> {
    let slower = |what, its: &Answered, other: &Answered| {
        let is_enough = |answered: &Answered| answered.timed() >= LEAST_TIMED;
        let (median, other) = (is_enough(its) && is_enough(other))
            .then(|| Some((its.median()?, other.median()?)))??;
        let most = (other * settings.slower).max(other + LEAST_SLOWER);
        (median > most).then_some(Worse::Slower {
            what,
            median,
            other,
        })
    };
    slower("reads", &its.reads, &other.reads)
        .or_else(|| slower("writes", &its.writes, &other.writes))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of requests needs no 53 bits"
)]
fn count(count: u64) -> f64 {
    count as f64
}

/// The kind of most of the failures.
fn mostly(its: &Counted) -> &'static str {
    let kinds = [
        (its.traps, "traps"),
        (its.memory, "for want of memory"),
        (its.deadlines, "missed deadlines"),
        (its.replies, "unusable replies"),
        (its.statuses, "statuses of 500 and above"),
    ];
    let most = kinds.into_iter().max_by_key(|(count, _)| *count);
    most.map_or("", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Counts;
    use super::*;
    use ostrakon_contract::contract::Access;

    fn counted(requests: u64, traps: u64) -> Counted {
        Counted {
            reads: Answered {
                requests,
                ..Answered::default()
            },
            traps,
            ..Counted::default()
        }
    }

    fn fails(its: (u64, u64), other: (u64, u64)) -> bool {
        let settings = Rollout::default();
        worse(
            &counted(its.0, its.1),
            &counted(other.0, other.1),
            &settings,
        )
        .is_some()
    }

    #[test]
    fn more_failures_than_chance_explains_are_worse() {
        // One request of 200 traps: found within some hundreds, not at the first ones.
        assert!(fails((1200, 6), (100_000, 0)));
        assert!(!fails((600, 3), (100_000, 0)));
        // As many as before are not, however many.
        assert!(!fails((10_000, 500), (100_000, 5000)));
        assert!(fails((10_000, 700), (100_000, 5000)));
        assert!(!fails((10_000, 0), (100_000, 5000)));
        // What the settings allow on top.
        assert!(!fails((1_000_000, 1000), (100_000_000, 0)));
        assert!(fails((1_000_000, 1200), (100_000_000, 0)));
    }

    #[test]
    fn little_to_compare_with_proves_little() {
        assert!(!fails((2, 2), (0, 0)));
        assert!(fails((3, 3), (0, 0)));
        assert!(!fails((100, 8), (0, 0)));
        assert!(fails((100, 10), (0, 0)), "as after a restart");
        assert!(!fails((10_000, 500), (0, 0)));
        assert!(fails((10_000, 800), (0, 0)));
        assert!(!fails((2000, 60), (50, 0)), "of few");
        assert!(!fails((1000, 20), (100, 2)));
        assert!(fails((10, 5), (10_000, 0)));
    }

    fn timed(micros: u64, requests: usize) -> Counted {
        let counts = Counts::default();
        for _ in 0..requests {
            let began = Instant::now().checked_sub(Duration::from_micros(micros));
            counts.took(Access::Write, began);
        }
        counts.counted()
    }

    #[test]
    fn a_median_of_more_than_twice_the_time_is_worse() {
        let settings = Rollout::default();
        let is = |its: u64, other: u64, requests: usize| {
            worse(&timed(its, requests), &timed(other, requests), &settings).is_some()
        };
        assert!(is(3000, 1000, 100));
        assert!(!is(3000, 1000, 99), "too few were timed");
        assert!(!is(1500, 1000, 100));
        assert!(!is(40, 10, 100), "the difference is too small");
        let slow = worse(&timed(3000, 100), &timed(1000, 100), &settings);
        let told = slow.map(|worse| worse.to_string()).unwrap_or_default();
        assert!(
            told.starts_with("the median of its writes takes "),
            "{told}"
        );
    }

    #[test]
    fn what_is_told_names_the_kind_and_both_counts() {
        let its = Counted {
            statuses: 2,
            ..counted(100, 90)
        };
        let worse = worse(&its, &counted(1000, 1), &Rollout::default());
        let told = worse.map(|worse| worse.to_string());
        assert_eq!(
            told.as_deref(),
            Some(
                "92 of its 100 requests failed, mostly traps; with the generation before it 1 of 1000"
            )
        );
    }
}
