//! What a shard knows about what it is to serve: what its own swap does, and what others said when
//! they were asked.

mod others;
mod own;
mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_engine::Guest;
use ostrakon_protocol::{Attempt, Generation, Incarnation, Ordinal, Release, Rollout, Serving};
use ostrakon_shard::swap::{Back, Step};
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

/// How a candidate that is prepared goes live.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// How long all shards may hold requests for it; none if they need not.
    pub barrier: Option<Duration>,
    /// The shares of the partitions that it serves before it serves all, in millionths.
    pub steps: Vec<u32>,
    /// How long shards that are away are waited for; if that is not said, as for what is live.
    pub wait: Option<Duration>,
    /// What serves then.
    pub guest: Option<Arc<Guest>>,
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

/// How long a way back waits for shards that are away: the others serve what is gone back from meanwhile.
const BACK: Duration = Duration::from_secs(5);

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
    /// How it goes live.
    way: Way,
    /// The content whose guest serves some of the partitions here.
    placed: Option<Digest>,
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
    /// The candidate, if an operator goes back to it.
    back_to: Option<Digest>,
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
            way: Way::default(),
            placed: None,
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
        let is_over = |candidate: &Digest| {
            let held = self.back.held_back();
            self.rollout.is_given_up(*candidate) || held == Some(*candidate)
        };
        let candidate = candidate.filter(|candidate| !is_over(candidate));
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
            // What it tries beside what is live here is prepared before it is gone over to.
            return match self.beside(&due) {
                Some(tried) => Wanted::Content(tried, self.attempt_of(tried)),
                None => Wanted::Content(due.live.digest, None),
            };
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
        if let Some(tried) = self.to_place() {
            return Wanted::Content(tried, self.attempt_of(tried));
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

    /// The attempt of shard 0 that this content is of.
    fn attempt_of(&self, digest: Digest) -> Option<(Incarnation, Attempt)> {
        let told = self.told.candidate;
        let told = told.filter(|candidate| candidate.digest == digest);
        told.map(|candidate| (candidate.by, candidate.attempt))
    }

    /// What a release tries beside what is live here.
    fn beside(&self, release: &Release) -> Option<Digest> {
        let tried = release.tried()?;
        let serves = self.serving.serves()?;
        (serves.live.digest == release.live.digest).then_some(tried)
    }

    /// What a release tries beside what is live here, if that is to be prepared first. At a start it is
    /// not: what is live serves meanwhile.
    fn to_prepare(&self, release: &Release) -> Option<Digest> {
        let tried = self.beside(release)?;
        let is_known = self.serves_beside() == Some(tried);
        let is_prepared = self.prepared == Some(tried) && self.way.guest.is_some();
        (!is_known && !is_prepared).then_some(tried)
    }

    /// What serves some of the partitions here, or is to since the start.
    fn serves_beside(&self) -> Option<Digest> {
        self.serving.serves()?.tried()
    }

    /// The content that is to serve some of the partitions, and does not yet: the process has started
    /// again. Shard 0 goes by its volume, if that can be read.
    fn to_place(&self) -> Option<Digest> {
        let is_shown = self.is_coordinator() && self.back.volume().is_some();
        let tried = self.serves_beside().filter(|_| !is_shown);
        tried.filter(|tried| self.placed != Some(*tried))
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
        if self.serving.in_trial() == Some(digest) {
            self.rollout.give_up(digest);
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
            back_to: None,
        };
        if let Some(known) = &known {
            self.serving.hear(known);
        }
        if has_asked {
            self.serving.asked();
        }
    }

    /// Whether the coordinator's candidate is what an operator goes back to.
    pub(super) fn coordinator_goes_back(&mut self, goes_back: bool) {
        let candidate = self.told.candidate.filter(|_| goes_back);
        self.told.back_to = candidate.map(|candidate| candidate.digest);
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

#[cfg(test)]
mod tests;
