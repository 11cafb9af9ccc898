//! The amount of measurement.

use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// Turns of each row.
    pub(crate) turns: usize,
    /// One turn of one server.
    pub(crate) turn: Duration,
    /// Swaps of each kind that are timed.
    pub(crate) timed_swaps: usize,
    /// Swaps between two measurements of memory.
    pub(crate) memory_swaps: usize,
    /// Starts of each kind.
    pub(crate) starts: usize,
    /// How long saves fill the journal before the host is killed.
    pub(crate) filling: Duration,
    /// Keys in the store of the measured starts.
    pub(crate) keys: usize,
    /// Keys that durable saves choose from.
    pub(crate) random_keys: usize,
    /// The mixed load.
    pub(crate) mixed: Duration,
    /// Keys in shards whose number changes.
    pub(crate) moved_keys: &'static [usize],
}

impl Plan {
    /// A short run that only checks that everything works.
    pub(crate) fn quick() -> Self {
        Self {
            name: "quick: figures mean nothing",
            turns: 3,
            turn: Duration::from_millis(80),
            timed_swaps: 3,
            memory_swaps: 10,
            starts: 1,
            filling: Duration::from_millis(300),
            keys: 20_000,
            random_keys: 1000,
            mixed: Duration::from_secs(1),
            moved_keys: &[10_000],
        }
    }

    /// A run long enough for meaningful figures.
    pub(crate) fn full() -> Self {
        Self {
            name: "medians of 9 turns of 1 s each",
            turns: 9,
            turn: Duration::from_secs(1),
            timed_swaps: 15,
            memory_swaps: 100,
            starts: 5,
            filling: Duration::from_secs(5),
            keys: 1_000_000,
            random_keys: 100_000,
            mixed: Duration::from_mins(10),
            moved_keys: &[100_000, 1_000_000],
        }
    }
}
