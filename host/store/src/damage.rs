//! What a damaged file does: errors, and never a panic that goes further.
//!
//! redb checks what it reads as far as it must, and panics where a page makes no sense. All that is
//! asked of redb is asked through [`Damage::contain`].

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ostrakon_observe::telemetry;
use redb::StorageError;

use super::failure::CommitFailure;
use super::group::WriteError;
use super::snapshot::ReadError;

/// How many different findings are kept.
const MOST: usize = 16;

/// What was found to be damaged in a data file since the process opened it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<Mutex<Vec<String>>>);

/// A failure of the store, behind which there may be damage.
pub(super) trait Found: From<StorageError> {
    /// What redb says.
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
    /// The first that was found.
    pub fn first(&self) -> Option<String> {
        self.found().first().cloned()
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with redb; its panic is an error, too.
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

/// Does something with redb, where it is told elsewhere what is damaged.
pub(super) fn contain<T, E: From<StorageError>>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    telemetry::contain(work).unwrap_or_else(|panic| {
        Err(StorageError::Corrupted(format!("redb gave up: {panic}")).into())
    })
}

/// Whether what is there makes no sense, however often it is read.
pub(super) fn is_damage(error: &StorageError) -> bool {
    match error {
        StorageError::Corrupted(_) => true,
        StorageError::Io(error) => is_nonsense(error),
        _ => false,
    }
}

/// Whether what was asked of the disk makes no sense: the file is shorter than it says that it is,
/// or a page is where no file has any.
pub(super) fn is_nonsense(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, UnexpectedEof};
    matches!(
        error.kind(),
        FileTooLarge | InvalidData | InvalidInput | UnexpectedEof
    )
}

/// Something of redb's whose end may panic, as it goes through pages.
#[derive(Debug)]
pub(super) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(super) fn new(inner: T) -> Self {
        Self(Some(inner))
    }

    pub(super) fn into_inner(mut self) -> T {
        self.0.take().expect("it is taken once")
    }
}

impl<T> std::ops::Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is taken")
    }
}

impl<T> std::ops::DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is taken")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        // What it could not finish, the next opening does.
        let _ = telemetry::contain(|| drop(inner));
    }
}
