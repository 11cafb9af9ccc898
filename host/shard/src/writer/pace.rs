//! Limits on the writer's work between two commits.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds on what the writer does while requests wait.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long requests are run for one group before it is committed, when more wait: the
    /// first of a group does not wait for slow ones behind it.
    pub collect: Duration,
    /// How long requests should wait at most for partitions that come or go.
    pub hold: Duration,
    /// How long that may take where no request has arrived since the last move.
    pub hold_alone: Duration,
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
            hold: Duration::from_millis(4),
            hold_alone: Duration::from_millis(50),
            partitions: 256..=8192,
            bytes: 4 << 20,
        }
    }
}

impl Pace {
    /// How many partitions the next step gives away at most, after a step of `partitions` that
    /// did or did not take too long.
    pub(super) fn next(&self, partitions: usize, was_long: bool) -> usize {
        let next = if was_long {
            partitions / 2
        } else {
            partitions + partitions / 4
        };
        next.clamp(*self.partitions.start(), *self.partitions.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_until_they_take_too_long_and_never_leave_their_bounds() {
        let pace = Pace::default();
        let mut partitions = 256;
        for _ in 0..20 {
            let next = pace.next(partitions, false);
            assert!(
                next > partitions || next == 8192,
                "{partitions}, then {next}"
            );
            partitions = next;
        }
        assert_eq!(partitions, 8192);
        assert_eq!(pace.next(partitions, true), 4096);
        for _ in 0..20 {
            partitions = pace.next(partitions, true);
        }
        assert_eq!(partitions, 256);
    }
}
