//! The pause before an ended process is restarted.

use std::time::Duration;

/// The kubelet's back-off, with shorter times: a restart at once, then after `first`, then after
/// twice as long each time up to `most`. It starts over once a process has run for `well`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the second end.
    pub first: Duration,
    pub most: Duration,
    /// How long a process must run for earlier ends to be forgotten.
    pub well: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            most: Duration::from_secs(5),
            well: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The pause after a process ended that ran for `ran`, after `ends` earlier ends in a row.
    /// Updates `ends`.
    pub(super) fn after(&self, ran: Duration, ends: &mut u32) -> Duration {
        if ran >= self.well {
            *ends = 0;
        }
        let wait = match ends.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self
                .first
                .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
                .min(self.most),
        };
        *ends = ends.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_begin_at_none_double_up_to_a_bound_and_are_forgotten() {
        let backoff = Backoff::default();
        let mut ends = 0;
        let mut after = |ran| {
            backoff
                .after(Duration::from_millis(ran), &mut ends)
                .as_millis()
        };
        let waits: Vec<_> = (0..8).map(|_| after(9_999)).collect();
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        for _ in 0..100 {
            assert_eq!(after(0), 5000);
        }
        assert_eq!([after(10_000), after(0)], [0, 250]);
    }
}
