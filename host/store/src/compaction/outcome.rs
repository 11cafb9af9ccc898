//! How far a compaction has come, and how it ended.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redb::StorageError;

use super::lock;
use crate::failure::{CommitFailure, is_full};
use crate::snapshot::ReadError;

/// Why a compaction ended without effect. The data file is as it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompactError {
    #[error(
        "the disk has {free} bytes free, and the copy of the data needs about {needed} and some spare: make space on the data volume, or enlarge it"
    )]
    NoRoom { free: u64, needed: u64 },
    #[error(
        "the disk has only {free} bytes free, which are left to what is written meanwhile: make space on the data volume, or enlarge it"
    )]
    Spare { free: u64 },
    #[error(
        "a part of the data is damaged, and a copy would lack it: stop the shard, and `ostrakon check` says what"
    )]
    Damaged,
    #[error("the disk is full: make space on the data volume")]
    Full,
    #[error("the data file cannot be read")]
    Unreadable(#[source] Arc<StorageError>),
    #[error("the copy cannot be written")]
    Failed(#[source] Arc<StorageError>),
    #[error("another compaction is being stopped: try again")]
    Stopping,
    #[error("{0} cannot be made, or put in the data file's place")]
    File(PathBuf, #[source] Arc<io::Error>),
    #[error("{0}")]
    Stopped(Stopped),
}

/// What stopped a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error("it was stopped by an operator")]
    Operator,
    #[error("the shard ended")]
    End,
    #[error("the disk became full: make space on the data volume")]
    Full,
    #[error(
        "a migration, or a recovery from a failure, changed the data file meanwhile: compact it again"
    )]
    Change,
    #[error(
        "rows change faster than they can be copied: compact the file when fewer requests write"
    )]
    Changes,
}

impl From<CommitFailure> for CompactError {
    fn from(failure: CommitFailure) -> Self {
        match failure {
            CommitFailure::Full => Self::Full,
            _ if failure.is_damage() => Self::Damaged,
            CommitFailure::Failed(error) => Self::Unreadable(error),
        }
    }
}

impl CompactError {
    /// Whether the disk has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } | Self::Spare { .. } | Self::Full => true,
            Self::Stopped(why) => *why == Stopped::Full,
            Self::File(_, error) => is_full(error),
            Self::Unreadable(error) | Self::Failed(error) => {
                matches!(&**error, StorageError::Io(error) if is_full(error))
            }
            Self::Damaged | Self::Stopping => false,
        }
    }

    /// Whether the data file could not be read: redb then answers nothing more.
    pub(crate) fn is_of_the_data_file(&self) -> bool {
        matches!(self, Self::Damaged | Self::Unreadable(_))
    }
}

impl From<ReadError> for CompactError {
    fn from(error: ReadError) -> Self {
        CommitFailure::from(error).into()
    }
}

/// The last compaction, for operators. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Compacting(Arc<Mutex<Option<Progress>>>);

/// How far a compaction has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The space that the data file took when it began, in bytes.
    pub before: u64,
    /// The space of the entries that were copied, and of those that there were at the beginning,
    /// in bytes.
    pub copied: u64,
    pub of: u64,
    /// The space that the data file takes afterwards, or why it is as it was; none while the
    /// compaction is under way.
    pub ended: Option<Result<u64, CompactError>>,
    /// How long it has taken.
    pub took: Duration,
    began: Instant,
}

impl Compacting {
    /// None if there was none since the shard started.
    pub fn progress(&self) -> Option<Progress> {
        let mut progress = lock(&self.0).clone()?;
        if progress.ended.is_none() {
            progress.took = progress.began.elapsed();
        }
        Some(progress)
    }

    pub(crate) fn begin(&self, before: u64, of: u64) {
        *lock(&self.0) = Some(Progress {
            before,
            copied: 0,
            of,
            ended: None,
            took: Duration::ZERO,
            began: Instant::now(),
        });
    }

    pub(super) fn copied(&self, bytes: u64) {
        if let Some(progress) = &mut *lock(&self.0) {
            progress.copied += bytes;
        }
    }

    pub(crate) fn end(&self, result: Result<u64, CompactError>) {
        if let Some(progress) = &mut *lock(&self.0) {
            progress.took = progress.began.elapsed();
            if result.is_ok() {
                // What was deleted meanwhile was not copied.
                progress.of = progress.copied;
            }
            progress.ended = Some(result);
        }
    }
}
