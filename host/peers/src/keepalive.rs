//! The watch over whether the other side is alive.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;

/// The watch over whether the other side is alive: any byte from it counts.
///
/// It looks at a steady pace and counts how often it heard nothing since it
/// looked last. Time that this process did not run counts as one look, so that
/// a side that was stopped itself does not take the other one for dead.
///
/// While something is owed, each look sends a ping. So both sides hear each
/// other often: also the side whose long body is on its way, for the other one
/// owes an answer as soon as it has read the first of it.
pub(super) struct Keepalive {
    pace: Duration,
    idle: u32,
    limit: u32,
    awaited_limit: u32,
    next: Instant,
    heard: Instant,
    /// The looks since the last ping.
    quiet: u32,
    /// The looks since bytes last came.
    silent: u32,
    /// Those of them during which an answer was awaited.
    unanswered: u32,
    number: u64,
}

/// What this side and the other owe each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Nothing,
    /// The other side waits for us.
    ByUs,
    /// We wait for the other side.
    ToUs,
}

/// What is due when the deadline of the watch has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping(u64),
    End(Duration),
}

impl Keepalive {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        let pace = settings.probe_pace.max(Duration::from_millis(1));
        let looks = |time: Duration| {
            let looks = time.as_nanos().div_ceil(pace.as_nanos());
            u32::try_from(looks).unwrap_or(u32::MAX).max(1)
        };
        Self {
            pace,
            idle: looks(settings.ping_idle),
            limit: looks(settings.ping_idle + settings.ping_answer),
            awaited_limit: looks(settings.probe_limit),
            next: now + pace,
            heard: now,
            quiet: 0,
            silent: 0,
            unanswered: 0,
            number: 0,
        }
    }

    /// The time at which to look again.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// What is due now, when bytes last came at the time `heard`.
    pub(super) fn due(&mut self, heard: Instant, owed: Owed) -> Due {
        let now = Instant::now();
        if now < self.next {
            return Due::Nothing;
        }
        self.next = now + self.pace;
        if heard > self.heard {
            self.heard = heard;
            (self.silent, self.unanswered) = (0, 0);
        } else {
            self.silent += 1;
            self.unanswered = match owed {
                Owed::ToUs => self.unanswered + 1,
                Owed::Nothing | Owed::ByUs => 0,
            };
        }
        for (looks, limit) in [
            (self.silent, self.limit),
            (self.unanswered, self.awaited_limit),
        ] {
            if looks >= limit {
                return Due::End(self.pace.saturating_mul(limit));
            }
        }
        self.quiet += 1;
        if owed == Owed::Nothing && self.quiet < self.idle {
            return Due::Nothing;
        }
        self.quiet = 0;
        self.number += 1;
        Due::Ping(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until something ends it; gives how many looks that took, and how many pings were sent.
    async fn looks(owed: Owed, stopped_for: Duration) -> (u32, u64) {
        let mut watch = Keepalive::new(&Settings::default());
        let (heard, mut looks) = (Instant::now(), 0);
        tokio::time::advance(stopped_for).await;
        loop {
            tokio::time::sleep_until(watch.deadline()).await;
            looks += 1;
            if let Due::End(_) = watch.due(heard, owed) {
                return (looks, watch.number);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_pings_often_and_ends_soon() {
        let never = Duration::ZERO;
        assert_eq!(looks(Owed::ToUs, never).await, (4, 3));
        assert_eq!(looks(Owed::Nothing, never).await, (30, 2));
        assert_eq!(looks(Owed::ByUs, never).await, (30, 29));
    }

    /// A process that was stopped for a minute (a paused virtual machine, SIGSTOP) has
    /// not read what came meanwhile: it has to look before it judges.
    #[tokio::test(start_paused = true)]
    async fn a_time_in_which_this_side_did_not_run_counts_once() {
        assert_eq!(looks(Owed::ToUs, Duration::from_mins(1)).await, (4, 3));
    }
}
