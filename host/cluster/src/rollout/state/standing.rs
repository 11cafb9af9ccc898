//! What goes live next, and what that waits for, as operators see it.

use std::fmt;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_protocol::{Generation, Ordinal};
use serde::Serialize;
use tokio::time::Instant;

use super::{Other, State};
use crate::message::Says;

/// What goes live next, as operators see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The release that the shard serves by.
    pub release: Option<Generation>,
    /// The newest release that the shard knows, if it serves by another one.
    pub newer: Option<Generation>,
    /// The content that is to go live in all shards.
    pub candidate: Option<Digest>,
    /// What shard 0's volume shows and does not go live while it does; only in shard 0.
    pub held: Option<Digest>,
    /// What each shard has said of it; only in shard 0.
    pub shards: Vec<ShardStanding>,
    /// Why it could not go live at the last try, with `rollout.barrier`; only in shard 0.
    pub not_held: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardStanding {
    pub shard: u32,
    /// `prepared`, `preparing`, `refused`, `failing` or `away`.
    pub state: &'static str,
    /// The step at which it was refused or failed.
    pub step: Option<String>,
    pub reason: Option<String>,
}

impl fmt::Display for ShardStanding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "shard {} is {}", self.shard, self.state)?;
        if let Some(step) = &self.step {
            write!(formatter, ", step {step}")?;
        }
        if let Some(reason) = &self.reason {
            write!(formatter, ": {reason}")?;
        }
        Ok(())
    }
}

impl State {
    pub(in crate::rollout) fn note_what_is_due(&mut self) {
        let known = self.serving.known();
        let is_behind = known.is_some() && self.serving.serves() != known;
        self.behind = is_behind.then(|| self.behind.unwrap_or_else(Instant::now));
    }

    /// How long content has waited to go live in all shards, in the coordinator, or a newer release in
    /// this one.
    pub(in crate::rollout) fn wait(&self) -> Duration {
        // What is in its trial waits for nothing but its time.
        let waiting = self.candidate().filter(|candidate| {
            let tried = self.serving.in_trial();
            self.is_coordinator() && tried != Some(*candidate)
        });
        let since = waiting;
        let since = since.map(|_| self.since).into_iter().chain(self.behind);
        since.min().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Which shards the candidate waits for, for people.
    pub(in crate::rollout) fn waits_for(&self) -> Option<String> {
        let standing = self.standing();
        let digest = standing.candidate?;
        let shards = standing.shards.iter();
        let waits_for = shards.filter(|shard| shard.state != state(Some(Says::Prepared)));
        let mut why: Vec<_> = waits_for.map(ToString::to_string).collect();
        why.extend(standing.not_held);
        Some(format!(
            "content {} has not gone live in all shards yet: {}",
            digest.short(),
            why.join("; ")
        ))
    }

    pub(in crate::rollout) fn standing(&self) -> Standing {
        let serves = self.serving.serves();
        let newer = self.serving.known().filter(|known| serves != Some(known));
        let candidate = if self.is_coordinator() {
            self.candidate()
        } else {
            self.told.candidate.map(|candidate| candidate.digest)
        };
        let mut shards = Vec::new();
        if let Some(candidate) = candidate.filter(|_| self.is_coordinator()) {
            let (says, refused) = (self.says_of(candidate), self.refused_here(candidate));
            shards.push(ShardStanding {
                shard: self.me.0,
                state: state(says),
                step: refused.map(|refused| refused.step.name().to_owned()),
                reason: refused.map(|refused| refused.reason.clone()),
            });
            shards.extend(
                self.others
                    .iter()
                    .map(|(shard, other)| other.standing(*shard)),
            );
        }
        Standing {
            release: serves.map(|release| release.live),
            newer: newer.map(|release| release.live),
            candidate,
            held: self.back.held(),
            shards,
            not_held: self
                .not_held
                .as_ref()
                .filter(|_| candidate.is_some())
                .map(|not_held| not_held.why.clone()),
        }
    }
}

impl Other {
    fn standing(&self, shard: Ordinal) -> ShardStanding {
        let said = self.said.as_ref();
        let is_away = self.answered < self.asked && !self.is_asked;
        ShardStanding {
            shard: shard.0,
            state: if is_away {
                "away"
            } else {
                state(said.map(|said| said.says))
            },
            step: said.and_then(|said| said.step.clone()),
            reason: said.and_then(|said| said.reason.clone()),
        }
    }
}

fn state(says: Option<Says>) -> &'static str {
    match says {
        None => "preparing",
        Some(Says::Prepared) => "prepared",
        Some(Says::Refused) => "refused",
        Some(Says::Failing) => "failing",
    }
}
