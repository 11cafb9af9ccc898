//! What the coordinator knows of the others, and what it decides from that.

use std::time::Duration;

use ostrakon_protocol::{
    Attempt, ClusterId, Incarnation, Next, Ordinal, Refused, Release, Verdict,
};
use tokio::time::Instant;

use super::{BACK, LONGEST, NotAgreed, NotHeld, Other, SHORTEST, SLOWEST, State};
use crate::message::{Said, Says};

impl State {
    /// The shards to ask now.
    pub(in crate::rollout) fn asks(&mut self, shards: u32, every: Duration) -> Vec<Ordinal> {
        let (known, has_candidate) = (self.known(), self.candidate().is_some());
        let mut to_ask = Vec::new();
        for shard in (1..shards).map(Ordinal) {
            let other = self.others.entry(shard).or_default();
            let is_behind = !other.is_old && other.known != known;
            let is_due = other.answered.is_none() || has_candidate || is_behind;
            let is_time = is_due && !other.was_asked_within(every);
            if !other.is_asked && (other.has_news || is_time) {
                other.has_news = false;
                other.is_asked = true;
                other.asked = Some(Instant::now());
                to_ask.push(shard);
            }
        }
        to_ask
    }

    pub(in crate::rollout) fn has_news(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().has_news = true;
    }

    /// A shard has answered this process of the coordinator.
    pub(in crate::rollout) fn answers(
        &mut self,
        shard: Ordinal,
        me: Incarnation,
        known: Option<Release>,
        said: Option<Said>,
    ) {
        let candidate = self.offer(me);
        let other = self.others.entry(shard).or_default();
        other.has_answered(false);
        other.known = known;
        other.said = said.filter(|said| Some(said.candidate) == candidate);
        if let Some(known) = &known {
            self.serving.hear(known);
        }
    }

    /// A shard knows no releases: it serves what its own volume shows.
    pub(in crate::rollout) fn is_old(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().has_answered(true);
    }

    pub(in crate::rollout) fn is_away(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().is_asked = false;
    }

    /// Notes whether all others have said which release they know, or are not waited for any longer,
    /// and returns whether that is news.
    pub(in crate::rollout) fn others_were_asked(&mut self, shards: u32, at_most: Duration) -> bool {
        if self.has_asked() {
            return false;
        }
        for (shard, other) in &self.others {
            if other.answered.is_some() {
                self.rollout.has_told(*shard);
            }
        }
        let is_over = (self.planned).is_some_and(|planned| planned.elapsed() >= at_most);
        if is_over || self.rollout.have_told(shards) {
            self.serving.asked();
        }
        self.has_asked()
    }

    /// What the coordinator is to do next.
    pub(in crate::rollout) fn next(&mut self, me: (ClusterId, Incarnation), shards: u32) -> Next {
        if self.uncertain.is_some() || self.due().is_some() {
            return Next::Nothing;
        }
        // The first release is of what is live, if anything is.
        let first = self.live.filter(|_| self.known().is_none());
        let target = first.map(|live| live.digest).or(self.observed);
        if let Some(target) = target.filter(|target| self.rollout.candidate() != Some(*target)) {
            self.tries(target);
        }
        if let Some(candidate) = self.rollout.candidate() {
            let attempt = self.rollout.attempt();
            let own = match self.says_of(candidate) {
                None if self.serves(candidate) => Some(Verdict::Prepared),
                own => own.and_then(Says::verdict),
            };
            self.note(Ordinal::COORDINATOR, attempt, own);
            for shard in (1..shards).map(Ordinal) {
                let verdict = self.others.get(&shard).and_then(|other| {
                    if other.is_old {
                        return Some(Verdict::Prepared);
                    }
                    other.said.as_ref()?.says.verdict()
                });
                self.note(shard, attempt, verdict);
            }
        }
        let candidate = self.rollout.candidate();
        let live = self.live.map(|live| live.digest);
        let held = candidate.and_then(|candidate| self.back.holds_with(candidate, live));
        self.rollout.hold(held);
        let is_prepared = candidate.is_some() && self.prepared == candidate;
        // What has served before goes live at once, and so does what serves where nothing does.
        let is_at_once = self.back.to() == candidate || self.live.is_none();
        if is_prepared && !is_at_once {
            self.rollout.goes_by(self.way.steps.clone());
        } else {
            self.rollout.goes_by(Vec::new());
        }
        // Where the content of what is live is lost, and what is tried is all that there is.
        let is_lost = self.live.is_none() && self.has_asked() && self.lost.is_some();
        let tried = self.known().and_then(|known| known.trial);
        if let Some(trial) = tried.filter(|_| is_lost) {
            self.rollout.promote(&trial, true);
        }
        self.rollout
            .volume(self.back.volume(), self.back.held_back());
        self.rollout.next(me, &self.serving, shards)
    }

    fn note(&mut self, shard: Ordinal, attempt: Attempt, verdict: Option<Verdict>) {
        match verdict {
            Some(verdict) => self.rollout.says(shard, attempt, verdict),
            None => self.rollout.has_started(shard),
        }
    }

    /// How long all shards may hold requests before this release is stored; none if they need not.
    pub(in crate::rollout) fn barrier(&self, release: &Release) -> Option<Duration> {
        let is_prepared = self.prepared == Some(release.live.digest);
        let is_going = self.going.as_ref() == Some(release);
        self.way.barrier.filter(|_| is_prepared && !is_going)
    }

    /// The release does not go live now.
    pub(in crate::rollout) fn not_made(&mut self) {
        self.rollout.not_made();
    }

    /// Whether the last try was too short a time ago.
    pub(in crate::rollout) fn is_too_early(&self) -> bool {
        let not_held = self.not_held.as_ref();
        not_held.is_some_and(|not_held| Instant::now() < not_held.again)
    }

    /// Notes that not all shards held requests. Returns how long it is before they are to try again.
    pub(in crate::rollout) fn was_not_held(&mut self, why: String) -> Duration {
        let last = self.not_held.as_ref().map(|not_held| not_held.pause);
        let pause = last.map_or(SHORTEST, |last| (2 * last).min(LONGEST));
        let again = Instant::now() + pause;
        self.not_held = Some(NotHeld { why, again, pause });
        pause
    }

    /// Gives up waiting for these shards, if they have been away, or failing, for so long, or as long as
    /// the candidate's own settings say. A way back waits for [`BACK`] at most. With a barrier there is no
    /// going live without them.
    pub(in crate::rollout) fn waits_no_longer(
        &mut self,
        silent: &[Ordinal],
        wait: Duration,
    ) -> bool {
        if self.prepared.is_some() && self.way.barrier.is_some() {
            return false;
        }
        let candidate = self.rollout.candidate();
        let own = (self.way.wait).filter(|_| self.prepared == candidate);
        let wait = own.unwrap_or(wait);
        let is_back = candidate.is_some() && self.back.to() == candidate;
        let wait = if is_back { wait.min(BACK) } else { wait };
        let is_over = |shard: &Ordinal| {
            let other = self.others.get(shard);
            let is_failing = other.is_some_and(|other| {
                let said = other.said.as_ref();
                said.is_some_and(|said| said.says == Says::Failing)
            });
            let answered = other.and_then(|other| other.answered);
            let last = answered.filter(|_| !is_failing);
            // One that is there and says nothing may compile, but not for ever.
            let last = last.map(|last| last.min(self.since + SLOWEST));
            let since = last.map_or(self.since, |last| last.max(self.since));
            *shard != Ordinal::COORDINATOR && since.elapsed() >= wait
        };
        let is_over = silent.iter().all(is_over);
        if is_over {
            self.rollout.wait_no_longer();
        }
        is_over
    }

    /// The release is to be stored, if nothing newer is known by now. Returns whether that is news.
    pub(in crate::rollout) fn goes_live(&mut self, release: Release) -> bool {
        if self.going == Some(release) {
            return false;
        }
        let digest = release.live.digest;
        if self.rollout.is_given_up(digest) {
            self.rollout.not_made();
            return true;
        }
        let is_ready = match release.trial {
            Some(trial) => self.prepared == Some(trial.candidate.digest) && self.serves(digest),
            None => self.prepared == Some(digest) || self.serves(digest),
        };
        if is_ready && self.serving.is_news(&release) {
            self.going = Some(release);
        } else {
            self.rollout.not_made();
        }
        true
    }

    pub(in crate::rollout) fn refuse(&mut self, refused: Refused) {
        let said = self.others.get(&refused.by);
        let said = said.and_then(|other| other.said.as_ref());
        self.why = said.map(|said| NotAgreed {
            by: refused.by,
            step: said.step.clone().unwrap_or_default(),
            reason: said.reason.clone().unwrap_or_default(),
        });
        self.rollout.refuse(refused);
    }
}

impl Other {
    pub(super) fn was_asked_within(&self, time: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < time)
    }

    fn has_answered(&mut self, is_old: bool) {
        self.is_asked = false;
        self.is_old = is_old;
        self.answered = Some(Instant::now());
    }
}
