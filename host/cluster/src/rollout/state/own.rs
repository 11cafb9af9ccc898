//! What the shard's own swap does, and what the shard says of it.

use std::sync::Arc;

use ostrakon_base::digest::Digest;
use ostrakon_engine::Guest;
use ostrakon_protocol::{Generation, Release, Trial};
use ostrakon_shard::swap::{Back, Busy, Refusal, Step};
use ostrakon_volumes::volume::Files;
use tokio::time::Instant;

use super::{RefusedHere, State, Way};
use crate::message::{Candidate, Said, Says};
use crate::rollout::barrier::Held;

impl State {
    /// The swap begins with this content.
    pub(in crate::rollout) fn begins(&mut self, files: &Files) {
        let digest = files.digest();
        self.refused.take_if(|refused| refused.digest == digest);
        // A start begins with what served last, or what is live elsewhere, whatever the volume shows.
        let known = self.known().map(|known| known.live.digest);
        let is_start = self.serving.serves().is_none();
        let is_restored = is_start && [self.restores, known].contains(&Some(digest));
        if self.is_coordinator() {
            self.offered = Some(files.clone());
            if !is_restored || self.serving.in_trial().is_none() {
                self.observe(digest);
            }
        }
    }

    /// The volume shows what is live.
    pub(in crate::rollout) fn shows_live(&mut self, digest: Digest) {
        if self.is_coordinator() {
            self.observe(digest);
        }
    }

    /// The coordinator's volume shows this.
    pub(in crate::rollout) fn volume_shows(&mut self, digest: Digest) {
        self.back.volume_shows(digest);
    }

    /// All shards go back to the content of an earlier generation.
    pub(in crate::rollout) fn go_back(
        &mut self,
        to: Digest,
        from: Option<Digest>,
    ) -> Result<(), Busy> {
        self.back.begin(to, self.live.map(|live| live.digest), from)
    }

    /// Ends the trial that is under way; only in the coordinator. Returns whether there is one: not if
    /// what was tried is going live by now.
    pub(in crate::rollout) fn give_up(&mut self) -> bool {
        let Some(tried) = self.serving.in_trial() else {
            return false;
        };
        let stored = [self.going, self.uncertain];
        let mut stored = stored.into_iter().flatten();
        if stored.any(|release| release.live.digest == tried) {
            return false;
        }
        if self.going.is_none() && self.uncertain.is_none() {
            self.rollout.not_made();
        }
        self.rollout.give_up(tried);
        true
    }

    /// The trial under way, if it has this turn.
    fn trial(&self, turn: u32) -> Option<Trial> {
        let trial = self.known()?.trial;
        trial.filter(|trial| trial.turn == turn)
    }

    /// The step of the trial with this turn has been watched for long enough.
    pub(in crate::rollout) fn was_watched(&mut self, turn: u32) {
        if let Some(trial) = self.trial(turn) {
            self.rollout.was_watched(&trial);
        }
    }

    /// An operator takes the step after the one with this turn; if `full`, that is the last.
    pub(in crate::rollout) fn promote(&mut self, turn: u32, full: bool) {
        if let Some(trial) = self.trial(turn) {
            self.rollout.promote(&trial, full);
        }
    }

    pub(in crate::rollout) fn pause(&mut self, paused: bool) {
        self.rollout.pause(paused);
    }

    /// The release by which the shard serves.
    pub(in crate::rollout) fn serves_by(&self) -> Option<Release> {
        self.serving.serves().copied()
    }

    /// Whether it is still to be found out how content serves.
    pub(in crate::rollout) fn is_to_try(&self, digest: Digest) -> bool {
        let is_due = self.due().is_some_and(|due| due.live.digest == digest)
            || self.serving.in_trial() == Some(digest);
        let back_to = if self.is_coordinator() {
            self.back.to()
        } else {
            self.told.back_to
        };
        !is_due && back_to != Some(digest)
    }

    pub(in crate::rollout) fn back(&self) -> &Back {
        &self.back
    }

    pub(in crate::rollout) fn restores(&mut self, digest: Option<Digest>) {
        self.restores = digest;
    }

    /// The coordinator's swap sees this.
    fn observe(&mut self, digest: Digest) {
        self.observed = Some(digest);
        self.tries(digest);
        self.rollout.retry();
    }

    /// This is the candidate now.
    pub(super) fn tries(&mut self, digest: Digest) {
        let is_other = self.rollout.candidate() != Some(digest);
        if is_other || self.rollout.refused().is_some() {
            self.since = Instant::now();
            self.why = None;
            self.not_held = None;
            for other in self.others.values_mut() {
                other.said = None;
            }
        }
        self.rollout.observe(digest);
    }

    /// The swap has prepared this content, and waits.
    pub(in crate::rollout) fn is_prepared(&mut self, digest: Digest, way: Way) {
        self.prepared = Some(digest);
        self.way = way;
        self.not_held = None;
    }

    /// The release that what is live here is to go over to, and the guest that serves some of the
    /// partitions then, if it is prepared.
    pub(in crate::rollout) fn to_adopt(
        &self,
        live: Option<Digest>,
    ) -> Option<(Release, Option<Arc<Guest>>)> {
        let guest = |release: &Release| {
            let tried = release.tried()?;
            let guest = self.way.guest.as_ref();
            guest.filter(|_| self.prepared == Some(tried)).cloned()
        };
        let is_placed = |release: &Release| {
            let tried = release.tried();
            tried.is_none() || tried == self.placed
        };
        let serves = self.serves_by();
        let to_place = serves.filter(|serves| !is_placed(serves) && guest(serves).is_some());
        let release = self.due().or_else(|| self.going()).or(to_place)?;
        let is_live = live == Some(release.live.digest);
        let is_ready = is_live && self.to_prepare(&release).is_none();
        is_ready.then(|| (release, guest(&release)))
    }

    /// The guest of the content that a release tries serves some of the partitions here, or no longer.
    pub(in crate::rollout) fn places(&mut self, release: &Release, is_given: bool) {
        let tried = release.tried();
        self.placed = tried.filter(|_| is_given || tried == self.placed);
    }

    pub(in crate::rollout) fn refuses(&mut self, refusal: &Refusal) {
        // What the disk refuses now is tried again.
        let for_good = refusal.digest.filter(|_| !refusal.transient);
        if let Some(digest) = for_good {
            self.back.refused(digest, &refusal.reason);
        }
        // What another shard refuses is not refused here.
        let digest = refusal.digest.filter(|_| refusal.step != Step::Agree);
        if let Some(digest) = digest {
            self.restores.take_if(|restores| *restores == digest);
            if self.is_coordinator() && !refusal.transient {
                // What is live elsewhere cannot serve here: what the volume shows is tried.
                let due = self.due().filter(|due| due.live.digest == digest);
                self.lost = due.or(self.lost);
            }
            self.refused = Some(RefusedHere {
                digest,
                step: refusal.step,
                reason: refusal.reason.clone(),
                is_transient: refusal.transient,
            });
        }
    }

    /// The swap no longer waits with this content.
    pub(in crate::rollout) fn gave_up(&mut self, digest: Digest) {
        if self
            .prepared
            .take_if(|prepared| *prepared == digest)
            .is_some()
        {
            self.way = Way::default();
        }
        let going = self.going.take_if(|going| going.live.digest == digest);
        if going.is_some() {
            self.rollout.not_made();
        }
    }

    /// The shard has gone live, by a release if there is one.
    pub(in crate::rollout) fn is_live(&mut self, live: Generation, release: Option<Release>) {
        self.prepared.take_if(|prepared| *prepared == live.digest);
        self.refused = None;
        self.restores = None;
        self.not_held = None;
        self.live = Some(live);
        let held = release.and_then(|release| release.held);
        self.back.is_live(live.digest, held);
        let tried = release.and_then(|release| release.tried());
        self.placed.take_if(|placed| tried != Some(*placed));
        if let Some(release) = release {
            self.serving.is_live(&release);
            self.going.take_if(|going| *going == release);
        } else {
            // The first release, which is of this, does not change its number.
            self.serving.served(live.number.saturating_sub(1));
        }
    }

    /// It is not certain whether this release was stored.
    pub(in crate::rollout) fn is_uncertain(&mut self, release: Release) {
        let digest = release.live.digest;
        self.prepared.take_if(|prepared| *prepared == digest);
        if self.going == Some(release) {
            self.uncertain = self.going.take();
        }
    }

    /// The release that is to be stored now.
    pub(in crate::rollout) fn going(&self) -> Option<Release> {
        self.going
    }

    pub(in crate::rollout) fn uncertain(&self) -> Option<Release> {
        self.uncertain
    }

    /// It is certain whether this release was stored.
    pub(in crate::rollout) fn is_certain(&mut self, release: Release, is_stored: bool) {
        self.uncertain = None;
        self.rollout.not_made();
        if is_stored {
            self.serving.hear(&release);
        }
    }

    /// Whether shard 0 may have requests held here for this candidate.
    pub(in crate::rollout) fn is_ready_for(&self, candidate: Candidate) -> bool {
        self.told.candidate == Some(candidate) && self.prepared == Some(candidate.digest)
    }

    pub(in crate::rollout) fn held(&self) -> Option<Held> {
        self.held
    }

    /// Notes which requests are held here, and returns which were.
    pub(in crate::rollout) fn holds(&mut self, held: Option<Held>) -> Option<Held> {
        std::mem::replace(&mut self.held, held)
    }

    pub(super) fn serves(&self, digest: Digest) -> bool {
        self.live.is_some_and(|live| live.digest == digest)
    }

    pub(super) fn refused_here(&self, digest: Digest) -> Option<&RefusedHere> {
        let refused = self.refused.as_ref();
        refused.filter(|refused| refused.digest == digest && self.prepared != Some(digest))
    }

    /// What this shard has to say of content.
    pub(super) fn says_of(&self, digest: Digest) -> Option<Says> {
        if self.prepared == Some(digest) {
            return Some(Says::Prepared);
        }
        let refused = self.refused_here(digest)?;
        Some(if refused.is_transient {
            Says::Failing
        } else {
            Says::Refused
        })
    }

    /// What this shard says of what it was told of last.
    pub(in crate::rollout) fn says(&self, is_stopping: bool) -> Option<Said> {
        let candidate = self.told.candidate?;
        let failing = |step: Option<Step>, reason: String| Said {
            candidate,
            says: Says::Failing,
            step: step.map(|step| step.name().to_owned()),
            reason: Some(reason),
        };
        let is_of_it = |due: &Release| {
            due.live.digest == candidate.digest || due.tried() == Some(candidate.digest)
        };
        let due = self.due().filter(|due| !is_of_it(due));
        if let Some(due) = due.filter(|_| !self.is_stuck()) {
            // It first has to go over to what is live elsewhere.
            let refused = self.refused_here(due.live.digest);
            let why = refused.map(|refused| format!(": {}", refused.reason));
            let reason = format!(
                "it has not gone over to generation {} yet{}",
                due.live.number,
                why.unwrap_or_default()
            );
            return Some(failing(refused.map(|refused| refused.step), reason));
        }
        let says = self.says_of(candidate.digest);
        if is_stopping && says.is_none_or(|says| says == Says::Failing) {
            return Some(failing(None, "it is draining".to_owned()));
        }
        let refused = self.refused_here(candidate.digest);
        Some(Said {
            candidate,
            says: says?,
            step: refused.map(|refused| refused.step.name().to_owned()),
            reason: refused.map(|refused| refused.reason.clone()),
        })
    }
}
