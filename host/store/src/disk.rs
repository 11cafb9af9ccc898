//! The operations that the store needs of a disk. Tests inject faults here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The operations of one file.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {
    /// The file's length in bytes.
    ///
    /// # Errors
    /// Any error of the file system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As for [`Disk::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Also if the file ends before `out` is full.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Sets the file's length to `len` bytes. New bytes are zero, and their space is reserved on
    /// the disk, so that later writes into them find room.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no space; the length is then unchanged.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// As for [`Disk::set_len`], but no space is reserved.
    ///
    /// # Errors
    /// Any error of the file system.
    fn set_sparse_len(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    /// Returns once all writes so far are on the disk.
    ///
    /// # Errors
    /// After an error, the state of the writes since the last sync is unknown.
    fn sync(&self) -> io::Result<()>;

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// After an error, the content of these bytes is unknown.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}

/// A file of the operating system.
#[derive(Debug)]
pub(crate) struct FileDisk(File);

impl FileDisk {
    /// A disk backed by an open file.
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        let reserved = if len > now {
            reserve(&self.0, now, len - now)
        } else {
            Ok(())
        };
        let set = reserved.and_then(|()| self.0.set_len(len));
        set.map_err(|error| no_room(error, len))
    }

    fn set_sparse_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(|error| no_room(error, len))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let written = self.0.write_all_at(data, offset);
        written.map_err(|error| no_room(error, offset))
    }
}

/// No data file is longer: that is what a file of ext4 can have. Only a damaged page asks for more.
const LONGEST: u64 = 1 << 44;

/// The error of a file that was to grow up to here. One that may not, by the process's limit or the
/// file system's, is full.
fn no_room(error: io::Error, up_to: u64) -> io::Error {
    if error.kind() == io::ErrorKind::FileTooLarge && up_to <= LONGEST {
        io::Error::new(io::ErrorKind::StorageFull, error)
    } else {
        error
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reserves the space without changing the length. On a file system that cannot reserve space, a
/// lack of it shows at the write.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::KEEP_SIZE, offset, len) {
        Err(error) if error == rustix::io::Errno::OPNOTSUPP => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

/// A disk for redb that can be shut. After a failed commit the store reopens the file, and the
/// remains of the old opening must not write to it.
#[derive(Debug)]
pub(super) struct Backend {
    disk: Box<dyn Disk>,
    growth: Growth,
    shut: Arc<AtomicBool>,
}

/// The cause of a failed read. A page that cannot be read, time after time, is no failure of the
/// whole disk.
#[derive(Debug, thiserror::Error)]
#[error("{source} (at {offset})")]
pub(super) struct Unread {
    /// Where the read begins, in bytes.
    offset: u64,
    source: io::Error,
}

/// Whether the error is that of a read.
pub(super) fn is_unread(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(cause) if cause.is::<Unread>())
}

/// How a file grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// Space is reserved first.
    Reserved,
    /// Space is taken as it is written.
    Sparse,
}

impl Backend {
    pub(super) fn new(disk: Box<dyn Disk>, growth: Growth, shut: Arc<AtomicBool>) -> Self {
        Self { disk, growth, shut }
    }

    fn writable(&self) -> io::Result<()> {
        if self.shut.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "the file was reopened after a failed commit",
            ));
        }
        Ok(())
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out).map_err(|source| {
            let kind = source.kind();
            io::Error::new(kind, Unread { offset, source })
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        match self.growth {
            Growth::Reserved => self.disk.set_len(len),
            Growth::Sparse => self.disk.set_sparse_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()?;
        self.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.disk.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_not_grow_is_full_and_one_that_cannot_be_so_long_is_damaged() {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        assert_eq!(
            no_room(too_large(), 8 << 20).kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(
            no_room(too_large(), u64::MAX).kind(),
            io::ErrorKind::FileTooLarge
        );
        let other = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(
            no_room(other, 8 << 20).kind(),
            io::ErrorKind::PermissionDenied
        );
    }
}
