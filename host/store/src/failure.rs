//! The errors of the store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ostrakon_base::stored::Unreadable;
use redb::StorageError;

use super::damage::{is_damage, is_nonsense};
use super::disk::is_unread;
use super::held::Missing;
use super::journal::Damaged;
use super::snapshot::ReadError;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data directory {0} is in use by another process: stop that process, or give this one its own directory"
    )]
    InUse(PathBuf),
    /// The directory or a file in it cannot be created or opened.
    #[error("cannot use the data directory {path}{}", advice(.source))]
    Io {
        /// The path that could not be used.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A check of the whole file found damage.
    #[error(
        "{path} is damaged: {first}; run `ostrakon check` to list all damage, and restore a backup"
    )]
    Unsound {
        path: PathBuf,
        /// The first damage found.
        first: String,
    },
    /// The data file existed before, and is missing.
    #[error(
        "{path} is missing, but this data directory had one: put it back, or restore it from a backup; to start empty, remove {lock} and the directory `journal` beside it"
    )]
    Missing {
        path: PathBuf,
        /// The lock file, which records that the data file existed.
        lock: PathBuf,
    },
    /// A record of the journal cannot be read, though it may have been acknowledged.
    #[error("{0}: restore a backup of the whole data directory")]
    Journal(Damaged),
    /// The directory to be checked has never had a data file.
    #[error("{0} holds no data: it has no shard.redb; name a shard's data directory")]
    NoData(PathBuf),
    /// A later version of ostrakon wrote the file.
    #[error(
        "cannot use {path}: {source}: run the version that wrote it, or a newer one; nothing was changed"
    )]
    Newer {
        path: PathBuf,
        /// The part of the file that is of a later version.
        source: Unreadable,
    },
    /// The file is not a store, or is damaged.
    #[error(
        "{path} cannot be opened as a store: restore it from a backup, or, to start empty, move the whole data directory away"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: redb::Error,
    },
}

impl OpenError {
    /// Whether the file exists and can be read, but its content is not valid.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { source, .. } => match source {
                redb::Error::Io(error) => is_nonsense(error),
                _ => true,
            },
            Self::Unsound { .. } | Self::Journal(_) => true,
            _ => false,
        }
    }
}

impl CommitError {
    /// Whether the cause is a damaged part of the file.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Failed(error) if is_damage(error))
    }
}

impl CommitFailure {
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Failed(error) if is_damage(error))
    }

    /// Whether a page could not be read.
    pub(super) fn is_unread(&self) -> bool {
        matches!(self, Self::Failed(error) if matches!(&**error, StorageError::Io(error) if is_unread(error)))
    }
}

/// Why a group was not committed. Nothing of it is acknowledged. It is not stored; only if the
/// disk failed and the process ends before it has written elsewhere, it may be stored whole, but
/// never in part.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    #[error(
        "the disk is full: enlarge the data volume, or remove other files from it; writes, deletes among them, then resume by themselves"
    )]
    Full,
    #[error("the disk rejects writes")]
    Failed(#[source] Arc<StorageError>),
    /// The data file is not where it was opened, so writes to it would be lost.
    #[error(transparent)]
    Missing(#[from] Missing),
}

/// A failure, as the store keeps it until a commit succeeds.
#[derive(Clone, Debug)]
pub(super) enum CommitFailure {
    Full,
    Failed(Arc<StorageError>),
}

impl From<CommitFailure> for CommitError {
    fn from(failure: CommitFailure) -> Self {
        match failure {
            CommitFailure::Full => Self::Full,
            CommitFailure::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<StorageError> for CommitFailure {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Io(io) if is_full(io) => Self::Full,
            _ => Self::Failed(Arc::new(error)),
        }
    }
}

impl From<ReadError> for CommitFailure {
    fn from(ReadError(error): ReadError) -> Self {
        error.into()
    }
}

impl From<redb::CommitError> for CommitFailure {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(error) => error.into(),
            other => Self::Failed(Arc::new(StorageError::Corrupted(other.to_string()))),
        }
    }
}

impl From<redb::TransactionError> for CommitFailure {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => error.into(),
            other => Self::Failed(Arc::new(StorageError::Corrupted(other.to_string()))),
        }
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What to do about a directory that cannot be used.
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ": free space there, or enlarge the volume"
        }
        io::ErrorKind::PermissionDenied => ": let the host's user write there",
        io::ErrorKind::ReadOnlyFilesystem => ": mount the volume so that it can be written",
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ": see that the volume is mounted there"
        }
        _ => "",
    }
}
