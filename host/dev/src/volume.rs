//! A mounted ConfigMap or Secret that is updated as the kubelet does it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The link that is renamed to perform an update.
const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// A directory whose files all change at once.
///
/// `..data` is a link to the directory of one version, named by its time; each visible name is a
/// link through `..data`. An update renames a new link onto `..data`, then corrects the visible
/// names, then removes the old version.
#[derive(Debug)]
pub struct Volume {
    directory: PathBuf,
    /// Distinguishes versions written in the same second.
    version: u64,
    renamed: Option<Instant>,
}

impl Volume {
    /// Creates the directory if it does not exist. Files that an earlier volume left in it stay
    /// until the first `publish`.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn create(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            version: 0,
            renamed: None,
        })
    }

    /// The directory at which the volume is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// When the last update was made, measured just before its renaming.
    pub fn renamed(&self) -> Option<Instant> {
        self.renamed
    }

    /// Replaces all files by these.
    ///
    /// # Errors
    /// When a name is not a valid key of a ConfigMap, or the directory cannot be written to.
    pub fn publish(&mut self, files: &BTreeMap<String, impl AsRef<[u8]>>) -> io::Result<()> {
        if let Some(name) = files.keys().find(|name| !is_key(name)) {
            let reason = format!("{name:?} cannot be a key of a ConfigMap");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let old = fs::read_link(self.directory.join(DATA)).ok();
        let version = self.write_version(files)?;

        let new_link = self.directory.join(DATA_NEW);
        remove_if_there(&new_link)?;
        symlink(&version, &new_link)?;
        self.renamed = Some(Instant::now());
        fs::rename(&new_link, self.directory.join(DATA))?;

        self.mend_names(&files.keys().map(String::as_str).collect())?;
        match old {
            Some(old) => fs::remove_dir_all(self.directory.join(old)),
            None => Ok(()),
        }
    }

    /// Writes a version's directory and returns its name.
    fn write_version(&mut self, files: &BTreeMap<String, impl AsRef<[u8]>>) -> io::Result<String> {
        let name = loop {
            self.version += 1;
            let name = format!("..{}.{:010}", timestamp(SystemTime::now()), self.version);
            match fs::create_dir(self.directory.join(&name)) {
                Ok(()) => break name,
                // An earlier volume left it in the same second.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        for (key, content) in files {
            fs::write(self.directory.join(&name).join(key), content)?;
        }
        Ok(name)
    }

    /// Adds missing visible names, then removes those of deleted keys.
    fn mend_names(&self, keys: &BTreeSet<&str>) -> io::Result<()> {
        for key in keys {
            match symlink(Path::new(DATA).join(key), self.directory.join(key)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with("..") && !keys.contains(name.as_ref()) {
                fs::remove_file(self.directory.join(name.as_ref()))?;
            }
        }
        Ok(())
    }
}

/// Whether a name is a valid key: letters, digits, `-`, `_` and `.`, not beginning with `..`, at
/// most 253 characters.
fn is_key(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name != "."
        && !name.starts_with("..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A time in UTC, in the kubelet's format: `2026_11_21_04_06_13`.
fn timestamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}_{month:02}_{day:02}_{hour:02}_{minute:02}_{second:02}")
}

/// The year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn date(mut day: u64) -> (u64, usize, u64) {
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    (year, month + 1, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        entries
            .iter()
            .map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec()))
            .collect()
    }

    /// The files as a reader of the visible names sees them.
    fn seen(volume: &Volume) -> BTreeMap<String, Vec<u8>> {
        names(volume)
            .into_iter()
            .filter(|name| !name.starts_with(".."))
            .map(|name| {
                let content = fs::read(volume.directory().join(&name)).unwrap();
                (name, content)
            })
            .collect()
    }

    fn names(volume: &Volume) -> Vec<String> {
        fs::read_dir(volume.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn an_update_replaces_all_files_and_leaves_one_version() {
        let scratch = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(scratch.path().join("config")).unwrap();
        for version in [
            files(&[("a", "1"), ("b", "1")]),
            files(&[("b", "2"), ("c", "2")]),
            files(&[]),
        ] {
            volume.publish(&version).unwrap();
            assert_eq!(seen(&volume), version);
            let hidden = names(&volume).len() - version.len();
            assert_eq!(hidden, 2, "..data and its version: {:?}", names(&volume));
        }
    }

    /// Many updates while a reader is reading: everything it reads behind one `..data` belongs to
    /// one version.
    #[test]
    fn a_reader_never_sees_a_mix_of_two_versions() {
        let scratch = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(scratch.path()).unwrap();
        let version = |number: u32| {
            let content = number.to_string();
            files(&[("a", &content), ("b", &content)])
        };
        volume.publish(&version(0)).unwrap();
        let directory = volume.directory().to_owned();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(files) = ostrakon_volumes::volume::Files::read(&directory) else {
                        continue;
                    };
                    let contents = files.contents();
                    assert_eq!(contents.len(), 2, "{files:?}");
                    assert_eq!(contents["a"], contents["b"], "it is a mix");
                    seen.insert(contents["a"].clone());
                }
                seen.len()
            });
            for number in 1..500 {
                volume.publish(&version(number)).unwrap();
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 1, "it reads while they come");
        });
    }

    #[test]
    fn visible_names_go_through_data() {
        let scratch = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(scratch.path()).unwrap();
        volume.publish(&files(&[("a", "1")])).unwrap();
        let link = fs::read_link(scratch.path().join("a")).unwrap();
        assert_eq!(link, Path::new("..data/a"));
        let version = fs::read_link(scratch.path().join(DATA)).unwrap();
        assert!(version.to_str().unwrap().starts_with("..20"), "{version:?}");
    }

    #[test]
    fn a_second_volume_takes_the_directory_over() {
        let scratch = tempfile::tempdir().unwrap();
        for content in ["1", "2", "3"] {
            let mut volume = Volume::create(scratch.path()).unwrap();
            volume.publish(&files(&[("a", content)])).unwrap();
            assert_eq!(seen(&volume), files(&[("a", content)]));
            assert_eq!(names(&volume).len(), 3);
        }
    }

    #[test]
    fn a_name_that_no_configmap_can_have_changes_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(scratch.path()).unwrap();
        volume.publish(&files(&[("a", "1")])).unwrap();
        for name in ["", "..data", "a/b", ".", "a b"] {
            volume.publish(&files(&[(name, "2")])).unwrap_err();
            assert_eq!(seen(&volume), files(&[("a", "1")]));
        }
    }

    #[test]
    fn times_are_written_as_the_kubelet_does() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970_01_01_00_00_00");
        assert_eq!(at(951_782_399), "2000_02_28_23_59_59");
        assert_eq!(at(951_782_400), "2000_02_29_00_00_00");
        assert_eq!(at(1_795_233_973), "2026_11_21_04_06_13");
    }
}
