//! Which generations there were in a shard, the newest last.
//!
//! The note is written after a generation is live, so a start notes one that was missed. It decides
//! nothing: a note that cannot be read keeps no shard from starting, and is written anew.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use ostrakon_base::digest::Digest;
use ostrakon_base::regular;
use ostrakon_base::stored::{Format, Unreadable, set_aside};
use ostrakon_base::unix_time::unix_time;
use serde::{Deserialize, Serialize};

/// The file's name in the data directory.
const FILE: &str = "history.json";
/// How many generations are noted.
const MOST: usize = 100;
/// Names and versions of guests are short, as the contract demands.
const MAX_BYTES: usize = 1 << 20;

const FORMAT: Format = Format {
    what: "the note of former generations",
    version: 1,
};

/// A generation that was live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub generation: u64,
    /// The digest of component and settings.
    pub digest: Digest,
    /// What the guest said of itself.
    pub name: String,
    pub version: String,
    pub schema: u32,
    /// When it went live here, in seconds of Unix time.
    pub live_since: u64,
    /// The content that is held since then: an operator went back from it.
    pub held: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    generations: Vec<Entry>,
}

/// The generations that were live in a shard, and the file with them. Clones share it.
#[derive(Clone, Debug)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// A std mutex, because it is held only briefly.
    generations: Mutex<Vec<Entry>>,
    /// The version of the file, where a later program wrote it. Locked while the file is written.
    newer: Mutex<Option<u64>>,
}

impl History {
    /// The history in a data directory.
    pub fn read(data_directory: &Path) -> Self {
        let path = data_directory.join(FILE);
        let read = read(&path);
        let newer = read.as_ref().err().and_then(Unreadable::newer);
        let generations = read.unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(
                %path, %error,
                "which generations there were is not known: the note is written anew, and one of a later version is moved aside first"
            );
            Vec::new()
        });
        Self(Arc::new(Inner {
            path,
            generations: Mutex::new(generations),
            newer: Mutex::new(newer),
        }))
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Entry>> {
        let noted = self.0.generations.lock();
        noted.expect("no holder of this lock panics")
    }

    /// The generations, the newest last.
    pub fn generations(&self) -> Vec<Entry> {
        self.noted().clone()
    }

    /// Notes a generation that has gone live now, unless it is the last one noted. Writes a file.
    pub fn note(&self, entry: Entry) {
        let mut newer = self.0.newer.lock().expect("no holder of this lock panics");
        let generations = {
            let mut noted = self.noted();
            let last = noted.last();
            let is_known =
                |last: &Entry| (last.generation, last.digest) == (entry.generation, entry.digest);
            if last.is_some_and(is_known) {
                return;
            }
            noted.push(entry);
            while noted.len() > MOST {
                forget_one(&mut noted);
            }
            noted.clone()
        };
        if let Err(error) = self.write(&generations, &mut newer) {
            let path = self.0.path.display();
            tracing::warn!(%path, %error, "a generation that went live could not be noted");
        }
    }

    fn write(&self, generations: &[Entry], newer: &mut Option<u64>) -> io::Result<()> {
        let path = &self.0.path;
        if let Some(version) = newer.take() {
            let aside = set_aside(path, version).inspect_err(|_| *newer = Some(version))?;
            tracing::info!(aside = %aside.display(), "the note of a later version was moved aside");
        }
        regular::replace_own(path, &encode(generations))
    }
}

/// Forgets a number that content got later than its first, if that is not the live one: each trial that
/// ends gives what was live another. If there is none, the oldest generation is forgotten.
fn forget_one(noted: &mut Vec<Entry>) {
    let former = noted.split_last().map_or(&[][..], |(_, former)| former);
    let mut pairs = former.windows(2);
    let same = pairs.position(|pair| matches!(pair, [one, next] if one.digest == next.digest));
    noted.remove(same.map_or(0, |same| same + 1));
}

/// The time now, as entries have it.
pub fn now() -> u64 {
    unix_time(SystemTime::now()).as_secs()
}

/// The noted generations; none where there is no file.
fn read(path: &Path) -> Result<Vec<Entry>, Unreadable> {
    match regular::read_own(path, MAX_BYTES) {
        Ok(stored) => decode(&stored),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(FORMAT.broken(&error)),
    }
}

fn encode(generations: &[Entry]) -> Vec<u8> {
    let generations = generations.to_vec();
    FORMAT.to_json(&Noted { generations })
}

fn decode(stored: &[u8]) -> Result<Vec<Entry>, Unreadable> {
    let (_version, fields) = FORMAT.split_json(stored)?;
    Ok(FORMAT.from_fields::<Noted>(fields)?.generations)
}

/// Why it cannot be gone back to a generation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWayBack {
    #[error("no generation is live yet: try again when the shard is ready")]
    NoneLive,
    #[error(
        "this shard knows of no generation before this one to go back to: publish its content in the ConfigMap"
    )]
    NoneBefore,
    #[error("there is no generation {0} here: `ostrakon history` lists those that there are")]
    Unknown(u64),
    #[error("generation {0} has the content that is live")]
    IsLive(u64),
    #[error(
        "generation {generation} has schema {schema}, and the data has schema {live}: going back changes no data; publish a guest of schema {} whose `migrate` brings it back", .live + 1
    )]
    Schema {
        generation: u64,
        schema: u32,
        live: u32,
    },
    #[error("the content of generation {0} is no longer kept: publish it in the ConfigMap")]
    Gone(u64),
    #[error("it is being gone back to generation {0}: wait until that is live")]
    Busy(u64),
}

/// The generation to go back to: the one with this number, or the last one before with other content,
/// which was not gone back from.
///
/// # Errors
/// If there is none, or its schema is not that of the data.
pub fn way_back(generations: &[Entry], to: Option<u64>) -> Result<Entry, NoWayBack> {
    let live = generations.last().ok_or(NoWayBack::NoneLive)?;
    // Of what was gone back to, the generation that had the content first counts.
    let first = |digest| generations.iter().position(|entry| entry.digest == digest);
    let found = if let Some(number) = to {
        let mut entries = generations.iter().rev();
        let named = entries.find(|entry| entry.generation == number);
        named.ok_or(NoWayBack::Unknown(number))?
    } else {
        let at = match live.held {
            Some(_) => first(live.digest).unwrap_or_default(),
            None => generations.len() - 1,
        };
        let mut before = generations[..at].iter().rev();
        let is_other =
            |entry: &&Entry| entry.digest != live.digest && Some(entry.digest) != live.held;
        before.find(is_other).ok_or(NoWayBack::NoneBefore)?
    };
    let Entry {
        generation, schema, ..
    } = *found;
    if found.digest == live.digest {
        return Err(NoWayBack::IsLive(generation));
    }
    if schema != live.schema {
        return Err(NoWayBack::Schema {
            generation,
            schema,
            live: live.schema,
        });
    }
    Ok(found.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entry(generation: u64, content: &str, held: Option<&str>) -> Entry {
        let of = |content: &str| Digest::of(content.as_bytes());
        Entry {
            generation,
            digest: of(content),
            name: "kv".to_owned(),
            version: "1.0.0".to_owned(),
            schema: 1,
            live_since: 1_800_000_000,
            held: held.map(of),
        }
    }

    fn back(generations: &[Entry], to: Option<u64>) -> Result<u64, NoWayBack> {
        Ok(way_back(generations, to)?.generation)
    }

    #[test]
    fn the_way_back_leads_to_what_was_good_before() {
        assert_eq!(back(&[], None), Err(NoWayBack::NoneLive));
        let mut all = vec![entry(1, "a", None)];
        assert_eq!(back(&all, None), Err(NoWayBack::NoneBefore));
        all.push(entry(2, "b", None));
        all.push(entry(3, "c", None));
        assert_eq!(back(&all, None), Ok(2));
        assert_eq!(back(&all, Some(1)), Ok(1));
        assert_eq!(back(&all, Some(3)), Err(NoWayBack::IsLive(3)));
        assert_eq!(back(&all, Some(4)), Err(NoWayBack::Unknown(4)));
        // Once more leads further back, and not to what was gone back from.
        all.push(entry(4, "b", Some("c")));
        assert_eq!(back(&all, None), Ok(1));
        assert_eq!(back(&all, Some(3)), Ok(3));
        assert_eq!(back(&all, Some(2)), Err(NoWayBack::IsLive(2)));
        all.push(entry(5, "a", Some("c")));
        assert_eq!(back(&all, None), Err(NoWayBack::NoneBefore));
        // What came after that is as anything else.
        all.push(entry(6, "d", None));
        assert_eq!(back(&all, None), Ok(5));
    }

    #[test]
    fn there_is_no_way_back_over_another_schema() {
        let mut all = vec![entry(1, "a", None), entry(2, "b", None)];
        all[1].schema = 2;
        let refused = back(&all, None).expect_err("the schemas differ");
        assert_eq!(
            refused.to_string(),
            "generation 1 has schema 1, and the data has schema 2: going back changes no data; publish a guest of schema 3 whose `migrate` brings it back"
        );
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart_and_the_oldest_are_forgotten() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let history = History::read(directory.path());
        for number in 1..=2 * MOST as u64 {
            let content = number.to_string();
            history.note(entry(number, &content, None));
            history.note(entry(number, &content, None));
        }
        let read = History::read(directory.path()).generations();
        assert_eq!(read, history.generations());
        let numbers: Vec<_> = read.iter().map(|entry| entry.generation).collect();
        let last: Vec<_> = (MOST as u64 + 1..=2 * MOST as u64).collect();
        assert_eq!(numbers, last);
    }

    #[test]
    fn trials_that_end_displace_no_generation() {
        let directory = tempfile::tempdir().expect("a directory can be created");
        let history = History::read(directory.path());
        history.note(entry(1, "a", None));
        history.note(entry(2, "b", None));
        for ended in 2..=2 * MOST as u64 {
            history.note(entry(2 * ended, "c", None));
        }
        let generations = history.generations();
        assert_eq!(generations.len(), MOST);
        assert_eq!(back(&generations, None), Ok(2));
        assert_eq!(back(&generations, Some(1)), Ok(1));
        assert_eq!(
            generations.last().map(|last| last.generation),
            Some(4 * MOST as u64)
        );
    }

    /// The bytes that this version writes; later ones have to read them.
    const STORED: &str = r#"{"version":1,"generations":[{"generation":7,"digest":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","name":"kv","version":"1.0.0","schema":1,"live_since":1800000000,"held":null}]}"#;

    #[test]
    fn a_note_that_cannot_be_read_is_written_anew_and_a_later_one_is_moved_aside() {
        let one = entry(7, "a", None);
        assert_eq!(
            String::from_utf8_lossy(&encode(std::slice::from_ref(&one))),
            STORED
        );
        assert_eq!(decode(STORED.as_bytes()), Ok(vec![one.clone()]));
        for (stored, aside) in [
            ("{", false),
            (
                &*STORED.replace("\"version\":1,\"gen", "\"version\":2,\"gen"),
                true,
            ),
        ] {
            let directory = tempfile::tempdir().expect("a directory can be created");
            let path = directory.path().join(FILE);
            fs::write(&path, stored).expect("the file can be written");
            let history = History::read(directory.path());
            assert_eq!(history.generations(), []);
            history.note(one.clone());
            let read = History::read(directory.path()).generations();
            assert_eq!(read, std::slice::from_ref(&one));
            let moved = path.with_extension("json.v2").exists();
            assert_eq!(moved, aside, "{stored}");
        }
    }
}
