//! Decides which Events are posted: repeats are counted in the existing Event, and different ones
//! are rate limited. A pure function of earlier Events and the time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Event;

/// A repeat within this time belongs to the same series.
const SERIES: Duration = Duration::from_mins(10);
/// How many Events are remembered.
const REMEMBERED: usize = 16;
/// How many Events may be posted in a row.
const BURST: u32 = 20;
/// The time after which one more Event may be posted.
const REFILL: Duration = Duration::from_secs(10);

/// The Events posted recently.
#[derive(Debug)]
pub(super) struct Series {
    posted: VecDeque<Posted>,
    budget: u32,
    refilled: Instant,
}

#[derive(Debug)]
struct Posted {
    event: Event,
    name: String,
    count: i32,
    last: Instant,
}

/// The treatment of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Post it as a new Event.
    Post,
    /// Update the Event of this name to this count.
    Count(String, i32),
    /// Drop it, because the rate limit is exceeded.
    Drop,
}

impl Series {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            posted: VecDeque::new(),
            budget: BURST,
            refilled: now,
        }
    }

    pub(super) fn decide(&mut self, event: &Event, now: Instant) -> Decision {
        let elapsed = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let refills = u32::try_from(elapsed).unwrap_or(u32::MAX);
        self.budget = self.budget.saturating_add(refills).min(BURST);
        self.refilled += REFILL.saturating_mul(refills);
        let Some(budget) = self.budget.checked_sub(1) else {
            return Decision::Drop;
        };
        self.budget = budget;
        self.posted
            .retain(|posted| now.duration_since(posted.last) < SERIES);
        let same = self.posted.iter_mut().find(|posted| posted.event == *event);
        match same {
            None => Decision::Post,
            Some(posted) => {
                posted.count = posted.count.saturating_add(1);
                posted.last = now;
                Decision::Count(posted.name.clone(), posted.count)
            }
        }
    }

    /// Remembers a new Event that was posted under this name.
    pub(super) fn posted(&mut self, event: Event, name: String, now: Instant) {
        self.forget(&event);
        if self.posted.len() == REMEMBERED {
            self.posted.pop_front();
        }
        self.posted.push_back(Posted {
            event,
            name,
            count: 1,
            last: now,
        });
    }

    /// Forgets an Event that no longer exists.
    pub(super) fn forget(&mut self, event: &Event) {
        self.posted.retain(|posted| posted.event != *event);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn event(note: &str) -> Event {
        Event {
            kind: Kind::SwapRefused,
            note: note.to_owned(),
        }
    }

    fn post(series: &mut Series, note: &str, now: Instant) -> Decision {
        let decision = series.decide(&event(note), now);
        if decision == Decision::Post {
            series.posted(event(note), note.to_owned(), now);
        }
        decision
    }

    #[test]
    fn a_repeat_is_counted_in_the_event_that_is_there_for_a_while() {
        let now = Instant::now();
        let mut series = Series::new(now);
        assert_eq!(post(&mut series, "a", now), Decision::Post);
        assert_eq!(post(&mut series, "b", now), Decision::Post);
        for (minutes, count) in [(5, 2), (14, 3)] {
            let now = now + Duration::from_mins(minutes);
            assert_eq!(
                post(&mut series, "a", now),
                Decision::Count("a".to_owned(), count)
            );
        }
        let later = now + Duration::from_mins(24);
        assert_eq!(post(&mut series, "a", later), Decision::Post);
        series.forget(&event("a"));
        assert_eq!(post(&mut series, "a", later), Decision::Post);
    }

    #[test]
    fn no_more_than_a_burst_is_posted_and_no_more_than_some_are_remembered() {
        let now = Instant::now();
        let mut series = Series::new(now);
        let posted =
            (0..100).filter(|number| post(&mut series, &number.to_string(), now) == Decision::Post);
        assert_eq!(posted.count(), BURST as usize);
        assert_eq!(series.posted.len(), REMEMBERED);
        let later = now + REFILL * 3;
        let posted = (0..9).filter(|_| post(&mut series, "x", later) != Decision::Drop);
        assert_eq!(posted.count(), 3);
        let much_later = now + Duration::from_hours(24);
        let posted = (0..100).filter(|_| post(&mut series, "y", much_later) != Decision::Drop);
        assert_eq!(posted.count(), BURST as usize);
    }
}
