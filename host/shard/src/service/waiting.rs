//! How many requests wait for another shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ostrakon_observe::metrics::Metrics;

/// Counts requests that wait. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Counts a request in, until the guard is dropped; none: as many as may wait
    /// do already.
    pub(super) fn enter(&self, max: usize, metrics: &Arc<Metrics>) -> Option<Waits> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        metrics.request_waits();
        let guard = Waits(Arc::clone(&self.0), Arc::clone(metrics));
        (before < max).then_some(guard)
    }
}

/// A request that waits.
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
