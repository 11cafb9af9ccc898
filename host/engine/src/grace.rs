//! Deadlines of calls, and the grace after them. A deadline counts elapsed time, not the
//! processor time that the guest had.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

/// The processor time that a call gets after its deadline has passed. A thread that the system
/// had suspended for a while needs only microseconds of it to finish; an endless loop uses it up.
const GRACE: Duration = Duration::from_millis(2);

/// How often a call is checked for having used up its grace, once per tick of the engine's clock,
/// before it is ended regardless.
const MAX_ASKED: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Time {
    /// None: no call is running.
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

    /// A passed deadline without any grace left.
    #[cfg(test)]
    pub(super) fn used_up() -> Self {
        Self {
            deadline: Some(Instant::now()),
            since: None,
            asked: MAX_ASKED,
        }
    }

    /// Whether the call must end. The host's own work for a guest checks this, as the engine's
    /// clock interrupts only the guest's code.
    pub(super) fn is_over(&mut self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
            && matches!(self.overrun(), UpdateDeadline::Interrupt)
    }

    /// Decides, when the deadline has passed and at each tick after that, whether the call may
    /// continue.
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

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
