//! Generations kept in the data directory: those that served last, and those that the plan
//! names. With them a start depends neither on a usable volume nor on a peer.
//!
//! A generation is a directory with its files as they were in the volume. The directory's name
//! is the files' digest, so damage can be detected; a damaged generation is kept again from the
//! volume or a peer. Another format needs directories other than `generations` and `owners`: an
//! older program removes unknown entries from these.

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};

use ostrakon_base::digest::Digest;
use ostrakon_base::{causes, full, recency};
use ostrakon_volumes::volume::{Files, ReadError};

/// A directory of kept generations: one subdirectory each, named by digest, with the files as
/// they were in the volume.
#[derive(Clone, Debug)]
pub struct Kept {
    directory: PathBuf,
    /// Where the content is that serves a part of the partitions, if it never served all.
    tried: Option<PathBuf>,
}

/// The directories' names in the data directory.
const GENERATIONS: &str = "generations";
const OWNERS: &str = "owners";
const TRIED: &str = "tried";

/// Why a kept generation cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    /// The files do not match the digest.
    #[error("{} is damaged: its files are not those that were kept", .0.display())]
    Damaged(PathBuf),
}

impl Kept {
    /// Opens the generations that served last, in a data directory.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let mut kept = Self::within(data_directory.join(GENERATIONS))?;
        kept.tried = Some(data_directory.join(TRIED));
        Ok(kept)
    }

    /// Opens the generations that the stored plan names. They stay until [`Kept::retain`]
    /// removes them.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn of_plan(data_directory: &Path) -> io::Result<Self> {
        Self::within(data_directory.join(OWNERS))
    }

    /// The generations in a data directory whose files are damaged. Changes nothing.
    pub fn damaged(data_directory: &Path) -> Vec<Digest> {
        let mut damaged = Vec::new();
        for name in [GENERATIONS, OWNERS, TRIED] {
            let kept = Self::at(data_directory.join(name));
            for entry in kept.entries() {
                let digest = entry.file_name().to_str().and_then(Digest::named);
                damaged.extend(digest.filter(|digest| kept.load(*digest).is_err()));
            }
        }
        damaged
    }

    fn within(directory: PathBuf) -> io::Result<Self> {
        full::make_directory(&directory)?;
        Ok(Self::at(directory))
    }

    fn at(directory: PathBuf) -> Self {
        let tried = None;
        Self { directory, tried }
    }

    /// The files of a kept generation.
    ///
    /// # Errors
    /// When they are missing or damaged.
    pub fn load(&self, digest: Digest) -> Result<Files, KeptError> {
        let path = self.path(digest);
        if let Err(error) = path.symlink_metadata()
            && error.kind() == io::ErrorKind::NotFound
        {
            return Err(KeptError::Missing(path));
        }
        match Files::read(&path) {
            Ok(files) if files.digest() == digest => Ok(files),
            Ok(_) => Err(KeptError::Damaged(path)),
            Err(source) => Err(KeptError::Unreadable { path, source }),
        }
    }

    /// The files of a generation that may also be found elsewhere; `None` if they are not here.
    /// Logs damage.
    pub fn find(&self, digest: Digest) -> Option<Files> {
        let tried = || self.of_trial()?.find(digest);
        self.find_here(digest).or_else(tried)
    }

    fn find_here(&self, digest: Digest) -> Option<Files> {
        match self.load(digest) {
            Ok(files) => Some(files),
            Err(KeptError::Missing(_)) => None,
            Err(error) => {
                let error = causes::with_causes(&error);
                tracing::warn!(%error, "a kept generation is not used");
                None
            }
        }
    }

    /// Whether a generation is kept, as far as can be told without reading its files.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_dir()
    }

    /// Removes a generation.
    pub fn forget(&self, digest: Digest) {
        // A leftover only takes space.
        let _ = remove(&self.path(digest));
    }

    /// Keeps a generation's files: they are on the disk when this returns.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn keep(&self, files: &Files) -> io::Result<()> {
        let path = self.path(files.digest());
        if self.find_here(files.digest()).is_none() {
            fs::create_dir_all(&self.directory)?;
            let unfinished = path.with_extension("new");
            remove(&path)?;
            remove(&unfinished)?;
            let written = write(&unfinished, files)
                .and_then(|()| fs::rename(&unfinished, &path))
                .and_then(|()| File::open(&self.directory)?.sync_all());
            if let Err(error) = written {
                // Removes what was half written, so that it does not fill a full disk.
                let _ = remove(&unfinished);
                return Err(error);
            }
        }
        recency::used_last(&path)
    }

    /// As [`Kept::keep`], for content that serves a part of the partitions: it takes the place of the one
    /// that did before, and not that of one that served all.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn keep_tried(&self, files: &Files) -> io::Result<()> {
        match self.of_trial() {
            Some(tried) if self.load(files.digest()).is_err() => {
                tried.keep(files)?;
                tried.retain(&[files.digest()]);
                Ok(())
            }
            _ => self.keep(files),
        }
    }

    fn of_trial(&self) -> Option<Self> {
        self.tried.clone().map(Self::at)
    }

    /// Removes all generations but these.
    pub fn retain(&self, digests: &[Digest]) {
        let retained: Vec<_> = digests.iter().map(|digest| self.path(*digest)).collect();
        for entry in self.entries() {
            if !retained.contains(&entry.path()) {
                // A leftover only takes space.
                let _ = remove(&entry.path());
            }
        }
    }

    /// Removes the generations used longest ago, except for so many.
    pub fn prune(&self, most: usize, besides: Option<Digest>) {
        let kept = recency::by_use(&self.directory).into_iter();
        let besides = besides.map(|digest| self.path(digest));
        let spare = kept.skip(most);
        for (_, path) in spare.filter(|(_, path)| Some(path) != besides.as_ref()) {
            // A leftover only takes space.
            let _ = remove(&path);
        }
    }

    fn entries(&self) -> impl Iterator<Item = DirEntry> {
        let entries = fs::read_dir(&self.directory);
        entries.into_iter().flatten().flatten()
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

/// Removes a generation, or anything else in its place.
fn remove(directory: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(directory),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use ostrakon_test_support::files::{fifo, in_time};

    use super::*;

    const KEPT: usize = 8;

    /// Keeps a generation, as a swap does.
    fn keep_last(kept: &Kept, files: &Files) {
        kept.keep(files).expect("the generation can be kept");
        kept.prune(KEPT, None);
    }

    #[test]
    fn content_that_is_tried_takes_no_place_of_what_served() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("it can be opened");
        let served = files("served");
        keep_last(&kept, &served);
        for number in 0..2 * KEPT {
            let tried = files(&number.to_string());
            kept.keep_tried(&tried).expect("it can be kept");
            let kept = Kept::open(directory.path()).expect("it can be opened");
            assert!(kept.find(tried.digest()).is_some(), "{number}");
        }
        let tried = directory.path().join(TRIED);
        assert_eq!(fs::read_dir(&tried).expect("it is there").count(), 1);
        // Once it serves all partitions it is kept as what served.
        let last = files(&(2 * KEPT - 1).to_string());
        kept.keep(&last).expect("it can be kept");
        assert!(kept.load(last.digest()).is_ok(), "it is there");
        kept.forget(last.digest());
        // What served needs no second copy, and is found all the same.
        kept.keep_tried(&served).expect("it can be kept");
        assert!(kept.find(served.digest()).is_some());
        assert_eq!(fs::read_dir(&tried).expect("it is there").count(), 1);
        assert_eq!(kept.entries().count(), 1);
        // Damage is found in all directories.
        let damaged = fs::read_dir(&tried).expect("it is there").next();
        let damaged = damaged.expect("one").expect("an entry").path();
        fs::write(damaged.join("a"), "other").expect("the file can be written");
        assert_eq!(Kept::damaged(directory.path()).len(), 1);
    }

    fn files(content: &str) -> Files {
        let content = Bytes::from(content.to_owned());
        Files::new(BTreeMap::from([
            ("a".to_owned(), content),
            ("b".to_owned(), Bytes::new()),
        ]))
    }

    #[test]
    fn what_was_kept_is_loaded_and_what_is_damaged_is_not() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("the kept generations can be opened");
        let files = files("one");
        let missing = kept.load(files.digest());
        assert!(matches!(missing, Err(KeptError::Missing(_))), "{missing:?}");
        kept.keep(&files).expect("the generation can be kept");
        let loaded = kept.load(files.digest()).expect("the generation is there");
        assert_eq!(loaded.contents(), files.contents());

        fs::write(kept.path(files.digest()).join("a"), "two").expect("the file can be written");
        let damaged = kept.load(files.digest());
        assert!(matches!(damaged, Err(KeptError::Damaged(_))), "{damaged:?}");
        assert!(kept.find(files.digest()).is_none());
        assert_eq!(Kept::damaged(directory.path()), [files.digest()]);
        kept.keep(&files).expect("the generation can be kept again");
        assert!(kept.load(files.digest()).is_ok());
        for name in ["a", "b"] {
            fs::remove_file(kept.path(files.digest()).join(name)).expect("the file is there");
        }
        let empty = kept.load(files.digest());
        assert!(
            matches!(empty, Err(KeptError::Unreadable { .. })),
            "{empty:?}"
        );
    }

    /// A data directory with one generation, written by the version that introduced this
    /// format.
    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/swap/fixtures/kept")
    }

    /// The generation of the fixture.
    fn one() -> Files {
        let content = |text: &'static [u8]| Bytes::from_static(text);
        Files::new(BTreeMap::from([
            ("guest.wasm".to_owned(), content(b"\0asm\r\0\x01\0")),
            ("label".to_owned(), content(b"one")),
            (
                "ostrakon.toml".to_owned(),
                content(b"lane.max_group = 64\n"),
            ),
        ]))
    }

    #[test]
    fn each_generation_there_has_been_is_read() {
        let directory = fixture().join("generations");
        let kept = Kept::at(directory);
        let files = kept.load(one().digest()).expect("the generation is whole");
        assert_eq!(files.contents(), one().contents());
    }

    /// The digest is part of the format: it names the directory, and the stored data refers to
    /// it.
    #[test]
    fn what_is_written_is_what_was_written_by_this_version_before() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("the kept generations can be opened");
        kept.keep(&one()).expect("the generation can be kept");
        assert_eq!(all(directory.path()), all(&fixture()));
    }

    /// All files below a directory.
    fn all(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(next) = directories.pop() {
            for entry in fs::read_dir(next).expect("the directory can be listed") {
                let path = entry.expect("the entry can be read").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path
                        .strip_prefix(directory)
                        .expect("the path is in the directory");
                    files.insert(
                        name.to_owned(),
                        fs::read(&path).expect("the file can be read"),
                    );
                }
            }
        }
        files
    }

    #[test]
    fn what_is_no_regular_file_is_replaced_and_never_waited_for() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("the kept generations can be opened");
        let files = files("one");
        let path = kept.path(files.digest());
        fifo(&path);
        fifo(&path.with_extension("new"));
        let keep = |files: &Files| {
            let (kept, files) = (kept.clone(), files.clone());
            in_time(move || {
                assert!(kept.load(files.digest()).is_err());
                kept.keep(&files).expect("the generation can be kept");
                kept.load(files.digest()).expect("the generation is there");
            });
        };
        keep(&files);
        fs::remove_file(path.join("a")).expect("the file is there");
        fifo(&path.join("a"));
        keep(&files);
    }

    #[test]
    fn only_the_last_used_are_kept() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("the kept generations can be opened");
        let all: Vec<_> = (0..2 * KEPT).map(|at| files(&at.to_string())).collect();
        for one in &all {
            keep_last(&kept, one);
            keep_last(&kept, &all[0]);
        }
        let there: Vec<_> = (0..all.len())
            .filter(|at| kept.load(all[*at].digest()).is_ok())
            .collect();
        let last = all.len() - KEPT + 1..all.len();
        assert_eq!(there, std::iter::once(0).chain(last).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_kept_after_the_clock_was_set_back_stays() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let kept = Kept::open(directory.path()).expect("the kept generations can be opened");
        let ahead = std::time::SystemTime::now() + std::time::Duration::from_hours(60 * 24);
        for at in 0..KEPT {
            let files = files(&at.to_string());
            keep_last(&kept, &files);
            let path = File::open(kept.path(files.digest())).expect("the generation is there");
            path.set_modified(ahead).expect("the time can be set");
        }
        let after = files("after");
        keep_last(&kept, &after);
        assert!(kept.load(after.digest()).is_ok());
        assert_eq!(kept.entries().count(), KEPT);
    }

    #[test]
    fn what_a_plan_names_stays_as_long_as_it_does() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let served = Kept::open(directory.path()).expect("the kept generations can be opened");
        let of_plan = Kept::of_plan(directory.path()).expect("the kept generations can be opened");
        let all: Vec<_> = (0..2 * KEPT).map(|at| files(&at.to_string())).collect();
        for one in &all {
            of_plan.keep(one).expect("the generation can be kept");
            keep_last(&served, one);
        }
        let there = || {
            let there = |at: &usize| of_plan.load(all[*at].digest()).is_ok();
            (0..all.len()).filter(there).collect::<Vec<_>>()
        };
        assert_eq!(there().len(), all.len());
        of_plan.retain(&[all[1].digest(), all[4].digest()]);
        assert_eq!(there(), [1, 4]);
    }
}
