//! Notes of running compiles, written before and removed after, so that a crash leaves one.
//!
//! The child that compiles can be killed alone. But its use of memory can also take its parent
//! down, for example when the kernel ends a whole container; then only the note is left. A disk
//! that accepts no writes does not prevent compiling, since a shard that starts on it must still
//! serve reads.
//!
//! A note that cannot be read still shows that a process died, so it counts as one attempt. A
//! note of a later version is moved aside before another takes its place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostrakon_base::digest::Digest;
use ostrakon_base::full::{self, takes_nothing};
use ostrakon_base::regular;
use ostrakon_base::stored::{Format, Unreadable, set_aside};
use ostrakon_base::unix_time::unix_time;
use serde::{Deserialize, Serialize};

use super::CompileError;

/// How many attempts without a surviving process are made without a pause: one may have ended for
/// another reason, such as its node.
const MOST: u32 = 2;
/// The pause before the next attempt; it doubles each time.
const PAUSE: Duration = Duration::from_secs(15);
/// How long an attempt is remembered, and so the longest pause.
const REMEMBERED: Duration = Duration::from_hours(1);
/// The most bytes of a note.
const MAX_BYTES: usize = 4096;

/// The notes of a data directory. Clones share them.
#[derive(Clone, Debug)]
pub struct Attempts {
    directory: PathBuf,
}

const FORMAT: Format = Format {
    what: "the note of a compile",
    version: 1,
};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    attempts: u32,
    unix_time: u64,
    /// The circumstances of the attempt: if they change, an attempt may succeed.
    circumstances: String,
}

/// An attempt to compile a component. Dropping it removes its note.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The path of its note; none if a note of a later version is in the way.
    path: Option<PathBuf>,
}

impl Attempts {
    /// Opens the notes of a data directory, and removes old ones.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let directory = data_directory.join("compiling");
        full::make_directory(&directory)?;
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_unfinished = path.extension().is_some_and(|name| name == "new");
            let is_over = match read(&path) {
                _ if is_unfinished => true,
                Ok(note) => note.is_none_or(|note| !note.counts(SystemTime::now())),
                // A program of that version may remove it.
                Err(Unreadable::Newer { .. }) => false,
                Err(_) => !is_recent(&path),
            };
            if is_over {
                // A file that cannot be removed only costs space.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self { directory })
    }

    /// Notes the start of an attempt. The note is on the disk when this returns, unless the disk
    /// accepts no writes.
    ///
    /// # Errors
    /// If processes died of this component before, or the note cannot be written for another
    /// reason.
    pub(super) fn begin(
        &self,
        digest: Digest,
        circumstances: String,
    ) -> Result<Attempt, CompileError> {
        let path = self.directory.join(digest.to_string());
        let now = SystemTime::now();
        let read = read(&path);
        if let Err(error) = &read {
            tracing::warn!(
                path = %path.display(), %error,
                "the note of this guest's compile cannot be used: it counts as one attempt that a process did not survive"
            );
        }
        let newer = read.as_ref().err().and_then(Unreadable::newer);
        let before = match read {
            Err(_) => 1,
            Ok(note) => {
                let note =
                    note.filter(|note| note.counts(now) && note.circumstances == circumstances);
                let before = note.as_ref().map_or(0, |note| note.attempts);
                if note.is_some_and(|note| !note.may_be_tried(now)) {
                    return Err(CompileError::Remembered { attempts: before });
                }
                before
            }
        };
        let note = Note {
            attempts: before.saturating_add(1),
            unix_time: unix_time(now).as_secs(),
            circumstances,
        };
        let moved = newer.map_or(Ok(()), |version| set_aside(&path, version).map(drop));
        let is_mine = moved.is_ok();
        match moved.and_then(|()| self.write(&path, &note)) {
            Err(error) if takes_nothing(&error) => {
                tracing::warn!(%error, "cannot note that a guest is being compiled: if the shard dies of it, the compile is retried without a pause");
            }
            written => written.map_err(CompileError::Note)?,
        }
        Ok(Attempt {
            path: is_mine.then_some(path),
        })
    }

    fn write(&self, path: &Path, note: &Note) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let unfinished = path.with_extension("new");
        // Removes anything that is in the way: a link, or a pipe without a reader.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_as(&unfinished, path, note);
        if written.is_err() {
            // A full disk must not be filled with incomplete files.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn write_as(&self, unfinished: &Path, path: &Path, note: &Note) -> io::Result<()> {
        let mut file = File::create_new(unfinished)?;
        file.write_all(&FORMAT.to_json(note))?;
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

impl Note {
    /// Whether the pause after the attempts so far is over.
    fn may_be_tried(&self, now: SystemTime) -> bool {
        let Some(more) = self.attempts.checked_sub(MOST) else {
            return true;
        };
        let pause = PAUSE.saturating_mul(1_u32.checked_shl(more).unwrap_or(u32::MAX));
        let age = unix_time(now).as_secs().saturating_sub(self.unix_time);
        age >= pause.as_secs()
    }

    /// Whether the note is recent. If the clock was set back since, it is not.
    fn counts(&self, now: SystemTime) -> bool {
        let age = unix_time(now).as_secs().checked_sub(self.unix_time);
        age.is_some_and(|age| age < REMEMBERED.as_secs())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // If the note remains, it counts as an attempt that this process did not survive.
            let _ = fs::remove_file(path);
        }
    }
}

/// Reads a note; none if there is no file.
fn read(path: &Path) -> Result<Option<Note>, Unreadable> {
    match regular::read_own(path, MAX_BYTES) {
        Ok(stored) => decode(&stored).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FORMAT.broken(&error)),
    }
}

fn decode(stored: &[u8]) -> Result<Note, Unreadable> {
    // The fields are the same in version 0.
    let (_version, fields) = FORMAT.split_json(stored)?;
    FORMAT.from_fields(fields)
}

/// Whether a note that cannot be read was written recently enough to be remembered.
fn is_recent(path: &Path) -> bool {
    let written = fs::symlink_metadata(path).and_then(|file| file.modified());
    let age = written.map(|written| SystemTime::now().duration_since(written));
    age.is_ok_and(|age| age.is_ok_and(|age| age < REMEMBERED))
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
            // As if its process had died.
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
        // After an hour the note no longer counts, whatever its number of attempts.
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

    /// The notes of each version, of [`noted`].
    const NOTE_0: &[u8] = include_bytes!("fixtures/note.0.json");
    const NOTE_1: &[u8] = include_bytes!("fixtures/note.1.json");

    fn noted() -> Note {
        Note {
            attempts: 2,
            unix_time: 1_795_000_000,
            circumstances: "1 GiB".to_owned(),
        }
    }

    #[test]
    fn each_note_there_has_been_is_read() {
        for stored in [NOTE_0, NOTE_1] {
            assert_eq!(decode(stored), Ok(noted()));
        }
    }

    /// A change of the stored data needs a new version with a fixture.
    #[test]
    fn what_is_written_is_what_was_written_by_this_version_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("compiling/note");
        let attempts = at(directory.path());
        attempts.write(&path, &noted()).expect("it is written");
        assert_eq!(fs::read(&path).expect("it is there"), NOTE_1);
    }

    #[test]
    fn one_field_more_is_an_error_and_so_is_each_note_that_is_cut_off() {
        let more = String::from_utf8(NOTE_1.to_vec()).expect("it is text");
        let more = more.replacen('{', "{\"more\":1,", 1);
        let error = decode(more.as_bytes()).expect_err("it is unknown");
        assert!(
            error.to_string().contains("unknown field `more`"),
            "{error}"
        );
        for at in 0..NOTE_1.len() {
            let error = decode(&NOTE_1[..at]).expect_err("it is cut off");
            assert_eq!(error.newer(), None, "{at}: {error}");
        }
    }

    /// After a crash, an older program is started.
    #[test]
    fn a_note_of_a_later_version_counts_as_an_attempt_and_is_kept_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let digest = Digest::of(b"guest");
        let path = at(directory.path()).directory.join(digest.to_string());
        let later = br#"{"version":9,"tries":[1,2,3]}"#;
        fs::write(&path, later).expect("it is written");
        let attempts = at(directory.path());
        assert_eq!(fs::read(&path).expect("it is there"), later);
        let attempt = tried(&attempts, digest, "1 GiB").expect("it is tried");
        let aside = path.with_extension("v9");
        assert_eq!(fs::read(&aside).expect("it is there"), later);
        let note = read(&path).expect("it is a note").expect("it is there");
        assert_eq!(note.attempts, 2);
        // The process dies.
        std::mem::forget(attempt);
        let refused = tried(&at(directory.path()), digest, "1 GiB");
        assert!(matches!(
            refused,
            Err(CompileError::Remembered { attempts: MOST })
        ));
        assert_eq!(fs::read(&aside).expect("it is there"), later);
    }

    #[test]
    fn a_note_of_a_later_version_that_cannot_be_moved_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let attempts = at(directory.path());
        let digest = Digest::of(b"guest");
        let path = attempts.directory.join(digest.to_string());
        let later = br#"{"version":9}"#;
        fs::write(&path, later).expect("it is written");
        fs::create_dir_all(path.with_extension("v9").join("in the way")).expect("it is made");
        tried(&attempts, digest, "1 GiB").expect_err("its place is taken");
        assert_eq!(fs::read(&path).expect("it is there"), later);
    }

    #[test]
    fn a_damaged_note_counts_as_an_attempt_for_an_hour() {
        let directory = tempfile::tempdir().expect("a directory");
        let digest = Digest::of(b"guest");
        let path = at(directory.path()).directory.join(digest.to_string());
        for (age, attempts) in [(60, 2), (3590, 2), (3610, 1)] {
            fs::write(&path, &NOTE_1[..NOTE_1.len() - 1]).expect("it is written");
            let file = File::options().write(true).open(&path).expect("it opens");
            let written = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(written).expect("its time is set");
            let attempt = tried(&at(directory.path()), digest, "1 GiB");
            let attempt = attempt.expect("it is tried");
            let note = read(&path).expect("it is a note").expect("it is there");
            assert_eq!(note.attempts, attempts, "{age}");
            drop(attempt);
        }
    }

    #[test]
    fn what_is_no_note_hangs_nothing() {
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
            // A directory in the way only causes an error.
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
