//! The source files, in which a save triggers a swap.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostrakon_base::regular;
use ostrakon_volumes::volume::MAX_BYTES;

use super::Files;

/// The metadata of each file, available without reading it.
type Look = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Watches directories by polling: there are few files, and polling detects every editor's way to
/// save.
#[derive(Debug)]
pub(super) struct Sources {
    directories: Vec<PathBuf>,
    seen: Look,
}

impl Sources {
    /// The files as they are now.
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        let seen = look(&directories);
        Self { directories, seen }
    }

    /// Waits until files were saved and no longer change: two looks agree with each other, and
    /// differ from the state before. Can be dropped and called again.
    pub(super) async fn saved(&mut self, every: Duration) {
        let mut last = look(&self.directories);
        loop {
            tokio::time::sleep(every).await;
            let now = look(&self.directories);
            if now == last && now != self.seen {
                self.seen = now;
                return;
            }
            last = now;
        }
    }
}

fn look(directories: &[PathBuf]) -> Look {
    let mut seen = Look::new();
    let mut left = directories.to_vec();
    while let Some(directory) = left.pop() {
        // A file that vanishes between two calls will be missing at the next look, too.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if is_passing(&path) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => left.push(path),
                Ok(metadata) => {
                    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    seen.insert(path, (modified, metadata.len()));
                }
                Err(_) => {}
            }
        }
    }
    seen
}

/// Whether a path is build output, or a file that editors write beside the saved one.
fn is_passing(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_else(|| OsStr::new(""));
    let name = name.to_string_lossy();
    name == "target" || name.starts_with('.') || name.ends_with('~')
}

/// The files of a source directory, as the content of a ConfigMap or Secret.
pub(super) fn files(directory: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && !is_passing(&path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(name.into_owned(), regular::read(&path, MAX_BYTES)?.into());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_save_in_any_directory_is_seen_once() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("src/deep");
        fs::create_dir_all(&deep).unwrap();
        let mut sources = Sources::new(vec![scratch.path().to_owned()]);
        fs::write(deep.join("lib.rs"), "new").unwrap();
        tokio::time::timeout(PATIENCE, sources.saved(EVERY))
            .await
            .expect("the save is seen");
        assert_eq!(sources.seen, look(&sources.directories));
        assert!(sources.seen.contains_key(&deep.join("lib.rs")));
    }

    #[test]
    fn build_output_and_editors_files_are_no_sources() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("target")).unwrap();
        for name in ["a", ".a.swp", "a~", "target/x"] {
            fs::write(scratch.path().join(name), "").unwrap();
        }
        let seen = look(&[scratch.path().to_owned()]);
        assert_eq!(
            seen.into_keys().collect::<Vec<_>>(),
            [scratch.path().join("a")]
        );
        let names: Vec<_> = files(scratch.path()).unwrap().into_keys().collect();
        assert_eq!(names, ["a"]);
    }
}
