//! Remembers the peers' last addresses over restarts.
//!
//! While a shard is away, its peers resolve its name, and caches keep the answer that it has no
//! address. If the same holds for the peers, as in a rolling update, neither side could find
//! the other for half a minute. So a shard notes its peers' addresses, and tries them when it
//! is back. A noted address is a hint: if the peer is no longer there, or another is, it costs
//! one attempt to connect. Therefore a note that cannot be read keeps no shard from starting:
//! it is logged, and written anew. A note of a later version is moved aside before that.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostrakon_base::regular;
use ostrakon_base::stored::{Format, Unreadable, set_aside};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Cluster, until_down};

/// The file's name in the data directory.
const FILE: &str = "peers.json";
/// The least time between two writes.
const EVERY: Duration = Duration::from_secs(1);
/// The addresses of the most shards that there can be fit into it.
const MAX_BYTES: usize = 128 * 1024;

const FORMAT: Format = Format {
    what: "the note of where peers were",
    version: 1,
};

/// The peers' addresses, by their ordinals.
type Places = BTreeMap<u32, IpAddr>;

/// The contents of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    peers: Places,
}

/// The remembered addresses, and their file.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    places: Places,
    /// The version of the file, where a later program wrote it.
    newer: Option<u64>,
}

impl Remembered {
    fn read(path: PathBuf) -> Self {
        let read = read(&path);
        let newer = read.as_ref().err().and_then(Unreadable::newer);
        let places = read.unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(
                %path, %error,
                "where peers were is not known: they are looked for by name, which can take half a \
                 minute; the note is written anew, and one of a later version is moved aside first"
            );
            Places::new()
        });
        Self {
            path,
            places,
            newer,
        }
    }

    /// Whether any peer has another address than the remembered one.
    fn is_news(&self, now: &Places) -> bool {
        let mut now = now.iter();
        now.any(|(peer, at)| self.places.get(peer) != Some(at))
    }

    /// Notes the peers' current addresses; for all other peers the remembered address stays.
    fn note(&mut self, now: Places) -> io::Result<()> {
        if let Some(version) = self.newer {
            let aside = set_aside(&self.path, version)?;
            self.newer = None;
            tracing::info!(aside = %aside.display(), "the note of a later version was moved aside");
        }
        let mut places = self.places.clone();
        places.extend(now);
        regular::replace_own(&self.path, &encode(&places))?;
        self.places = places;
        Ok(())
    }
}

/// The noted addresses; none where there is no file.
fn read(path: &Path) -> Result<Places, Unreadable> {
    match regular::read_own(path, MAX_BYTES) {
        Ok(stored) => decode(&stored),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Places::new()),
        Err(error) => Err(FORMAT.broken(&error)),
    }
}

fn encode(places: &Places) -> Vec<u8> {
    let peers = places.clone();
    FORMAT.to_json(&Noted { peers })
}

fn decode(stored: &[u8]) -> Result<Places, Unreadable> {
    match FORMAT.split_json(stored)? {
        (0, places) => FORMAT.from_fields(places),
        (_, fields) => Ok(FORMAT.from_fields::<Noted>(fields)?.peers),
    }
}

impl Cluster {
    /// Loads the remembered addresses from a data directory, and keeps them there from then on.
    pub fn recall(&self, directory: &Path) {
        let remembered = Remembered::read(directory.join(FILE));
        let line = self.0.connections.line.load();
        for (peer, at) in &remembered.places {
            if let Some(at) = self.peer_at(*peer, *at) {
                line.endpoint.addresses.tell(*peer, at);
            }
        }
        let first = self.0.remembered.set(remembered);
        debug_assert!(first.is_ok(), "it is done once");
    }

    /// Notes the peers' addresses until shutdown.
    pub(super) async fn remember(self, mut shutdown: watch::Receiver<bool>) {
        let Some(mut remembered) = self.0.remembered.get().cloned() else {
            return;
        };
        let mut is_down = false;
        while !is_down {
            is_down = tokio::select! {
                biased;
                () = until_down(&mut shutdown) => true,
                () = sleep(EVERY) => false,
            };
            let now = self.places();
            if !remembered.is_news(&now) {
                continue;
            }
            let noting = tokio::task::spawn_blocking(move || {
                let noted = remembered.note(now);
                (remembered, noted)
            });
            let noted;
            (remembered, noted) = noting.await.expect("noting does not panic");
            if let Err(error) = noted {
                tracing::debug!(%error, "the peers' addresses could not be written");
            }
        }
    }

    /// The addresses of peers that have called or were found, as far as they are found by name.
    fn places(&self) -> Places {
        let places = self.0.connections.line.load().endpoint.addresses.proved();
        let mut places: Places = places
            .into_iter()
            .map(|(peer, at)| (peer, at.ip()))
            .collect();
        places.retain(|peer, at| self.peer_at(*peer, *at).is_some());
        places
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn places(list: &[(u32, [u8; 4])]) -> Places {
        list.iter()
            .map(|(peer, at)| (*peer, (*at).into()))
            .collect()
    }

    /// The notes of each version, of [`noted`].
    const PEERS_0: &[u8] = include_bytes!("fixtures/peers.0.json");
    const PEERS_1: &[u8] = include_bytes!("fixtures/peers.1.json");

    fn noted() -> Places {
        let mut noted = places(&[(0, [10, 0, 0, 1]), (12, [10, 1, 2, 3])]);
        noted.insert(2, "fd00::7".parse().unwrap());
        noted
    }

    #[test]
    fn each_note_there_has_been_is_read() {
        for stored in [PEERS_0, PEERS_1] {
            assert_eq!(decode(stored), Ok(noted()));
        }
    }

    /// A change of the stored format needs a version of its own, and its fixture.
    #[test]
    fn what_is_written_is_what_was_written_by_this_version_before() {
        assert_eq!(encode(&noted()), PEERS_1);
    }

    #[test]
    fn one_field_more_is_an_error_and_so_is_each_note_that_is_cut_off() {
        let more = String::from_utf8(PEERS_1.to_vec()).unwrap();
        let more = more.replacen('{', "{\"more\":1,", 1);
        let error = decode(more.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `more`"),
            "{error}"
        );
        for whole in [PEERS_0, PEERS_1] {
            for at in 0..whole.len() {
                let error = decode(&whole[..at]).unwrap_err();
                assert_eq!(error.newer(), None, "{at}: {error}");
            }
        }
    }

    /// An older program must not destroy the note of a later one.
    #[test]
    fn a_note_of_a_later_version_is_left_alone_and_moved_aside_before_another_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let later = br#"{"version":9,"places":["elsewhere"]}"#;
        fs::write(&path, later).unwrap();
        let mut remembered = Remembered::read(path.clone());
        assert_eq!(remembered.places, Places::new());
        assert_eq!(fs::read(&path).unwrap(), later, "a start changes nothing");
        for _ in 0..2 {
            remembered.note(noted()).unwrap();
        }
        let aside = directory.path().join("peers.json.v9");
        assert_eq!(fs::read(&aside).unwrap(), later);
        assert_eq!(fs::read(&path).unwrap(), PEERS_1);
        // If it cannot be moved, it stays.
        fs::write(&path, later).unwrap();
        fs::remove_file(&aside).unwrap();
        fs::create_dir_all(aside.join("in the way")).unwrap();
        let mut remembered = Remembered::read(path.clone());
        remembered.note(noted()).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), later);
    }

    #[test]
    fn what_is_noted_is_read_again_and_what_is_damaged_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut remembered = Remembered::read(path.clone());
        assert_eq!(remembered.places, Places::new());
        remembered
            .note(places(&[(0, [10, 0, 0, 1]), (1, [10, 0, 0, 2])]))
            .unwrap();
        let moved = places(&[(1, [10, 0, 0, 3])]);
        assert!(remembered.is_news(&moved));
        remembered.note(moved.clone()).unwrap();
        assert!(!remembered.is_news(&moved));
        let wanted = places(&[(0, [10, 0, 0, 1]), (1, [10, 0, 0, 3])]);
        assert_eq!(Remembered::read(path.clone()).places, wanted);
        for garbage in ["", "{", "{\"0\":\"nowhere\"}", "[1]"] {
            fs::write(&path, garbage).unwrap();
            read(&path).unwrap_err();
            let mut remembered = Remembered::read(path.clone());
            assert_eq!(remembered.places, Places::new());
            remembered.note(noted()).unwrap();
            assert_eq!(read(&path), Ok(noted()));
        }
        // A disk that refuses to write must not cause a failure.
        fs::remove_dir_all(directory.path()).unwrap();
        remembered.note(places(&[(2, [10, 0, 0, 4])])).unwrap_err();
    }
}
