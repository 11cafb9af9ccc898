//! What each generation answered: how many requests, how many of them failed, and how long its guest
//! took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ostrakon_contract::contract::Access;
use ostrakon_engine::Failure;
use serde::{Deserialize, Serialize};

/// Times are counted in steps of a quarter of a power of two, from 1 us up to about 16 s.
const STEPS: usize = 4;
const BUCKETS: usize = 24 * STEPS;

/// One in so many requests is timed.
const TIMED: u64 = 8;

/// How long a mark lasts, by which recent requests are told from earlier ones.
const MARK: Duration = Duration::from_mins(1);

/// The requests that one generation answered in this process.
#[derive(Debug)]
pub struct Counts {
    reads: Kind,
    writes: Kind,
    failures: [AtomicU64; FAILURES],
    /// A std mutex, because it is held only briefly.
    marks: Mutex<Marks>,
}

#[derive(Debug)]
struct Kind {
    requests: AtomicU64,
    calls: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            times: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// What had been counted one and two marks ago.
#[derive(Debug)]
struct Marks {
    last: Counted,
    before: Counted,
    since: Instant,
}

/// How a request failed.
#[derive(Clone, Copy, Debug)]
enum Failed {
    Trap,
    Memory,
    Deadline,
    /// A reply or a partition's key that cannot be used.
    Reply,
    /// A status of 500 or above.
    Status,
}

const FAILURES: usize = 5;

/// Requests of one generation, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    pub reads: Answered,
    pub writes: Answered,
    pub traps: u64,
    pub memory: u64,
    pub deadlines: u64,
    pub replies: u64,
    pub statuses: u64,
}

/// Reads or writes, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answered {
    pub requests: u64,
    /// How many of those that were timed took so long, by buckets.
    pub(super) times: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            reads: Kind::default(),
            writes: Kind::default(),
            failures: Default::default(),
            marks: Mutex::new(Marks {
                last: Counted::default(),
                before: Counted::default(),
                since: Instant::now(),
            }),
        }
    }
}

impl Counts {
    /// Counts a request that was answered with this status, or failed.
    pub fn answered(&self, access: Access, answer: Result<u16, &Failure>) {
        let failed = match answer {
            Ok(500..) => Some(Failed::Status),
            Ok(_) => None,
            Err(Failure::Trap(_)) => Some(Failed::Trap),
            Err(Failure::Memory(_)) => Some(Failed::Memory),
            Err(Failure::Deadline) => Some(Failed::Deadline),
            Err(Failure::Reply(_) | Failure::PartitionKey(..)) => Some(Failed::Reply),
            // That is no fault of the guest.
            Err(Failure::Store(_)) => return,
        };
        self.of(access).requests.fetch_add(1, Ordering::Relaxed);
        if let Some(failed) = failed {
            self.failures[failed as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// To be called before the guest is. `None` if this call is not timed.
    pub fn begins(&self, access: Access) -> Option<Instant> {
        let call = self.of(access).calls.fetch_add(1, Ordering::Relaxed);
        call.is_multiple_of(TIMED).then(Instant::now)
    }

    /// To be called when the guest has answered, with what [`Counts::begins`] gave.
    pub fn took(&self, access: Access, began: Option<Instant>) {
        if let Some(began) = began {
            let bucket = bucket(began.elapsed());
            self.of(access).times[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn of(&self, access: Access) -> &Kind {
        match access {
            Access::Read => &self.reads,
            Access::Write => &self.writes,
        }
    }

    /// To be called each second while the generation serves, so that recent requests can be told from
    /// earlier ones.
    pub fn mark(&self) {
        let mut marks = self.marks();
        if marks.since.elapsed() >= MARK {
            marks.before = std::mem::replace(&mut marks.last, self.counted());
            marks.since = Instant::now();
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().expect("no holder of this lock panics")
    }

    /// All that was counted.
    pub fn counted(&self) -> Counted {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let answered = |kind: &Kind| Answered {
            requests: load(&kind.requests),
            times: kind.times.iter().map(load).collect(),
        };
        let [traps, memory, deadlines, replies, statuses] = self.failures.each_ref().map(load);
        Counted {
            reads: answered(&self.reads),
            writes: answered(&self.writes),
            traps,
            memory,
            deadlines,
            replies,
            statuses,
        }
    }

    /// What was counted in the last one to two minutes before the last mark, and since.
    pub fn recent(&self) -> Counted {
        let marks = self.marks();
        self.counted().without(&marks.before)
    }
}

impl Counted {
    pub fn requests(&self) -> u64 {
        self.reads.requests.saturating_add(self.writes.requests)
    }

    pub fn failures(&self) -> u64 {
        // A peer may send any numbers.
        let kinds = [
            self.traps,
            self.memory,
            self.deadlines,
            self.replies,
            self.statuses,
        ];
        kinds.into_iter().fold(0, u64::saturating_add)
    }

    /// Adds what another shard counted.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::saturating_add);
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn without(mut self, before: &Self) -> Self {
        self.combine(before, u64::saturating_sub);
        self
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64 + Copy) {
        self.reads.combine(&other.reads, with);
        self.writes.combine(&other.writes, with);
        for (own, other) in [
            (&mut self.traps, other.traps),
            (&mut self.memory, other.memory),
            (&mut self.deadlines, other.deadlines),
            (&mut self.replies, other.replies),
            (&mut self.statuses, other.statuses),
        ] {
            *own = with(*own, other);
        }
    }
}

impl Answered {
    /// How many were timed.
    pub fn timed(&self) -> u64 {
        self.times.iter().copied().fold(0, u64::saturating_add)
    }

    /// The time that half of them did not exceed; `None` if none was timed.
    pub fn median(&self) -> Option<Duration> {
        let half = self.timed().div_ceil(2);
        let mut seen = 0_u64;
        let is_half = |count: &u64| {
            seen = u64::saturating_add(seen, *count);
            seen >= half && half > 0
        };
        self.times.iter().position(is_half).map(time_of)
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        self.requests = with(self.requests, other.requests);
        // A peer may send any number of them.
        let buckets = self.times.len().max(other.times.len()).min(BUCKETS);
        self.times.resize(buckets, 0);
        for (own, other) in self.times.iter_mut().zip(&other.times) {
            *own = with(*own, *other);
        }
    }
}

/// The bucket of a time.
fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let Some(power) = micros.checked_ilog2() else {
        return 0;
    };
    // The two bits below the highest one.
    let quarter = if power >= 2 {
        micros >> (power - 2)
    } else {
        micros << (2 - power)
    };
    let quarter = usize::try_from(quarter & 3).unwrap_or(0);
    (power as usize * STEPS + quarter).min(BUCKETS - 1)
}

/// The time at which a bucket begins.
fn time_of(bucket: usize) -> Duration {
    let (power, quarter) = (bucket / STEPS, bucket % STEPS);
    let quarters = (STEPS + quarter) as u64;
    Duration::from_nanos(((quarters * 1000) << power) / STEPS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_buckets_of_about_a_fifth() {
        for micros in [1, 2, 3, 4, 5, 7, 8, 100, 1000, 12_345, 9_000_000] {
            let time = Duration::from_micros(micros);
            let begins = time_of(bucket(time));
            let next = time_of(bucket(time) + 1);
            assert!(
                begins <= time && time < next,
                "{time:?}: {begins:?} to {next:?}"
            );
            assert!(next <= begins * 5 / 4 + Duration::from_micros(1));
        }
        assert_eq!(bucket(Duration::from_nanos(10)), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn each_kind_of_failure_counts_once_and_the_disks_do_not() {
        let counts = Counts::default();
        counts.answered(Access::Read, Ok(200));
        counts.answered(Access::Write, Ok(503));
        counts.answered(Access::Write, Ok(404));
        for failure in [
            Failure::Trap(String::new()),
            Failure::Memory(String::new()),
            Failure::Deadline,
            Failure::Reply(String::new()),
            Failure::PartitionKey(0, 1),
        ] {
            counts.answered(Access::Read, Err(&failure));
        }
        let counted = counts.counted();
        assert_eq!((counted.requests(), counted.failures()), (8, 6));
        assert_eq!(
            (counted.replies, counted.statuses, counted.writes.requests),
            (2, 1, 2)
        );
        let mut twice = counted.clone();
        twice.add(&counted);
        assert_eq!(twice.without(&counted), counted);
    }

    /// A peer may send anything.
    #[test]
    fn the_largest_numbers_do_no_harm() {
        let answered = Answered {
            requests: u64::MAX,
            times: vec![u64::MAX; 2 * BUCKETS],
        };
        let largest = Counted {
            reads: answered.clone(),
            writes: answered,
            traps: u64::MAX,
            memory: u64::MAX,
            deadlines: u64::MAX,
            replies: u64::MAX,
            statuses: u64::MAX,
        };
        let mut sum = Counted::default();
        sum.add(&largest);
        sum.add(&largest);
        assert_eq!((sum.requests(), sum.failures()), (u64::MAX, u64::MAX));
        assert_eq!(sum.reads.timed(), u64::MAX);
        assert!(sum.reads.median().is_some() && largest.writes.median().is_some());
    }

    #[test]
    fn the_median_is_that_of_the_timed() {
        let counts = Counts::default();
        assert_eq!(counts.counted().reads.median(), None);
        let timed = (0..80)
            .filter(|_| counts.begins(Access::Read).is_some())
            .count();
        assert_eq!(timed, 10);
        for millis in [1, 1, 1, 50, 50] {
            let began = Instant::now().checked_sub(Duration::from_millis(millis));
            counts.took(Access::Read, began);
        }
        let median = counts.counted().reads.median().expect("some were timed");
        assert!((800..1300).contains(&median.as_micros()), "{median:?}");
        assert_eq!(counts.counted().writes.median(), None);
    }
}
