//! How long a call may go on, and what it gets beyond its deadline: a deadline
//! counts the time that passes and not the time that the guest had.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

/// The processor time that a call gets when its deadline has passed. A thread
/// that the system had put aside for a while needs microseconds of it to
/// finish; an endless loop uses it up.
const GRACE: Duration = Duration::from_millis(2);

/// How often, a tick of the engine's clock apart, a call is asked whether it has
/// used its grace up, before it is ended all the same.
const MAX_ASKED: u32 = 1000;

/// The time of one call.
#[derive(Debug, Default)]
pub(super) struct Time {
    /// None: no call is under way.
    deadline: Option<Instant>,
    /// The thread's processor time when the deadline passed.
    since: Option<Duration>,
    asked: u32,
}

impl Time {
    pub(super) fn until(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            ..Self::default()
        }
    }

    /// A deadline that passed, and no grace left.
    #[cfg(test)]
    pub(super) fn used_up() -> Self {
        Self {
            deadline: Some(Instant::now()),
            since: None,
            asked: MAX_ASKED,
        }
    }

    /// Whether the call is to end: what the host does for a guest is asked here,
    /// as the engine's clock interrupts the guest's own code only.
    pub(super) fn is_over(&mut self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
            && matches!(self.overrun(), UpdateDeadline::Interrupt)
    }

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
