//! Measures a source's rate, and estimates the remaining time.

use std::collections::VecDeque;
use std::time::Duration;

use ostrakon_protocol::{Counted, Epoch, Tally};
use tokio::time::Instant;

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(10);
/// The least time over which a rate is measured.
const LEAST: Duration = Duration::from_millis(400);
/// The least time between two counts within a change.
const RECOUNT: Duration = Duration::from_secs(5);

/// The tallies of a source seen in one change.
#[derive(Debug, Default)]
pub(super) struct Meter {
    epoch: Epoch,
    counted: Option<Counted>,
    /// When the last count was begun.
    began: Option<Instant>,
    /// The number of settled partitions at each time.
    seen: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reading {
    /// The partitions that are left; `None` while they are not counted.
    pub(super) left: Option<u64>,
    /// Settled partitions per second.
    pub(super) rate: Option<f64>,
    /// The estimated time for the rest.
    pub(super) seconds_left: Option<f64>,
}

impl Meter {
    /// Notes a tally taken at `now`.
    pub(super) fn see(&mut self, now: Instant, tally: &Tally) {
        if tally.epoch != self.epoch {
            *self = Self {
                epoch: tally.epoch,
                ..Self::default()
            };
        }
        self.seen.push_back((now, tally.settled()));
        // Keeps the last tally before the window, so that the rate covers the whole window.
        while self.seen.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.seen.pop_front();
        }
    }

    /// Whether the partitions are to be counted now; if so, notes that the count has begun.
    pub(super) fn is_to_count(&mut self, now: Instant, tally: &Tally) -> bool {
        let is_known = self.left(tally).is_some();
        let is_early = self.began.is_some_and(|began| now < began + RECOUNT);
        if is_known || is_early {
            return false;
        }
        self.began = Some(now);
        true
    }

    /// Notes a count; one under another plan is ignored.
    pub(super) fn take(&mut self, counted: Counted) {
        if counted.at.epoch == self.epoch {
            self.counted = Some(counted);
        }
    }

    fn left(&self, tally: &Tally) -> Option<u64> {
        let counted = self.counted.as_ref();
        counted.filter(|_| tally.epoch == self.epoch)?.left(tally)
    }

    /// The reading, given the current tally.
    pub(super) fn read(&self, tally: &Tally) -> Reading {
        let left = self.left(tally);
        let rate = self.rate();
        let seconds_left = match (left, rate) {
            (Some(0), _) => Some(0.0),
            (Some(left), Some(rate)) if rate > 0.0 => Some(as_f64(left) / rate),
            _ => None,
        };
        Reading {
            left,
            rate,
            seconds_left,
        }
    }

    /// `None` before enough time has passed to measure a rate.
    fn rate(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.seen.front()?, self.seen.back()?);
        let time = last.duration_since(*first);
        (time >= LEAST).then(|| as_f64(after - before) / time.as_secs_f64())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the result is for people, who read a few digits"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, given: u64, acknowledged: u64) -> Tally {
        Tally {
            epoch: Epoch(4),
            passed,
            given,
            acknowledged,
            ..Tally::default()
        }
    }

    fn counted(at: Tally, ahead: u64) -> Counted {
        Counted {
            at,
            ahead,
            under_way: 0,
        }
    }

    #[test]
    fn the_rate_is_of_what_stays_and_what_is_acknowledged_and_so_is_the_time_left() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.read(&tally(0, 0, 0)), Reading::default());
        meter.see(start, &tally(0, 0, 0));
        assert!(meter.is_to_count(start, &tally(0, 0, 0)));
        meter.take(counted(tally(0, 0, 0), 1000));
        assert_eq!(meter.read(&tally(0, 0, 0)).left, Some(1000));
        meter.see(start + Duration::from_millis(9), &tally(0, 0, 0));
        assert_eq!(meter.read(&tally(0, 0, 0)).rate, None, "too soon");
        let later = tally(300, 200, 100);
        meter.see(start + Duration::from_secs(2), &later);
        let reading = Reading {
            left: Some(800),
            rate: Some(100.0),
            seconds_left: Some(8.0),
        };
        assert_eq!(meter.read(&later), reading);
    }

    #[test]
    fn a_source_that_stands_still_says_no_time_and_one_that_is_done_none() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        meter.see(at(0), &tally(0, 0, 0));
        meter.take(counted(tally(0, 0, 0), 10));
        let half = tally(5, 0, 0);
        for seconds in [1, 2, 11, 12] {
            meter.see(at(seconds), &half);
        }
        let reading = meter.read(&half);
        assert_eq!((reading.left, reading.rate), (Some(5), Some(0.0)));
        assert_eq!(reading.seconds_left, None);
        let done = tally(10, 0, 0);
        assert_eq!(meter.read(&done).seconds_left, Some(0.0));
    }

    #[test]
    fn what_was_before_the_window_does_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        for (seconds, passed) in [(0, 0), (1, 1000), (5, 1004), (11, 1010)] {
            meter.see(at(seconds), &tally(passed, 0, 0));
        }
        assert_eq!(meter.read(&tally(1010, 0, 0)).rate, Some(1.0));
    }

    #[test]
    fn it_is_counted_once_and_again_where_the_count_is_spent_but_not_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        meter.see(at(0), &tally(0, 0, 0));
        assert!(meter.is_to_count(at(0), &tally(0, 0, 0)));
        assert!(!meter.is_to_count(at(1), &tally(0, 0, 0)), "it is counted");
        meter.take(counted(tally(0, 0, 0), 10));
        assert!(!meter.is_to_count(at(9), &tally(10, 0, 0)), "it is known");
        assert!(meter.is_to_count(at(9), &tally(11, 0, 0)), "it is spent");
        assert!(!meter.is_to_count(at(10), &tally(11, 0, 0)), "too soon");
        // Another change: everything starts anew.
        let next = Tally {
            epoch: Epoch(6),
            ..Tally::default()
        };
        meter.see(at(10), &next);
        meter.take(counted(tally(11, 0, 0), 5));
        assert_eq!(meter.read(&next).left, None, "a late count");
        assert!(meter.is_to_count(at(10), &next));
    }
}
