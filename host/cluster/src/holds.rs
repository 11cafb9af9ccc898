//! Holds partitions in place for a moment, so that a listing of all shards finds each of them
//! once.

use std::time::Duration;

use tokio::time::Instant;

/// How long partitions are held after the last request for it.
const HOLD: Duration = Duration::from_millis(500);
/// How long partitions are held at most, however many requests there are.
const MAX_HOLD: Duration = Duration::from_secs(1);
/// How long partitions may move before they can be held again.
const FREE: Duration = Duration::from_millis(500);

/// Until when partitions are held, and when they can be held again: endless listings must not
/// keep a change from being made.
#[derive(Debug, Default)]
pub(super) struct Holds {
    last: Option<Hold>,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    since: Instant,
    until: Instant,
}

impl Holds {
    /// Holds partitions for a moment from now on, and returns whether they are held.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = match self.last {
            Some(hold) if now < hold.until => hold.since,
            Some(hold) if now < hold.until + FREE => return false,
            _ => now,
        };
        let until = (now + HOLD).min(since + MAX_HOLD);
        self.last = Some(Hold { since, until });
        true
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.last.is_some_and(|hold| now < hold.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_by_itself_and_is_prolonged_within_its_bound() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut holds = Holds::default();
        assert!(!holds.is_held(start));
        assert!(holds.take(start));
        assert!(holds.is_held(at(499)));
        assert!(!holds.is_held(at(500)));
        let mut holds = Holds::default();
        for millis in [0, 400, 800] {
            assert!(holds.take(at(millis)));
        }
        assert!(holds.is_held(at(999)), "prolonged");
        assert!(!holds.is_held(at(1000)), "and no further");
    }

    #[test]
    fn partitions_may_move_between_two_holds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut holds = Holds::default();
        assert!(holds.take(start));
        assert!(!holds.take(at(500)) && !holds.take(at(999)));
        assert!(!holds.is_held(at(999)));
        assert!(holds.take(at(1000)));
    }
}
