//! Limits on the writer's work between two commits, and on moving partitions while requests come.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long a request counts: a shard whose last one is longer ago is idle.
const RECENT: Duration = Duration::from_millis(250);

/// The longest rest: where a disk is slow, moving partitions must still come to an end.
const LONGEST: Duration = Duration::from_millis(250);

/// Bounds on what the writer does while requests wait.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long requests are run for one group before it is committed, when more wait: the
    /// first of a group does not wait for slow ones behind it.
    pub collect: Duration,
    /// How long requests should wait at most for partitions that come or go.
    pub hold: Duration,
    /// How long that may take in an idle shard.
    pub hold_alone: Duration,
    /// For how many times as long as it has moved partitions a shard that is not idle does not
    /// move any.
    pub rest: u32,
    /// How many partitions a step gives away at most: the receiver writes that many at once,
    /// and the source deletes that many at once. Slow steps reduce it, down to the range's
    /// lower end: a disk that is slow with any number must not be made slower still.
    pub partitions: RangeInclusive<usize>,
    /// The bytes that a step gives away at most, unless a single partition has more.
    pub bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            collect: Duration::from_millis(5),
            hold: Duration::from_millis(2),
            hold_alone: Duration::from_millis(50),
            rest: 3,
            partitions: 256..=8192,
            bytes: 4 << 20,
        }
    }
}

/// How far moving partitions may burden this shard now: as much as it takes in an idle one, and
/// seldom and briefly in one that answers requests.
#[derive(Debug)]
pub(super) struct Pacing {
    pub(super) pace: Pace,
    /// The number of requests that this shard answered or tried to answer.
    asked: AtomicU64,
    /// A std mutex, because it is held only for a few instructions.
    moving: Mutex<Moving>,
}

#[derive(Debug)]
struct Moving {
    /// How many requests had been counted when that was last looked at.
    asked: u64,
    /// When there were more of them than before.
    busy: Option<Instant>,
    /// How many partitions a step now gives away at most.
    stride: usize,
    /// The next step is to be smaller.
    is_pressed: bool,
    /// What was last done took too long.
    was_long: bool,
    rests_until: Option<Instant>,
}

impl Pacing {
    pub(super) fn new(pace: Pace) -> Self {
        let moving = Moving {
            asked: 0,
            busy: None,
            stride: *pace.partitions.start(),
            is_pressed: false,
            was_long: false,
            rests_until: None,
        };
        Self {
            pace,
            asked: AtomicU64::new(0),
            moving: Mutex::new(moving),
        }
    }

    pub(super) fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// What is known now.
    fn now(&self) -> std::sync::MutexGuard<'_, Moving> {
        let mut moving = self.moving.lock().expect("no holder of this lock panics");
        let asked = self.asked.load(Ordering::Relaxed);
        if moving.asked != asked {
            moving.asked = asked;
            moving.busy = Some(Instant::now());
        }
        moving
    }

    /// How long moving partitions may hold up requests now.
    pub(super) fn allowed(&self) -> Duration {
        self.now().allowed(&self.pace)
    }

    /// Notes that partitions came or went, and that this took so long.
    pub(super) fn moved_in(&self, took: Duration) {
        let mut moving = self.now();
        moving.was_long = took > moving.allowed(&self.pace);
        moving.is_pressed |= moving.was_long;
        if moving.is_busy() && self.pace.rest > 0 {
            moving.rest(took.saturating_mul(self.pace.rest));
        }
    }

    /// Whether what was last done took too long.
    pub(super) fn was_long(&self) -> bool {
        self.now().was_long
    }

    /// Makes the next step smaller.
    pub(super) fn press(&self) {
        self.now().is_pressed = true;
    }

    /// For how long no step is to be taken.
    pub(super) fn rest(&self) -> Option<Duration> {
        let until = self.now().rests_until?;
        let rest = until.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    /// Has no step taken for so long.
    pub(super) fn rest_for(&self, time: Duration) {
        self.now().rest(time);
    }

    /// How many partitions the next step gives away at most.
    pub(super) fn next_stride(&self) -> usize {
        let mut moving = self.now();
        let next = if std::mem::take(&mut moving.is_pressed) {
            moving.stride / 2
        } else {
            moving.stride + moving.stride / 4
        };
        let bounds = &self.pace.partitions;
        moving.stride = next.clamp(*bounds.start(), *bounds.end());
        moving.stride
    }
}

impl Moving {
    fn is_busy(&self) -> bool {
        self.busy.is_some_and(|busy| busy.elapsed() < RECENT)
    }

    fn allowed(&self, pace: &Pace) -> Duration {
        if self.is_busy() {
            pace.hold
        } else {
            pace.hold_alone
        }
    }

    fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time.min(LONGEST);
        self.rests_until = self.rests_until.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacing() -> Pacing {
        Pacing::new(Pace::default())
    }

    #[test]
    fn steps_grow_until_they_take_too_long_and_never_leave_their_bounds() {
        let pacing = pacing();
        let mut partitions = 256;
        for _ in 0..20 {
            let next = pacing.next_stride();
            assert!(
                next > partitions || next == 8192,
                "{partitions}, then {next}"
            );
            partitions = next;
        }
        assert_eq!(partitions, 8192);
        pacing.press();
        assert_eq!(pacing.next_stride(), 4096);
        for _ in 0..20 {
            pacing.press();
            partitions = pacing.next_stride();
        }
        assert_eq!(partitions, 256);
    }

    #[test]
    fn a_shard_that_answers_requests_moves_briefly_and_rests_after_it() {
        let pacing = pacing();
        let took = Duration::from_millis(20);
        pacing.moved_in(took);
        assert!(!pacing.was_long(), "an idle shard has the time");
        assert_eq!(pacing.rest(), None);
        let stride = pacing.next_stride();
        let before = Instant::now();
        pacing.asked();
        pacing.moved_in(took);
        assert!(pacing.was_long());
        assert!(pacing.next_stride() < stride);
        let until = pacing.now().rests_until.expect("it rests");
        assert!(until >= before + 3 * took && until <= Instant::now() + 3 * took);
        pacing.rest_for(Duration::ZERO);
        let same = pacing.now().rests_until;
        assert_eq!(same, Some(until), "a shorter rest ends no longer one");
        pacing.rest_for(Duration::from_secs(100));
        let longer = pacing.now().rests_until.expect("it rests");
        assert!(longer > until && longer <= Instant::now() + LONGEST);
    }

    #[test]
    fn a_request_counts_for_a_while_and_then_no_longer() {
        let pacing = pacing();
        pacing.asked();
        assert_eq!(pacing.allowed(), pacing.pace.hold);
        assert_eq!(
            pacing.allowed(),
            pacing.pace.hold,
            "also when looked at again"
        );
        let earlier = Instant::now().checked_sub(RECENT);
        let earlier = earlier.expect("the machine has run for longer");
        pacing.now().busy = Some(earlier);
        assert_eq!(pacing.allowed(), pacing.pace.hold_alone);
        pacing.asked();
        assert_eq!(pacing.allowed(), pacing.pace.hold);
    }
}
