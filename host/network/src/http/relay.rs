//! Polls a connection again at once if it woke itself.
//!
//! hyper hands a request's body to its handler through a channel, and both are in the connection's
//! task: so each request with a body wakes the task that is running. The runtime takes that for
//! one more task that waits for a thread, and wakes another thread for it, which finds nothing to
//! do. On an idle shard this is a good part of what a write costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Nobody polls: a wake-up is for the task.
const IDLE: u8 = 0;
/// The connection is being polled.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const AGAIN: u8 = 2;

/// Passes wake-ups on to a task, except those that come while it polls.
#[derive(Debug)]
pub(super) struct Relay {
    woken: Arc<Woken>,
    /// A waker of `woken`, so that none is made at each poll.
    waker: Waker,
}

#[derive(Debug, Default)]
struct Woken {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Default for Relay {
    fn default() -> Self {
        let woken = Arc::<Woken>::default();
        Self {
            waker: Arc::clone(&woken).into(),
            woken,
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self
            .state
            .compare_exchange(POLLED, AGAIN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(IDLE) {
            self.task.wake();
        }
    }
}

impl Relay {
    /// Polls once, and once more if it was woken meanwhile. After that it is another task's turn.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Woken { state, task } = &*self.woken;
        task.register(context.waker());
        for _ in 0..2 {
            state.store(POLLED, Ordering::Release);
            let polled = poll(&mut Context::from_waker(&self.waker));
            let was_woken = state.swap(IDLE, Ordering::AcqRel) == AGAIN;
            if polled.is_ready() || !was_woken {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often the task was woken while it polled a future that wakes itself so often, and how
    /// often that was polled.
    fn polled(wakes: usize) -> (usize, usize) {
        let count = Arc::<Count>::default();
        let (relay, mut polls) = (Relay::default(), 0);
        let waker = Arc::clone(&count).into();
        let polled = relay.poll(&mut Context::from_waker(&waker), |context| {
            polls += 1;
            if polls <= wakes {
                context.waker().wake_by_ref();
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        (count.0.load(Ordering::Relaxed), polls)
    }

    #[test]
    fn who_wakes_itself_is_polled_once_more_and_then_in_its_turn() {
        assert_eq!(polled(0), (0, 1));
        assert_eq!(polled(1), (0, 2));
        assert_eq!(polled(2), (1, 2));
    }

    #[test]
    fn a_wake_up_between_polls_reaches_the_task_that_polled_last() {
        let [first, last] = [(); 2].map(|()| Arc::<Count>::default());
        let (relay, mut kept) = (Relay::default(), None);
        for task in [&first, &last] {
            let waker = Arc::clone(task).into();
            let polled = relay.poll(&mut Context::from_waker(&waker), |context| {
                kept = Some(context.waker().clone());
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
        }
        kept.take().unwrap().wake();
        let counts = [first, last].map(|task| task.0.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 1]);
    }
}
