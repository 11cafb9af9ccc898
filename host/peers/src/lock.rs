//! Locks that are held for a moment only.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also after a holder panicked: none of our holders leaves
/// its state half changed, for they only move values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
