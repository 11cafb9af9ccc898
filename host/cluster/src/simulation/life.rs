//! Whether a process lives, and when it is to die.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One process's life. Once it is over, nothing that the process still does reaches a disk, a
/// peer or a client. Clones share the life.
#[derive(Clone, Debug)]
pub(super) struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The process's number among all processes.
    number: u64,
    over: AtomicBool,
    /// How many deeds remain; [`NO_END`] is unlimited.
    deeds: AtomicU64,
}

const NO_END: u64 = u64::MAX;

impl Life {
    pub(super) fn new(number: u64) -> Self {
        Self(Arc::new(Inner {
            number,
            over: AtomicBool::new(false),
            deeds: AtomicU64::new(NO_END),
        }))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.0.over.store(true, Ordering::Relaxed);
    }

    /// Ends the life after this many more deeds: in the middle of a commit, or between a commit
    /// and its answer.
    pub(super) fn end_after(&self, deeds: u64) {
        self.0.deeds.store(deeds, Ordering::Relaxed);
    }

    /// Counts a deed, an action that others can see later. Returns whether the process is alive
    /// to do it.
    pub(super) fn deed(&self) -> bool {
        let deeds = self.0.deeds.load(Ordering::Relaxed);
        if deeds == 0 {
            self.end();
        } else if deeds != NO_END {
            self.0.deeds.store(deeds - 1, Ordering::Relaxed);
        }
        !self.is_over()
    }
}
