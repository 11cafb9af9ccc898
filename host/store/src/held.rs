//! The data file as this process opened it: locked, and identified.
//!
//! A file that is removed or moved while it is open still accepts writes, but nobody finds them
//! again. So the store checks the file's path before each group of writes, and opens no other
//! file in its place.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ostrakon_base::regular;

/// The data file is no longer where it was opened. Later writes would be lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The data directory was replaced or removed.
    #[error(
        "the data directory {0} is not the one that was opened: it was moved, removed or remounted; put it back and writes resume, or restart the shard"
    )]
    Directory(PathBuf),
    /// The file has no name any more.
    #[error(
        "{path} was removed: its data exists only in this process, and is lost when the process ends; copy it from {copy} back to that path, then restart the shard"
    )]
    Removed {
        /// Its former path.
        path: PathBuf,
        /// A path under which root can still read it.
        copy: PathBuf,
    },
    #[error("{0} was moved: move it back and writes resume")]
    Moved(PathBuf),
    #[error(
        "{0} is not the file that was opened: put the original back and writes resume, or restart the shard to serve the new file"
    )]
    Replaced(PathBuf),
    /// The system does not show whether the file is there.
    #[error("cannot check whether {path} is still there: {reason}")]
    Unseen {
        /// Its path when it was opened.
        path: PathBuf,
        reason: String,
    },
}

/// The numbers by which the system identifies a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The data file, held open and locked across all openings of the store.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    file: File,
    identity: Identity,
    directory: Identity,
    /// A file that is about to take this one's place.
    successor: Option<Identity>,
}

impl Held {
    /// Locks the file; none if another process holds it. This lock on the file itself supplements
    /// the lock file: it holds under any name of the file, and after the lock file was removed.
    pub(super) fn take(path: &Path, directory: &Path) -> io::Result<Option<Self>> {
        let file = regular::open_own(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Some(Self {
            identity: Identity::of(&file.metadata()?),
            directory: Identity::of(&fs::metadata(directory)?),
            path: path.to_owned(),
            file,
            successor: None,
        }))
    }

    /// The file, for reading.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Checks that the file is still where it was.
    pub(super) fn look(&self) -> Result<(), Missing> {
        match fs::metadata(&self.path) {
            Ok(found) if self.allows(Identity::of(&found)) => Ok(()),
            Ok(_) => Err(self.why(true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.why(false)),
            Err(error) => Err(Missing::Unseen {
                path: self.path.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn allows(&self, found: Identity) -> bool {
        found == self.identity || Some(found) == self.successor
    }

    /// From now on another file may be in this one's place.
    pub(super) fn expect(&mut self, successor: &File) -> io::Result<()> {
        self.successor = Some(Identity::of(&successor.metadata()?));
        Ok(())
    }

    /// The other file did not take this one's place.
    pub(super) fn expect_none(&mut self) {
        self.successor = None;
    }

    /// The other file, which is locked, has taken this one's place.
    pub(super) fn succeed(&mut self, file: File) {
        if let Some(identity) = self.successor.take() {
            (self.file, self.identity) = (file, identity);
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether an opened file is this file.
    pub(super) fn is(&self, other: &File) -> io::Result<bool> {
        Ok(Identity::of(&other.metadata()?) == self.identity)
    }

    /// Why the file is not there, as precisely as can be determined.
    fn why(&self, replaced: bool) -> Missing {
        let path = self.path.clone();
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        if fs::metadata(directory)
            .map(|found| Identity::of(&found))
            .ok()
            != Some(self.directory)
        {
            return Missing::Directory(directory.to_owned());
        }
        if self.file.metadata().is_ok_and(|file| file.nlink() == 0) {
            let descriptor = self.file.as_raw_fd();
            let copy = format!("/proc/{}/fd/{descriptor}", std::process::id()).into();
            return Missing::Removed { path, copy };
        }
        if replaced {
            Missing::Replaced(path)
        } else {
            Missing::Moved(path)
        }
    }
}

/// The space that a file takes on the disk, in bytes.
pub(super) fn space_taken(file: &File) -> u64 {
    file.metadata()
        .map_or(0, |metadata| 512 * metadata.blocks())
}

/// A directory, and when its entries last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    identity: Identity,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(directory)?;
        Ok(Self {
            identity: Identity::of(&metadata),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
