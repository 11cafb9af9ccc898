//! Where clients' requests begin. They can be made to wait there until all shards are ready to go over
//! to another generation at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// Lets requests begin, unless it is closed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Twice the number of requests under way, and one more while the gate is closed.
    state: AtomicUsize,
    /// The number of the last closing. A std mutex, because it is held only briefly.
    closing: Mutex<u64>,
    /// Notified when the gate opens.
    opened: Notify,
    /// Notified when the last request ends while the gate is closed.
    drained: Notify,
}

const CLOSED: usize = 1;
const ONE: usize = 2;

/// A closing of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing(u64);

impl Closing {
    /// How many closings of the gate there were until this one.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A request that has begun. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Begun<'a>(&'a Gate);

impl Gate {
    /// Waits until a request may begin. One that has begun may send others to other shards: those
    /// are part of it, and pass no gate there.
    pub(super) async fn begin(&self) -> Begun<'_> {
        match self.try_begin() {
            Some(begun) => begun,
            // Boxed, because it is rare.
            None => Box::pin(self.wait()).await,
        }
    }

    async fn wait(&self) -> Begun<'_> {
        loop {
            let opened = self.0.opened.notified();
            if let Some(begun) = self.try_begin() {
                return begun;
            }
            opened.await;
        }
    }

    fn try_begin(&self) -> Option<Begun<'_>> {
        let before = self.0.state.fetch_add(ONE, Ordering::AcqRel);
        let begun = Begun(self);
        (before & CLOSED == 0).then_some(begun)
    }

    fn closing(&self) -> MutexGuard<'_, u64> {
        self.0
            .closing
            .lock()
            .expect("no holder of this lock panics")
    }

    /// Lets no further request begin.
    pub fn close(&self) -> Closing {
        let mut closing = self.closing();
        *closing += 1;
        self.0.state.fetch_or(CLOSED, Ordering::AcqRel);
        Closing(*closing)
    }

    /// Lets requests begin again, if this was the last closing. Returns whether the gate was closed
    /// until now.
    pub fn open(&self, of: Closing) -> bool {
        let closing = self.closing();
        if Closing(*closing) != of {
            return false;
        }
        let before = self.0.state.fetch_and(!CLOSED, Ordering::AcqRel);
        drop(closing);
        self.0.opened.notify_waiters();
        before & CLOSED > 0
    }

    /// Whether the gate is closed, and this was the last closing.
    pub fn is_closed(&self, by: Closing) -> bool {
        let closing = self.closing();
        Closing(*closing) == by && self.0.state.load(Ordering::Acquire) & CLOSED > 0
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.0.state.load(Ordering::Acquire) / ONE
    }

    /// Waits until no request is under way. The gate must be closed.
    pub async fn drained(&self) {
        loop {
            let drained = self.0.drained.notified();
            if self.under_way() == 0 {
                return;
            }
            drained.await;
        }
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let before = self.0.0.state.fetch_sub(ONE, Ordering::AcqRel);
        if before == ONE + CLOSED {
            self.0.0.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Whether this waits for something else.
    async fn waits(work: impl Future) -> bool {
        timeout(Duration::from_secs(1), work).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn closed_it_lets_nobody_in_and_waits_for_those_who_are() {
        let gate = Gate::default();
        let (one, two) = (gate.begin().await, gate.begin().await);
        let closing = gate.close();
        assert!(waits(gate.begin()).await && waits(gate.drained()).await);
        drop(one);
        assert!(waits(gate.drained()).await);
        assert_eq!(gate.under_way(), 1);
        let (drained, ()) = tokio::join!(timeout(Duration::from_secs(1), gate.drained()), async {
            drop(two);
        });
        drained.expect("it is told of the last one's end");
        let (begun, ()) = tokio::join!(timeout(Duration::from_secs(1), gate.begin()), async {
            assert!(gate.is_closed(closing) && gate.open(closing));
        });
        begun.expect("it is told of the opening");
        assert!(!gate.is_closed(closing) && !gate.open(closing));
        assert_eq!(gate.under_way(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_closing_does_not_open_it() {
        let gate = Gate::default();
        let (earlier, later) = (gate.close(), gate.close());
        assert!(!gate.open(earlier) && !gate.is_closed(earlier));
        assert!(waits(gate.begin()).await);
        assert!(gate.open(later));
        assert!(!waits(gate.begin()).await);
    }

    /// Requests come and end on several threads while the gate closes and opens.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_in_while_it_is_closed_and_drained() {
        let gate = Gate::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (gate, inside) = (gate.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    for _ in 0..2000 {
                        let begun = gate.begin().await;
                        inside.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(begun);
                    }
                })
            })
            .collect();
        let mut closings = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            let closing = gate.close();
            gate.drained().await;
            for _ in 0..10 {
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
            }
            assert!(gate.open(closing));
            closings += 1;
            tokio::task::yield_now().await;
        }
        for client in clients {
            client.await.expect("it does not panic");
        }
        assert!(closings > 1, "{closings}");
    }
}
