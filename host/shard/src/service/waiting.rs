//! The number of requests that wait for another shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ostrakon_observe::metrics::Metrics;

/// Counts requests that wait. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Counts a request until the guard is dropped. `None` if `max` requests already wait.
    pub(super) fn enter(&self, max: usize, metrics: &Arc<Metrics>) -> Option<Waits> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        metrics.request_waits();
        let guard = Waits(Arc::clone(&self.0), Arc::clone(metrics));
        (before < max).then_some(guard)
    }
}

/// Counts one waiting request until it is dropped.
#[derive(Debug)]
pub(super) struct Waits(Arc<AtomicUsize>, Arc<Metrics>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.request_waited();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_wait_at_once() {
        let waiting = Waiting::default();
        let metrics = Arc::new(Metrics::new("0"));
        let first = waiting.enter(2, &metrics).unwrap();
        let _second = waiting.enter(2, &metrics).unwrap();
        assert!(waiting.enter(2, &metrics).is_none());
        assert!(
            waiting.enter(2, &metrics).is_none(),
            "what is refused does not count"
        );
        drop(first);
        assert!(waiting.enter(2, &metrics).is_some());
    }
}
