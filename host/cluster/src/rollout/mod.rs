//! A shard's part in going over to another generation together with all others. The protocol is in
//! [`ostrakon_protocol::Rollout`].
//!
//! ```text
//! shard 0's volume        shard 0                                   another shard
//!   content X --------->  verified, X is the candidate
//!                         compiled ...      -- there is news -->
//!                                           <-- what is there? --
//!                                           -- candidate X ----->    finds X by its digest
//!                         prepared          <-- there is news ---    prepared
//!                                           -- what is there? -->
//!                         [release of X]    <-- prepared for X --
//!                         live              -- there is news -->
//!                                           <-- what is there? --
//!                                           -- release of X ---->    [release of X]
//!                                                                    live
//! ```
//!
//! Brackets are the transaction in which the shard goes live. A shard believes only what another one
//! says when it is asked, and a newer release only from the address that is configured; "there is news"
//! only makes it ask.

mod asking;
mod barrier;
mod content;
mod state;

pub use state::{NotAgreed, Standing, Way};

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ostrakon_base::digest::Digest;
use ostrakon_protocol::{Generation, Incarnation, Next, Ordinal, Plan, Release};
use ostrakon_settings::settings::Rollout;
use ostrakon_shard::swap::{Back, Busy, Refusal};
use ostrakon_shard::writer::{Live, PromoteError};
use ostrakon_volumes::volume::Files;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::conductor::ASK_EVERY;
use super::{Cluster, until_down};
use ostrakon_shard::swap::tried;
use state::{Decided, State};

/// How long a start waits for the others' answers, or for shard 0 to have them, before it goes by
/// what it knows.
const START: Duration = Duration::from_secs(2);

/// How long a new shard waits for the coordinator's call before it resolves the coordinator's
/// name.
const EARLY: Duration = Duration::from_secs(2);

/// How long a generation waits before that is trouble.
const LONG: Duration = Duration::from_mins(1);

/// What the shard's swap and the other shards know of each other.
#[derive(Debug)]
pub(super) struct Rolling {
    /// A std mutex, because it is held only briefly.
    state: Mutex<State>,
    /// Notified of each change of the state. Waiters are woken in their order, unlike those of a
    /// `watch` channel.
    changed: Notify,
    /// Wakes the task that asks the others.
    news: Notify,
    began: Instant,
}

impl Rolling {
    /// `stored` is what the shard's disk says of the generation that served last.
    pub(super) fn new(me: Ordinal, stored: Option<&Live>, has_plan: bool) -> Self {
        let release = stored.and_then(Live::release);
        let before = stored.map_or(0, |stored| stored.number);
        let held = stored.and_then(|stored| stored.held);
        let state = State::new(me, release, before, has_plan);
        Self {
            state: Mutex::new(state.holding(held)),
            changed: Notify::new(),
            news: Notify::new(),
            began: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// A release cannot go live now.
struct Later;

/// The permission to go live with a candidate. Dropping it gives it up.
#[derive(Debug)]
pub struct Agreed {
    cluster: Cluster,
    digest: Digest,
    release: Option<Release>,
    is_used: bool,
}

impl Agreed {
    /// The release by which the shard goes live; `None` where there is none yet.
    pub fn release(&self) -> Option<Release> {
        self.release
    }

    /// Notes that the shard has gone live, as the generation with this number.
    pub fn is_live(mut self, number: u64) {
        self.is_used = true;
        let (digest, release) = (self.digest, self.release);
        let live = Generation { number, digest };
        self.cluster.know(|state| state.is_live(live, release));
        self.cluster.goes_on();
    }

    /// Notes that the shard has not gone live.
    pub fn failed(mut self, error: &PromoteError) {
        if let (PromoteError::NotStored(_), Some(release)) = (error, self.release) {
            // It may be on the disk all the same.
            self.is_used = true;
            self.cluster.know(|state| state.is_uncertain(release));
        }
    }
}

impl Drop for Agreed {
    fn drop(&mut self) {
        if !self.is_used {
            let digest = self.digest;
            self.cluster.know(|state| state.gave_up(digest));
            if let (true, Some(plan)) = (self.cluster.is_coordinator(), self.cluster.plan()) {
                self.cluster.go_on_everywhere(plan.shards());
            }
        }
    }
}

/// For the shard's own swap.
impl Cluster {
    /// Notes that the swap begins with this content. In shard 0 it is what all shards are to serve.
    pub fn begins(&self, files: &Files) {
        self.know(|state| state.begins(files));
    }

    /// Has all shards go back to the content of an earlier generation; only in the coordinator. What its
    /// volume shows is held, if it is what is gone back from, or if that is not said.
    ///
    /// # Errors
    /// If other content is being gone back to.
    pub fn go_back(&self, to: Digest, from: Option<Digest>) -> Result<(), Busy> {
        self.know(|state| state.go_back(to, from))
    }

    /// The release by which this shard serves.
    pub fn serves_by(&self) -> Option<Release> {
        self.knows(State::serves_by)
    }

    /// Notes that the trial's step with this turn has been watched for long enough; only in the
    /// coordinator.
    pub fn was_watched(&self, turn: u32) {
        self.know(|state| state.was_watched(turn));
    }

    /// Takes the step after the one with this turn; if `full`, that is the last; only in the coordinator.
    pub fn promote_trial(&self, turn: u32, full: bool) {
        self.know(|state| state.promote(turn, full));
    }

    /// Has the trial stay as it is, or go on; only in the coordinator.
    pub fn pause_trial(&self, paused: bool) {
        self.know(|state| state.pause(paused));
    }

    /// Ends the trial under way; only in the coordinator. Returns whether there is one: not if what was
    /// tried is going live by now.
    pub fn give_up(&self) -> bool {
        self.know(State::give_up)
    }

    /// Whether this shard says what all shards serve.
    pub fn is_coordinator(&self) -> bool {
        self.0.me == Ordinal::COORDINATOR
    }

    /// Whether content can be had: from this shard's disk, or from another shard.
    pub async fn has_content(&self, digest: Digest) -> bool {
        self.find(digest).await.is_some()
    }

    /// Whether it is still to be found out how content serves: it is neither live elsewhere nor what an
    /// operator goes back to.
    pub fn is_to_try(&self, digest: Digest) -> bool {
        self.knows(|state| state.is_to_try(digest))
    }

    /// Waits until it need no longer be found out how content serves.
    pub async fn until_not_to_try(&self, digest: Digest) {
        loop {
            let changed = self.0.rolling.changed.notified();
            if !self.is_to_try(digest) {
                return;
            }
            changed.await;
        }
    }

    /// In the coordinator: for which shards a generation waits, for people.
    pub fn candidate_waits_for(&self) -> Option<String> {
        self.knows(State::waits_for)
    }

    /// Looks at what an operator went back from, and to; only in the coordinator.
    pub fn back<T>(&self, look: impl FnOnce(&Back) -> T) -> T {
        self.knows(|state| look(state.back()))
    }

    /// Notes the content that serves first at this start, if it can.
    pub fn restores(&self, digest: Option<Digest>) {
        self.know(|state| state.restores(digest));
    }

    /// Notes that the volume shows what is live.
    pub fn shows_live(&self, digest: Digest) {
        self.know(|state| state.shows_live(digest));
    }

    /// Notes that the swap refuses content.
    pub fn refuses(&self, refusal: &Refusal) {
        self.know(|state| state.refuses(refusal));
    }

    /// Waits until the shard may go live with this content, which is prepared here. In shard 0, all
    /// shards hold requests before that, at most for as long as the barrier says, if there is one. In
    /// its steps before that, it serves some of the partitions meanwhile.
    ///
    /// # Errors
    /// In shard 0, if another shard refuses the content.
    pub async fn agree(&self, digest: Digest, way: Way) -> Result<Agreed, NotAgreed> {
        let mut agreed = Agreed {
            cluster: self.clone(),
            digest,
            release: None,
            is_used: false,
        };
        self.know(|state| state.is_prepared(digest, way));
        loop {
            let changed = self.0.rolling.changed.notified();
            match self.knows(|state| state.decided(digest)) {
                Some(Decided::GoLive(release)) => {
                    agreed.release = release;
                    return Ok(agreed);
                }
                Some(Decided::Refused(why)) => return Err(why),
                None => {}
            }
            changed.await;
        }
    }

    /// What goes live next, for operators.
    pub fn standing(&self) -> Standing {
        self.knows(State::standing)
    }

    /// How long a generation has waited to go live in all shards, in the coordinator, or in this one.
    pub fn rollout_wait(&self) -> Duration {
        self.knows(State::wait)
    }

    /// In the coordinator: for which shards a generation has waited for a minute, for people.
    pub fn rollout_waits_for(&self) -> Option<String> {
        self.knows(|state| (state.wait() >= LONG).then(|| state.waits_for()))?
    }
}

impl Cluster {
    fn knows<T>(&self, what: impl FnOnce(&State) -> T) -> T {
        what(&self.0.rolling.state())
    }

    /// Changes what is known, and wakes whoever waits for that.
    fn know<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = self.know_for_now(change);
        self.wake();
        changed
    }

    /// As [`Cluster::know`], if the change says that there is one.
    fn know_if(&self, change: impl FnOnce(&mut State) -> bool) {
        if self.know_for_now(change) {
            self.wake();
        }
    }

    fn wake(&self) {
        self.0.rolling.changed.notify_waiters();
        self.0.rolling.news.notify_one();
    }

    /// Changes what is known, in the task that is to go on from it.
    fn know_for_now<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.rolling.state();
        let changed = change(&mut state);
        state.note_what_is_due();
        changed
    }

    /// Notes that the shard knows of a plan: from now on there are releases.
    pub(super) fn finds_plan(&self) {
        if !self.knows(State::has_plan) {
            self.know(State::finds_plan);
        }
    }

    /// Follows what the other shards say until shutdown, and in shard 0 decides what goes live.
    pub(super) async fn roll(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            let turn = async {
                if self.0.me == Ordinal::COORDINATOR {
                    self.lead().await;
                } else {
                    self.follow().await;
                }
                self.adopt().await;
            };
            tokio::select! {
                biased;
                () = until_down(&mut shutdown) => return,
                () = turn => {}
            }
            tokio::select! {
                biased;
                () = until_down(&mut shutdown) => return,
                () = self.0.rolling.news.notified() => {}
                () = sleep(ASK_EVERY) => {}
            }
        }
    }

    /// The coordinator's turn: does what is next.
    async fn lead(&self) {
        let Some(plan) = self.plan() else {
            return;
        };
        if self.has_stopped() {
            return;
        }
        let shards = plan.shards();
        self.know_if(|state| state.others_were_asked(shards, START));
        self.ask_the_others(shards);
        self.settle().await;
        while self.once(&plan).await {}
        if self.has_unannounced() {
            self.announce((1..shards).map(Ordinal));
        }
    }

    /// Does one thing, and returns whether there may be more to do at once.
    async fn once(&self, plan: &Plan) -> bool {
        let line = self.0.connections.line.load_full();
        let me = Incarnation(line.endpoint.identity.incarnation);
        match self.know_for_now(|state| state.next((plan.cluster, me), plan.shards())) {
            Next::Nothing => false,
            Next::Ask(_, _, silent) => {
                let wait = self.wait();
                let is_over = self.know_for_now(|state| state.waits_no_longer(&silent, wait));
                if is_over {
                    let shards: Vec<_> = silent.iter().map(|shard| shard.0).collect();
                    tracing::warn!(
                        ?shards,
                        "shards that are away are not waited for any longer: they go over to the new generation when they are back"
                    );
                }
                is_over
            }
            Next::GoLive(release) => {
                if let Err(Later) = self.passes_the_barrier(release, plan.shards()).await {
                    self.know_for_now(State::not_made);
                    return false;
                }
                self.know_if(|state| state.goes_live(release));
                if self.knows(State::going) != Some(release) {
                    // The candidate has changed meanwhile.
                    self.go_on_everywhere(plan.shards());
                }
                false
            }
            Next::StartAfter(maker) => {
                let started = self.start_after(maker, &line.endpoint).await;
                if let Err(error) = &started {
                    tracing::debug!(%error, "a higher number could not be taken yet");
                }
                started.is_ok()
            }
            Next::Refuse(refused) => {
                self.know(|state| state.refuse(refused));
                false
            }
        }
    }

    /// Has all shards hold requests, if the release has a barrier.
    ///
    /// # Errors
    /// If it cannot go live now: it is tried again later.
    async fn passes_the_barrier(&self, release: Release, shards: u32) -> Result<(), Later> {
        let Some(barrier) = self.knows(|state| state.barrier(&release)) else {
            return Ok(());
        };
        let candidate = self.knows(|state| state.offer(self.number()));
        let candidate = candidate.ok_or(Later)?;
        if self.knows(State::is_too_early) {
            return Err(Later);
        }
        let began = Instant::now();
        match self.hold_everywhere(shards, candidate, barrier).await {
            Ok(()) => {
                tracing::debug!(took = ?began.elapsed(), "no request is under way");
                Ok(())
            }
            Err(why) => {
                let again = self.know_for_now(|state| state.was_not_held(why.clone()));
                self.0.guests.metrics.barrier_failed();
                tracing::warn!(
                    why,
                    retry_after_s = again.as_secs(),
                    "not all shards held requests in time: the new generation goes live later"
                );
                Err(Later)
            }
        }
    }

    /// Goes over to the release that is due, if its content is live already.
    async fn adopt(&self) {
        let live = self.live();
        let Some((release, guest)) = self.knows(|state| state.to_adopt(live)) else {
            return;
        };
        let is_given = guest.is_some();
        match self.0.writer.adopt(release, guest).await {
            Ok(Some(now)) => {
                let before = self.knows(State::serves_by);
                if before.is_none_or(|before| before.live != release.live) {
                    tracing::info!(generation = now.number, digest = %now.digest.short(), "generation live");
                    if let Some(view) = self.0.writer.views().get() {
                        let described = view.guest.description();
                        let metrics = &self.0.guests.metrics;
                        metrics.swap_live(now.number, &described.name, &described.version);
                        self.0.guests.note(&now, described).await;
                    }
                }
                if let Some(trial) = release.trial {
                    tried(&trial, is_given);
                }
                self.know(|state| {
                    state.is_live(release.live, Some(release));
                    state.places(&release, is_given);
                });
                self.goes_on();
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the release of the live generation could not be stored yet");
                self.know_for_now(|state| state.is_uncertain(release));
            }
        }
    }

    /// Finds out whether a release was stored, where that is not certain.
    async fn settle(&self) {
        let Some(release) = self.knows(State::uncertain) else {
            return;
        };
        match self.0.writer.stored().await {
            Ok(stored) => {
                let is_stored = stored.and_then(|stored| stored.release()) == Some(release);
                self.know(|state| state.is_certain(release, is_stored));
            }
            Err(error) => tracing::debug!(%error, "what is stored cannot be read yet"),
        }
    }

    /// Whether it is too early to resolve the coordinator's name. The names of a new cluster
    /// appear at about the time when its shards start, and a cache keeps a premature negative
    /// answer for half a minute. So new shards first wait a moment for the coordinator's call,
    /// and of any two shards at least one asks late enough.
    pub(super) fn is_early(&self) -> bool {
        let address = self.0.connections.peers.of(Ordinal::COORDINATOR);
        let is_name = address.parse::<SocketAddr>().is_err();
        let line = self.0.connections.line.load();
        let is_found = line.endpoint.addresses.has(Ordinal::COORDINATOR.0);
        is_name && !is_found && self.plan().is_none() && self.0.rolling.began.elapsed() < EARLY
    }

    /// Waits until a generation is live in this shard.
    pub(super) async fn until_live(&self) {
        loop {
            let changed = self.0.writer.views().changed();
            if self.is_live() {
                return;
            }
            changed.await;
        }
    }

    /// Whether a generation is live in this shard.
    pub(super) fn is_live(&self) -> bool {
        self.live().is_some()
    }

    /// Whether there is something that others are to be told to ask about.
    fn has_unannounced(&self) -> bool {
        let is_stopping = self.is_stopping();
        self.know_for_now(|state| state.has_unannounced(is_stopping))
    }

    /// The number of this process.
    fn number(&self) -> Incarnation {
        Incarnation(self.0.connections.line.load().endpoint.identity.incarnation)
    }

    /// The digest of what is live in this shard.
    pub(super) fn live(&self) -> Option<Digest> {
        Some(self.0.writer.views().load().as_ref()?.digest)
    }

    /// How long shards that are away are waited for.
    fn wait(&self) -> Duration {
        let view = self.0.writer.views().get();
        let wait = view.map(|view| view.guest.settings().rollout.wait);
        wait.unwrap_or_else(|| Rollout::default().wait)
    }
}
