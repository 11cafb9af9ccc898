//! Reads one consistent set of a volume's files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use ostrakon_base::digest::Digest;
use ostrakon_base::regular;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The limit on the total size of a volume's files. Kubernetes stores at most 1 MiB; a plain
/// directory may hold more.
pub const MAX_BYTES: usize = 4 << 20;

/// The limit on the number of a volume's files.
pub(crate) const MAX_FILES: usize = 1024;

/// How many times a set is read if it changes while it is read.
const TRIES: usize = 8;

/// A volume's files by name, as of one moment. Cheap to clone.
///
/// Contents that [`Files::read`] returned are wiped from memory when the last clone is dropped,
/// since they may be secrets. A weak secret can be guessed from the digest. So never log the
/// digest of a volume that may hold secrets; `Debug` shows names only.
#[derive(Clone)]
pub struct Files {
    contents: Arc<BTreeMap<String, Bytes>>,
    digest: Digest,
}

impl Files {
    /// A set of files that does not come from a volume.
    pub fn new(contents: BTreeMap<String, Bytes>) -> Self {
        let digest = Digest::of_files(&contents);
        Self {
            contents: Arc::new(contents),
            digest,
        }
    }

    /// Reads the plain files in the directory mounted at `directory`, without subdirectories and
    /// without names that begin with a dot. Blocks.
    ///
    /// If there is a `..data` link, as the kubelet makes it, the link is resolved once, all files
    /// are read behind it, and it must be unchanged afterwards. In a plain directory, names,
    /// sizes and modification times must be unchanged. Links in the directory may lead only to
    /// files of the directory.
    ///
    /// # Errors
    /// If there is nothing to read, if there is too much, if a link leads out of the directory, or if
    /// the files changed during every try.
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        Self::first_of_tries(|| Self::try_read(directory, || {}))
    }

    /// Also tries again after an error: the resolved directory may have been replaced in the
    /// meantime, and then looks missing, empty or otherwise wrong.
    fn first_of_tries(
        mut try_read: impl FnMut() -> Result<Option<Self>, ReadError>,
    ) -> Result<Self, ReadError> {
        let mut last = ReadError::Unsteady;
        for _ in 0..TRIES {
            match try_read() {
                Ok(Some(files)) => return Ok(files),
                Ok(None) => last = ReadError::Unsteady,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn contents(&self) -> &Arc<BTreeMap<String, Bytes>> {
        &self.contents
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads the files once; none if they changed in the meantime. `meanwhile` runs after the
    /// files are read and before they are compared, so that tests can change them there.
    fn try_read(directory: &Path, meanwhile: impl FnOnce()) -> Result<Option<Self>, ReadError> {
        let before = Listing::take(directory)?;
        let mut contents = BTreeMap::new();
        let mut room = MAX_BYTES;
        for (name, stamp) in &before.entries {
            let path = before.root.join(name);
            let opened = regular::open_beneath(before.opened.as_fd(), Path::new(name));
            let read = opened.and_then(|file| read_file(file, stamp.length, room));
            let Some(content) = read.map_err(|source| ReadError::of(path, source))? else {
                return Ok(None);
            };
            room -= content.len();
            contents.insert(name.clone(), content);
        }
        meanwhile();
        let unchanged = Listing::take(directory)?.is_as(&before);
        Ok(unchanged.then(|| Self::new(contents)))
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.contents.keys()).finish()
    }
}

/// Why a volume's files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory, or a file listed in it, does not exist or cannot be read.
    #[error("cannot read {}: {source}; check that the volume is mounted and readable", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A link leads to a file outside the volume.
    #[error("{} leads out of the volume; put a copy of the file there", .0.display())]
    Outside(PathBuf),
    #[error("{} holds no files; check that the mounted object has keys", .0.display())]
    Empty(PathBuf),
    #[error("{} holds more than {MAX_FILES} files; mount a directory of its own", .0.display())]
    TooMany(PathBuf),
    /// The total size of the files is too large.
    #[error("the files in {} have more than {} MiB together; compress the component to guest.wasm.zst with zstd, as `ostrakon pack` does", .0.display(), MAX_BYTES >> 20)]
    TooLarge(PathBuf),
    #[error("{} holds a file whose name is not UTF-8; rename it", .0.display())]
    Name(PathBuf),
    #[error("the files kept changing while they were read; they will be read again soon")]
    Unsteady,
}

impl ReadError {
    fn of(path: PathBuf, source: io::Error) -> Self {
        if regular::leads_out(&source) {
            Self::Outside(path)
        } else {
            Self::Unreadable { path, source }
        }
    }

    /// Whether only a further change to the volume can fix the error.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Outside(_)
                | Self::Empty(_)
                | Self::TooMany(_)
                | Self::TooLarge(_)
                | Self::Name(_)
        )
    }
}

/// Everything that stays the same as long as a volume's files do.
struct Listing {
    /// The directory of the files: behind `..data`, or the volume's directory itself.
    root: PathBuf,
    opened: OwnedFd,
    entries: BTreeMap<String, Stamp>,
}

#[derive(PartialEq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Listing {
    fn take(directory: &Path) -> Result<Self, ReadError> {
        let (root, opened) = open_root(directory)?;
        let unreadable = |errno: Errno| ReadError::of(root.clone(), errno.into());
        let mut entries = BTreeMap::new();
        let mut total = 0;
        for entry in Dir::read_from(&opened).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name.to_bytes()));
            let metadata = regular::find_beneath(opened.as_fd(), name)
                .and_then(|found| found.metadata())
                .map_err(|source| ReadError::of(root.join(name), source))?;
            if !metadata.is_file() {
                continue;
            }
            let Some(name) = name.to_str() else {
                return Err(ReadError::Name(root));
            };
            total += metadata.len();
            if total > MAX_BYTES as u64 {
                return Err(ReadError::TooLarge(root));
            }
            let stamp = Stamp {
                length: metadata.len(),
                modified: metadata.modified().ok(),
            };
            entries.insert(name.to_owned(), stamp);
            if entries.len() > MAX_FILES {
                return Err(ReadError::TooMany(root));
            }
        }
        if entries.is_empty() {
            return Err(ReadError::Empty(directory.to_owned()));
        }
        Ok(Self {
            root,
            opened,
            entries,
        })
    }

    fn is_as(&self, other: &Self) -> bool {
        self.root == other.root && self.entries == other.entries
    }
}

/// Opens the directory that contains a volume's files, and returns its path.
fn open_root(directory: &Path) -> Result<(PathBuf, OwnedFd), ReadError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The directory itself may be a link, which its owner mounted on purpose.
    let top = openat(CWD, directory, flags, Mode::empty())
        .map_err(|errno| ReadError::of(directory.to_owned(), errno.into()))?;
    let link = directory.join("..data");
    let target = match readlinkat(&top, "..data", Vec::new()) {
        Ok(target) => target,
        // No `..data`, or not a link: a plain directory.
        Err(Errno::NOENT | Errno::INVAL) => return Ok((directory.to_owned(), top)),
        Err(errno) => return Err(ReadError::of(link, errno.into())),
    };
    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
    // The kubelet's link leads to a directory beside it.
    let mut components = target.components();
    let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
        return Err(ReadError::Outside(link));
    };
    let root = directory.join(target);
    match openat(&top, target, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(opened) => Ok((root, opened)),
        Err(errno) => Err(ReadError::of(root, errno.into())),
    }
}

/// Reads a file of `length` bytes; none if it has another length, or is longer than `room`.
fn read_file(mut file: File, length: u64, room: usize) -> io::Result<Option<Bytes>> {
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|&length| length <= room)
    else {
        return Ok(None);
    };
    // One buffer that never grows: growing would leave a copy that is not wiped. Its last byte
    // detects whether the file ends.
    let mut buffer = Zeroizing::new(vec![0; length + 1]);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if filled != length {
        return Ok(None);
    }
    buffer.truncate(length);
    Ok(Some(Bytes::from_owner(buffer)))
}

#[cfg(test)]
mod tests;
