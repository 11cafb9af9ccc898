//! One consistent set of a volume's files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::digest::Digest;

/// How many bytes the files of a volume may have together. Kubernetes stores at
/// most 1 MiB; a plain directory may hold more.
pub const MAX_BYTES: usize = 4 << 20;

/// How many files a volume may have.
pub const MAX_FILES: usize = 1024;

/// How often a set is read again because it changed meanwhile.
const TRIES: usize = 8;

/// A volume's files, by name, as they were at one moment. Cheap to clone.
///
/// Contents that [`Files::read`] gave are wiped from memory when the last clone
/// is dropped, since they may be secrets. For the same reason the digest, from
/// which a weak secret can be guessed, is not to be logged of a volume that may
/// hold any, and `Debug` shows names only.
#[derive(Clone)]
pub struct Files {
    contents: Arc<BTreeMap<String, Bytes>>,
    digest: Digest,
}

impl Files {
    /// A set of files from elsewhere than a volume.
    pub fn new(contents: BTreeMap<String, Bytes>) -> Self {
        let digest = Digest::of_files(&contents);
        Self {
            contents: Arc::new(contents),
            digest,
        }
    }

    /// Reads what is mounted at `directory`: the plain files in it, without
    /// subdirectories and without those whose names begin with a dot. Blocks.
    ///
    /// Where there is a `..data` link, as the kubelet makes it, it is resolved
    /// once, all files are read behind it, and then it must still be the same.
    /// In a plain directory, names, sizes and times of change must be.
    ///
    /// # Errors
    /// Where there is nothing to read, too much, or no two moments alike.
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        Self::first_of_tries(|| Self::try_read(directory, || {}))
    }

    /// Tries again on an error, too: what was resolved may since have been
    /// replaced, and look like missing, empty or anything else.
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

    /// The contents, by name.
    pub fn contents(&self) -> &Arc<BTreeMap<String, Bytes>> {
        &self.contents
    }

    /// The digest of all names and contents.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// None: the files changed while they were read. `meanwhile` runs after they
    /// are read and before they are compared: the seam at which tests change
    /// them.
    fn try_read(directory: &Path, meanwhile: impl FnOnce()) -> Result<Option<Self>, ReadError> {
        let before = Listing::take(directory)?;
        let mut contents = BTreeMap::new();
        let mut room = MAX_BYTES;
        for (name, stamp) in &before.entries {
            let path = before.root.join(name);
            let Some(content) = read_file(&path, stamp.length, room)
                .map_err(|source| ReadError::Unreadable { path, source })?
            else {
                return Ok(None);
            };
            room -= content.len();
            contents.insert(name.clone(), content);
        }
        meanwhile();
        let unchanged = Listing::take(directory)? == before;
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
    /// The directory, or what is listed in it, is not there or cannot be read.
    #[error("cannot read {}: {source}; see that the volume is mounted and readable", path.display())]
    Unreadable {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is no file.
    #[error("{} holds no files; see that the mounted object has keys", .0.display())]
    Empty(PathBuf),
    /// There are too many files.
    #[error("{} holds more than {MAX_FILES} files; mount a directory of its own", .0.display())]
    TooMany(PathBuf),
    /// The files are too large together.
    #[error("the files in {} have more than {MAX_BYTES} bytes; make them smaller", .0.display())]
    TooLarge(PathBuf),
    /// A file's name is not UTF-8.
    #[error("{} holds a file whose name is not UTF-8; rename it", .0.display())]
    Name(PathBuf),
    /// Each time, the files changed while they were read.
    #[error("the files changed each time while they were read; they are read again soon")]
    Unsteady,
}

impl ReadError {
    /// Whether only a further change can mend it.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Empty(_) | Self::TooMany(_) | Self::TooLarge(_) | Self::Name(_)
        )
    }
}

/// What stays the same as long as a volume's files do.
#[derive(PartialEq)]
struct Listing {
    /// Where the files are: behind `..data`, or the directory itself.
    root: PathBuf,
    entries: BTreeMap<String, Stamp>,
}

#[derive(PartialEq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Listing {
    fn take(directory: &Path) -> Result<Self, ReadError> {
        let unreadable = |path: &Path, source| ReadError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let link = directory.join("..data");
        let root = match fs::read_link(&link) {
            Ok(target) => directory.join(target),
            // Not there, or something else than a link: a plain directory.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                directory.to_owned()
            }
            Err(error) => return Err(unreadable(&link, error)),
        };
        let mut entries = BTreeMap::new();
        let mut total = 0;
        for entry in fs::read_dir(&root).map_err(|error| unreadable(&root, error))? {
            let entry = entry.map_err(|error| unreadable(&root, error))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
            if !metadata.is_file() {
                continue;
            }
            let Ok(name) = entry.file_name().into_string() else {
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
            entries.insert(name, stamp);
            if entries.len() > MAX_FILES {
                return Err(ReadError::TooMany(root));
            }
        }
        if entries.is_empty() {
            return Err(ReadError::Empty(directory.to_owned()));
        }
        Ok(Self { root, entries })
    }
}

/// The content of a file that is `length` bytes long; none where it is not, or
/// is longer than `room`.
fn read_file(path: &Path, length: u64, room: usize) -> io::Result<Option<Bytes>> {
    let Some(length) = usize::try_from(length)
        .ok()
        .filter(|&length| length <= room)
    else {
        return Ok(None);
    };
    // One buffer that never grows: growing would leave a copy that nobody wipes.
    // Its last byte is there to see that the file ends.
    let mut buffer = Zeroizing::new(vec![0; length + 1]);
    let mut file = File::open(path)?;
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
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn is_missing(error: &ReadError) -> bool {
        matches!(error, ReadError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn names(files: &Files) -> Vec<&str> {
        files.contents().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_plain_directory_is_its_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        fs::write(dir.path().join(".hidden"), "2").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/b"), "3").unwrap();
        symlink("a", dir.path().join("linked")).unwrap();

        let files = Files::read(dir.path()).unwrap();
        assert_eq!(names(&files), ["a", "linked"]);
        assert_eq!(files.contents()["linked"], "1");
        assert_eq!(files.digest(), Digest::of_files(files.contents()));
    }

    #[test]
    fn files_are_those_behind_the_data_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..1")).unwrap();
        fs::write(dir.path().join("..1/new"), "1").unwrap();
        symlink("..1", dir.path().join("..data")).unwrap();
        // What the kubelet links last: not yet there, or not yet removed.
        symlink("..data/old", dir.path().join("old")).unwrap();

        assert_eq!(names(&Files::read(dir.path()).unwrap()), ["new"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(matches!(Files::read(path), Err(ReadError::Empty(_))));
        assert!(is_missing(&Files::read(&path.join("nowhere")).unwrap_err()));

        symlink("..gone", path.join("..data")).unwrap();
        assert!(is_missing(&Files::read(path).unwrap_err()));
        fs::remove_file(path.join("..data")).unwrap();

        symlink("gone", path.join("dangling")).unwrap();
        assert!(is_missing(&Files::read(path).unwrap_err()));
        fs::remove_file(path.join("dangling")).unwrap();

        fs::write(path.join("a"), vec![0; MAX_BYTES]).unwrap();
        assert_eq!(Files::read(path).unwrap().contents()["a"].len(), MAX_BYTES);
        fs::write(path.join("b"), "1").unwrap();
        assert!(matches!(Files::read(path), Err(ReadError::TooLarge(_))));
        fs::remove_file(path.join("a")).unwrap();

        for number in 1..=MAX_FILES {
            fs::write(path.join(number.to_string()), "").unwrap();
        }
        assert!(matches!(Files::read(path), Err(ReadError::TooMany(_))));
    }

    /// The kubelet removes the old directory file by file. A look that resolved
    /// `..data` just before the rename could find it there, but empty, and told
    /// of an empty volume in the middle of an update.
    #[test]
    fn an_old_directory_found_empty_during_an_update_is_read_again() {
        let files = Files::new([("a".into(), "1".into())].into());
        let mut tries = [
            Err(ReadError::Empty("volume".into())),
            Ok(None),
            Ok(Some(files)),
        ]
        .into_iter();
        let read = Files::first_of_tries(|| tries.next().unwrap()).unwrap();
        assert_eq!(names(&read), ["a"]);

        let mut tries = 0;
        let never = Files::first_of_tries(|| {
            tries += 1;
            Ok(None)
        });
        assert!(matches!(never, Err(ReadError::Unsteady)));
        assert_eq!(tries, TRIES);
    }

    #[test]
    fn files_that_change_while_they_are_read_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("a"), "1").unwrap();
        assert!(Files::try_read(path, || {}).unwrap().is_some());
        let grow = || fs::write(path.join("a"), "22").unwrap();
        assert!(Files::try_read(path, grow).unwrap().is_none());
        let add = || fs::write(path.join("b"), "1").unwrap();
        assert!(Files::try_read(path, add).unwrap().is_none());

        for name in ["..1", "..2"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join("a"), "1").unwrap();
            // Alike in all but where they are.
            let file = fs::File::options()
                .write(true)
                .open(path.join(name).join("a"));
            file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        symlink("..1", path.join("..data")).unwrap();
        let switch = || {
            symlink("..2", path.join("..data_tmp")).unwrap();
            fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        };
        assert!(Files::try_read(path, switch).unwrap().is_none());
    }

    #[test]
    fn a_file_of_another_length_than_listed_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "123").unwrap();
        assert_eq!(read_file(&path, 3, 3).unwrap().unwrap(), "123");
        assert!(read_file(&path, 2, 3).unwrap().is_none(), "it grew");
        assert!(read_file(&path, 4, 9).unwrap().is_none(), "it shrank");
        assert!(
            read_file(&path, 3, 2).unwrap().is_none(),
            "there is no room"
        );
    }

    #[test]
    fn contents_are_not_shown() {
        let files = Files::new([("token".into(), "canary".into())].into());
        assert_eq!(format!("{files:?}"), r#"{"token"}"#);
    }
}
