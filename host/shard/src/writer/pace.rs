//! How much the writer does in one go.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds on what the writer does while others wait for it.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long requests are run for one group before it is committed, when more
    /// wait: the first of a group does not wait for slow ones behind it.
    pub collect: Duration,
    /// How long partitions that come or go should keep requests waiting.
    pub hold: Duration,
    /// How long that may take where there were no requests since the last ones.
    pub hold_alone: Duration,
    /// How many partitions a step gives away at most: so many are written at once
    /// where they go, and deleted at once where they were. Fewer where that takes
    /// long, but a disk that is slow with any number should not make it slower
    /// still.
    pub partitions: RangeInclusive<usize>,
    /// The bytes that a step gives away at most, unless one partition is more.
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
    /// How many partitions the next step gives away at most, after one of so many
    /// that took too long, or did not.
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
