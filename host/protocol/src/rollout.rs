//! The coordinator's decisions about what goes live next in the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use ostrakon_base::digest::Digest;
use serde::{Deserialize, Serialize};

use super::plan::{ClusterId, Incarnation, Ordinal};
use super::release::{Release, Serving, Trial};

/// The coordinator's state. None of it is stored: a new process observes its volume and asks the
/// other shards again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rollout {
    /// What is to go live.
    candidate: Option<Digest>,
    /// What is held from then on.
    held: Option<Digest>,
    /// How many candidates this process has had: what a shard said of an earlier one does not count,
    /// even if it had the same content.
    attempt: Attempt,
    /// What each shard has said of the candidate.
    said: BTreeMap<Ordinal, Verdict>,
    /// Whether shards that have said nothing are left behind.
    has_waited: bool,
    /// Set if a shard has refused the candidate. It is not tried again by itself.
    refused: Option<Refused>,
    /// The shards that have told this process which release they know.
    told: BTreeSet<Ordinal>,
    /// The release that is being stored. There is no other until it is known what became of it.
    making: Option<Release>,
    /// The shares of the partitions that the candidate serves before it serves all, in this order.
    steps: Vec<u32>,
    /// The step of a trial that has been watched for long enough, and the one that an operator ends: the
    /// candidate's number, and the turn.
    watched: Option<Step>,
    promoted: Option<Step>,
    /// Whether the steps after that one are left out.
    is_full: bool,
    /// Whether an operator has the trial stay as it is; `None` if nobody has said so to this process.
    paused: Option<bool>,
    /// The content whose trial is to end: it failed, or an operator ended it.
    given_up: Option<Digest>,
    /// What the coordinator's volume shows, if it could be read, also where it is of no use.
    shown: Option<Digest>,
    /// What it shows, if that does not go live while it does.
    held_back: Option<Digest>,
}

type Step = (u64, u32);

/// The number of a candidate, in one process of the coordinator.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Attempt(pub u64);

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
    Ask(Digest, Attempt, Vec<Ordinal>),
    /// Go live by this release, and store it, if it still is [news](Serving::is_news). It is in force
    /// only then, and told to nobody before; see [`Rollout::not_made`].
    GoLive(Release),
    /// A later process of the coordinator made the newest release: take a number above its.
    StartAfter(Incarnation),
    /// A shard has refused the candidate.
    Refuse(Refused),
}

/// The next release of a candidate.
#[derive(Debug, PartialEq, Eq)]
enum Onward {
    /// It serves what it did.
    Stays(Release),
    Goes(Release),
}

fn step(trial: &Trial) -> Step {
    (trial.candidate.number, trial.turn)
}

impl Rollout {
    /// Notes what the coordinator's volume shows. Content that was refused stays refused until the
    /// volume has shown something else, or [`Rollout::retry`].
    pub fn observe(&mut self, digest: Digest) {
        if self.candidate != Some(digest) {
            self.candidate = Some(digest);
            self.begin();
        }
    }

    /// Notes what is held from the moment when the candidate goes live: it takes the place of what the
    /// volume shows.
    pub fn hold(&mut self, held: Option<Digest>) {
        self.held = held;
    }

    /// Tries a candidate again that was refused.
    pub fn retry(&mut self) {
        if self.refused.is_some() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.refused = None;
        self.held = None;
        self.steps.clear();
        self.paused = None;
        self.attempt.0 += 1;
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

    /// The number of the candidate.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The candidate, if a shard has refused it.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Notes what a shard has answered this process about a candidate.
    pub fn says(&mut self, shard: Ordinal, attempt: Attempt, verdict: Verdict) {
        if self.attempt == attempt {
            self.said.insert(shard, verdict);
        }
    }

    /// Notes that a shard has started again: it has to prepare the candidate once more.
    pub fn has_started(&mut self, shard: Ordinal) {
        self.said.remove(&shard);
    }

    /// Whether a shard has said that it is prepared for the candidate.
    pub fn is_prepared(&self, shard: Ordinal) -> bool {
        self.said.get(&shard) == Some(&Verdict::Prepared)
    }

    /// Gives up waiting for the shards that have said nothing of the candidate: they are left
    /// behind, and go live with it when they can be reached again. One that then refuses it goes on
    /// with what it serves, or serves nothing if it has just started.
    pub fn wait_no_longer(&mut self) {
        self.has_waited = self.is_prepared(Ordinal::COORDINATOR);
    }

    /// Has the candidate go live by these shares of the partitions, one after the other, in millionths,
    /// before it serves all.
    pub fn goes_by(&mut self, steps: Vec<u32>) {
        self.steps = steps;
    }

    /// Notes what the volume shows, if it could be read, and whether that is held.
    pub fn volume(&mut self, shown: Option<Digest>, held: Option<Digest>) {
        (self.shown, self.held_back) = (shown, held);
    }

    /// Notes that the trial's step has been watched for long enough.
    pub fn was_watched(&mut self, trial: &Trial) {
        self.watched = Some(step(trial));
    }

    /// Takes the step after this one, as an operator says; if `full`, that is the last.
    pub fn promote(&mut self, trial: &Trial, full: bool) {
        self.promoted = Some(step(trial));
        self.is_full = full;
    }

    /// Has the trial stay as it is, or go on.
    pub fn pause(&mut self, paused: bool) {
        self.paused = Some(paused);
    }

    /// Ends the trial of this content. It is held while the volume shows it.
    pub fn give_up(&mut self, tried: Digest) {
        self.given_up = Some(tried);
    }

    /// Whether the trial of this content is to end.
    pub fn is_given_up(&self, tried: Digest) -> bool {
        self.given_up == Some(tried)
    }

    /// The share after a step.
    fn share_after(&self, trial: Option<Trial>) -> Option<u32> {
        let mut steps = self.steps.iter();
        let share = match trial {
            None => steps.next(),
            Some(trial) => steps.find(|share| **share > trial.share),
        };
        share.copied()
    }

    /// The next release of a candidate that all shards are prepared for; none while it is watched.
    fn onward(&self, known: &Release, me: Incarnation, digest: Digest) -> Option<Onward> {
        let first = self.steps.first() == Some(&0);
        let tries = |share, paused| Release {
            held: self.held,
            ..known.tries(me, digest, (share, first), paused)
        };
        let (mut stays, mut is_promoted) = (false, false);
        if let Some(trial) = &known.trial {
            is_promoted = self.promoted == Some(step(trial));
            stays = self.paused.unwrap_or(trial.paused);
            if stays != trial.paused && !is_promoted {
                return Some(Onward::Stays(tries(trial.share, stays)));
            }
            if !is_promoted && (stays || self.watched != Some(step(trial))) {
                return None;
            }
        }
        let is_full = is_promoted && self.is_full;
        let share = self.share_after(known.trial).filter(|_| !is_full);
        Some(Onward::Goes(match share {
            Some(share) => tries(share, stays),
            None => known.then(me, digest, self.held),
        }))
    }

    /// The release by which the trial under way ends, if it is to: what was live serves all again.
    fn end_of_trial(&self, known: &Release, me: Incarnation) -> Option<Release> {
        let tried = known.tried()?;
        let is_refused = self.refused.is_some_and(|refused| refused.digest == tried);
        let has_failed = is_refused || self.is_given_up(tried);
        let is_another = |other: Option<Digest>| other.is_some_and(|other| other != tried);
        let is_over = is_another(self.candidate) || is_another(self.shown);
        let held = has_failed.then_some(tried);
        (has_failed || is_over).then(|| known.then(me, known.live.digest, held))
    }

    /// What to do in a cluster of `shards` shards, for the coordinator's process `me`.
    ///
    /// Nothing, before it has asked the others: by an older disk, it would not continue from their
    /// newest release. The first release waits for no other shard, because nobody serves yet, and the
    /// others may be started only when this one is ready.
    pub fn next(
        &mut self,
        (cluster, me): (ClusterId, Incarnation),
        serving: &Serving,
        shards: u32,
    ) -> Next {
        if !serving.has_asked() {
            return Next::Nothing;
        }
        let known = serving.known();
        if let Some(known) = known.filter(|known| known.maker > me) {
            return Next::StartAfter(known.maker);
        }
        let is_stored = |making: &Release| known.is_some_and(|known| !making.is_after(known));
        self.making = self.making.filter(|making| !is_stored(making));
        if let Some(making) = self.making {
            return Next::GoLive(making);
        }
        let is_live = known.map(|known| known.live.digest) == self.candidate;
        let mut said = self.said.iter().filter(|(by, _)| by.0 < shards);
        let refused = said.find(|(_, said)| **said == Verdict::Refused);
        let refused = refused.filter(|_| !is_live && self.refused.is_none());
        if let (Some((by, _)), Some(digest)) = (refused, self.candidate) {
            return Next::Refuse(Refused { digest, by: *by });
        }
        self.given_up
            .take_if(|given_up| serving.in_trial() != Some(*given_up));
        if let Some(ended) = known.and_then(|known| self.end_of_trial(known, me)) {
            self.making = Some(ended);
            return Next::GoLive(ended);
        }
        let is_to_go = !is_live && self.refused.is_none() && self.held_back != self.candidate;
        let Some(digest) = self.candidate.filter(|_| is_to_go) else {
            return Next::Nothing;
        };
        let is_silent = |shard: &Ordinal| !self.said.contains_key(shard);
        let silent: Vec<_> = (0..shards).map(Ordinal).filter(is_silent).collect();
        // What is live anywhere is live here first.
        let is_prepared = self.is_prepared(Ordinal::COORDINATOR);
        let is_ready = silent.is_empty() || self.has_waited && is_prepared;
        let release = match known.map(|known| self.onward(known, me, digest)) {
            Some(None) => return Next::Nothing,
            Some(Some(Onward::Stays(release))) => release,
            Some(Some(Onward::Goes(release))) if is_ready => {
                // Each step waits for those that are away by then.
                self.has_waited = false;
                release
            }
            Some(Some(Onward::Goes(_))) => return Next::Ask(digest, self.attempt, silent),
            None if is_prepared => Release {
                held: self.held,
                ..Release::first(cluster, me, serving.before(), digest)
            },
            None => return Next::Ask(digest, self.attempt, vec![Ordinal::COORDINATOR]),
        };
        self.making = Some(release);
        Next::GoLive(release)
    }

    /// Notes that the release was not stored, for certain. As long as that is not certain, the same
    /// release is to be stored again.
    pub fn not_made(&mut self) {
        self.making = None;
    }

    /// Notes that the candidate was refused, as [`Next::Refuse`] says. Nothing if there is another
    /// candidate meanwhile.
    pub fn refuse(&mut self, refused: Refused) {
        if self.candidate == Some(refused.digest) {
            self.refused = Some(refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ClusterId = ClusterId(7);

    fn serving(maker: u64) -> Serving {
        let release = Release::first(ID, Incarnation(maker), 0, Digest::of(b"one"));
        let mut serving = Serving::start(Some(release), 0);
        serving.asked();
        serving
    }

    /// A candidate that shard 0 is prepared for, and that nobody else is waited for.
    fn prepared(content: &[u8]) -> Rollout {
        let mut rollout = Rollout::default();
        rollout.observe(Digest::of(content));
        let attempt = rollout.attempt();
        rollout.says(Ordinal::COORDINATOR, attempt, Verdict::Prepared);
        rollout.wait_no_longer();
        rollout
    }

    #[test]
    fn a_process_makes_nothing_that_would_not_be_after_what_is_known() {
        let mut rollout = prepared(b"two");
        let next = rollout.next((ID, Incarnation(2)), &serving(3), 2);
        assert_eq!(next, Next::StartAfter(Incarnation(3)));
        let next = rollout.next((ID, Incarnation(4)), &serving(3), 2);
        assert!(matches!(next, Next::GoLive(release) if release.maker == Incarnation(4)));
    }

    #[test]
    fn there_is_no_other_release_until_it_is_known_what_became_of_one() {
        let (mut rollout, serving) = (prepared(b"two"), serving(1));
        let next = |rollout: &mut Rollout| rollout.next((ID, Incarnation(1)), &serving, 2);
        let made = next(&mut rollout);
        assert!(matches!(made, Next::GoLive(_)));
        rollout.observe(Digest::of(b"three"));
        assert_eq!(next(&mut rollout), made);
        rollout.not_made();
        assert!(matches!(next(&mut rollout), Next::Ask(..)));
    }

    #[test]
    fn what_a_shard_said_before_it_started_again_does_not_count() {
        let (mut rollout, serving) = (prepared(b"two"), serving(1));
        rollout.has_waited = false;
        let attempt = rollout.attempt();
        rollout.says(Ordinal(1), attempt, Verdict::Prepared);
        rollout.has_started(Ordinal(1));
        let next = rollout.next((ID, Incarnation(1)), &serving, 2);
        assert!(matches!(next, Next::Ask(_, _, shards) if shards == [Ordinal(1)]));
        rollout.says(Ordinal(1), attempt, Verdict::Prepared);
        let next = rollout.next((ID, Incarnation(1)), &serving, 2);
        assert!(matches!(next, Next::GoLive(_)));
    }

    /// What the coordinator has stored, after it has made a release.
    fn stored(next: &Next, serving: &mut Serving) -> Release {
        let Next::GoLive(release) = *next else {
            panic!("{next:?} is no release");
        };
        assert!(serving.is_news(&release), "{release:?}");
        serving.is_live(&release);
        release
    }

    #[test]
    fn a_candidate_goes_through_its_steps_and_keeps_its_number() {
        let (mut rollout, mut serving) = (prepared(b"two"), serving(1));
        rollout.goes_by(vec![10_000, 500_000]);
        let me = (ID, Incarnation(1));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let release = stored(&rollout.next(me, &serving, 2), &mut serving);
            assert_eq!(
                rollout.next(me, &serving, 2),
                Next::Nothing,
                "it is watched"
            );
            seen.push(release.trial.map(|trial| trial.share));
            if let Some(trial) = release.trial {
                assert_eq!((release.live.number, trial.candidate.number), (1, 2));
                rollout.was_watched(&trial);
                rollout.wait_no_longer();
            } else {
                assert_eq!(
                    (release.live.number, release.live.digest),
                    (2, Digest::of(b"two"))
                );
            }
        }
        assert_eq!(seen, [Some(10_000), Some(500_000), None]);
    }

    #[test]
    fn a_trial_that_is_given_up_ends_with_a_higher_number_and_is_held() {
        let (mut rollout, mut serving) = (prepared(b"two"), serving(1));
        rollout.goes_by(vec![10_000]);
        let me = (ID, Incarnation(1));
        stored(&rollout.next(me, &serving, 2), &mut serving);
        rollout.pause(true);
        let paused = stored(&rollout.next(me, &serving, 2), &mut serving);
        assert!(
            paused
                .trial
                .is_some_and(|trial| trial.paused && trial.turn == 2)
        );
        rollout.give_up(Digest::of(b"two"));
        let ended = stored(&rollout.next(me, &serving, 2), &mut serving);
        assert_eq!(ended.live.number, 3);
        assert_eq!((ended.live.digest, ended.trial), (Digest::of(b"one"), None));
        assert_eq!(ended.held, Some(Digest::of(b"two")));
        rollout.volume(ended.held, ended.held);
        assert_eq!(rollout.next(me, &serving, 2), Next::Nothing);
        // Shown anew, it has its steps again, and is not held meanwhile.
        rollout.volume(ended.held, None);
        rollout.pause(false);
        rollout.wait_no_longer();
        let again = stored(&rollout.next(me, &serving, 2), &mut serving);
        assert_eq!(
            (again.held, again.trial.map(|trial| trial.turn)),
            (None, Some(1))
        );
        assert_eq!(
            rollout.next(me, &serving, 2),
            Next::Nothing,
            "it is watched anew"
        );
    }

    #[test]
    fn a_pause_outweighs_a_step_that_was_watched_and_an_operator_outweighs_both() {
        let (mut rollout, mut serving) = (prepared(b"two"), serving(1));
        rollout.goes_by(vec![10_000, 500_000]);
        let me = (ID, Incarnation(1));
        let first = stored(&rollout.next(me, &serving, 2), &mut serving)
            .trial
            .unwrap();
        // Another shard is silent: nothing but the pause is made.
        rollout.was_watched(&first);
        rollout.pause(true);
        let paused = stored(&rollout.next(me, &serving, 2), &mut serving)
            .trial
            .unwrap();
        assert_eq!((paused.share, paused.paused), (10_000, true));
        rollout.was_watched(&paused);
        assert_eq!(rollout.next(me, &serving, 2), Next::Nothing);
        rollout.promote(&paused, false);
        rollout.wait_no_longer();
        let second = stored(&rollout.next(me, &serving, 2), &mut serving)
            .trial
            .unwrap();
        assert_eq!((second.share, second.paused), (500_000, true));
        // All steps that are left, also if the candidate was prepared again meanwhile.
        let (mut rollout, mut serving) = (prepared(b"two"), self::serving(1));
        rollout.goes_by(vec![10_000, 500_000]);
        let first = stored(&rollout.next(me, &serving, 2), &mut serving)
            .trial
            .unwrap();
        rollout.promote(&first, true);
        rollout.goes_by(vec![10_000, 500_000]);
        rollout.wait_no_longer();
        let last = stored(&rollout.next(me, &serving, 2), &mut serving);
        assert_eq!((last.live.number, last.trial), (2, None));
    }

    #[test]
    fn what_else_the_volume_shows_ends_a_trial_also_where_it_is_of_no_use() {
        let (mut rollout, mut serving) = (prepared(b"two"), serving(1));
        rollout.goes_by(vec![10_000]);
        let me = (ID, Incarnation(1));
        stored(&rollout.next(me, &serving, 2), &mut serving);
        let mut again = Rollout::default();
        assert_eq!(again.next(me, &serving, 2), Next::Nothing);
        again.volume(Some(Digest::of(b"broken")), None);
        let ended = stored(&again.next(me, &serving, 2), &mut serving);
        assert_eq!(
            (ended.live.number, ended.trial, ended.held),
            (3, None, None)
        );
    }

    #[test]
    fn other_content_ends_a_trial_before_it_has_one_of_its_own() {
        let (mut rollout, mut serving) = (prepared(b"two"), serving(1));
        rollout.goes_by(vec![10_000]);
        let me = (ID, Incarnation(1));
        stored(&rollout.next(me, &serving, 2), &mut serving);
        rollout.observe(Digest::of(b"three"));
        let ended = stored(&rollout.next(me, &serving, 2), &mut serving);
        assert_eq!(
            (ended.live.number, ended.trial, ended.held),
            (3, None, None)
        );
        assert!(matches!(rollout.next(me, &serving, 2), Next::Ask(..)));
        // A new process goes on with what is stored.
        let mut again = prepared(b"three");
        again.goes_by(vec![10_000]);
        let release = stored(&again.next(me, &serving, 2), &mut serving);
        assert_eq!(release.trial.map(|trial| trial.candidate.number), Some(4));
        let mut again = prepared(b"three");
        assert_eq!(again.next(me, &serving, 2), Next::Nothing);
    }

    #[test]
    fn a_refusal_that_comes_late_is_not_about_the_next_candidate() {
        let (mut rollout, serving) = (Rollout::default(), serving(1));
        let (two, three) = (Digest::of(b"two"), Digest::of(b"three"));
        rollout.observe(two);
        let before = rollout.attempt();
        rollout.observe(three);
        let by = Ordinal(1);
        rollout.says(by, before, Verdict::Refused);
        rollout.refuse(Refused { digest: two, by });
        assert_eq!(rollout.refused(), None);
        let next = |rollout: &mut Rollout| rollout.next((ID, Incarnation(1)), &serving, 2);
        assert!(matches!(next(&mut rollout), Next::Ask(..)));
        let attempt = rollout.attempt();
        rollout.says(by, attempt, Verdict::Refused);
        let refused = Refused { digest: three, by };
        assert_eq!(next(&mut rollout), Next::Refuse(refused));
        rollout.refuse(refused);
        assert_eq!(next(&mut rollout), Next::Nothing);
        rollout.retry();
        assert!(matches!(next(&mut rollout), Next::Ask(..)));
    }
}
