//! What a shard that is alone is to serve: what its volume shows, unless an operator went back from
//! that. It makes its own releases: it is a cluster of one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_engine::Guest;
use ostrakon_observe::metrics::Metrics;
use ostrakon_protocol::{
    ClusterId, Incarnation, Next, Ordinal, Release, Rollout, Serving, Trial, Verdict,
};
use ostrakon_volumes::volume::Observation;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::history::History;
use super::{Back, Busy, DefaultGuest, Kept, tried};
use crate::writer::{self, Writer};

/// Who makes the releases of a shard that is alone.
const ME: (ClusterId, Incarnation) = (ClusterId(0), Incarnation(0));

/// How long after a release could not be stored it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Decides what a shard's swap is to see, and what goes live. Clones share it.
#[derive(Clone, Debug)]
pub struct Alone(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A std mutex, because it is held only briefly.
    state: Mutex<State>,
    /// Wakes the work of [`Alone::directed`].
    changed: Notify,
    /// Wakes the swap, which waits until it may go live.
    decided: Notify,
}

#[derive(Debug)]
struct State {
    back: Back,
    live: Option<Digest>,
    /// Whether it is live in this process.
    serves: bool,
    serving: Serving,
    rollout: Rollout,
    prepared: Option<Prepared>,
    /// The content whose guest serves some of the partitions.
    placed: Option<Digest>,
    /// The content that goes live now, with all partitions.
    going: Option<Digest>,
}

/// A candidate that may go live.
#[derive(Clone, Debug)]
struct Prepared {
    digest: Digest,
    steps: Vec<u32>,
    guest: Arc<Guest>,
}

/// The permission to go live. Dropping it gives it up.
#[derive(Debug)]
pub struct Permitted {
    alone: Alone,
    digest: Digest,
    release: Option<Release>,
    is_used: bool,
}

impl Permitted {
    /// The release by which the shard goes live.
    pub fn release(&self) -> Option<Release> {
        self.release
    }

    /// Notes that the shard has gone live.
    pub fn is_live(mut self, live: &writer::Live) {
        self.is_used = true;
        self.alone.is_live(live);
    }
}

impl Drop for Permitted {
    fn drop(&mut self) {
        if !self.is_used {
            let mut state = self.alone.state();
            state.prepared.take_if(|it| it.digest == self.digest);
            state.rollout.not_made();
            state.going.take_if(|going| *going == self.digest);
            drop(state);
            self.alone.wake();
        }
    }
}

impl State {
    /// The content that is to be seen in place of the volume's, if there is some.
    fn wanted(&self) -> Option<Digest> {
        // A start goes on with what was tried, if the volume cannot be read.
        let tried = self.serving.in_trial().filter(|tried| {
            let is_on = !self.rollout.is_given_up(*tried);
            self.serves && is_on && self.placed != Some(*tried) && self.back.volume().is_none()
        });
        self.back.instead(self.live).or(tried)
    }

    /// Ends the trial under way. Returns whether there is one: not if what was tried is going live.
    fn give_up(&mut self) -> bool {
        let Some(tried) = self.serving.in_trial() else {
            return false;
        };
        if self.going == Some(tried) {
            return false;
        }
        self.rollout.not_made();
        self.rollout.give_up(tried);
        true
    }

    /// The trial under way, if it has this turn.
    fn trial(&self, turn: u32) -> Option<Trial> {
        let trial = self.serving.known()?.trial;
        trial.filter(|trial| trial.turn == turn)
    }

    /// The release that is to be made now, if there is one.
    fn next(&mut self) -> Option<Release> {
        if let Some(due) = self.serving.due() {
            // What served last has its turn at a start.
            let is_prepared = self.prepared.as_ref().map(|it| it.digest);
            if is_prepared.is_none() || is_prepared == Some(due.live.digest) {
                return is_prepared.and(Some(*due));
            }
        }
        self.rollout
            .volume(self.back.volume(), self.back.held_back());
        if let Some(candidate) = self.rollout.candidate() {
            let prepared = self.prepared.as_ref().filter(|it| it.digest == candidate);
            let attempt = self.rollout.attempt();
            match prepared {
                Some(_) => (self.rollout).says(Ordinal::COORDINATOR, attempt, Verdict::Prepared),
                None => self.rollout.has_started(Ordinal::COORDINATOR),
            }
            // What has served before goes live at once, and so does what serves where nothing does.
            let is_at_once = self.back.to() == Some(candidate) || !self.serves;
            let steps = prepared.filter(|_| !is_at_once);
            let steps = steps.map_or_else(Vec::new, |prepared| prepared.steps.clone());
            self.rollout.goes_by(steps);
            let held = self.back.holds_with(candidate, self.live);
            self.rollout.hold(held);
        }
        if let Some(known) = self.serving.known().filter(|_| !self.serves)
            && let Some(trial) = &known.trial
        {
            self.rollout.promote(trial, true);
        }
        match self.rollout.next(ME, &self.serving, 1) {
            Next::GoLive(release) => Some(release),
            Next::Nothing | Next::Ask(..) | Next::StartAfter(_) | Next::Refuse(_) => None,
        }
    }

    /// The next release of what is live, with the guest that serves some of the partitions then.
    fn next_to_adopt(&mut self) -> Option<(Release, Option<Arc<Guest>>)> {
        if !self.serves {
            return None;
        }
        let tried = self.serving.serves().copied();
        let release = self.next().or_else(|| {
            let digest = tried?.tried()?;
            let is_prepared = self.prepared.as_ref()?.digest == digest;
            tried.filter(|_| is_prepared && self.placed != Some(digest))
        })?;
        if self.live != Some(release.live.digest) {
            return None;
        }
        let tried = release.tried();
        let guest = self.prepared.as_ref();
        let guest = guest.filter(|it| tried == Some(it.digest));
        let is_placed = tried == self.placed || tried.is_none();
        if guest.is_none() && !is_placed {
            self.rollout.not_made();
            return None;
        }
        Some((release, guest.map(|it| Arc::clone(&it.guest))))
    }
}

impl Alone {
    /// `stored` is what the shard's disk says of the generation that served last.
    pub fn new(stored: Option<&writer::Live>) -> Self {
        let release = stored.map(writer::Live::release_of_one);
        let mut serving = Serving::start(release, 0);
        serving.asked();
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                back: Back::new(stored.and_then(|live| live.held)),
                live: stored.map(|live| live.digest),
                serves: false,
                serving,
                rollout: Rollout::default(),
                prepared: None,
                placed: None,
                going: None,
            }),
            changed: Notify::new(),
            decided: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of this lock panics")
    }

    fn wake(&self) {
        self.0.changed.notify_one();
        self.0.decided.notify_waiters();
    }

    /// The content that the swap is to see, and the work that finds it, which ends with the receiver.
    pub fn directed(
        &self,
        volume: watch::Receiver<Observation>,
        default_guest: DefaultGuest,
        (kept, history): (Kept, History),
        (writer, metrics): (Writer, Arc<Metrics>),
    ) -> (
        watch::Receiver<Observation>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let mut directing = Directing {
            alone: self.clone(),
            volume,
            default_guest,
            kept,
            history,
            writer,
            metrics,
        };
        let (wanted, first) = directing.look();
        let volume = directing.volume.borrow().clone();
        let (shown, receiver) = watch::channel(first.unwrap_or(volume));
        (receiver, directing.run(shown, wanted))
    }

    /// Notes that the swap begins with this content, or sees it.
    pub fn observes(&self, digest: Digest) {
        let mut state = self.state();
        // A start begins with what served last, whatever the volume shows.
        let is_restored = !state.serves && state.live == Some(digest);
        if !is_restored {
            state.rollout.observe(digest);
        }
        drop(state);
        self.wake();
    }

    /// Waits until this content, which is prepared, may go live. In its steps before that, it serves
    /// some of the partitions meanwhile.
    pub async fn agree(&self, digest: Digest, steps: Vec<u32>, guest: Arc<Guest>) -> Permitted {
        let mut permitted = Permitted {
            alone: self.clone(),
            digest,
            release: None,
            is_used: false,
        };
        self.state().prepared = Some(Prepared {
            digest,
            steps,
            guest,
        });
        loop {
            let decided = self.0.decided.notified();
            {
                let mut state = self.state();
                let next = state.next();
                if let Some(release) = next.filter(|release| release.live.digest == digest) {
                    state.going = Some(digest);
                    permitted.release = Some(release);
                    return permitted;
                }
            }
            self.0.changed.notify_one();
            decided.await;
        }
    }

    /// Begins to go back to kept content. What the volume shows is held, if it is what is gone back from,
    /// or if that is not said.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub fn go_back(&self, to: Digest, from: Option<Digest>) -> Result<(), Busy> {
        let mut state = self.state();
        let live = state.live;
        state.back.begin(to, live, from)?;
        drop(state);
        self.wake();
        Ok(())
    }

    /// Whether it is still to be found out how content serves: an operator does not go back to it, and
    /// it does not serve some of the partitions.
    pub fn is_to_try(&self, digest: Digest) -> bool {
        let state = self.state();
        state.back.to() != Some(digest) && state.serving.in_trial() != Some(digest)
    }

    /// The release by which the shard serves.
    pub fn serves_by(&self) -> Option<Release> {
        self.state().serving.serves().copied()
    }

    /// Notes that the trial's step with this turn has been watched for long enough.
    pub fn was_watched(&self, turn: u32) {
        let mut state = self.state();
        if let Some(trial) = state.trial(turn) {
            state.rollout.was_watched(&trial);
        }
        drop(state);
        self.wake();
    }

    /// Takes the step after the one with this turn; if `full`, that is the last.
    pub fn promote(&self, turn: u32, full: bool) {
        let mut state = self.state();
        if let Some(trial) = state.trial(turn) {
            state.rollout.promote(&trial, full);
        }
        drop(state);
        self.wake();
    }

    /// Has the trial stay as it is, or go on.
    pub fn pause(&self, paused: bool) {
        self.state().rollout.pause(paused);
        self.wake();
    }

    /// Ends the trial under way. Returns whether there is one: not if what was tried is going live by now.
    pub fn give_up(&self) -> bool {
        let is_given_up = self.state().give_up();
        self.wake();
        is_given_up
    }

    /// Notes that content is live, by which release, and what is held with it.
    fn is_live(&self, live: &writer::Live) {
        let mut state = self.state();
        (state.live, state.serves) = (Some(live.digest), true);
        state.going = None;
        state.back.is_live(live.digest, live.held);
        state.prepared.take_if(|it| it.digest == live.digest);
        let release = live.release_of_one();
        let tried = release.tried();
        state.placed.take_if(|placed| tried != Some(*placed));
        state.serving.is_live(&release);
        drop(state);
        self.wake();
    }

    /// Notes that content cannot go live.
    pub fn refused(&self, digest: Digest, why: &str) {
        let mut state = self.state();
        state.back.refused(digest, why);
        if state.serving.in_trial() == Some(digest) {
            // It cannot be prepared at this start.
            let _is_on = state.give_up();
        }
        drop(state);
        self.wake();
    }

    /// What is done with this, such as to show it.
    pub fn back<T>(&self, look: impl FnOnce(&Back) -> T) -> T {
        look(&self.state().back)
    }
}

struct Directing {
    alone: Alone,
    volume: watch::Receiver<Observation>,
    default_guest: DefaultGuest,
    kept: Kept,
    history: History,
    writer: Writer,
    metrics: Arc<Metrics>,
}

impl Directing {
    async fn run(mut self, shown: watch::Sender<Observation>, mut shows: Option<Digest>) {
        let alone = self.alone.clone();
        let mut is_to_try_again = false;
        loop {
            let is_news = tokio::select! {
                biased;
                () = shown.closed() => return,
                Ok(()) = self.volume.changed() => true,
                () = alone.0.changed.notified() => false,
                () = sleep(AGAIN), if is_to_try_again => false,
            };
            is_to_try_again = self.roll().await.is_err();
            let before = shows;
            let (wanted, observed) = self.look();
            shows = wanted;
            // What the volume shows is shown again: it may have been refused before.
            let is_other = before != shows || is_news && shows.is_none();
            if let Some(observed) = observed.filter(|_| is_other) {
                let _before = shown.send_replace(observed);
            }
        }
    }

    /// Goes over to the next releases of what is live.
    ///
    /// # Errors
    /// If one could not be stored.
    async fn roll(&self) -> Result<(), writer::PromoteError> {
        let alone = &self.alone;
        loop {
            let next = alone.state().next_to_adopt();
            let Some((release, guest)) = next else {
                return Ok(());
            };
            let before = alone.serves_by();
            let is_given = guest.is_some();
            let adopted = self.writer.adopt(release, guest).await;
            alone.state().rollout.not_made();
            let live = match adopted {
                Ok(Some(live)) => live,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the release of the live generation could not be stored yet");
                    return Err(error);
                }
            };
            if let Some(trial) = release.trial {
                tried(&trial, is_given);
                alone.state().placed = Some(trial.candidate.digest);
            }
            alone.is_live(&live);
            if before.is_none_or(|before| before.live != release.live) {
                self.has_gone_over(&live);
            }
        }
    }

    /// What is live has another number.
    fn has_gone_over(&self, live: &writer::Live) {
        tracing::info!(generation = live.number, digest = %live.digest.short(), "generation live");
        if let Some(view) = self.writer.views().get() {
            let described = view.guest.description();
            (self.metrics).swap_live(live.number, &described.name, &described.version);
            self.history.note(live.entry(described));
        }
    }

    /// Which content is to be seen now in place of the volume's, if some is, and what is to be seen;
    /// nothing else than before where what is live stays so.
    fn look(&mut self) -> (Option<Digest>, Option<Observation>) {
        let observed = self.volume.borrow_and_update().clone();
        if let Some(files) = self.default_guest.of(&observed) {
            self.alone.state().back.volume_shows(files.digest());
        }
        loop {
            let wanted = self.alone.state().wanted();
            let Some(digest) = wanted else {
                return (None, Some(observed));
            };
            if let Some(files) = self.kept.find(digest) {
                return (wanted, Some(Ok(files)));
            }
            if !self.is_given_up(digest) {
                return (wanted, None);
            }
        }
    }

    /// Content that is wanted is not kept. Returns whether it is given up; not if it is live.
    fn is_given_up(&self, digest: Digest) -> bool {
        let mut state = self.alone.state();
        if state.serves && state.live == Some(digest) && state.back.to() != Some(digest) {
            return false;
        }
        if state.serving.in_trial() == Some(digest) {
            let _is_on = state.give_up();
        }
        let why = "its content is no longer kept";
        tracing::warn!(%digest, "{why}: what was live, or what the volume shows, takes its place");
        state.back.refused(digest, why);
        if state.live == Some(digest) {
            state.back.is_live(digest, None);
        }
        true
    }
}
