//! Locks that are held for a moment only.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, ignoring poisoning: no holder leaves its state half changed, because all of them
/// only move values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
