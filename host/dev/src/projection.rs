//! The kubelet's part: puts one ConfigMap and one Secret into each shard's volumes, at different
//! times.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use humantime_serde::re::humantime::parse_duration;
use ostrakon_base::digest::Digest;

use super::volume::Volume;

/// The content of a ConfigMap or Secret, by name.
pub type Files = BTreeMap<String, Bytes>;

/// The delay between a change and its appearance in a shard's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// One delay for each ordinal; the last one also applies to all higher ordinals.
    Each(Vec<Duration>),
    /// A random delay in this range, a new one each time.
    Between(Duration, Duration),
}

impl Default for Propagation {
    fn default() -> Self {
        Self::Each(vec![Duration::ZERO])
    }
}

impl Propagation {
    /// The delay for a shard, this time.
    pub(super) fn delay(&self, ordinal: u32) -> Duration {
        match self {
            Self::Each(delays) => {
                let at = usize::try_from(ordinal).unwrap_or(usize::MAX);
                delays
                    .get(at)
                    .or_else(|| delays.last())
                    .copied()
                    .unwrap_or_default()
            }
            Self::Between(least, most) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                // Random enough to spread shards over a range.
                let seed = [now.unwrap_or_default().subsec_nanos(), ordinal].map(u32::to_le_bytes);
                let random = Digest::of(&seed.concat()).as_bytes()[0];
                *least + most.saturating_sub(*least) * u32::from(random) / 255
            }
        }
    }
}

/// The text is not a delay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a delay for each shard, such as 0s,5s,30s, or a range, such as 0s..60s")]
pub struct NoPropagation;

impl FromStr for Propagation {
    type Err = NoPropagation;

    fn from_str(text: &str) -> Result<Self, NoPropagation> {
        let time = |text: &str| parse_duration(text.trim()).map_err(|_| NoPropagation);
        match text.split_once("..") {
            Some((least, most)) => {
                let (least, most) = (time(least)?, time(most)?);
                (least <= most)
                    .then_some(Self::Between(least, most))
                    .ok_or(NoPropagation)
            }
            None => Ok(Self::Each(
                text.split(',').map(time).collect::<Result<_, _>>()?,
            )),
        }
    }
}

/// One shard's volumes.
#[derive(Debug)]
pub(super) struct Projection {
    config: Volume,
    secrets: Volume,
    shown: Option<(Digest, Digest)>,
}

impl Projection {
    pub(super) fn create(shard: &Path) -> io::Result<Self> {
        Ok(Self {
            config: Volume::create(shard.join("config"))?,
            secrets: Volume::create(shard.join("secrets"))?,
            shown: None,
        })
    }

    pub(super) fn config_dir(&self) -> PathBuf {
        self.config.directory().to_owned()
    }

    pub(super) fn secrets_dir(&self) -> PathBuf {
        self.secrets.directory().to_owned()
    }

    /// The digest of the projected ConfigMap; `None` before the first.
    pub(super) fn config(&self) -> Option<Digest> {
        self.shown.map(|(config, _)| config)
    }

    /// When the ConfigMap last changed.
    pub(super) fn renamed(&self) -> Option<Instant> {
        self.config.renamed()
    }

    /// Projects this content. Returns whether it has changed.
    pub(super) fn show(&mut self, config: &Files, secrets: &Files) -> io::Result<bool> {
        let digests = (Digest::of_files(config), Digest::of_files(secrets));
        let before = self.shown;
        if before.map(|(config, _)| config) != Some(digests.0) {
            self.config.publish(config)?;
        }
        if before.map(|(_, secrets)| secrets) != Some(digests.1) {
            self.secrets.publish(secrets)?;
        }
        self.shown = Some(digests);
        Ok(before != self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_are_written_one_for_each_shard_or_as_a_range() {
        let each: Propagation = "0s,5s, 30s".parse().unwrap();
        let delays = [0, 1, 2, 9].map(|ordinal| each.delay(ordinal).as_secs());
        assert_eq!(delays, [0, 5, 30, 30]);
        let between: Propagation = "1s..3s".parse().unwrap();
        for ordinal in 0..100 {
            let delay = between.delay(ordinal);
            assert!((SECOND..=3 * SECOND).contains(&delay), "{delay:?}");
        }
        assert_eq!(Propagation::default().delay(7), Duration::ZERO);
        for wrong in ["", "5", "3s..1s", "1s;2s", ".."] {
            assert_eq!(wrong.parse::<Propagation>(), Err(NoPropagation), "{wrong}");
        }
    }

    #[test]
    fn the_same_content_is_no_change() {
        let scratch = tempfile::tempdir().unwrap();
        let mut projection = Projection::create(scratch.path()).unwrap();
        let files = |text: &'static str| Files::from([("a".to_owned(), Bytes::from(text))]);
        assert!(projection.show(&files("1"), &Files::new()).unwrap());
        let renamed = projection.renamed();
        assert!(!projection.show(&files("1"), &Files::new()).unwrap());
        assert!(projection.show(&files("1"), &files("2")).unwrap());
        assert_eq!(projection.renamed(), renamed, "the ConfigMap is as it was");
        assert_eq!(projection.config(), Some(Digest::of_files(&files("1"))));
    }
}
