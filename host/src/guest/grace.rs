//! What a call gets beyond its deadline, because a deadline counts the time
//! that passes and not the time that the guest had.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

/// The processor time that a call gets when its deadline has passed. A thread
/// that the system had put aside for a while needs microseconds of it to
/// finish; an endless loop uses it up.
const GRACE: Duration = Duration::from_millis(2);

/// How often, a tick of the engine's clock apart, a call is asked whether it has
/// used its grace up, before it is ended all the same.
const MAX_ASKED: u32 = 1000;

/// The grace of one call.
#[derive(Debug, Default)]
pub(super) struct Grace {
    /// The thread's processor time when the deadline passed.
    since: Option<Duration>,
    asked: u32,
}

impl Grace {
    /// Decides when the deadline has passed, and at each tick from then on.
    pub(super) fn overrun(&mut self) -> UpdateDeadline {
        let now = processor_time();
        let since = *self.since.get_or_insert(now);
        self.asked += 1;
        if now.saturating_sub(since) >= GRACE || self.asked > MAX_ASKED {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        }
    }
}

/// The time that this thread has had on a processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
