//! The pause after failures.

use std::time::Duration;

/// The pause before the attempt that follows so many failures in a row.
pub(super) fn pause(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(most)
}
