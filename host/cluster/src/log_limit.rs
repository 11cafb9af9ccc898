//! Rate-limits log messages that a stranger could trigger.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two messages.
const EVERY: Duration = Duration::from_secs(10);

/// When a message was last logged. A std mutex, because it is held only briefly.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    /// Whether a message may be logged now; if so, counts it as logged.
    pub(super) fn allows(&self) -> bool {
        let mut last = self.0.lock().expect("no holder of this lock panics");
        let may = last.is_none_or(|last| last.elapsed() >= EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_logged_once_in_that_time_at_most() {
        let limit = LogLimit::default();
        assert!(limit.allows());
        assert!(!limit.allows());
        tokio::time::advance(EVERY).await;
        assert!(limit.allows());
        assert!(!limit.allows());
    }
}
