//! Unix times, for metrics, states and protocols.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the beginning of 1970, UTC. Zero for earlier times.
pub fn unix_time(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
