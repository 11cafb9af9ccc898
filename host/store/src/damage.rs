//! Turns damage in the file into errors, and keeps redb's panics from spreading.
//!
//! redb checks the pages that it reads only as far as necessary, and panics if a page makes no
//! sense. So every call to redb goes through [`Damage::contain`].

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ostrakon_observe::telemetry;
use redb::StorageError;

use super::failure::CommitFailure;
use super::group::WriteError;
use super::snapshot::ReadError;

/// The limit on the different findings that are kept.
const MOST: usize = 16;

/// The damage found in a data file since the process opened it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<Mutex<Vec<String>>>);

/// An error of the store that damage may have caused.
pub(super) trait Found: From<StorageError> {
    /// The error of redb, if one is the cause.
    fn cause(&self) -> Option<&StorageError>;
}

impl Found for ReadError {
    fn cause(&self) -> Option<&StorageError> {
        Some(&self.0)
    }
}

impl Found for WriteError {
    fn cause(&self) -> Option<&StorageError> {
        match self {
            Self::Read(error) => error.cause(),
            _ => None,
        }
    }
}

impl Found for CommitFailure {
    fn cause(&self) -> Option<&StorageError> {
        match self {
            Self::Full => None,
            Self::Failed(error) => Some(error),
        }
    }
}

impl Damage {
    pub fn first(&self) -> Option<String> {
        self.found().first().cloned()
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work that uses redb; turns its panic into an error, and records damage.
    pub(super) fn contain<T, E: Found>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let done = contain(work);
        if let Err(error) = &done
            && let Some(cause) = error.cause()
            && is_damage(cause)
        {
            self.note(cause);
        }
        done
    }

    fn note(&self, cause: &StorageError) {
        let what = cause.to_string();
        let mut found = self.found();
        if found.len() < MOST && !found.contains(&what) {
            tracing::error!(error = what, "a part of the data is damaged");
            found.push(what);
        }
    }
}

/// Runs work that uses redb and turns its panic into an error; the caller reports the damage.
pub(super) fn contain<T, E: From<StorageError>>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    telemetry::contain(work).unwrap_or_else(|panic| {
        Err(StorageError::Corrupted(format!("redb gave up: {panic}")).into())
    })
}

/// Whether the stored data itself is invalid, so that reading it again cannot help.
pub(super) fn is_damage(error: &StorageError) -> bool {
    match error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => is_nonsense(error),
        _ => false,
    }
}

/// Whether the request to the disk was invalid: the file is shorter than its content says, or a
/// page lies outside any file.
pub(super) fn is_nonsense(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, UnexpectedEof};
    matches!(
        error.kind(),
        FileTooLarge | InvalidData | InvalidInput | UnexpectedEof
    )
}

/// A redb object whose drop may panic, since it goes through pages.
#[derive(Debug)]
pub(super) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(super) fn new(inner: T) -> Self {
        Self(Some(inner))
    }

    pub(super) fn into_inner(mut self) -> T {
        self.0.take().expect("the value is taken only once")
    }
}

impl<T> std::ops::Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
            .as_ref()
            .expect("the value is there until it is taken")
    }
}

impl<T> std::ops::DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0
            .as_mut()
            .expect("the value is there until it is taken")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        // The next opening completes whatever the drop could not.
        let _ = telemetry::contain(|| drop(inner));
    }
}
