//! Holds an h2 answer's head back until the beginning of its body can leave with it.
//!
//! A stream's task hands HTTP the head and then the body, and the connection's task could write the
//! head in between. There are clients that end their request when a head tells them that it is
//! refused, with fewer bytes than they announced (curl 7.88). For that h2 resets the stream, and
//! discards what is left of the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// The answers of a connection that HTTP has the head of, and nothing else yet.
#[derive(Debug, Default)]
pub(super) struct Together {
    begun: AtomicUsize,
    connection: AtomicWaker,
}

impl Together {
    /// Notes an answer whose head HTTP is about to get. It counts until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Begun(Arc::clone(self))
    }

    /// Ready when there are no such answers. Otherwise the connection's task is woken then.
    pub(super) fn poll_none(&self, context: &mut Context<'_>) -> Poll<()> {
        let is_none = || self.begun.load(Ordering::Acquire) == 0;
        if is_none() {
            return Poll::Ready(());
        }
        self.connection.register(context.waker());
        // The last one may have ended before the waker was there.
        if is_none() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// An answer that HTTP has only the head of.
#[derive(Debug)]
pub(super) struct Begun(Arc<Together>);

impl Drop for Begun {
    fn drop(&mut self) {
        if self.0.begun.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.connection.wake();
        }
    }
}
