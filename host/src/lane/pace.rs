//! How much the lane does in one go.

use std::time::Duration;

/// Bounds on what the lane does while others wait for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long requests are run for one group before it is committed, when more
    /// wait: the first of a group does not wait for slow ones behind it.
    pub(crate) collect: Duration,
    /// How long a step may look at partitions, which requests wait for.
    pub(crate) step: Duration,
    /// How many partitions a step gives away at most: so many are written at
    /// once where they go, and deleted at once where they were.
    pub(crate) step_partitions: usize,
    /// The bytes that a step gives away at most, unless one partition is more.
    pub(crate) step_bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            collect: Duration::from_millis(5),
            step: Duration::from_millis(2),
            step_partitions: 1024,
            step_bytes: 1 << 20,
        }
    }
}
