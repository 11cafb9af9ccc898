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
        }
    }

    /// The release that a process of the coordinator makes next, for this content, while it holds
    /// other content.
    #[must_use]
    pub fn then(&self, maker: Incarnation, digest: Digest, held: Option<Digest>) -> Self {
        let number = self.live.number.saturating_add(1);
        Self {
            cluster: self.cluster,
            maker,
            live: Generation { number, digest },
            held,
        }
    }

    /// Whether it was made after another one. What a later process of the coordinator makes counts,
    /// even if that process had to continue from an older disk.
    pub fn is_after(&self, other: &Self) -> bool {
        (self.maker, self.live.number) > (other.maker, other.live.number)
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

    /// Notes that the shard has gone live by a release, which it has stored.
    pub fn is_live(&mut self, release: &Release) {
        self.hear(release);
        self.serves = Some(*release);
    }
}
