//! The state directory: the files that a set leaves on this machine.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ostrakon_base::regular;
use ostrakon_base::stored::{Format, Unreadable};
use ostrakon_toolchain::build::write_atomically;

use super::addresses::MAX_SHARDS;

/// The layout of a state directory: `version`, `source`, `shards`, and a directory for each shard.
/// Without a `version` file it has version 0, whose layout was the same.
const STATE: Format = Format {
    what: "the state directory",
    version: 1,
};
/// The file in the state directory with the number of shards.
const SHARDS: Format = Format {
    what: "the number of shards over which the data is distributed",
    version: STATE.version,
};
/// The name of the file with the version.
const VERSION: &str = "version";
/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// A state directory, locked for this process.
///
/// It holds a directory for each ordinal, which outlives the ordinal's processes and Pods:
/// `shard-0/data` and so on, beside it the mounted `config` and `secrets`, and the `log`.
#[derive(Debug)]
pub struct StateDirectory {
    root: PathBuf,
    /// The number of shards over which the data was distributed.
    spread: Option<u32>,
    /// Keeps the lock, which ends with the file.
    _lock: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirectoryError {
    #[error(
        "{} is in use by another `ostrakon dev`: stop that one, or give another --state", .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "{} holds the data of {}: give another --state, or remove the directory", path.display(), source_dir.display()
    )]
    Other {
        path: PathBuf,
        /// The source to which its data belongs.
        source_dir: PathBuf,
    },
    #[error(
        "{} holds files of something else: give a new or empty directory with --state", .0.display()
    )]
    NotOurs(PathBuf),
    #[error(
        "cannot use {}: {source}: run the version that wrote it, or a newer one, or give another --state; nothing was changed",
        path.display()
    )]
    Newer { path: PathBuf, source: Unreadable },
    #[error("cannot use {}: {source}; {help}", path.display())]
    Damaged {
        path: PathBuf,
        source: Unreadable,
        help: &'static str,
    },
    /// The directory cannot be created or written to.
    #[error("cannot use the state directory {}: check that it is writable", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl StateDirectory {
    /// Opens and locks a directory. Creates it, for its owner only, if it does not exist.
    ///
    /// # Errors
    /// When another process uses it, a later version wrote it, it is damaged, or it cannot be
    /// written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateDirectoryError> {
        let root = root.into();
        let failed = |source| StateDirectoryError::Io {
            path: root.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        if !is_ours(&root).map_err(failed)? {
            return Err(StateDirectoryError::NotOurs(root));
        }
        let lock = regular::edit_own(&root.join("lock"), true).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateDirectoryError::InUse(root)),
            Err(TryLockError::Error(source)) => {
                return Err(StateDirectoryError::Io { path: root, source });
            }
        }
        let is_noted = see_version(&root)?;
        let spread = spread(&root)?;
        if !is_noted {
            let path = root.join(VERSION);
            let written = write_atomically(&path, &STATE.to_line());
            written.map_err(|source| StateDirectoryError::Io { path, source })?;
        }
        Ok(Self {
            root,
            spread,
            _lock: lock,
        })
    }

    /// Records the source of the data, and fails if the data belongs to another source.
    ///
    /// # Errors
    /// When the source differs, or cannot be recorded.
    pub(crate) fn belongs_to(&self, source_dir: &Path) -> Result<(), StateDirectoryError> {
        let note = self.root.join("source");
        let bytes = source_dir.as_os_str().as_encoded_bytes();
        match read(&note)? {
            Some(noted) if noted == bytes => Ok(()),
            Some(noted) => Err(StateDirectoryError::Other {
                path: self.root.clone(),
                source_dir: String::from_utf8_lossy(&noted).into_owned().into(),
            }),
            None => write_atomically(&note, bytes).map_err(|source| StateDirectoryError::Io {
                path: note.clone(),
                source,
            }),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the socket for `ostrakon dev ctl`.
    pub(crate) fn socket(root: &Path) -> PathBuf {
        root.join("ctl")
    }

    /// The directory of one ordinal.
    pub fn shard(root: &Path, ordinal: u32) -> PathBuf {
        root.join(format!("shard-{ordinal}"))
    }

    /// The number of shards over which the data was distributed when the directory was opened;
    /// `None` if there was no data.
    pub(super) fn spread(&self) -> Option<u32> {
        self.spread
    }

    /// Records the number of shards over which the data is distributed.
    pub(super) fn set_spread(&self, shards: u32) -> io::Result<()> {
        write_atomically(&self.root.join("shards"), format!("{shards}\n").as_bytes())
    }
}

/// Whether a directory is empty or looks like a state directory: its user may have made the
/// settings and secrets before the first start.
fn is_ours(root: &Path) -> io::Result<bool> {
    let names = ["lock", VERSION, "shards", "shard-0", "settings", "secrets"];
    if names.iter().any(|name| root.join(name).exists()) {
        return Ok(true);
    }
    Ok(root.read_dir()?.next().is_none())
}

/// Checks that this program can use a directory. Returns whether it has a version file.
fn see_version(root: &Path) -> Result<bool, StateDirectoryError> {
    let path = root.join(VERSION);
    let Some(stored) = read(&path)? else {
        return Ok(false);
    };
    match STATE.from_line(&stored) {
        Ok(_version) => Ok(true),
        Err(source @ Unreadable::Newer { .. }) => Err(StateDirectoryError::Newer { path, source }),
        Err(source @ Unreadable::Broken { .. }) => Err(StateDirectoryError::Damaged {
            path,
            source,
            help: "write 1 into it if version 0.1 of ostrakon made the directory, or give another --state",
        }),
    }
}

/// The number of shards over which the data in a directory is distributed; `None` if there is no
/// data. An unknown number is an error, because otherwise the wrong shards would be started.
fn spread(root: &Path) -> Result<Option<u32>, StateDirectoryError> {
    let path = root.join("shards");
    let stored = read(&path)?;
    let broken = |reason: &str| StateDirectoryError::Damaged {
        path: path.clone(),
        source: SHARDS.broken(reason),
        help: "write the number into it: one more than the highest of the shard-N directories that hold data",
    };
    let Some(stored) = stored else {
        // The number is recorded before the first shard's directory is created.
        let has_data = StateDirectory::shard(root, 0).exists();
        return if has_data {
            Err(broken("it is missing"))
        } else {
            Ok(None)
        };
    };
    let number = str::from_utf8(&stored).ok();
    let number = number.and_then(|number| number.trim().parse().ok());
    match number {
        Some(shards @ 1..=MAX_SHARDS) => Ok(Some(shards)),
        _ => Err(broken("it is not a number of shards")),
    }
}

/// Reads a file of the state directory; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateDirectoryError> {
    match regular::read_own(path, MAX_BYTES) {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateDirectoryError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_for_one_controller_and_one_source_and_its_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("a/b");
        let state = StateDirectory::open(&root).unwrap();
        let mode = fs::metadata(&root).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(
            StateDirectory::open(&root),
            Err(StateDirectoryError::InUse(_))
        ));
        state.belongs_to(Path::new("/one")).unwrap();
        drop(state);

        let state = StateDirectory::open(&root).unwrap();
        state.belongs_to(Path::new("/one")).unwrap();
        let error = state.belongs_to(Path::new("/two")).unwrap_err();
        assert!(
            error.to_string().contains("holds the data of /one"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("Cargo.toml"), "").unwrap();
        let error = StateDirectory::open(scratch.path()).unwrap_err();
        assert!(
            error.to_string().contains("holds files of something else"),
            "{error}"
        );
        assert_eq!(scratch.path().read_dir().unwrap().count(), 1);
        fs::create_dir(scratch.path().join("settings")).unwrap();
        StateDirectory::open(scratch.path()).unwrap();
    }

    #[test]
    fn the_number_of_shards_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(scratch.path()).unwrap();
        assert_eq!(state.spread(), None);
        state.set_spread(5).unwrap();
        drop(state);
        assert_eq!(
            StateDirectory::open(scratch.path()).unwrap().spread(),
            Some(5)
        );
    }

    /// The files in a directory, by name.
    fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        let entries = entries.filter(|entry| entry.path().is_file());
        let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
        let files = entries.map(|entry| (name(&entry), fs::read(entry.path()).unwrap()));
        files.collect()
    }

    /// The state directories of each version, of five shards of `/some/guest`.
    fn fixture(version: u16) -> BTreeMap<String, Vec<u8>> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        files(&manifest.join(format!("src/fixtures/state.{version}")))
    }

    fn with(files: &BTreeMap<String, Vec<u8>>) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(scratch.path().join(name), content).unwrap();
        }
        scratch
    }

    #[test]
    fn each_state_directory_there_has_been_is_used() {
        for version in 0..=STATE.version {
            let scratch = with(&fixture(version));
            let state = StateDirectory::open(scratch.path()).unwrap();
            state.belongs_to(Path::new("/some/guest")).unwrap();
            assert_eq!(state.spread(), Some(5));
            state.set_spread(5).unwrap();
            // From then on it has the newest version.
            assert_eq!(files(scratch.path()), fixture(STATE.version));
        }
    }

    /// A change of the stored format needs a new version, with its own fixture.
    #[test]
    fn what_is_written_is_what_was_written_by_this_version_before() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(scratch.path()).unwrap();
        state.belongs_to(Path::new("/some/guest")).unwrap();
        state.set_spread(5).unwrap();
        assert_eq!(files(scratch.path()), fixture(STATE.version));
    }

    #[test]
    fn a_state_directory_of_a_later_version_is_refused_and_stays_as_it_is() {
        let mut later = fixture(1);
        later.insert("version".to_owned(), b"9\n".to_vec());
        later.insert("lock".to_owned(), b"a later one's".to_vec());
        later.insert("set.json".to_owned(), b"{}".to_vec());
        let scratch = with(&later);
        let error = StateDirectory::open(scratch.path()).unwrap_err();
        assert!(
            matches!(error, StateDirectoryError::Newer { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("is of version 9") && text.contains("reads up to 1"),
            "{text}"
        );
        assert_eq!(files(scratch.path()), later);
    }

    #[test]
    fn what_is_damaged_is_an_error_and_never_an_empty_set() {
        for damaged in ["", "one\n", "0\n"] {
            let mut state = fixture(1);
            state.insert("version".to_owned(), damaged.into());
            let scratch = with(&state);
            let error = StateDirectory::open(scratch.path()).unwrap_err();
            assert!(
                matches!(error, StateDirectoryError::Damaged { .. }),
                "{error}"
            );
        }
        for damaged in ["", "five", "0", "-1", "4294967296", "1000000"] {
            let mut state = fixture(1);
            state.insert("shards".to_owned(), damaged.into());
            let scratch = with(&state);
            let error = StateDirectory::open(scratch.path()).unwrap_err();
            assert!(
                matches!(error, StateDirectoryError::Damaged { .. }),
                "{damaged}: {error}"
            );
        }
        // The number is missing although there is data.
        let mut state = fixture(1);
        state.remove("shards");
        let scratch = with(&state);
        assert_eq!(StateDirectory::open(scratch.path()).unwrap().spread(), None);
        fs::create_dir(StateDirectory::shard(scratch.path(), 0)).unwrap();
        let error = StateDirectory::open(scratch.path()).unwrap_err();
        assert!(
            matches!(error, StateDirectoryError::Damaged { .. }),
            "{error}"
        );
        // The number cannot be read.
        let scratch = with(&fixture(1));
        let state = StateDirectory::open(scratch.path()).unwrap();
        fs::remove_file(scratch.path().join("source")).unwrap();
        fs::create_dir(scratch.path().join("source")).unwrap();
        let error = state.belongs_to(Path::new("/some/guest")).unwrap_err();
        assert!(matches!(error, StateDirectoryError::Io { .. }), "{error}");
    }
}
