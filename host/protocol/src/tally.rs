//! Counts the progress of a shard's partitions in a change.

use super::plan::{Cursor, Epoch};
use super::shard::Shard;

/// Counts of partitions in a source of the last change. They are not stored: a process that
/// starts during a change counts from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The plan of the change; 0 if this process knows of no change in which this shard was a
    /// source.
    pub epoch: Epoch,
    /// The number of sources in the change.
    pub sources: u32,
    /// Whether this process saw the change begin.
    pub is_whole: bool,
    /// Whether the cursor has reached the end.
    pub is_through: bool,
    /// Partitions that the cursor has passed.
    pub passed: u64,
    /// Passed partitions that were put into batches.
    pub given: u64,
    /// Passed partitions that their receivers have acknowledged.
    pub acknowledged: u64,
    /// Partitions that were created after the cursor, which still has to pass them.
    pub arrived_ahead: u64,
}

impl Tally {
    /// The tally of a change that begins in a shard.
    pub fn begun(shard: &Shard) -> Self {
        Self {
            is_whole: true,
            ..Self::resumed(shard)
        }
    }

    /// The tally of a change that may have begun before this process did.
    pub fn resumed(shard: &Shard) -> Self {
        let plan = shard.plan().filter(|plan| plan.is_source(shard.ordinal()));
        plan.map_or_else(Self::default, |plan| Self {
            epoch: plan.epoch,
            sources: plan.from.shards,
            is_through: *shard.cursor() == Cursor::End,
            ..Self::default()
        })
    }

    /// The partitions that need no more work: passed and staying, or acknowledged.
    pub fn settled(&self) -> u64 {
        self.stayed() + self.acknowledged
    }

    /// The partitions that were passed and stay.
    pub fn stayed(&self) -> u64 {
        self.passed - self.given
    }
}

/// The work that a shard had left when its partitions were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The tally at the time of the count.
    pub at: Tally,
    /// The partitions after the cursor.
    pub ahead: u64,
    /// Partitions in batches that were not acknowledged.
    pub under_way: u64,
}

impl Counted {
    /// The partitions that a shard still has to examine or to give away, according to a later
    /// tally under the same plan. Partitions that were created or removed since the count are not
    /// known, so the result is off by their number. None if the shard has certainly passed more
    /// than it counted.
    pub fn left(&self, now: &Tally) -> Option<u64> {
        let since = |of: fn(&Tally) -> u64| of(now) - of(&self.at);
        let ahead = if now.is_through {
            0
        } else {
            let ahead = self.ahead + since(|tally| tally.arrived_ahead);
            ahead.checked_sub(since(|tally| tally.passed))?
        };
        let under_way = self.under_way + since(|tally| tally.given);
        Some(ahead + under_way.saturating_sub(since(|tally| tally.acknowledged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_down_with_what_stays_and_what_is_acknowledged() {
        let mut tally = Tally::default();
        let counted = Counted {
            at: tally,
            ahead: 10,
            under_way: 0,
        };
        let mut check = |passed, given, acknowledged, left| {
            tally.passed += passed;
            tally.given += given;
            tally.acknowledged += acknowledged;
            assert_eq!(counted.left(&tally), left, "{tally:?}");
            if let Some(left) = left {
                assert_eq!(tally.settled() + left, 10);
            }
        };
        check(0, 0, 0, Some(10));
        check(4, 3, 0, Some(9));
        check(0, 0, 2, Some(7));
        check(6, 1, 0, Some(2));
        check(0, 0, 2, Some(0));
        check(1, 0, 0, None);
    }

    #[test]
    fn a_count_within_a_change_has_what_is_under_way_then_and_what_comes() {
        let at = Tally {
            passed: 7,
            given: 5,
            acknowledged: 1,
            ..Tally::default()
        };
        let counted = Counted {
            at,
            ahead: 3,
            under_way: 6,
        };
        assert_eq!(counted.left(&at), Some(9));
        let later = Tally {
            passed: 9,
            given: 6,
            acknowledged: 7,
            arrived_ahead: 2,
            ..at
        };
        assert_eq!(counted.left(&later), Some(4));
        // Other partitions were removed in the meantime.
        let through = Tally {
            is_through: true,
            ..later
        };
        assert_eq!(counted.left(&through), Some(1));
    }
}
