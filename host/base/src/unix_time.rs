//! Times as metrics, states and protocols have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The Unix time: since the beginning of 1970, UTC. Zero for what was before.
pub fn unix_time(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
