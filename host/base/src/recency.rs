//! Tracks how recently a directory's entries were used, by their modification times.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The gap between two recorded uses: more than the clock resolution of any filesystem.
const APART: Duration = Duration::from_secs(2);

/// Records that an entry is the most recently used. Its time becomes now, or later than all other
/// entries if the clock was set back since.
///
/// # Errors
/// If the entry does not exist, or belongs to another user.
pub fn used_last(path: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    let others = path.parent().map(by_use).unwrap_or_default();
    let mut others = others.into_iter().filter(|(_, other)| other != path);
    let last = match others.next() {
        Some((last, _)) if last >= now => last.checked_add(APART).unwrap_or(last),
        _ => now,
    };
    File::open(path)?.set_modified(last)
}

/// A directory's entries with the times of their last use, most recent first.
pub fn by_use(directory: &Path) -> Vec<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut entries: Vec<_> = entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    entries.sort_unstable_by(|one, other| other.cmp(one));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_the_last_also_after_the_clock_was_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let order = || {
            let entries = by_use(directory.path()).into_iter();
            let names = entries.map(|(_, path)| path.file_name().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        for name in ["a", "b", "c"] {
            fs::write(path(name), name).unwrap();
            used_last(&path(name)).unwrap();
        }
        assert_eq!(order(), ["c", "b", "a"]);
        // Used while the clock was 60 days ahead.
        let ahead = SystemTime::now() + Duration::from_hours(60 * 24);
        File::open(path("a")).unwrap().set_modified(ahead).unwrap();
        assert_eq!(order(), ["a", "c", "b"]);
        for name in ["b", "c", "b"] {
            used_last(&path(name)).unwrap();
        }
        assert_eq!(order(), ["b", "c", "a"]);
    }
}
