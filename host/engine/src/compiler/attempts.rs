//! What was being compiled when a process died: noted before, and removed after.
//!
//! The child that compiles can be killed alone. But what it takes can also take its parent with it,
//! as where the kernel ends a whole container for its memory, and then this is all that is left. A
//! disk that takes nothing is no reason not to compile: a shard that starts on it is to serve reads.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostrakon_base::digest::Digest;
use ostrakon_base::regular;
use ostrakon_base::unix_time::unix_time;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::CompileError;

/// How often a component may be tried at once that no process has survived: one may have been ended
/// for another reason, as by its node.
const MOST: u32 = 2;
/// The pause before it is tried once more; it doubles with each time.
const PAUSE: Duration = Duration::from_secs(15);
/// For how long an attempt is remembered, and so the longest pause.
const REMEMBERED: Duration = Duration::from_hours(1);
/// No note is longer.
const MAX_BYTES: usize = 4096;

/// The notes of a data directory. Clones are the same.
#[derive(Clone, Debug)]
pub struct Attempts {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    attempts: u32,
    unix_time: u64,
    /// With what it was tried: where that differs, it may go well.
    circumstances: String,
}

/// A component that is being tried. Dropped, its note is removed.
#[derive(Debug)]
pub(super) struct Attempt {
    path: PathBuf,
}

impl Attempts {
    /// The notes of a data directory. Old ones are removed.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let directory = data_directory.join("compiling");
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            if read(&path).is_none_or(|note| !note.counts(SystemTime::now())) {
                // What stays costs space only.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self { directory })
    }

    /// Notes that a component is tried: the note is on the disk when this returns, unless the disk
    /// takes nothing.
    ///
    /// # Errors
    /// When processes died of it before, or the note cannot be written for another reason.
    pub(super) fn begin(
        &self,
        digest: Digest,
        circumstances: String,
    ) -> Result<Attempt, CompileError> {
        let path = self.directory.join(digest.to_string());
        let now = SystemTime::now();
        let note =
            read(&path).filter(|note| note.counts(now) && note.circumstances == circumstances);
        let before = note.as_ref().map_or(0, |note| note.attempts);
        if note.is_some_and(|note| !note.may_be_tried(now)) {
            return Err(CompileError::Remembered { attempts: before });
        }
        let note = Note {
            attempts: before.saturating_add(1),
            unix_time: unix_time(now).as_secs(),
            circumstances,
        };
        match self.write(&path, &note) {
            Err(error) if takes_nothing(&error) => {
                tracing::warn!(%error, "it is not noted that a guest is compiled: if the shard dies of it, it is tried again without a pause");
            }
            written => written.map_err(CompileError::Note)?,
        }
        Ok(Attempt { path })
    }

    fn write(&self, path: &Path, note: &Note) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        // Whatever is in the way: a link, or a pipe that nobody reads.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_as(&unfinished, path, note);
        if written.is_err() {
            // A full disk is not to be filled with halves.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn write_as(&self, unfinished: &Path, path: &Path, note: &Note) -> io::Result<()> {
        let mut file = File::create_new(unfinished)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

impl Note {
    /// Whether the pause after so many attempts is over.
    fn may_be_tried(&self, now: SystemTime) -> bool {
        let Some(more) = self.attempts.checked_sub(MOST) else {
            return true;
        };
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(more).unwrap_or(u32::MAX));
        let age = unix_time(now).as_secs().saturating_sub(self.unix_time);
        age >= pause.as_secs()
    }

    /// Whether it says anything of now. A clock that was set back makes it old.
    fn counts(&self, now: SystemTime) -> bool {
        let age = unix_time(now).as_secs().checked_sub(self.unix_time);
        age.is_some_and(|age| age < REMEMBERED.as_secs())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Left over, it counts as an attempt that this process did not survive.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the disk is full, cannot be written to, or fails.
fn takes_nothing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO]
        .into_iter()
        .any(|of_disk| errno == Some(of_disk))
}

/// A note; none where there is none that can be read.
fn read(path: &Path) -> Option<Note> {
    let text = regular::read_own(path, MAX_BYTES).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use ostrakon_test_support::files::{fifo, in_time};

    use super::*;

    fn at(directory: &Path) -> Attempts {
        Attempts::open(directory).expect("it opens")
    }

    fn tried(attempts: &Attempts, digest: Digest, with: &str) -> Result<Attempt, CompileError> {
        attempts.begin(digest, with.to_owned())
    }

    #[test]
    fn what_two_processes_did_not_survive_is_not_tried_again_as_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let (good, bad) = (Digest::of(b"good"), Digest::of(b"bad"));
        for _ in 0..2 * MOST {
            drop(tried(&at(directory.path()), good, "1 GiB").expect("it is tried"));
        }
        for _ in 0..MOST {
            let attempt = tried(&at(directory.path()), bad, "1 GiB");
            // As in a process that died.
            std::mem::forget(attempt.expect("it is tried"));
        }
        let refused = tried(&at(directory.path()), bad, "1 GiB");
        assert!(matches!(
            refused,
            Err(CompileError::Remembered { attempts: MOST })
        ));
        tried(&at(directory.path()), good, "1 GiB").expect("another is tried");
        drop(tried(&at(directory.path()), bad, "2 GiB").expect("more may be enough"));
        tried(&at(directory.path()), bad, "1 GiB").expect("it went well");
    }

    #[test]
    fn the_pause_doubles_with_each_attempt_up_to_the_hour() {
        let began = SystemTime::now();
        for (attempts, pause) in [(0, 0), (1, 0), (2, 15), (3, 30), (4, 60), (9, 1920)] {
            let note = Note {
                attempts,
                unix_time: unix_time(began).as_secs(),
                circumstances: String::new(),
            };
            let after = |seconds| note.may_be_tried(began + Duration::from_secs(seconds));
            assert!(after(pause), "{attempts}");
            assert!(pause == 0 || !after(pause - 1), "{attempts}");
        }
        // After the hour the note does not count, however often it was.
        let note = Note {
            attempts: u32::MAX,
            unix_time: unix_time(began).as_secs(),
            circumstances: String::new(),
        };
        assert!(!note.may_be_tried(began + REMEMBERED));
        assert!(!note.counts(began + REMEMBERED));
    }

    #[test]
    fn a_note_is_forgotten_after_an_hour_and_where_the_clock_went_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let attempts = at(directory.path());
        let digest = Digest::of(b"guest");
        let path = directory.path().join("compiling").join(digest.to_string());
        let now = unix_time(SystemTime::now()).as_secs();
        for (unix_time, remembered) in [
            (now - 10, true),
            (now - REMEMBERED.as_secs() - 1, false),
            (now + 60 * 24 * 3600, false),
        ] {
            let note = Note {
                attempts: MOST,
                unix_time,
                circumstances: "1 GiB".to_owned(),
            };
            attempts.write(&path, &note).expect("it is written");
            let refused = tried(&attempts, digest, "1 GiB").is_err();
            assert_eq!(refused, remembered, "{unix_time} at {now}");
            attempts.write(&path, &note).expect("it is written");
            at(directory.path());
            assert_eq!(path.exists(), remembered);
        }
    }

    #[test]
    fn what_is_no_note_counts_for_nothing_and_hangs_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let attempts = at(directory.path());
        for wrong in ["fifo", "link", "text", "directory"] {
            let digest = Digest::of(wrong.as_bytes());
            for name in [digest.to_string(), format!("{digest}.new")] {
                let path = attempts.directory.join(name);
                match wrong {
                    "fifo" => fifo(&path),
                    "link" => std::os::unix::fs::symlink("/etc/passwd", &path).expect("a link"),
                    "directory" => fs::create_dir(&path).expect("a directory"),
                    _ => fs::write(&path, "{").expect("a file"),
                }
            }
            // A directory is in the way: an error, and no more.
            let again = attempts.clone();
            let attempt = in_time(move || tried(&again, digest, "1 GiB"));
            assert_eq!(
                attempt.is_ok(),
                wrong != "directory",
                "{wrong}: {attempt:?}"
            );
        }
        at(directory.path());
    }
}
