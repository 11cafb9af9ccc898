//! The state directory: what a set leaves on this machine.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ostrakon_toolchain::build::write_atomically;

/// A state directory that this process alone uses.
///
/// It holds a directory for each ordinal, which outlives its processes and Pods: `shard-0/data` and
/// so on, with the mounted `config` and `secrets` and the `log` beside it.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    /// Held, not used: the lock goes with it.
    _lock: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Another controller uses it.
    #[error(
        "{} is in use by another `ostrakon dev`: stop that one, or give another --state", .0.display()
    )]
    InUse(PathBuf),
    /// It is for another source.
    #[error(
        "{} holds the data of {}: give another --state, or remove the directory", path.display(), source_dir.display()
    )]
    Other {
        /// The state directory.
        path: PathBuf,
        /// What its data belongs to.
        source_dir: PathBuf,
    },
    /// It cannot be made or written to.
    #[error("cannot use the state directory {}: see that it is writable", path.display())]
    Io {
        /// What was used.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Place {
    /// Takes a directory, which is made, for its owner only, where there is none.
    ///
    /// # Errors
    /// When another process has it, or it cannot be written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, PlaceError> {
        let root = root.into();
        let failed = |source| PlaceError::Io {
            path: root.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let lock = File::create(root.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(PlaceError::InUse(root)),
            Err(TryLockError::Error(source)) => Err(PlaceError::Io { path: root, source }),
        }
    }

    /// Notes what the data is of, and refuses where it is of something else.
    ///
    /// # Errors
    /// When it is, or it cannot be noted.
    pub fn belongs_to(&self, source_dir: &Path) -> Result<(), PlaceError> {
        let note = self.root.join("source");
        let bytes = source_dir.as_os_str().as_encoded_bytes();
        match fs::read(&note) {
            Ok(noted) if noted == bytes => Ok(()),
            Ok(noted) => Err(PlaceError::Other {
                path: self.root.clone(),
                source_dir: String::from_utf8_lossy(&noted).into_owned().into(),
            }),
            Err(_) => write_atomically(&note, bytes).map_err(|source| PlaceError::Io {
                path: note.clone(),
                source,
            }),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The socket of `ostrakon dev ctl`.
    pub fn socket(root: &Path) -> PathBuf {
        root.join("ctl")
    }

    /// What is kept for one ordinal.
    pub fn shard(root: &Path, ordinal: u32) -> PathBuf {
        root.join(format!("shard-{ordinal}"))
    }

    /// Over how many shards the data is spread; none where there is no data.
    pub(super) fn spread(&self) -> Option<u32> {
        let text = fs::read_to_string(self.root.join("shards")).ok()?;
        text.trim().parse().ok()
    }

    /// Notes over how many shards the data is spread.
    pub(super) fn set_spread(&self, shards: u32) -> io::Result<()> {
        write_atomically(&self.root.join("shards"), format!("{shards}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_for_one_controller_and_one_source_and_its_owner_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("a/b");
        let place = Place::open(&root).unwrap();
        let mode = fs::metadata(&root).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(Place::open(&root), Err(PlaceError::InUse(_))));
        place.belongs_to(Path::new("/one")).unwrap();
        drop(place);

        let place = Place::open(&root).unwrap();
        place.belongs_to(Path::new("/one")).unwrap();
        let error = place.belongs_to(Path::new("/two")).unwrap_err();
        assert!(
            error.to_string().contains("holds the data of /one"),
            "{error}"
        );
    }

    #[test]
    fn the_number_of_shards_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::open(scratch.path()).unwrap();
        assert_eq!(place.spread(), None);
        place.set_spread(5).unwrap();
        assert_eq!(place.spread(), Some(5));
    }
}
