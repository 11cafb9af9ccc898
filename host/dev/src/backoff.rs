//! How long a process that ended waits before it is started again.

use std::time::Duration;

/// The kubelet's way, with shorter times: at once, then after `first`, then twice as long each
/// time up to `most`; from the start again once it ran for `well`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the second end.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// How long it must have run for its former ends to be forgotten.
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
    /// The wait after an end, of a process that ran so long and ended `ends` times in a row before;
    /// `ends` is counted on.
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
