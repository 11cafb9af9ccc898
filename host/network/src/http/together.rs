//! Holds the head of an early h2 answer back until the beginning of its body can leave with it.
//!
//! A stream's task hands HTTP the head and then the body, and the connection's task could write the
//! head in between. There are clients that end their request when a head tells them that it is
//! refused, with fewer bytes than they announced (curl 7.88). For that h2 resets the stream, and
//! discards what is left of the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::wire::Activity;

/// The early answers of a connection that HTTP has the head of, and nothing else yet.
#[derive(Debug, Default)]
pub(super) struct Together {
    heads: AtomicUsize,
    /// The connection's task, which alone registers here.
    connection: AtomicWaker,
}

impl Together {
    /// Ready when there are no such answers. Otherwise the connection's task is woken then.
    pub(super) fn poll_none(&self, context: &mut Context<'_>) -> Poll<()> {
        let is_none = || self.heads.load(Ordering::Acquire) == 0;
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

/// An answer that HTTP has only the head of, or is about to get it.
#[derive(Debug)]
pub(super) struct HeadAlone(Arc<Activity>);

impl HeadAlone {
    /// Counts such an answer until this is dropped.
    pub(super) fn of(activity: &Arc<Activity>) -> Self {
        activity.together().heads.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for HeadAlone {
    fn drop(&mut self) {
        let together = self.0.together();
        if together.heads.fetch_sub(1, Ordering::AcqRel) == 1 {
            together.connection.wake();
        }
    }
}
