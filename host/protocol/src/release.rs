//! What the shards of a cluster serve.

use ostrakon_base::digest::Digest;
use serde::{Deserialize, Serialize};

use super::plan::{ClusterId, HIGHEST_FIRST, Incarnation, MAX_AHEAD};

/// A component with its settings, as it is or was live in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation {
    /// Each generation that goes live has a higher number, also where its content was live before. The
    /// numbers begin anew only where the coordinator has lost its disk and cannot ask the others.
    pub number: u64,
    /// The digest of its component and settings.
    pub digest: Digest,
}

/// Says which generation is live. Only the coordinator makes releases; every shard stores the one
/// by which it went live, in the transaction in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Release {
    pub cluster: ClusterId,
    /// The coordinator's process that made it: one with a number above those of the processes that
    /// made the releases before it.
    pub maker: Incarnation,
    pub live: Generation,
    /// What the coordinator's volume shows and does not go live while it does: an operator went back
    /// from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Digest>,
    /// The step in which another generation serves a part of the partitions; `None` if the live one
    /// serves all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// A step on the way of a candidate: it serves a part of the partitions, and the live generation the
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Trial {
    /// Its number is one above that of the live generation. It keeps it if it goes live.
    pub candidate: Generation,
    /// Which change of the trial this is, counted from 1.
    pub turn: u32,
    /// The share of the partitions that it serves, in millionths, besides those that its settings name.
    pub share: u32,
    /// Whether its settings name more partitions, by what their keys begin with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names_some: bool,
    /// Whether an operator has it stay as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// All partitions, as [`Trial::share`] says it.
pub const ALL: u32 = 1_000_000;

impl Trial {
    /// Whether the candidate serves a partition by its share. What is in a share is in every larger one.
    pub fn has(&self, partition: &[u8]) -> bool {
        let digest = Digest::of_parts(&[self.candidate.digest.as_bytes(), partition]);
        let [first, ..] = digest.as_bytes().as_chunks::<8>().0 else {
            unreachable!("a digest has 32 bytes");
        };
        let place = (u128::from(u64::from_le_bytes(*first)) * u128::from(ALL)) >> 64;
        place < u128::from(self.share)
    }
}

impl Release {
    /// A cluster's first release, of this content. Its shards may have served before there were
    /// releases: its number is above that of the coordinator's last generation, `before`.
    pub fn first(cluster: ClusterId, maker: Incarnation, before: u64, digest: Digest) -> Self {
        let number = before.saturating_add(1).min(HIGHEST_FIRST);
        let live = Generation { number, digest };
        Self {
            cluster,
            maker,
            live,
            held: None,
            trial: None,
        }
    }

    /// The release of a shard that is alone, which makes its own.
    pub fn of_one(number: u64, digest: Digest) -> Self {
        Self {
            cluster: ClusterId(0),
            maker: Incarnation(0),
            live: Generation { number, digest },
            held: None,
            trial: None,
        }
    }

    /// The content that serves a part of the partitions beside what is live.
    pub fn tried(&self) -> Option<Digest> {
        Some(self.trial?.candidate.digest)
    }

    /// Whether it is of a shard that is alone. Processes of a cluster have numbers from 1.
    pub fn is_of_one(&self) -> bool {
        self.maker == Incarnation(0)
    }

    /// The release that a process of the coordinator makes next, for this content, while it holds
    /// other content. What was in a trial keeps its number. Where the trial of something else ends, the
    /// number is above that, so that no partition sees a lower one than before.
    #[must_use]
    pub fn then(&self, maker: Incarnation, digest: Digest, held: Option<Digest>) -> Self {
        let number = match self.trial {
            Some(trial) if trial.candidate.digest != digest => trial.candidate.number,
            _ => self.live.number,
        };
        let number = number.saturating_add(1);
        Self {
            cluster: self.cluster,
            maker,
            live: Generation { number, digest },
            held,
            trial: None,
        }
    }

    /// The release by which this content serves a share of the partitions next, and perhaps those that
    /// its settings name.
    #[must_use]
    pub fn tries(
        &self,
        maker: Incarnation,
        digest: Digest,
        (share, names_some): (u32, bool),
        paused: bool,
    ) -> Self {
        let number = self.live.number.saturating_add(1);
        let turn = self.trial.map_or(0, |trial| trial.turn);
        let trial = Trial {
            candidate: Generation { number, digest },
            turn: turn.saturating_add(1),
            share,
            names_some,
            paused,
        };
        Self {
            maker,
            trial: Some(trial),
            ..*self
        }
    }

    /// Whether it was made after another one. What a later process of the coordinator makes counts,
    /// even if that process had to continue from an older disk.
    pub fn is_after(&self, other: &Self) -> bool {
        let place = |it: &Self| {
            let turn = it.trial.map_or(0, |trial| trial.turn);
            (it.maker, it.live.number, turn)
        };
        place(self) > place(other)
    }

    /// Whether it can come after the known one, or be the first that a shard knows. The caller knows
    /// that it is of this shard's cluster, and that its maker's number is not above what a process of
    /// the coordinator can have by now.
    pub fn may_follow(&self, known: Option<&Self>) -> bool {
        let number = self.live.number;
        match known {
            None => (1..=HIGHEST_FIRST).contains(&number),
            Some(known) => {
                self.cluster == known.cluster
                    && self.is_after(known)
                    && number <= known.live.number.saturating_add(MAX_AHEAD)
            }
        }
    }
}

/// One shard's part: which generation it serves, and which one it is to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serving {
    /// The newest release that this process knows.
    known: Option<Release>,
    /// Whether others have said what they know, or cannot be asked.
    has_asked: bool,
    /// The release by which this process went live.
    serves: Option<Release>,
    /// The number of the generation that the shard served last without a release.
    before: u64,
}

impl Serving {
    /// A process that has started, with what its shard has stored. It serves nothing until it has
    /// asked others: they may have gone over to something else while it was away. `before` is the
    /// number of the generation that it served last, if that was without a release.
    pub fn start(stored: Option<Release>, before: u64) -> Self {
        Self {
            known: stored,
            has_asked: false,
            serves: None,
            before,
        }
    }

    /// Notes the number of the generation that is live without a release.
    pub fn served(&mut self, before: u64) {
        self.before = before;
    }

    pub(super) fn before(&self) -> u64 {
        self.before
    }

    /// The newest release that this process knows.
    pub fn known(&self) -> Option<&Release> {
        self.known.as_ref()
    }

    /// The release by which this process serves; `None` until it does.
    pub fn serves(&self) -> Option<&Release> {
        self.serves.as_ref()
    }

    /// Whether a release is newer than what is known. To be asked once more just before a release is
    /// stored: a newer one may have been heard of since it was made.
    pub fn is_news(&self, release: &Release) -> bool {
        release.may_follow(self.known.as_ref())
    }

    /// Takes notice of a release, and returns whether it is newer than what was known.
    pub fn hear(&mut self, release: &Release) -> bool {
        let is_newer = self.is_news(release);
        if is_newer {
            self.known = Some(*release);
        }
        is_newer
    }

    /// Notes that the coordinator has said what it knows or, where it is away, that the others
    /// were asked.
    pub fn asked(&mut self) {
        self.has_asked = true;
    }

    /// Whether the others were asked.
    pub fn has_asked(&self) -> bool {
        self.has_asked
    }

    /// The release by which the shard is to go live now.
    pub fn due(&self) -> Option<&Release> {
        let is_live = |release: &&Release| self.serves.as_ref() == Some(*release);
        let known = self.known.as_ref().filter(|_| self.has_asked);
        known.filter(|release| !is_live(release))
    }

    /// Content that serves a part of the partitions, by the newest release.
    pub fn in_trial(&self) -> Option<Digest> {
        self.known?.tried()
    }

    /// Notes that the shard has gone live by a release, which it has stored.
    pub fn is_live(&mut self, release: &Release) {
        self.hear(release);
        self.serves = Some(*release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_partitions_and_in_every_larger_one() {
        let trial = |share| Trial {
            candidate: Generation {
                number: 2,
                digest: Digest::of(b"two"),
            },
            turn: 1,
            share,
            names_some: false,
            paused: false,
        };
        let has = |share: u32, key: u32| trial(share).has(&key.to_le_bytes());
        let of = |share| (0..10_000).filter(|key| has(share, *key)).count();
        assert_eq!((of(0), of(ALL)), (0, 10_000));
        let tenth = of(ALL / 10);
        assert!((850..1150).contains(&tenth), "{tenth}");
        for key in 0..10_000 {
            assert!(!has(ALL / 10, key) || has(ALL / 2, key));
        }
    }
}
