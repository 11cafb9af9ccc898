//! What a shard knows about what it is to serve: what its own swap does, and what others said when
//! they were asked.

mod standing;

use std::collections::BTreeMap;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_protocol::{
    Attempt, ClusterId, Generation, Incarnation, Next, Ordinal, Refused, Release, Rollout, Serving,
    Verdict,
};
use ostrakon_shard::swap::{Back, Busy, Refusal, Step};
use ostrakon_volumes::volume::Files;
use tokio::time::Instant;

use super::barrier::Held;
use crate::message::{Candidate, Said, Says};

pub use standing::Standing;

/// Why a candidate does not go live in this shard, though it is prepared here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {} refuses it at step {step}: {reason}", .by.0)]
pub struct NotAgreed {
    pub by: Ordinal,
    /// The step at which it was refused there.
    pub step: String,
    pub reason: String,
}

/// What is decided about a candidate that is prepared.
#[derive(Debug)]
pub(super) enum Decided {
    /// By this release; by none where there are none.
    GoLive(Option<Release>),
    Refused(NotAgreed),
}

/// The content that a shard's swap is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What the volume shows.
    Volume,
    /// Content; if it is to be tried, with the attempt.
    Content(Digest, Option<(Incarnation, Attempt)>),
    /// That is not known yet.
    Unknown,
}

/// How long a shard that answers, but is not prepared, is not away.
const SLOWEST: Duration = Duration::from_mins(10);

/// How long it is after not all shards held requests before they are to try again: twice as long each
/// time.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct State {
    me: Ordinal,
    serving: Serving,
    /// Used only in the coordinator.
    rollout: Rollout,
    /// The candidate's files, for other shards.
    offered: Option<Files>,
    /// Since when there is this candidate.
    since: Instant,
    /// The content that is prepared here and waits.
    prepared: Option<Digest>,
    /// How long all shards may hold requests for it; none if they need not.
    barrier: Option<Duration>,
    /// The requests that are held here.
    held: Option<Held>,
    /// Why the candidate could not go live at the last try.
    not_held: Option<NotHeld>,
    /// What the swap here refused last.
    refused: Option<RefusedHere>,
    /// What has gone live last in this process.
    live: Option<Generation>,
    /// What is to serve first at this start.
    restores: Option<Digest>,
    /// What the coordinator's swap began with last, or what it sees if that is live.
    observed: Option<Digest>,
    /// Why another shard refuses the candidate.
    why: Option<NotAgreed>,
    /// What an operator went back from, and to; only in the coordinator.
    back: Back,
    /// The release that the coordinator is to store.
    going: Option<Release>,
    /// A release that the coordinator may have stored.
    uncertain: Option<Release>,
    /// Since when the process knows of a plan.
    planned: Option<Instant>,
    /// A release that cannot serve here: nobody has its content or, in the coordinator, it is refused.
    lost: Option<Release>,
    /// Since when a release is due that is not live here.
    behind: Option<Instant>,
    /// What shard 0 said last; not used in shard 0.
    told: Told,
    /// What the coordinator knows of the others, and they of it.
    others: BTreeMap<Ordinal, Other>,
    /// What the others were last told that there is news about.
    announced: Option<News>,
}

/// Not all shards held requests in time.
#[derive(Debug)]
struct NotHeld {
    why: String,
    again: Instant,
    /// How long it was waited.
    pause: Duration,
}

/// What others are to ask about when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    known: Option<Release>,
    candidate: Option<Candidate>,
    said: Option<(Candidate, Says)>,
}

#[derive(Clone, Debug)]
struct RefusedHere {
    digest: Digest,
    step: Step,
    reason: String,
    /// Whether it will be tried again by itself.
    is_transient: bool,
}

#[derive(Debug, Default)]
struct Told {
    candidate: Option<Candidate>,
    /// Whether shard 0 serves without a release, because there is none.
    is_unreleased: bool,
    /// Whether shard 0 is of a version that makes no releases.
    is_old: bool,
    is_away: bool,
}

#[derive(Debug, Default)]
struct Other {
    /// When it was last asked, and whether it has not answered that yet.
    asked: Option<Instant>,
    is_asked: bool,
    /// When it last said which release it knows.
    answered: Option<Instant>,
    has_news: bool,
    known: Option<Release>,
    said: Option<Said>,
    /// Whether it is of a version that knows no releases.
    is_old: bool,
}

impl State {
    pub(super) fn new(me: Ordinal, stored: Option<Release>, before: u64, has_plan: bool) -> Self {
        Self {
            me,
            serving: Serving::start(stored, before),
            rollout: Rollout::default(),
            offered: None,
            since: Instant::now(),
            prepared: None,
            barrier: None,
            held: None,
            not_held: None,
            refused: None,
            live: None,
            restores: None,
            observed: None,
            why: None,
            back: Back::default(),
            going: None,
            uncertain: None,
            planned: has_plan.then(Instant::now),
            lost: None,
            behind: None,
            told: Told::default(),
            others: BTreeMap::new(),
            announced: None,
        }
    }

    /// What the stored generation holds.
    pub(super) fn holding(self, held: Option<Digest>) -> Self {
        let back = Back::new(held);
        Self { back, ..self }
    }

    fn is_coordinator(&self) -> bool {
        self.me == Ordinal::COORDINATOR
    }

    /// The release by which the shard is to go live.
    pub(super) fn due(&self) -> Option<Release> {
        let due = self.serving.due().copied();
        due.filter(|due| self.lost != Some(*due))
    }

    pub(super) fn known(&self) -> Option<Release> {
        self.serving.known().copied()
    }

    pub(super) fn has_asked(&self) -> bool {
        self.serving.has_asked()
    }

    pub(super) fn has_plan(&self) -> bool {
        self.planned.is_some()
    }

    pub(super) fn finds_plan(&mut self) {
        self.planned.get_or_insert_with(Instant::now);
    }

    /// The coordinator's candidate, while it is neither live nor refused.
    pub(super) fn candidate(&self) -> Option<Digest> {
        let live = self.serving.known().map(|known| known.live.digest);
        let candidate = self.rollout.candidate();
        candidate.filter(|candidate| self.rollout.refused().is_none() && Some(*candidate) != live)
    }

    /// The candidate of this process of the coordinator, as it tells others.
    pub(super) fn offer(&self, me: Incarnation) -> Option<Candidate> {
        let digest = match self.known() {
            // Before there is a release, the others serve what serves here.
            None => self
                .live
                .filter(|_| self.is_coordinator())
                .map(|live| live.digest),
            Some(_) => self.candidate(),
        };
        Some(Candidate {
            digest: digest?,
            by: me,
            attempt: self.rollout.attempt(),
        })
    }

    /// The files of content that this shard offers.
    pub(super) fn offers(&self, digest: Digest) -> Option<&Files> {
        let offered = self.offered.as_ref();
        offered.filter(|files| files.digest() == digest)
    }

    /// What this shard's swap is to see.
    pub(super) fn wanted(&self) -> Wanted {
        let is_stuck = self.is_stuck() && self.told.candidate.is_some();
        if let Some(due) = self.due().filter(|_| !is_stuck) {
            return Wanted::Content(due.live.digest, None);
        }
        if self.has_plan() && !self.serving.has_asked() {
            // What the disk says serves first.
            let known = self.known().map(|known| known.live.digest);
            return known.map_or(Wanted::Unknown, |known| Wanted::Content(known, None));
        }
        if self.is_coordinator() && self.live.is_none() && self.restores.is_some() {
            // What served last has its turn before the volume.
            return Wanted::Unknown;
        }
        if self.is_coordinator() {
            let instead = self.back.instead(self.live.map(|live| live.digest));
            return instead.map_or(Wanted::Volume, |instead| Wanted::Content(instead, None));
        }
        if self.told.is_old {
            return Wanted::Volume;
        }
        if let Some(candidate) = self.told.candidate {
            let attempt = (candidate.by, candidate.attempt);
            return Wanted::Content(candidate.digest, Some(attempt));
        }
        // Shown again, so that nothing else counts as refused any longer.
        let serves = self.serving.serves();
        serves.map_or(Wanted::Unknown, |serves| {
            Wanted::Content(serves.live.digest, None)
        })
    }

    /// Whether this shard refuses what is live elsewhere: it can only go over to something else.
    fn is_stuck(&self) -> bool {
        let (Some(refused), Some(due)) = (&self.refused, self.due()) else {
            return false;
        };
        !refused.is_transient && refused.digest == due.live.digest
    }

    /// Nobody who can be asked has the content of the newest release.
    pub(super) fn is_lost(&mut self, digest: Digest) {
        if let Some(due) = self.due().filter(|due| due.live.digest == digest) {
            self.lost = Some(due);
        }
        self.back
            .refused(digest, "no shard that can be asked has its content");
    }

    /// What is decided about content that is prepared here.
    pub(super) fn decided(&self, digest: Digest) -> Option<Decided> {
        if let Some(due) = self.due() {
            let is_due = due.live.digest == digest;
            return is_due.then_some(Decided::GoLive(Some(due)));
        }
        if !self.is_coordinator() {
            let is_first = self.told.is_unreleased
                && self.told.candidate.map(|candidate| candidate.digest) == Some(digest);
            // Nobody who can be asked knows of a release.
            let is_alone = self.told.is_away && self.has_asked() && self.restores == Some(digest);
            let is_free = self.told.is_old || self.known().is_none() && (is_first || is_alone);
            return is_free.then_some(Decided::GoLive(None));
        }
        if !self.has_plan() && self.known().is_none() {
            // There is no cluster yet.
            return Some(Decided::GoLive(None));
        }
        if let Some(going) = self.going.filter(|going| going.live.digest == digest) {
            return Some(Decided::GoLive(Some(going)));
        }
        let refused = self.rollout.refused();
        refused.filter(|refused| refused.digest == digest)?;
        self.why.clone().map(Decided::Refused)
    }
}

/// What the shard's own swap does.
impl State {
    /// The swap begins with this content.
    pub(super) fn begins(&mut self, files: &Files) {
        let digest = files.digest();
        self.refused.take_if(|refused| refused.digest == digest);
        if self.is_coordinator() {
            self.offered = Some(files.clone());
            self.observe(digest);
        }
    }

    /// The volume shows what is live.
    pub(super) fn shows_live(&mut self, digest: Digest) {
        if self.is_coordinator() {
            self.observe(digest);
        }
    }

    /// The coordinator's volume shows this.
    pub(super) fn volume_shows(&mut self, digest: Digest) {
        self.back.volume_shows(digest);
    }

    /// An operator goes back to the content of an earlier generation.
    pub(super) fn go_back(&mut self, to: Digest) -> Result<(), Busy> {
        self.back.begin(to, self.live.map(|live| live.digest))
    }

    pub(super) fn back(&self) -> &Back {
        &self.back
    }

    pub(super) fn restores(&mut self, digest: Option<Digest>) {
        self.restores = digest;
    }

    /// The coordinator's swap sees this.
    fn observe(&mut self, digest: Digest) {
        self.observed = Some(digest);
        self.tries(digest);
        self.rollout.retry();
    }

    /// This is the candidate now.
    fn tries(&mut self, digest: Digest) {
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
    pub(super) fn is_prepared(&mut self, digest: Digest, barrier: Duration) {
        self.prepared = Some(digest);
        self.barrier = Some(barrier).filter(|barrier| !barrier.is_zero());
        self.not_held = None;
    }

    pub(super) fn refuses(&mut self, refusal: &Refusal) {
        if let Some(digest) = refusal.digest {
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
    pub(super) fn gave_up(&mut self, digest: Digest) {
        self.prepared.take_if(|prepared| *prepared == digest);
        let going = self.going.take_if(|going| going.live.digest == digest);
        if going.is_some() {
            self.rollout.not_made();
        }
    }

    /// The shard has gone live, by a release if there is one.
    pub(super) fn is_live(&mut self, live: Generation, release: Option<Release>) {
        self.prepared.take_if(|prepared| *prepared == live.digest);
        self.refused = None;
        self.restores = None;
        self.not_held = None;
        self.live = Some(live);
        let held = release.and_then(|release| release.held);
        self.back.is_live(live.digest, held);
        if let Some(release) = release {
            self.serving.is_live(&release);
            self.going.take_if(|going| *going == release);
        } else {
            // The first release, which is of this, does not change its number.
            self.serving.served(live.number.saturating_sub(1));
        }
    }

    /// It is not certain whether this release was stored.
    pub(super) fn is_uncertain(&mut self, release: Release) {
        let digest = release.live.digest;
        self.prepared.take_if(|prepared| *prepared == digest);
        if self.going == Some(release) {
            self.uncertain = self.going.take();
        }
    }

    /// The release that is to be stored now.
    pub(super) fn going(&self) -> Option<Release> {
        self.going
    }

    pub(super) fn uncertain(&self) -> Option<Release> {
        self.uncertain
    }

    /// It is certain whether this release was stored.
    pub(super) fn is_certain(&mut self, release: Release, is_stored: bool) {
        self.uncertain = None;
        self.rollout.not_made();
        if is_stored {
            self.serving.hear(&release);
        }
    }

    /// Whether shard 0 may have requests held here for this candidate.
    pub(super) fn is_ready_for(&self, candidate: Candidate) -> bool {
        self.told.candidate == Some(candidate) && self.prepared == Some(candidate.digest)
    }

    pub(super) fn held(&self) -> Option<Held> {
        self.held
    }

    /// Notes which requests are held here, and returns which were.
    pub(super) fn holds(&mut self, held: Option<Held>) -> Option<Held> {
        std::mem::replace(&mut self.held, held)
    }

    fn serves(&self, digest: Digest) -> bool {
        self.live.is_some_and(|live| live.digest == digest)
    }

    fn refused_here(&self, digest: Digest) -> Option<&RefusedHere> {
        let refused = self.refused.as_ref();
        refused.filter(|refused| refused.digest == digest && self.prepared != Some(digest))
    }

    /// What this shard has to say of content.
    fn says_of(&self, digest: Digest) -> Option<Says> {
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
    pub(super) fn says(&self, is_stopping: bool) -> Option<Said> {
        let candidate = self.told.candidate?;
        let failing = |step: Option<Step>, reason: String| Said {
            candidate,
            says: Says::Failing,
            step: step.map(|step| step.name().to_owned()),
            reason: Some(reason),
        };
        let due = self.due().filter(|due| due.live.digest != candidate.digest);
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

/// What shard 0 says.
impl State {
    /// The coordinator knows this release, and wants this content to go live.
    pub(super) fn coordinator_says(
        &mut self,
        known: Option<Release>,
        candidate: Option<Candidate>,
        has_asked: bool,
    ) {
        if self.told.candidate != candidate {
            // What was refused in an earlier attempt is tried again.
            let digest = candidate.map(|candidate| candidate.digest);
            self.refused
                .take_if(|refused| Some(refused.digest) == digest);
        }
        self.told = Told {
            candidate,
            is_unreleased: known.is_none(),
            is_old: false,
            is_away: false,
        };
        if let Some(known) = &known {
            self.serving.hear(known);
        }
        if has_asked {
            self.serving.asked();
        }
    }

    /// The coordinator makes no releases.
    pub(super) fn coordinator_is_old(&mut self) {
        self.told = Told {
            is_old: true,
            ..Told::default()
        };
        self.serving.asked();
    }

    /// Whether shard 0 is to be asked now; notes that it is.
    pub(super) fn is_to_ask_the_coordinator(&mut self, every: Duration) -> bool {
        let coordinator = self.others.entry(Ordinal::COORDINATOR).or_default();
        let is_due = coordinator.has_news || !coordinator.was_asked_within(every);
        if is_due {
            coordinator.has_news = false;
            coordinator.asked = Some(Instant::now());
        }
        is_due
    }

    /// The coordinator cannot be asked.
    pub(super) fn coordinator_is_away(&mut self) {
        self.told.is_away = true;
    }

    pub(super) fn is_coordinator_away(&self) -> bool {
        self.told.is_away
    }

    pub(super) fn hear(&mut self, release: &Release) {
        self.serving.hear(release);
    }

    /// All who can be asked were asked.
    pub(super) fn asked(&mut self) {
        self.serving.asked();
    }
}

/// The coordinator's knowledge of the others.
impl State {
    /// The shards to ask now.
    pub(super) fn asks(&mut self, shards: u32, every: Duration) -> Vec<Ordinal> {
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

    pub(super) fn has_news(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().has_news = true;
    }

    /// A shard has answered this process of the coordinator.
    pub(super) fn answers(
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
    pub(super) fn is_old(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().has_answered(true);
    }

    pub(super) fn is_away(&mut self, shard: Ordinal) {
        self.others.entry(shard).or_default().is_asked = false;
    }

    /// Notes whether all others have said which release they know, or are not waited for any longer,
    /// and returns whether that is news.
    pub(super) fn others_were_asked(&mut self, shards: u32, at_most: Duration) -> bool {
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
    pub(super) fn next(&mut self, me: (ClusterId, Incarnation), shards: u32) -> Next {
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
        self.rollout.next(me, &self.serving, shards)
    }

    fn note(&mut self, shard: Ordinal, attempt: Attempt, verdict: Option<Verdict>) {
        match verdict {
            Some(verdict) => self.rollout.says(shard, attempt, verdict),
            None => self.rollout.has_started(shard),
        }
    }

    /// How long all shards may hold requests before this release is stored; none if they need not.
    pub(super) fn barrier(&self, release: &Release) -> Option<Duration> {
        let is_prepared = self.prepared == Some(release.live.digest);
        let is_going = self.going.as_ref() == Some(release);
        self.barrier.filter(|_| is_prepared && !is_going)
    }

    /// The release does not go live now.
    pub(super) fn not_made(&mut self) {
        self.rollout.not_made();
    }

    /// Whether the last try was too short a time ago.
    pub(super) fn is_too_early(&self) -> bool {
        let not_held = self.not_held.as_ref();
        not_held.is_some_and(|not_held| Instant::now() < not_held.again)
    }

    /// Notes that not all shards held requests. Returns how long it is before they are to try again.
    pub(super) fn was_not_held(&mut self, why: String) -> Duration {
        let last = self.not_held.as_ref().map(|not_held| not_held.pause);
        let pause = last.map_or(SHORTEST, |last| (2 * last).min(LONGEST));
        let again = Instant::now() + pause;
        self.not_held = Some(NotHeld { why, again, pause });
        pause
    }

    /// Gives up waiting for these shards, if they have been away, or failing, for so long. With a
    /// barrier there is no going live without them.
    pub(super) fn waits_no_longer(&mut self, silent: &[Ordinal], wait: Duration) -> bool {
        if self.prepared.is_some() && self.barrier.is_some() {
            return false;
        }
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
    pub(super) fn goes_live(&mut self, release: Release) -> bool {
        if self.going == Some(release) {
            return false;
        }
        let digest = release.live.digest;
        let is_ready = self.prepared == Some(digest) || self.serves(digest);
        if is_ready && self.serving.is_news(&release) {
            self.going = Some(release);
        } else {
            self.rollout.not_made();
        }
        true
    }

    pub(super) fn refuse(&mut self, refused: Refused) {
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

impl State {
    /// Whether there is something that others have not been told to ask about.
    pub(super) fn has_unannounced(&mut self, is_stopping: bool) -> bool {
        let news = News {
            known: self.serving.known().copied(),
            candidate: self.offer(Incarnation::default()),
            said: self
                .says(is_stopping)
                .map(|said| (said.candidate, said.says)),
        };
        let is_news = self.announced.as_ref() != Some(&news);
        self.announced = Some(news);
        is_news
    }
}

impl Other {
    fn was_asked_within(&self, time: Duration) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() < time)
    }

    fn has_answered(&mut self, is_old: bool) {
        self.is_asked = false;
        self.is_old = is_old;
        self.answered = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests;
