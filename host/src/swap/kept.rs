//! The generations that served last, in the data directory: so that a start
//! does not depend on a usable volume.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::digest::Digest;
use crate::volume::Files;

/// How many generations are kept.
const KEPT: usize = 8;

/// The directory of kept generations: in it, one directory for each by its
/// digest, with the files as they were in the volume.
#[derive(Clone, Debug)]
pub struct Kept {
    directory: PathBuf,
}

impl Kept {
    /// The kept generations of a data directory.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let directory = data_directory.join("generations");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// The files of a generation; none if they are missing or damaged.
    pub fn load(&self, digest: Digest) -> Option<Files> {
        let path = self.path(digest);
        let files = Files::read(&path).ok()?;
        if files.digest() != digest {
            tracing::warn!(path = %path.display(), "a kept generation is damaged, and not used");
            return None;
        }
        Some(files)
    }

    /// Keeps a generation's files: they are on the disk when this returns.
    /// Those used longest ago are removed.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn keep(&self, files: &Files) -> io::Result<()> {
        let path = self.path(files.digest());
        if self.load(files.digest()).is_none() {
            let unfinished = path.with_extension("new");
            remove(&path)?;
            remove(&unfinished)?;
            let written = write(&unfinished, files)
                .and_then(|()| fs::rename(&unfinished, &path))
                .and_then(|()| File::open(&self.directory)?.sync_all());
            if let Err(error) = written {
                // A full disk is not to be filled with halves.
                let _ = remove(&unfinished);
                return Err(error);
            }
        }
        File::open(&path)?.set_modified(SystemTime::now())?;
        self.prune();
        Ok(())
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut kept: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        kept.sort_unstable_by(|one, other| other.cmp(one));
        for (_, path) in kept.into_iter().skip(KEPT) {
            // What stays costs space only.
            let _ = remove(&path);
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(digest.to_string())
    }
}

fn write(directory: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir(directory)?;
    for (name, content) in files.contents().iter() {
        let path = directory.join(name);
        fs::write(&path, content)?;
        File::open(&path)?.sync_all()?;
    }
    File::open(directory)?.sync_all()
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    fn files(content: &str) -> Files {
        let content = Bytes::from(content.to_owned());
        Files::new(BTreeMap::from([
            ("a".to_owned(), content),
            ("b".to_owned(), Bytes::new()),
        ]))
    }

    #[test]
    fn what_was_kept_is_loaded_and_what_is_damaged_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let kept = Kept::open(directory.path()).expect("it opens");
        let files = files("one");
        assert!(kept.load(files.digest()).is_none());
        kept.keep(&files).expect("it is kept");
        let loaded = kept.load(files.digest()).expect("it is there");
        assert_eq!(loaded.contents(), files.contents());

        fs::write(kept.path(files.digest()).join("a"), "two").expect("it is written");
        assert!(kept.load(files.digest()).is_none());
        kept.keep(&files).expect("it is kept again");
        assert!(kept.load(files.digest()).is_some());
    }

    #[test]
    fn only_the_last_used_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let kept = Kept::open(directory.path()).expect("it opens");
        let all: Vec<_> = (0..2 * KEPT).map(|at| files(&at.to_string())).collect();
        for one in &all {
            kept.keep(one).expect("it is kept");
            kept.keep(&all[0]).expect("it is used");
        }
        let there: Vec<_> = (0..all.len())
            .filter(|at| kept.load(all[*at].digest()).is_some())
            .collect();
        let last = all.len() - KEPT + 1..all.len();
        assert_eq!(there, std::iter::once(0).chain(last).collect::<Vec<_>>());
    }
}
