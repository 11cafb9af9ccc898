//! The common time of a simulation, in milliseconds from its start. Each process has a runtime
//! with its own clock, which is paused and set forward; this module tells the time of the
//! process that runs now.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

thread_local! {
    static ZERO: Cell<Option<Zero>> = const { Cell::new(None) };
}

/// The zero of a process's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zero {
    /// An instant of its runtime.
    instant: Instant,
    /// The time of the simulation at that instant.
    time: u64,
    shard: u32,
}

impl Zero {
    /// The zero of the process whose runtime is entered, at this time of the simulation.
    pub(super) fn here(time: u64, shard: u32) -> Self {
        Self {
            instant: Instant::now(),
            time,
            shard,
        }
    }

    /// Lets this process run from now on.
    pub(super) fn enter(self) {
        ZERO.set(Some(self));
    }
}

fn zero() -> Zero {
    ZERO.get().expect("a process runs")
}

/// The shard whose process runs, and the time; `None` between the turns of processes.
pub(super) fn running() -> Option<(u32, u64)> {
    let zero = ZERO.get()?;
    Some((zero.shard, now()))
}

pub(super) fn is_running() -> bool {
    ZERO.get().is_some()
}

/// Lets no process run from now on.
pub(super) fn leave() {
    ZERO.set(None);
}

/// The current time. A process must be running.
pub(super) fn now() -> u64 {
    let passed = (Instant::now() - zero().instant).as_millis();
    zero().time + u64::try_from(passed).expect("a simulation is short")
}

pub(super) fn until(time: u64) -> Sleep {
    let millis = time.saturating_sub(zero().time);
    sleep_until(zero().instant + Duration::from_millis(millis))
}

/// Waits for this many milliseconds.
pub(super) async fn wait(millis: u64) {
    until(now() + millis).await;
}
