//! The coordinator's decisions about what goes live next in the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use ostrakon_base::digest::Digest;

use super::plan::{ClusterId, Incarnation, Ordinal};
use super::release::{Generation, Release, Serving};

/// The coordinator's state. None of it is stored: a new process observes its volume and asks the
/// other shards again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rollout {
    /// What is to go live.
    candidate: Option<Digest>,
    /// What each shard has said of the candidate.
    said: BTreeMap<Ordinal, Verdict>,
    /// Whether shards that have said nothing are left behind.
    has_waited: bool,
    /// The content that a shard has refused last. It is not tried again by itself.
    refused: Option<Refused>,
    /// The shards that have told this process which release they know.
    told: BTreeSet<Ordinal>,
}

/// What a shard says of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The shard can go live with it at once.
    Prepared,
    Refused,
}

/// A candidate that does not go live in any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    pub digest: Digest,
    /// The shard that refused it; the first of them if there are several.
    pub by: Ordinal,
}

/// What the coordinator is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is nothing to roll out.
    Nothing,
    /// These shards have not said anything of the candidate yet: ask them to prepare it.
    Ask(Digest, Vec<Ordinal>),
    /// Go live by this release, and store it. It is in force only then.
    GoLive(Release),
    /// A shard has refused the candidate.
    Refuse(Refused),
}

impl Rollout {
    /// Notes what the coordinator's volume shows. Content that was refused stays refused until the
    /// volume has shown something else, or [`Rollout::retry`].
    pub fn observe(&mut self, digest: Digest) {
        if self.candidate == Some(digest) {
            return;
        }
        if self.refused.is_some_and(|refused| refused.digest != digest) {
            self.refused = None;
        }
        self.begin(digest);
    }

    /// Tries the refused content again.
    pub fn retry(&mut self) {
        if let Some(refused) = self.refused.take() {
            self.begin(refused.digest);
        }
    }

    fn begin(&mut self, digest: Digest) {
        self.candidate = Some(digest);
        self.said.clear();
        self.has_waited = false;
    }

    /// Notes that a shard has told this process which release it knows.
    pub fn has_told(&mut self, shard: Ordinal) {
        self.told.insert(shard);
    }

    /// Whether all other shards of a cluster have told this process which release they know.
    pub fn have_told(&self, shards: u32) -> bool {
        (1..shards)
            .map(Ordinal)
            .all(|shard| self.told.contains(&shard))
    }

    /// What was observed last.
    pub fn candidate(&self) -> Option<Digest> {
        self.candidate
    }

    /// The content that a shard has refused last.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Notes what a shard says of some content. It counts only for the candidate.
    pub fn says(&mut self, shard: Ordinal, digest: Digest, verdict: Verdict) {
        if self.candidate == Some(digest) {
            self.said.insert(shard, verdict);
        }
    }

    /// Whether a shard has said that it is prepared for the candidate.
    pub fn is_prepared(&self, shard: Ordinal) -> bool {
        self.said.get(&shard) == Some(&Verdict::Prepared)
    }

    /// Gives up waiting for the shards that have said nothing of the candidate: they are left
    /// behind, and go live with it when they can be reached again.
    pub fn wait_no_longer(&mut self) {
        self.has_waited = true;
    }

    /// What to do in a cluster of `shards` shards, for the coordinator's process `me`.
    ///
    /// Nothing, before it has asked the others: by an older disk, it would not continue from their
    /// newest release. The first release waits for nobody, because nobody serves yet, and a
    /// `StatefulSet` starts the others only when its first shard is ready.
    pub fn next(
        &self,
        (cluster, me): (ClusterId, Incarnation),
        serving: &Serving,
        shards: u32,
    ) -> Next {
        let Some(digest) = self.candidate.filter(|_| serving.has_asked()) else {
            return Next::Nothing;
        };
        let known = serving.known();
        let is_live = known.is_some_and(|known| known.live.digest == digest);
        if is_live || self.refused.is_some_and(|last| last.digest == digest) {
            return Next::Nothing;
        }
        let mut said = self.said.iter();
        if let Some((by, _)) = said.find(|(_, said)| **said == Verdict::Refused) {
            return Next::Refuse(Refused { digest, by: *by });
        }
        let is_silent = |shard: &Ordinal| !self.said.contains_key(shard);
        let silent: Vec<_> = (0..shards).map(Ordinal).filter(is_silent).collect();
        // What is live anywhere is live here first.
        let is_prepared = self.is_prepared(Ordinal::COORDINATOR);
        match known {
            Some(known) if silent.is_empty() || self.has_waited && is_prepared => {
                Next::GoLive(known.then(me, digest))
            }
            None if is_prepared => {
                let live = Generation { number: 1, digest };
                Next::GoLive(Release::first(cluster, me, live))
            }
            Some(_) => Next::Ask(digest, silent),
            None => Next::Ask(digest, vec![Ordinal::COORDINATOR]),
        }
    }

    /// Notes that the candidate was refused, as [`Next::Refuse`] says.
    pub fn refuse(&mut self, refused: Refused) {
        self.refused = Some(refused);
    }
}
