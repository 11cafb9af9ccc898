//! The check whether the other side is alive.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;

/// The check whether the other side is alive: any byte from it counts.
///
/// The check runs at a steady pace and counts the rounds in which no byte arrived. Time in which
/// this process did not run counts as one round, so that a process that was stopped itself does
/// not take the other side for dead.
///
/// While either side owes the other something, each round sends a ping, so both sides hear from
/// each other often. This includes the side whose long body is in transit, because the other side
/// owes an answer from the first byte on.
pub(super) struct Keepalive {
    pace: Duration,
    idle: u32,
    limit: u32,
    awaited_limit: u32,
    next: Instant,
    heard: Instant,
    /// The rounds since the last ping.
    quiet: u32,
    /// The rounds since bytes last arrived.
    silent: u32,
    /// The silent rounds during which an answer was awaited.
    unanswered: u32,
    number: u64,
}

/// Whether one side is waiting for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Nothing,
    /// The other side waits for us.
    ByUs,
    /// We wait for the other side.
    ToUs,
}

/// The action due at the end of a round.
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

    /// When the current round ends.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// The action due now. `heard` is the time at which bytes last arrived.
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

    /// Runs rounds until one ends the connection. Returns their number and the number of pings.
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

    /// A process that was stopped for a minute (a paused virtual machine, SIGSTOP) has not read
    /// the bytes that arrived meanwhile, so it must read before it judges.
    #[tokio::test(start_paused = true)]
    async fn a_time_in_which_this_side_did_not_run_counts_once() {
        assert_eq!(looks(Owed::ToUs, Duration::from_mins(1)).await, (4, 3));
    }
}
