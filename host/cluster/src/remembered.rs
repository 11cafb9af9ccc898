//! Where peers were last, kept over restarts.
//!
//! While a shard is away its peers ask for its name, and caches keep that it has no
//! address. Where the same holds for theirs, as in a rolling update, neither side could
//! find the other for half a minute. So a shard notes where its peers are, and tries
//! them there when it is back. What it noted is a hint: a peer that is not there any
//! more, or not the same, costs an attempt to connect.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostrakon_base::regular;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Cluster, until_down};

/// The file in the data directory.
const FILE: &str = "peers.json";
/// How often it is written at most.
const EVERY: Duration = Duration::from_secs(1);
/// More than all shards that there can be take in it.
const MOST_BYTES: usize = 128 * 1024;

/// Where peers were, by their ordinals.
type Places = BTreeMap<u32, IpAddr>;

/// What is remembered, and in which file.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    places: Places,
}

impl Remembered {
    fn read(path: PathBuf) -> Self {
        let places = match read(&path) {
            Ok(places) => places,
            Err(error) => {
                let path = path.display();
                tracing::debug!(%path, %error, "it is not known where peers were");
                Places::new()
            }
        };
        Self { path, places }
    }

    /// Whether any peer is elsewhere than is remembered.
    fn is_news(&self, now: &Places) -> bool {
        let mut now = now.iter();
        now.any(|(peer, at)| self.places.get(peer) != Some(at))
    }

    /// Notes where peers are now; the others are where they were.
    fn note(&mut self, now: Places) -> io::Result<()> {
        let mut places = self.places.clone();
        places.extend(now);
        let new = self.path.with_extension("new");
        let mut file = regular::edit_own(&new, true)?;
        file.set_len(0)?;
        file.write_all(&serde_json::to_vec(&places)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.places = places;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Places> {
    let bytes = regular::read_own(path, MOST_BYTES)?;
    Ok(serde_json::from_slice(&bytes)?)
}

impl Cluster {
    /// Takes up what is remembered in a data directory. From then on it is kept there.
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

    /// Notes where peers are, until shutdown.
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
                tracing::debug!(%error, "it is not noted where peers are");
            }
        }
    }

    /// Where peers are that have called or were found, as far as they are found by name.
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
    use super::*;

    fn places(list: &[(u32, [u8; 4])]) -> Places {
        list.iter()
            .map(|(peer, at)| (*peer, (*at).into()))
            .collect()
    }

    #[test]
    fn what_is_noted_is_read_again_and_what_cannot_be_read_is_nothing() {
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
            assert_eq!(Remembered::read(path.clone()).places, Places::new());
        }
        // A disk that takes nothing is no reason to fail.
        fs::remove_dir_all(directory.path()).unwrap();
        remembered.note(places(&[(2, [10, 0, 0, 4])])).unwrap_err();
    }
}
