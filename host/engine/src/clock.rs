//! The clock that guests are told the time by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The latest time that a guest of this process was told.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since 1970, never fewer than before. After the system's clock was set back, time
/// stands still until the clock has caught up: a guest that subtracts an earlier time that it
/// stored must not get a negative number.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    });
    after(&LATEST, now)
}

fn after(latest: &AtomicU64, now: u64) -> u64 {
    latest.fetch_max(now, Ordering::Relaxed).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_after_the_clock_was_set_back() {
        let latest = AtomicU64::new(0);
        let clock = [5, 7, 3, 6, 8];
        let told = clock.map(|now| after(&latest, now));
        assert_eq!(told, [5, 7, 7, 7, 8]);
        let before = now();
        assert!(before > 1_600_000_000 * 1_000_000_000 && now() >= before);
    }
}
